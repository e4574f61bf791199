"""Pods of one node made true: pod workers, probes, volumes, status."""

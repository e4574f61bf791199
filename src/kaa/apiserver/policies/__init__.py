"""Admission policies: expressions that have a say in what is stored."""

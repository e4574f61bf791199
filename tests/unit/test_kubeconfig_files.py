"""kubeconfig: others' files are read as kubectl reads them, and survive our additions."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from kaa.client.kubeconfig import Access, Credentials, KubeconfigError, add, contexts, load, paths, remove, token_of

THEIRS = """
apiVersion: v1
kind: Config
x-kept: 1
users:
- name: zed
  user: {exec: {apiVersion: client.authentication.k8s.io/v1, command: ./plugin, args: [a], env: null}}
clusters:
- name: far
  cluster: {server: "https://far:6443/", certificate-authority: ca.pem, extra: [1, 2]}
contexts:
- name: far
  context: {cluster: far, user: zed, namespace: ns}
current-context: far
"""
OURS = Access("kaa", "https://127.0.0.1:6443", ca=b"CA", credentials=Credentials(certificate=b"C", key=b"K"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config"
    path.write_text(THEIRS)
    (tmp_path / "ca.pem").write_bytes(b"THEIR CA")
    plugin = tmp_path / "plugin"
    plugin.write_text('#!/bin/sh\necho \'{"status":{"token":"t-\'$1\'"}}\'\n')
    plugin.chmod(0o755)
    return path


def test_relative_paths_and_plugins(file: Path) -> None:
    access = load([file])
    assert (access.server, access.namespace, access.ca) == ("https://far:6443", "ns", b"THEIR CA")
    assert token_of(access.credentials).token == "t-a"


def test_adding_keeps_the_rest(file: Path) -> None:
    add(file, OURS)
    assert contexts([file]) == ("kaa", ["far", "kaa"])
    assert load([file], "far").credentials.exec is not None
    assert "x-kept: 1" in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    mine = load([file])
    assert (mine.ca, mine.credentials.certificate, mine.credentials.key) == (b"CA", b"C", b"K")
    add(file, OURS)
    assert contexts([file])[1] == ["far", "kaa"]
    assert remove(file, "kaa")
    assert contexts([file]) == ("", ["far"])


def test_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "config"
    add(path, OURS)
    assert load([path]).context == "kaa"
    assert not list(path.parent.glob(".*"))


def test_what_is_missing_is_named(file: Path) -> None:
    with pytest.raises(KubeconfigError, match="context 'nope' does not exist"):
        load([file], "nope")


def test_which_files() -> None:
    assert paths({"KUBECONFIG": "/a:/b:/a"}) == [Path("/a"), Path("/b")]
    assert paths({"HOME": "/h"}) == [Path("/h/.kube/config")]

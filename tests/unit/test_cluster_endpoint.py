"""Where a cluster's CRI runtime listens: asked once, kept, and allowed to move."""

from __future__ import annotations

from pathlib import Path

import pytest

from kaa.cluster.config import ClusterConfig, ConfigError, endpoint_socket, read_config, write_config
from kaa.cluster.lifecycle import check_machine, with_endpoint


def test_an_endpoint_is_a_sockets_path() -> None:
    assert endpoint_socket("unix:///run/c.sock") == endpoint_socket("/run/c.sock") == Path("/run/c.sock")
    for wrong in ("run/c.sock", "tcp://1.2.3.4:5", "unix://c.sock"):
        with pytest.raises(ConfigError, match="is no endpoint"):
            endpoint_socket(wrong)


def test_an_endpoint_may_move(tmp_path: Path) -> None:
    config = ClusterConfig(
        name="t", data_dir=str(tmp_path), runtime="cri", container_runtime_endpoint="unix:///run/a.sock"
    )
    write_config(config)
    assert with_endpoint(config, "unix:///run/a.sock") is config
    moved = with_endpoint(config, "unix:///run/b.sock")
    assert moved.container_runtime_endpoint == "unix:///run/b.sock"
    assert read_config(tmp_path) == moved


def test_a_cluster_keeps_its_kind_of_runtime(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="stands with runtime oci"):
        with_endpoint(ClusterConfig(name="t", data_dir=str(tmp_path)), "unix:///run/a.sock")


def test_nobody_at_the_endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    with pytest.raises(ConfigError, match="no container runtime listens at unix://"):
        check_machine("cri", f"unix://{tmp_path}/none.sock")

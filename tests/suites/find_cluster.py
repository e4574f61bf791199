"""A pytest plugin that stands where the suites of other projects look for their cluster: nothing else is replaced.

kr8s makes its cluster with ``pytest_kind.KindCluster``; the official client asks ``kubernetes.e2e_test.base``, which its
package does not ship. Both find the cluster of ``$KUBECONFIG`` here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


class KindCluster:
    """What kr8s uses of pytest-kind's class, for a cluster that stands already."""

    def __init__(self, name: str, image: str | None = None) -> None:
        self.name, self.image = name, image
        self.kubeconfig_path = Path(os.environ["KUBECONFIG"])
        self.kubectl_path = Path(shutil.which("kubectl") or "kubectl")

    def create(self) -> None:
        """It stands."""

    def delete(self) -> None:
        """It stays: who started it ends it."""

    def kubectl(self, *words: str) -> str:
        return subprocess.check_output([self.kubectl_path, *words], text=True)


def get_e2e_configuration() -> Any:
    """The official client's settings from ``$KUBECONFIG``."""
    from kubernetes import client, config

    settings = client.Configuration()
    config.load_kube_config(client_configuration=settings)
    return settings


def _module(name: str, **holds: Any) -> None:
    module = ModuleType(name)
    vars(module).update(holds)
    sys.modules[name] = module


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--keep-cluster", action="store_true", help="pytest-kind's option: leave the cluster standing")


def pytest_configure(config: pytest.Config) -> None:
    """Suites that make errors of warnings shall not do so of one: kopf's runner closes its event loop in the very moment in
    which it closes its TLS connections, and whether the server's goodbye comes before that is up to the machine."""
    unclosed = "Exception ignored in. <(function _SelectorTransport.__del__|socket.socket)"
    config.addinivalue_line("filterwarnings", f"ignore:{unclosed}:pytest.PytestUnraisableExceptionWarning")


_module("pytest_kind")
_module("pytest_kind.cluster", KindCluster=KindCluster)
_base = ModuleType("kubernetes.e2e_test.base")
_base.get_e2e_configuration = get_e2e_configuration  # type: ignore[attr-defined]
_module("kubernetes.e2e_test", base=_base)
sys.modules[_base.__name__] = _base

"""What other projects' suites need, fetched once a machine: pinned sdists and a venv from PyPI, npm's packages.

``python tests/suites_lab.py`` fetches everything (``tools/setup.sh tests`` does), so that the tests find it at hand. Each
piece lies in a folder named by what it is made of, in ``$XDG_CACHE_HOME/kaa-suites``: another version is another folder.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent / "suites"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kaa-suites"
REQUIREMENTS = HERE / "requirements.txt"


def _version(package: str) -> str:
    """The version that the requirements pin."""
    pins = dict(line.strip().split("==") for line in REQUIREMENTS.read_text().splitlines() if "==" in line)
    return pins[package]


@contextmanager
def _locked() -> Iterator[None]:
    """One process fetches at a time; the others find what it has fetched."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _made(name: str, make: Callable[[Path], None], *sources: Path) -> Path:
    """The folder ``name``, made once: what a crash left half done is not taken for whole."""
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources) + sys.version.encode()).hexdigest()[:12]
    folder = CACHE / f"{name}-{digest}"
    with _locked():
        if not (folder / ".ready").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            (folder / ".ready").touch()
    return folder


def _run(*argv: str | Path, cwd: Path | None = None) -> None:
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"$ {' '.join(map(str, argv))}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"


def python() -> Path:
    """The interpreter of a venv with everything that the suites import."""
    return _made("venv", _make_venv, REQUIREMENTS, Path(__file__)) / "bin/python"


def _make_venv(folder: Path) -> None:
    _run(sys.executable, "-m", "venv", folder)
    _run(folder / "bin/pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "-r", REQUIREMENTS)
    for module in folder.glob("lib/python*/site-packages/oscrypto/_openssl/_libcrypto_c*.py"):
        # kopf's own tests pin oscrypto's commit 1547f53, never released: OpenSSL's patch number may have two digits
        module.write_text(module.read_text().replace(r"(\\d\\.\\d\\.\\d[a-z]*)", r"(\\d\\.\\d\\.\\d+[a-z]*)"))


def sdist(package: str) -> Path:
    """The unpacked source archive of a package, at the version that the venv has."""

    interpreter = python()

    def fetch(folder: Path) -> None:
        pip = [interpreter, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        _run(*pip, "--no-binary", package, "--dest", folder, f"{package}=={_version(package)}")
        (archive,) = folder.glob("*.tar.gz")
        with tarfile.open(archive) as packed:
            packed.extractall(folder, filter="data")

    folder = _made(f"sdist-{package}-{_version(package)}", fetch)
    return next(path for path in folder.iterdir() if path.is_dir())


def node_script() -> Path:
    """``client.mjs`` in a folder where ``node`` finds ``@kubernetes/client-node``."""
    sources = [HERE / "node" / name for name in ("client.mjs", "package.json", "package-lock.json")]

    def install(folder: Path) -> None:
        for source in sources:
            shutil.copy(source, folder)
        _run("npm", "ci", "--no-audit", "--no-fund", cwd=folder)

    return _made("node", install, *sources) / "client.mjs"


def fetch_all() -> None:
    """Fetch what this machine can run."""
    for package in ("kr8s", "kopf", "kubernetes"):
        print(sdist(package))
    if shutil.which("npm"):
        print(node_script())


if __name__ == "__main__":
    fetch_all()

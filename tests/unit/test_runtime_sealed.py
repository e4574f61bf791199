"""Programs in memory: they run, and nobody can change them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kaa.runtime.oci.sealed import sealed_copy


def test_a_copy_runs_and_cannot_be_changed() -> None:
    true = shutil.which("true") or ""
    copy = sealed_copy(true)
    assert copy != true
    assert sealed_copy(true) == copy, "one is enough"
    assert subprocess.run([copy], check=True).returncode == 0
    for flags in (os.O_WRONLY, os.O_RDWR):
        file = os.open(copy, flags)
        with pytest.raises(PermissionError):
            os.write(file, b"x")
        with pytest.raises(PermissionError):
            os.ftruncate(file, 0)
        os.close(file)
    assert Path(copy).read_bytes() == Path(true).read_bytes()


def test_a_copy_is_not_inherited() -> None:
    copy = Path(sealed_copy(shutil.which("true") or ""))
    script = f"import os; print(os.path.exists('/proc/self/fd/{copy.name}'))"
    assert subprocess.check_output([sys.executable, "-c", script], text=True).strip() == "False"


def test_what_cannot_be_copied_stays_what_it_is(tmp_path: Path) -> None:
    script = tmp_path / "crun"
    script.write_text("#!/bin/sh\nexit 0\n")
    assert sealed_copy(str(script)) == str(script)
    assert sealed_copy("/no/such/program") == "/no/such/program"

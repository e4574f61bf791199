"""What the runtime wrote down is there again, whatever cut a write short."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given
from hypothesis import strategies as st

from kaa.runtime.base import SandboxConfig
from kaa.runtime.oci.state import Folder, SandboxRecord

SAVES = st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 10), st.integers(0, 400)), max_size=12)


def record(name: str, at: float) -> SandboxRecord:
    return SandboxRecord(name, SandboxConfig("web", "line\nbreak", name), at)


@given(SAVES)
def test_the_last_whole_version_of_each_counts(saves: list[tuple[str, float, int]]) -> None:
    """The third of each save: after how many bytes it was cut off, as by a full disk."""
    with TemporaryDirectory() as root:
        folder = Folder(Path(root) / "records", SandboxRecord)
        assert list(folder.load()) == []
        whole: dict[str, SandboxRecord] = {}
        for name, at, cut in saves:
            file = folder.path / name
            before = file.stat().st_size if file.exists() else 0
            folder.save(record(name, at))
            if file.stat().st_size - before > cut:
                with file.open("r+b") as opened:
                    opened.truncate(before + cut)
            else:
                whole[name] = record(name, at)
        assert {each.id: each for each in folder.load()} == whole
        assert {file.name for file in folder.path.iterdir()} == set(whole), "what is of no use is removed"
        for name in whole:
            folder.forget(name)
        folder.forget("nobody")
        assert list(folder.load()) == []

"""Log files of the cluster's processes."""

from __future__ import annotations

from pathlib import Path

from kaa.cluster import logs


def test_a_full_disk_costs_lines_and_not_the_process(tmp_path: Path) -> None:
    path = tmp_path / "kubelet.log"
    path.symlink_to("/dev/full")
    file = logs._File(path)
    file.write("lost")
    file.write("lost, too")
    path.unlink()
    file.write("there is room")
    file.write("and on")
    file.close()
    assert path.read_text() == "there is room\n(before it 2 lines were lost)\nand on\n"

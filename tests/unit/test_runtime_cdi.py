"""The Container Device Interface: which spec files count, and what their edits make of a ``config.json``."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaa.runtime.base import ContainerConfig, RuntimeFailure, Security
from kaa.runtime.cri import convert
from kaa.runtime.oci.bundle import Facts, User, build_spec
from kaa.runtime.oci.cdi import CdiDevice, CdiSpec, DeviceNode, Edits, found_devices, inject, least_version
from kaa.runtime.oci.images import ImageConfig

NULL = os.stat("/dev/null")
CONFIG = ContainerConfig("c", "image", command=("/run",), env=(("A", "mine"),), security=Security())


def spec_of(user: User | None = None) -> dict[str, Any]:
    return build_spec(CONFIG, ImageConfig(), Facts("/r", "/kaa/c", {"mount": None}, user or User()))


def write(folder: Path, name: str, *devices: Any, kind: str = "vendor.com/dev", **fields: Any) -> None:
    folder.mkdir(exist_ok=True)
    text = json.dumps({"cdiVersion": "0.6.0", "kind": kind, "devices": devices, **fields})
    (folder / name).write_text(text)


def env_device(name: str, value: str) -> dict[str, Any]:
    return {"name": name, "containerEdits": {"env": [f"V={value}"]}}


def test_all_edits_of_a_file_and_its_device(tmp_path: Path) -> None:
    edits = {
        "env": ["A=theirs", "B=b"],
        "deviceNodes": [{"path": "/dev/mine", "hostPath": "/dev/null", "permissions": "rw"}],
        "mounts": [{"hostPath": "/lib", "containerPath": "/opt/lib", "options": ["ro", "rbind"]}],
        "hooks": [{"hookName": "createContainer", "path": "/bin/hook", "args": ["hook", "x"], "timeout": 3}],
        "additionalGids": [0, 7, 7],
        "intelRdt": {"closID": "class", "enableCMT": True},
    }
    common = {"env": ["COMMON=1"]}
    devices = ({"name": "0", "containerEdits": edits}, env_device("1", "x"))
    write(tmp_path, "a.json", *devices, containerEdits=common, cdiVersion="0.7.0")
    spec = spec_of()
    inject(spec, ("vendor.com/dev=0", "vendor.com/dev=1"), [str(tmp_path)])
    env = spec["process"]["env"]
    assert [entry for entry in env if entry.startswith("A=")] == ["A=theirs"]
    assert env[-3:] == ["COMMON=1", "B=b", "V=x"], "a file's own edits come once, before its devices'"
    numbers = {"major": os.major(NULL.st_rdev), "minor": os.minor(NULL.st_rdev)}
    assert spec["linux"]["devices"] == [{"path": "/dev/mine", "type": "c", **numbers, "fileMode": 0o666}]
    assert spec["linux"]["resources"]["devices"][-1] == {"allow": True, "type": "c", **numbers, "access": "rw"}
    mount = {"destination": "/opt/lib", "source": "/lib", "options": ["ro", "rbind"]}
    assert mount in spec["mounts"]
    assert spec["hooks"] == {"createContainer": [{"path": "/bin/hook", "args": ["hook", "x"], "timeout": 3}]}
    assert spec["linux"]["intelRdt"] == {"closID": "class", "enableCMT": True}
    assert spec["process"]["user"]["additionalGids"] == [7]


def test_devices_belong_to_the_containers_user(tmp_path: Path) -> None:
    nodes = [{"path": "/dev/a", "hostPath": "/dev/null"}, {"path": "/dev/b", "hostPath": "/dev/null", "uid": 0}]
    write(tmp_path, "a.json", {"name": "0", "containerEdits": {"deviceNodes": nodes}})
    spec = spec_of(User(33, 34))
    inject(spec, ("vendor.com/dev=0",), [str(tmp_path)])
    owners = [(one["path"], one["uid"], one["gid"]) for one in spec["linux"]["devices"]]
    assert owners == [("/dev/a", 33, 34), ("/dev/b", 0, 34)]


def test_a_later_folder_wins_and_yaml_is_read(tmp_path: Path) -> None:
    write(tmp_path / "etc", "a.json", env_device("x", "etc"), env_device("y", "etc"))
    (tmp_path / "run").mkdir()
    text = "cdiVersion: 0.5.0\nkind: vendor.com/dev\ndevices:\n- name: x\n  containerEdits:\n    env: [V=run]\n"
    (tmp_path / "run" / "b.yaml").write_text(text)
    (tmp_path / "run" / "readme.txt").write_text("no spec")
    folders = [str(tmp_path / "etc"), str(tmp_path / "run"), str(tmp_path / "none")]
    for name, value in (("x", "run"), ("y", "etc")):
        spec = spec_of()
        inject(spec, (f"vendor.com/dev={name}",), folders)
        assert f"V={value}" in spec["process"]["env"]


def test_what_cannot_be_resolved_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "a.json", env_device("x", "1"), env_device("z", "1"))
    write(tmp_path, "b.json", env_device("x", "2"))
    (tmp_path / "broken.json").write_text("{")
    write(tmp_path, "c.json", env_device("w", "1"), surprise=True)
    names = ("vendor.com/dev=x", "vendor.com/dev=z", "vendor.com/dev=w", "plain")
    with pytest.raises(RuntimeFailure) as refused:
        inject(spec_of(), names, [str(tmp_path)])
    expected = "CDI device injection failed: unresolvable CDI devices vendor.com/dev=x, vendor.com/dev=w, plain"
    assert str(refused.value) == expected
    assert list(found_devices([str(tmp_path)])) == ["vendor.com/dev=z"]


def test_a_device_that_the_host_lacks_is_refused(tmp_path: Path) -> None:
    node = {"path": "/dev/x", "hostPath": str(tmp_path / "none")}
    write(tmp_path, "a.json", {"name": "x", "containerEdits": {"deviceNodes": [node]}})
    with pytest.raises(RuntimeFailure, match="CDI device injection failed: failed to stat CDI host device"):
        inject(spec_of(), ("vendor.com/dev=x",), [str(tmp_path)])


@pytest.mark.parametrize(
    "fields",
    [
        {"cdiVersion": "9.9.9"},
        {"kind": "vendor"},
        {"devices": []},
        {"devices": [{"name": "-", "containerEdits": {"env": ["A=1"]}}]},
        {"devices": [{"name": "a", "containerEdits": {}}]},
        {"devices": [env_device("a", "1"), env_device("a", "2")]},
        {"devices": [{"name": "a", "containerEdits": {"env": ["=1"]}}]},
        {"devices": [{"name": "a", "containerEdits": {"hooks": [{"hookName": "never", "path": "/x"}]}}]},
        {"devices": [{"name": "a", "containerEdits": {"deviceNodes": [{"path": "/x", "permissions": "x"}]}}]},
        {"devices": [{"name": "a", "containerEdits": {"additionalGids": [1]}}]},
    ],
    ids=[
        *("version", "kind", "no devices", "device name", "empty edits", "two of a name", "env", "hook", "permissions"),
        "newer than it says",
    ],
)
def test_invalid_files_are_left_out(tmp_path: Path, fields: dict[str, Any]) -> None:
    write(tmp_path, "a.json", env_device("a", "1"), **fields) if "devices" not in fields else None
    if "devices" in fields:
        write(tmp_path, "a.json", *fields["devices"])
    assert found_devices([str(tmp_path)]) == {}


def test_versions_by_what_is_used() -> None:
    node = Edits(device_nodes=(DeviceNode(path="/dev/a", host_path="/dev/b"),))
    spec = CdiSpec(cdi_version="1.0.0", kind="v.com/c", devices=(CdiDevice(name="a", container_edits=node),))
    assert least_version(spec) == "0.5.0"
    assert least_version(CdiSpec(cdi_version="1", kind="v.com/c.d", devices=spec.devices)) == "0.6.0"


@given(st.lists(st.sampled_from("abcd"), max_size=6))
def test_every_variable_stands_once(names: list[str]) -> None:
    from kaa.runtime.oci.cdi import _add_env

    env = ["a=0", "PATH=/bin"]
    _add_env(env, [f"{name}={place}" for place, name in enumerate(names)])
    keys = [entry.partition("=")[0] for entry in env]
    assert len(keys) == len(set(keys))
    assert dict(entry.split("=") for entry in env) == {
        "a": "0",
        "PATH": "/bin",
        **{name: str(place) for place, name in enumerate(names)},
    }


def test_a_cri_runtime_is_told_the_names() -> None:
    from kaa.runtime.base import Image, Namespaces

    config = replace(CONFIG, cdi_devices=("vendor.com/dev=0",))
    told = convert.container_message(config, Image("sha256:aa", (), (), 1), Namespaces(), "")
    assert [one.id for one in told.cdi_devices] == ["vendor.com/dev=0"]

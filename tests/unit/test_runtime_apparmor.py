"""AppArmor on machines made of files: which profile confines a container, and the loading of the default one."""

from __future__ import annotations

from pathlib import Path

import pytest

from kaa.runtime.base import ContainerConfig, RuntimeFailure, Security
from kaa.runtime.oci.apparmor import NAME, AppArmor
from kaa.runtime.oci.bundle import Facts, User, process_spec
from kaa.runtime.oci.images import ImageConfig

FAILED = "failed to get container spec opts: failed to generate apparmor spec opts: "


def machine(root: Path, *, kernel: str = "Y\n", parser: str = "") -> AppArmor:
    """A machine whose parser writes down what it is given, and tells the kernel's list of it."""
    (root / "enabled").write_text(kernel)
    (root / "profiles").write_text("unconfined_helper (unconfined)\nk8s-apparmor-example-deny-write (enforce)\n")
    script = parser or f'echo "$1" >> {root}/asked; cat "$2" > {root}/text; echo "{NAME} (enforce)" >> {root}/profiles'
    (root / "parser").write_text(f"#!/bin/sh\n{script}\n")
    (root / "parser").chmod(0o755)
    places = {"enabled": root / "enabled", "loaded": root / "profiles", "parser": root / "parser"}
    return AppArmor(**places, rules=root / "rules")


@pytest.mark.parametrize(
    ("security", "wanted"),
    [
        pytest.param(Security(), NAME, id="who says nothing gets the default"),
        pytest.param(Security(apparmor="runtime/default"), NAME, id="default"),
        pytest.param(Security(apparmor="unconfined"), "", id="unconfined"),
        pytest.param(Security(privileged=True), "", id="privileged"),
        pytest.param(Security(privileged=True, apparmor="runtime/default"), "", id="privileged, default"),
        pytest.param(
            Security(apparmor="localhost/k8s-apparmor-example-deny-write"),
            "k8s-apparmor-example-deny-write",
            id="loaded",
        ),
        pytest.param(Security(privileged=True, apparmor="localhost/unconfined_helper"), "unconfined_helper", id="both"),
    ],
)
def test_which_profile_confines(tmp_path: Path, security: Security, wanted: str) -> None:
    assert machine(tmp_path).profile(security) == wanted


def test_a_profile_that_is_not_loaded(tmp_path: Path) -> None:
    with pytest.raises(RuntimeFailure) as caught:
        machine(tmp_path).profile(Security(apparmor="localhost/none"))
    assert str(caught.value) == f"{FAILED}apparmor profile not found none"


@pytest.mark.parametrize("kernel", ["N\n", "Y\n"], ids=["the kernel has none", "its parser is not installed"])
def test_a_machine_without(tmp_path: Path, kernel: str) -> None:
    machine(tmp_path, kernel=kernel)
    if kernel == "Y\n":
        (tmp_path / "parser").unlink()
    without = AppArmor(enabled=tmp_path / "enabled", loaded=tmp_path / "profiles", parser=tmp_path / "parser")
    assert not without.enabled
    assert without.profile(Security()) == without.profile(Security(apparmor="unconfined")) == ""
    with pytest.raises(RuntimeFailure, match="apparmor is not supported"):
        without.profile(Security(apparmor="runtime/default"))


def test_the_default_is_loaded_once(tmp_path: Path) -> None:
    made = machine(tmp_path)
    assert [made.profile(Security()) for _ in range(3)] == [NAME] * 3
    assert (tmp_path / "asked").read_text() == "-Kr\n"
    text = (tmp_path / "text").read_text()
    assert text.startswith("@{PROC}=/proc/\n\nprofile kaa-default flags=(attach_disconnected,mediate_deleted) {\n")
    assert "deny @{PROC}/{[^1-9],[^1-9][^0-9]," in text
    assert "#include" not in text
    for name in ("tunables/global", "abstractions/base"):
        (tmp_path / "rules" / name).parent.mkdir(parents=True)
        (tmp_path / "rules" / name).touch()
    assert made.text().startswith("#include <tunables/global>\n")
    assert "  #include <abstractions/base>\n" in made.text()


def test_a_parser_that_refuses(tmp_path: Path) -> None:
    made = machine(tmp_path, parser="echo 'syntax error, line 3' >&2; exit 1")
    with pytest.raises(RuntimeFailure) as caught:
        made.profile(Security())
    assert str(caught.value) == f"{FAILED}load the default profile: syntax error, line 3"


def test_the_bundle_names_it() -> None:
    facts = Facts("/r", "/kaa/pod1/c1", {}, User(), apparmor=NAME)
    config = ContainerConfig("c", "busybox", command=("true",))
    assert process_spec(config, ImageConfig(), facts)["apparmorProfile"] == NAME

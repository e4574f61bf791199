"""``kaa up``, ``status``, ``down``, ``reset``: the commands of a newcomer, on a machine that is theirs."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from cluster_lab import BOX, E2E, KUBECTL, NOBODY, Lab, pod, serve, until

from kaa.runtime.oci.build import busybox_archive

pytestmark = E2E

#: Contexts of a user's other clusters, as they stand in a kubeconfig before kaa is first used.
OTHERS = """\
apiVersion: v1
kind: Config
current-context: work
preferences: {}
clusters:
- name: work
  cluster: {server: "https://work.example:6443", insecure-skip-tls-verify: true}
users:
- name: me
  user: {token: secret}
contexts:
- name: work
  context: {cluster: work, user: me, namespace: team}
"""


def box(lab: Lab, name: str = "") -> None:
    """Give a cluster the image of the tests."""
    lab.kaa("image import", str(busybox_archive(lab.home / "box.tar", [BOX])), name=name)


def test_up_down_up_reset(lab: Lab) -> None:
    said = lab.kaa("up")
    assert "Ready" in said
    assert "next:" in said
    kube = lab.kube()
    assert " Ready " in kube("get nodes --no-headers")
    status = lab.try_kaa("status")
    assert status.code == 0, status
    assert all(word in status.out for word in ("server", "agent", "running", "Ready", "v1.36"))

    box(lab)
    assert BOX in lab.kaa("image ls")
    kube.apply(pod("web"))
    kube.ready("web")
    before = kube.container("web")["containerID"]
    assert lab.kaa("image prune") == "0 images removed, 0.0 MB freed\n"

    assert "stopped" in lab.kaa("down")
    assert lab.processes() == {}
    status = lab.try_kaa("status")
    assert status.code == 1
    assert "stopped" in status.out
    assert "was not running" in lab.kaa("down")

    lab.kaa("up")
    kube.ready("web")
    until(lambda: kube.container("web")["containerID"] != before, "the container was started anew")
    assert kube.sh("web", "echo back").strip() == "back"

    assert "removed" in lab.kaa("reset")
    assert lab.leftovers() == {}
    assert "nothing was removed" in lab.kaa("reset")


def test_up_is_idempotent(lab: Lab) -> None:
    lab.kaa("up")
    box(lab)
    kube = lab.kube()
    kube.apply(pod("web"))
    kube.ready("web")
    pids = [lab.pid(part) for part in ("server", "agent")]
    container = kube.container("web")

    again = lab.kaa("up")

    assert "already up" in again
    assert [lab.pid(part) for part in ("server", "agent")] == pids
    assert kube.container("web") == container


def test_clusters_stand_side_by_side(lab: Lab) -> None:
    second = f"{lab.name}b"
    lab.kaa("up")
    lab.kaa("up", name=second)
    one, two = lab.config(), lab.config(second)
    for key in ("slot", "api_port", "kubelet_port"):
        assert one[key] != two[key], key
    first, other = lab.kube(), lab.kube(name=second, options=("--context", f"kaa-{second}"))
    for kube, name in ((first, lab.name), (other, second)):
        box(lab, name)
        kube.options = ("--context", f"kaa-{name}")
        kube.apply(pod("web", serve(name)))
    for kube, name in ((first, lab.name), (other, second)):
        kube.ready("web")
        address = kube.read("pods/web")["status"]["podIP"]
        assert lab.fetch(address, 80).strip() == name

    lab.kaa("reset", name=second)

    assert first.sh("web", "echo alive").strip() == "alive"
    assert lab.mounts() == [point for point in lab.mounts() if point.startswith(str(lab.home / lab.name))]
    assert [path for path in lab.cgroups() if path.name == f"kaa-{second}"] == []
    contexts = yaml.safe_load(lab.kubeconfig.read_text())["contexts"]
    assert [context["name"] for context in contexts] == [f"kaa-{lab.name}"]


def test_simulated_runtime_needs_no_root(lab: Lab) -> None:
    os.chown(lab.home, NOBODY, NOBODY)

    lab.kaa("up", "--runtime", "simulated", uid=NOBODY)

    assert {Path(f"/proc/{lab.pid(part)}").stat().st_uid for part in ("server", "agent")} == {NOBODY}
    done = lab.run(KUBECTL, "run", "web", f"--image={BOX}", uid=NOBODY)
    assert done.code == 0, done
    kube = lab.kube()
    kube.phase("web", "Running")
    assert kube("get nodes -o name").count("node/") == 1
    assert "removed" in lab.kaa("reset", uid=NOBODY)
    assert lab.leftovers() == {}


def test_kubeconfig_keeps_the_users_other_contexts(lab: Lab) -> None:
    lab.kubeconfig.write_text(OTHERS)
    context = f"kaa-{lab.name}"

    lab.kaa("up")

    merged = yaml.safe_load(lab.kubeconfig.read_text())
    assert merged["current-context"] == context
    assert [entry["name"] for entry in merged["contexts"]] == ["work", context]
    assert merged["users"][0] == {"name": "me", "user": {"token": "secret"}}
    assert lab.kubeconfig.stat().st_mode & 0o077 == 0
    printed = lab.home / "printed"
    printed.write_text(lab.kaa("kubeconfig"))
    assert "kube-system" in lab.run(KUBECTL, "--kubeconfig", str(printed), "get", "ns").out

    lab.kaa("reset")

    left = yaml.safe_load(lab.kubeconfig.read_text())
    assert left["contexts"] == yaml.safe_load(OTHERS)["contexts"]
    assert left["clusters"] == yaml.safe_load(OTHERS)["clusters"]
    assert left.get("current-context", "") != context


def one_sentence(said: str) -> str:
    """The complaint, which is one line and no traceback."""
    lines = said.strip().splitlines()
    assert len(lines) == 1, said
    assert lines[0].startswith("kaa: ")
    return lines[0]


def test_without_root_the_error_says_what_to_do(lab: Lab) -> None:
    os.chown(lab.home, NOBODY, NOBODY)
    done = lab.try_kaa("up", uid=NOBODY)
    assert done.code == 1, done
    said = one_sentence(done.err)
    assert "need root" in said
    assert "--runtime simulated" in said
    assert lab.leftovers().get("processes") is None


def test_a_missing_program_is_named_with_its_package(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command looks in PATH and in the usual places of system programs: a machine without runc is played."""
    from kaa.cluster import config, lifecycle

    found = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None if name == "runc" else found(name, path=path))
    with pytest.raises(config.ConfigError) as raised:
        lifecycle.check_machine("oci")
    assert str(raised.value) == "missing on this machine: runc; `apt-get install runc` brings them"


def test_a_taken_port_is_named(lab: Lab) -> None:
    held = subprocess.Popen(lab._argv(["busybox", "nc", "-l", "-p", "7443"], 0))
    try:
        until(lambda: ":7443" in lab.run("busybox", "netstat", "-ltn").out, "the port is taken")
        done = lab.try_kaa("up", "--port", "7443")
        assert done.code == 1, done
        assert "port 7443 is taken" in one_sentence(done.err)
    finally:
        held.kill()
        held.wait()


def test_a_verb_without_a_cluster_says_how_to_make_one(lab: Lab) -> None:
    for verb in ("down", "status", "kubeconfig", "logs", "image ls"):
        done = lab.try_kaa(verb)
        assert done.code == 1, done
        assert f"`kaa up --name {lab.name}`" in one_sentence(done.err)


def test_asking_for_another_shape_of_a_standing_cluster_is_refused(lab: Lab) -> None:
    lab.kaa("up", "--runtime", "simulated", "--port", "7001")
    assert lab.config()["api_port"] == 7001
    done = lab.try_kaa("up", "--port", "7002")
    assert done.code == 1
    assert "--port 7001" in one_sentence(done.err)
    assert "kaa reset" in done.err

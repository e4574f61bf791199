"""Volumes as pods see them, what confines pods, and what is left of both when the agent is killed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster_lab import BOX, E2E, STAY, Kubectl, Lab, pod, until
from runtime_lab import loop_device

from kaa.runtime.oci.build import busybox_archive

pytestmark = E2E


def config_map(name: str, **more: Any) -> Any:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, **more}


def mount(name: str, path: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "mountPath": path, **more}


def test_keys_come_and_go_within_seconds(kube: Kubectl) -> None:
    binary = {"raw": "AP8="}
    kube.apply(config_map("words", data={"a": "1", "b": "2"}, binaryData=binary))
    kube.apply(config_map("fixed", data={"a": "1"}, immutable=True))
    volumes = [
        {"name": "words", "configMap": {"name": "words"}},
        {"name": "some", "configMap": {"name": "words", "items": [{"key": "a", "path": "deep/er", "mode": 0o400}]}},
        {"name": "maybe", "configMap": {"name": "none", "optional": True}},
        {"name": "fixed", "configMap": {"name": "fixed"}},
        {"name": "labels", "downwardAPI": {"items": [{"path": "it", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
    ]
    mounts = [mount(volume["name"], f"/{volume['name']}") for volume in volumes]
    mounts.append(mount("words", "/one", subPath="a"))
    kube.apply(pod("reader", volumes=volumes, container={"volumeMounts": mounts}))
    kube.ready("reader")
    assert kube.sh("reader", "cat /words/a /words/b /one /some/deep/er; ls /maybe; wc -c < /words/raw") == "12112\n"
    assert kube.sh("reader", "stat -L -c %a /words /words/a /some/deep/er") == "777\n644\n400\n"
    assert "Read-only" in kube.sh("reader", "touch /words/x 2>&1; true")
    kube.apply(config_map("words", data={"a": "3", "c": "4"}), verb="replace")
    kube.apply(config_map("none", data={"late": "5"}))
    kube("label pod reader more=yes")
    until(lambda: kube.sh("reader", "ls /words").split() == ["a", "c"], "the keys of now", 10)
    until(lambda: "late" in kube.sh("reader", "ls /maybe"), "the map that was not there", 10)
    assert kube.sh("reader", "cat /words/a /words/c /some/deep/er /one") == "3431"
    until(lambda: 'more="yes"' in kube.sh("reader", "cat /labels/it"), "the new label", 10)


def test_who_may_read_what(kube: Kubectl) -> None:
    kube("create secret generic s --from-literal=k=hidden")
    token = {"serviceAccountToken": {"path": "token", "audience": "somebody", "expirationSeconds": 600}}
    volumes = [
        {"name": "s", "secret": {"secretName": "s", "defaultMode": 0o400}},
        {"name": "disk", "emptyDir": {}},
        {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        {"name": "token", "projected": {"sources": [token]}},
    ]
    mounts = [mount(volume["name"], f"/{volume['name']}") for volume in volumes]
    mounts.append(mount("disk", "/inner", subPath="made/here"))
    context = {"runAsUser": 1000, "runAsGroup": 3000, "fsGroup": 2000, "supplementalGroups": [4000]}
    kube.apply(pod("one", volumes=volumes, container={"volumeMounts": mounts}, securityContext=context))
    kube.ready("one")
    assert kube.sh("one", "id -u; id -g; id -G") == "1000\n3000\n3000 2000 4000\n" or kube.sh(
        "one", "id -G"
    ).split() == [
        "3000",
        "4000",
        "2000",
    ]
    assert kube.sh("one", "stat -L -c '%a %u %g' /s/k /token/token /disk /inner") == (
        "440 0 2000\n640 1000 2000\n2777 0 2000\n2777 0 2000\n"
    )
    assert (
        kube.sh("one", "touch /disk/f /memory/f /inner/f; stat -c %u:%g /disk/f /memory/f /inner/f").split()
        == ["1000:2000"] * 3
    )
    assert "tmpfs" in kube.sh("one", "grep ' /memory ' /proc/mounts")
    assert "size=1024k" in kube.sh("one", "grep ' /memory ' /proc/mounts")
    assert (
        kube.sh("one", "dd if=/dev/zero of=/memory/big bs=1M count=2 2>/dev/null; stat -c %s /memory/big")
        == "1048576\n"
    )
    user = kube.container("one")["user"]["linux"]
    assert (user["uid"], user["gid"], set(user["supplementalGroups"])) == (1000, 3000, {2000, 3000, 4000})


def test_a_link_swapped_in_by_a_container_does_not_lead_out(kube: Kubectl, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    tmp_path.chmod(0o711)
    volumes = [{"name": "v", "hostPath": {"path": str(shared)}}]
    swap = "cd /v; mkdir real; while :; do ln -sn / x; mv -T real y; rm -f x; mv -T y x; mv -T x real; done 2>/dev/null"
    kube.apply(pod("swapper", swap, volumes=volumes, container={"volumeMounts": [mount("v", "/v")]}))
    kube.ready("swapper")
    victims = [f"victim-{n}" for n in range(6)]
    for name in victims:
        inner = {"volumeMounts": [mount("v", "/m", subPath="x")]}
        kube.apply(pod(name, "ls -A /m; sleep 1", volumes=volumes, container=inner, restartPolicy="Never"))
    for name in victims:

        def over(name: str = name) -> Any:
            waiting = kube.container(name).get("state", {}).get("waiting", {})
            return kube.read(f"pods/{name}")["status"].get("phase") in ("Succeeded", "Failed") or waiting.get("message")

        until(over, f"{name} has ended or was refused")
        if kube.read(f"pods/{name}")["status"]["phase"] == "Succeeded":
            assert "proc" not in kube(f"logs {name}")
    for name in victims:  # what is refused is said without a word about the node
        message = kube.container(name).get("state", {}).get("waiting", {}).get("message")
        assert message in (None, 'failed to prepare subPath for volumeMount "v" of container "main"')
    kube(f"delete pod swapper {' '.join(victims)} --grace-period=0 --force")


def test_claims_on_local_volumes(kube: Kubectl, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    node = kube.api.get("/api/v1/nodes")["items"][0]["metadata"]["name"]
    kube.apply(local_volume(kube, "files", tmp_path, node))
    kube.apply(claim("files", f"{kube.namespace}-files"))
    volumes = [{"name": "v", "persistentVolumeClaim": {"claimName": "files"}}]
    kube.apply(pod("writer", volumes=volumes, container={"volumeMounts": [mount("v", "/v")]}))
    kube.ready("writer")
    kube.sh("writer", "echo kept > /v/file")
    assert (tmp_path / "file").read_text() == "kept\n"
    kube("delete pod writer --now")
    assert (tmp_path / "file").exists()
    kube("delete pvc files --wait=false")
    kube(f"delete pv {kube.namespace}-files --wait=false")


def local_volume(kube: Kubectl, name: str, path: Path, node: str, **more: Any) -> Any:
    term = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"{kube.namespace}-{name}"},
        "spec": {
            "capacity": {"storage": "1Mi"},
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "",
            "local": {"path": str(path)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}},
            **more,
        },
    }


def claim(name: str, volume: str, **more: Any) -> Any:
    spec = {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": "",
        "volumeName": volume,
        "resources": {"requests": {"storage": "1Mi"}},
        **more,
    }
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Path]:
    with loop_device(tmp_path / "disk", b"kaa!" + bytes(2**20 - 4)) as device:
        yield device


def test_claims_on_block_devices(kube: Kubectl, loop: Path) -> None:
    node = kube.api.get("/api/v1/nodes")["items"][0]["metadata"]["name"]
    kube.apply(local_volume(kube, "disk", loop, node, volumeMode="Block"))
    kube.apply(claim("disk", f"{kube.namespace}-disk", volumeMode="Block"))
    volumes = [{"name": "v", "persistentVolumeClaim": {"claimName": "disk"}}]
    devices = {"volumeDevices": [{"name": "v", "devicePath": "/dev/xvda"}]}
    kube.apply(pod("raw", volumes=volumes, container=devices))
    kube.ready("raw")
    assert kube.sh("raw", "test -b /dev/xvda; head -c 4 /dev/xvda") == "kaa!"
    kube("delete pod raw --now")
    kube("delete pvc disk --wait=false")
    kube(f"delete pv {kube.namespace}-disk --wait=false")


def test_a_pod_whose_root_is_nobody_on_the_node(kube: Kubectl, shared: Lab) -> None:
    for handler in kube.api.get("/api/v1/nodes")["items"][0]["status"]["runtimeHandlers"]:
        assert handler["features"] == {"recursiveReadOnlyMounts": True, "userNamespaces": True}
    volumes = [
        {"name": "v", "emptyDir": {}},
        {"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}},
    ]
    container = {
        "volumeMounts": [mount("v", "/v"), mount("t", "/t", readOnly=True, recursiveReadOnly="IfPossible")],
        "securityContext": {"procMount": "Unmasked"},
    }
    kube.apply(pod("apart", hostUsers=False, volumes=volumes, container=container))
    kube.ready("apart")
    first, begins, length = kube.sh("apart", "cat /proc/self/uid_map").split()
    assert (first, length) == ("0", "65536")
    assert int(begins) >= 65536
    assert kube.sh("apart", "touch /v/f; stat -c %u /v/f /etc/hosts /dev/termination-log; id -u") == "0\n0\n0\n0\n"
    assert kube.sh("apart", "head -c 3 /t/t") == "eyJ"
    assert kube.sh("apart", "hostname; wget -qO- --no-check-certificate https://kubernetes/livez 2>&1 | tail -1") != ""
    uid = kube.read("pods/apart")["metadata"]["uid"]
    folder = shared.home / shared.name / "kubelet/pods" / uid
    assert (folder / "volumes/kubernetes.io~empty-dir/v/f").stat().st_uid == 0
    noted = json.loads((folder / "userns").read_text())
    assert noted["uidMappings"] == [{"hostId": int(begins), "containerId": 0, "length": 65536}]
    mounted = {m["mountPath"]: m.get("recursiveReadOnly") for m in kube.container("apart")["volumeMounts"]}
    assert (mounted["/v"], mounted["/t"]) == (None, "Enabled")
    pids = [pid for pid in shared.processes() if f"{begins}\t" in Path(f"/proc/{pid}/status").read_text()]
    assert pids
    kube("delete pod apart --now")
    until(lambda: not folder.exists(), "the pod's folder is gone")


def test_an_init_container_writes_the_environment(kube: Kubectl) -> None:
    volumes = [{"name": "v", "emptyDir": {}}]
    writer = {
        "name": "writer",
        "image": BOX,
        "command": ["sh", "-c", "echo \"WORD='from a file'\" > /v/env"],
        "volumeMounts": [mount("v", "/v")],
    }
    ref = {"fileKeyRef": {"volumeName": "v", "path": "env", "key": "WORD"}}
    env = [{"name": "SAID", "valueFrom": ref}]
    kube.apply(pod("env", f"echo $SAID; {STAY}", initContainers=[writer], volumes=volumes, container={"env": env}))
    kube.ready("env")
    assert kube("logs env -c main") == "from a file\n"


@pytest.mark.parametrize(
    ("context", "reason", "text"),
    [
        (
            {"runAsNonRoot": True},
            "CreateContainerConfigError",
            'container has runAsNonRoot and image will run as root (pod: "no_{ns}({uid})", container: main)',
        ),
        (
            {"runAsNonRoot": True, "runAsUser": 0},
            "CreateContainerConfigError",
            'container\'s runAsUser breaks non-root policy (pod: "no_{ns}({uid})", container: main)',
        ),
        (
            {"seccompProfile": {"type": "Localhost", "localhostProfile": "none.json"}},
            "CreateContainerError",
            'cannot load seccomp profile "{root}/seccomp/none.json": open {root}/seccomp/none.json:'
            " no such file or directory",
        ),
    ],
    ids=["root image", "root user", "no profile"],
)
def test_containers_that_may_not_be(
    kube: Kubectl, shared: Lab, context: dict[str, Any], reason: str, text: str
) -> None:
    kube.apply(pod("no", container={"securityContext": context}))
    waiting = kube.waiting("no", reason)
    uid = kube.read("pods/no")["metadata"]["uid"]
    root = shared.home / shared.name / "kubelet"
    assert waiting["message"] == text.format(ns=kube.namespace, uid=uid, root=root)


def test_pods_that_the_node_cannot_confine(kube: Kubectl) -> None:
    if Path("/sys/module/apparmor/parameters/enabled").exists():
        pytest.skip("this machine has AppArmor")
    kube.apply(pod("no", securityContext={"appArmorProfile": {"type": "RuntimeDefault"}}))
    status = kube.phase("no", "Failed")["status"]
    assert status["reason"] == "AppArmor"
    assert status["message"] == "Pod was rejected: Cannot enforce AppArmor: AppArmor is not enabled on the host"


def test_nothing_stays_mounted_after_the_agent_was_killed(lab: Lab) -> None:
    lab.kaa("up")
    lab.kaa("image import", str(busybox_archive(lab.home / "box.tar", [BOX])))
    kube = lab.kube()
    until(lambda: kube.read("serviceaccounts/default"), "the service account")
    volumes = [{"name": "m", "emptyDir": {"medium": "Memory"}}, {"name": "d", "emptyDir": {}}]
    mounts = [mount("m", "/m"), mount("d", "/sub", subPath="a/b"), mount("m", "/subm", subPath="c")]
    for name, more in (("stays", {}), ("goes", {}), ("apart", {"hostUsers": False})):
        kube.apply(pod(name, volumes=volumes, container={"volumeMounts": mounts}, **more))
    kube.ready("stays", "goes", "apart")
    kube.sh("stays", "echo kept > /m/file; echo kept > /sub/file")
    pods = lab.home / lab.name / "kubelet/pods"
    uids = {name: kube.read(f"pods/{name}")["metadata"]["uid"] for name in ("stays", "goes", "apart")}

    def mounted(name: str) -> list[str]:
        return [point for point in lab.mounts() if point.startswith(str(pods / uids[name]))]

    assert len(mounted("goes")) == 4  # two sub paths, the volume in memory, the token
    lab.kill("agent")
    kube("delete pod goes apart --force --grace-period=0")
    lab.kaa("up")
    until(lambda: not mounted("goes") and not mounted("apart"), "their mounts are gone", 30)
    until(lambda: not (pods / uids["goes"]).exists(), "its folder is gone")
    assert kube.sh("stays", "cat /m/file /sub/file") == "kept\nkept\n"
    assert len(mounted("stays")) == 4
    kube("delete pod stays --now")
    until(lambda: not mounted("stays"), "the mounts of the pod that stayed are gone")

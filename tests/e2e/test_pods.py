"""Pods as their users know them: restarts, init containers, probes, images that do not come, memory, the end."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from cluster_lab import BOX, E2E, STAY, Kubectl, pod, until

pytestmark = [*E2E, pytest.mark.usefixtures("no_leaks")]

#: A registry that is not there: nothing listens on the machine's port 1.
NOWHERE = "127.0.0.1:1/none:1"


def tcp(port: int, **more: Any) -> dict[str, Any]:
    return {"tcpSocket": {"port": port}, "periodSeconds": 1, **more}


@pytest.mark.parametrize(
    ("policy", "code", "phase", "reason"),
    [
        ("Never", 0, "Succeeded", "Completed"),
        ("Never", 3, "Failed", "Error"),
        ("OnFailure", 0, "Succeeded", "Completed"),
    ],
)
def test_a_container_that_ends_for_good(kube: Kubectl, policy: str, code: int, phase: str, reason: str) -> None:
    kube.apply(pod("job", f"exit {code}", restartPolicy=policy))
    found = kube.phase("job", phase)
    ended = found["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (code, reason)
    assert found["status"]["containerStatuses"][0]["restartCount"] == 0


@pytest.mark.parametrize(("policy", "code"), [("Always", 0), ("Always", 1), ("OnFailure", 1)])
def test_a_container_that_ends_again_and_again_backs_off(kube: Kubectl, policy: str, code: int) -> None:
    kube.apply(pod("crash", f"exit {code}", restartPolicy=policy))
    waiting = kube.waiting("crash", "CrashLoopBackOff")
    name = f"crash_{kube.namespace}"
    assert waiting["message"].startswith("back-off 10s restarting failed container=main pod=" + name)
    assert kube.container("crash")["restartCount"] >= 1
    assert kube.container("crash")["lastState"]["terminated"]["exitCode"] == code
    until(lambda: any(reason == "BackOff" for reason, _ in kube.events("crash")), "a BackOff event")
    assert "CrashLoopBackOff" in kube("get pod crash")


def test_init_containers_run_in_order_before_the_others(kube: Kubectl) -> None:
    mounts = [{"name": "shared", "mountPath": "/shared"}]

    def init(name: str, script: str) -> dict[str, Any]:
        return {"name": name, "image": BOX, "command": ["sh", "-c", script], "volumeMounts": mounts}

    inits = [init("one", "echo one >> /shared/log"), init("two", "echo two >> /shared/log")]
    volumes = [{"name": "shared", "emptyDir": {}}]
    script = f"cat /shared/log; {STAY}"
    kube.apply(pod("web", script, initContainers=inits, volumes=volumes, container={"volumeMounts": mounts}))
    kube.ready("web")
    assert kube("logs web") == "one\ntwo\n"
    assert kube.container("web", "one")["state"]["terminated"]["reason"] == "Completed"


def test_an_init_container_that_fails_holds_the_others_back(kube: Kubectl) -> None:
    inits = [{"name": "first", "image": BOX, "command": ["false"]}]
    kube.apply(pod("never", initContainers=inits, restartPolicy="Never"))
    assert kube.phase("never", "Failed")["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == (
        "PodInitializing"
    )
    assert "Init:Error" in kube("get pod never")
    kube.apply(pod("again", initContainers=inits))
    kube.waiting("again", "CrashLoopBackOff", "first")
    assert "Init:CrashLoopBackOff" in kube("get pod again")


def test_readiness_decides_who_serves(kube: Kubectl) -> None:
    ready = {"exec": {"command": ["cat", "/tmp/ready"]}, "periodSeconds": 1}
    kube.apply(pod("web", container={"readinessProbe": ready, "ports": [{"containerPort": 80}]}))
    kube("expose pod web --port=80")
    kube.phase("web", "Running")

    def endpoints() -> list[bool]:
        found = kube.items("endpointslices")
        return [e["conditions"]["ready"] for s in found for e in s.get("endpoints") or ()]

    until(lambda: endpoints() == [False], "an endpoint that is not ready")
    until(lambda: "Unhealthy" in {reason for reason, _ in kube.events("web")}, "an Unhealthy event")
    kube.sh("web", "touch /tmp/ready")
    kube.ready("web")
    until(lambda: endpoints() == [True], "a ready endpoint")
    kube.sh("web", "rm /tmp/ready")
    until(lambda: endpoints() == [False], "an endpoint that is not ready any more")
    assert kube.container("web")["restartCount"] == 0


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        pytest.param(
            {"httpGet": {"path": "/index.html", "port": 8080}}, {"httpGet": {"path": "/none", "port": 8080}}, id="http"
        ),
        pytest.param({"tcpSocket": {"port": 8080}}, {"tcpSocket": {"port": 8081}}, id="tcp"),
        pytest.param({"exec": {"command": ["true"]}}, {"exec": {"command": ["false"]}}, id="exec"),
    ],
)
def test_liveness_restarts_what_fails(kube: Kubectl, good: Any, bad: Any) -> None:
    script = f"mkdir /www; echo hi > /www/index.html; httpd -p 8080 -h /www; {STAY}"
    often = {"periodSeconds": 1, "failureThreshold": 2, "initialDelaySeconds": 1}
    kube.apply(
        [
            pod(
                "good",
                script,
                container={"livenessProbe": {**good, **often}, "readinessProbe": {**good, "periodSeconds": 1}},
            ),
            pod("bad", script, container={"livenessProbe": {**bad, **often}}),
        ]
    )
    kube.ready("good")
    until(lambda: kube.container("bad").get("restartCount", 0) >= 1, "a restart")
    until(
        lambda: any("failed liveness probe, will be restarted" in said for _, said in kube.events("bad")),
        "a Killing event",
    )
    assert kube.container("good")["restartCount"] == 0


def test_an_image_that_does_not_come(kube: Kubectl) -> None:
    kube.apply(pod("web", container={"image": NOWHERE}))
    message = kube.waiting("web", "ErrImagePull")["message"]
    assert NOWHERE in message
    assert "refused" in message
    waiting = kube.waiting("web", "ImagePullBackOff")
    assert waiting["message"].startswith(f'Back-off pulling image "{NOWHERE}"')
    wanted = {"Scheduled", "Pulling", "Failed", "BackOff"}
    until(lambda: wanted <= {reason for reason, _ in kube.events("web")}, "its events")
    assert kube.read("pods/web")["status"]["phase"] == "Pending"


def test_an_image_that_may_not_be_pulled(kube: Kubectl) -> None:
    kube.apply(pod("web", container={"image": "docker.io/kaa/absent:1", "imagePullPolicy": "Never"}))
    waiting = kube.waiting("web", "ErrImageNeverPull")
    assert waiting["message"] == 'Container image "docker.io/kaa/absent:1" is not present with pull policy of Never'


def test_too_much_memory(kube: Kubectl) -> None:
    limits = {"resources": {"limits": {"memory": "24Mi"}}}
    kube.apply(pod("hog", "exec tail /dev/zero", restartPolicy="Never", container=limits))
    ended = kube.phase("hog", "Failed")["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (ended["reason"], ended["exitCode"]) == ("OOMKilled", 137)


def test_a_command_that_is_not_there(kube: Kubectl) -> None:
    kube.apply(pod("web", restartPolicy="Never", container={"command": ["/no/such/program"]}))
    ended = kube.phase("web", "Failed")["status"]["containerStatuses"][0]["state"]["terminated"]
    assert ended["reason"] in ("StartError", "ContainerCannotRun")
    assert ended["exitCode"] == 128
    assert "no such file or directory" in ended["message"]


def test_termination_is_asked_for_and_then_enforced(kube: Kubectl) -> None:
    tidy = "trap 'echo bye > /host/tidy; exit 0' TERM; sleep 3600 & wait"
    folder = kube.lab.home / f"host-{kube.namespace}"
    host = {
        "volumes": [{"name": "host", "hostPath": {"path": str(folder), "type": "DirectoryOrCreate"}}],
        "container": {"volumeMounts": [{"name": "host", "mountPath": "/host"}]},
    }
    kube.apply(pod("tidy", tidy, **host, terminationGracePeriodSeconds=30))
    kube.apply(pod("deaf", "trap '' TERM; while true; do sleep 1; done", terminationGracePeriodSeconds=2))
    kube.ready("tidy", "deaf")
    began = time.monotonic()
    kube("delete pod tidy --wait")
    assert time.monotonic() - began < 15  # it went when it was asked, long before its 30 s
    assert (folder / "tidy").read_text() == "bye\n"
    began = time.monotonic()
    kube("delete pod deaf --wait")
    assert time.monotonic() - began >= 2  # it had its grace
    kube.apply(pod("gone", terminationGracePeriodSeconds=600))
    kube.ready("gone")
    kube("delete pod gone --grace-period=0 --force")
    assert kube.read("pods/gone") is None


def test_what_a_container_may_know_of_itself(kube: Kubectl) -> None:
    """Downward API, expansion of ``$(NAME)``, and the resources it was given."""
    env = [
        {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "LIMIT", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory"}}},
        {"name": "BOTH", "value": "$(POD)-$$(POD)"},
    ]
    limits = {"limits": {"memory": "64Mi", "cpu": "500m"}}
    args = {"command": ["sh", "-c", f"echo $0 $POD $LIMIT $BOTH; {STAY}"], "args": ["$(POD)"]}
    kube.apply(pod("web", container={**args, "env": env, "resources": limits}))
    kube.ready("web")
    assert kube("logs web") == f"web web {64 << 20} web-$(POD)\n"
    found = kube.read("pods/web")["status"]
    assert found["qosClass"] == "Guaranteed"
    assert kube.sh("web", "echo $IP").strip() == found["podIP"]


def test_config_and_secrets_as_files_follow_their_source(kube: Kubectl) -> None:
    kube("create configmap settings --from-literal=color=blue")
    kube("create secret generic keys --from-literal=key=opensesame")
    volumes = [
        {"name": "settings", "configMap": {"name": "settings"}},
        {"name": "keys", "secret": {"secretName": "keys", "defaultMode": 0o400}},
    ]
    mounts = [{"name": "settings", "mountPath": "/settings"}, {"name": "keys", "mountPath": "/keys"}]
    kube.apply(pod("web", volumes=volumes, container={"volumeMounts": mounts}))
    kube.ready("web")
    assert kube.sh("web", "cat /settings/color /keys/key") == "blueopensesame"
    assert kube.sh("web", "stat -L -c %a /keys/key").strip() == "400"
    assert "Read-only" in kube.run("exec web --", "touch", "/settings/new").err


def test_a_missing_configmap_holds_the_container_back(kube: Kubectl) -> None:
    env = {"envFrom": [{"configMapRef": {"name": "later"}}]}
    kube.apply(pod("web", container=env))
    waiting = kube.waiting("web", "CreateContainerConfigError")
    assert waiting["message"] == 'configmap "later" not found'
    kube("create configmap later --from-literal=NAME=value")
    kube.ready("web", timeout_s=40)
    assert "NAME=value" in kube.sh("web", "env")


def test_a_pod_that_fits_nowhere_says_why(kube: Kubectl) -> None:
    kube.apply(pod("big", container={"resources": {"requests": {"cpu": "1000"}}}))
    kube.apply(pod("picky", nodeSelector={"disk": "ssd"}))

    def unscheduled(name: str) -> Any:
        conditions = kube.read(f"pods/{name}")["status"].get("conditions") or ()
        return next((c for c in conditions if c["type"] == "PodScheduled" and c.get("message")), None)

    for name, why in (("big", "1 Insufficient cpu"), ("picky", "1 node(s) didn't match Pod's node affinity/selector")):
        condition = until(lambda name=name: unscheduled(name), "a condition that tells")  # type: ignore[misc]
        assert (condition["status"], condition["reason"]) == ("False", "Unschedulable")
        assert condition["message"].startswith(f"0/1 nodes are available: {why}.")
        until(lambda name=name: "FailedScheduling" in dict(kube.events(name)), "its event")  # type: ignore[misc]


def test_a_job_runs_to_completion(kube: Kubectl) -> None:
    template = {"spec": {"restartPolicy": "Never", "containers": pod("x", "echo done")["spec"]["containers"]}}
    spec = {"completions": 3, "parallelism": 2, "template": template}
    kube.apply({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "sums"}, "spec": spec})
    kube("wait --for=condition=Complete job/sums --timeout=30s")
    assert kube.read("jobs/sums")["status"]["succeeded"] == 3
    kube("delete job sums")
    until(lambda: kube.items("pods") == [], "its pods are gone")


def test_resources_change_in_place(kube: Kubectl) -> None:
    """What the resize subresource asks for is what the container's cgroup enforces, without a restart."""
    kube.apply(pod("web", container={"resources": {"limits": {"memory": "64Mi", "cpu": "200m"}}}))
    kube.ready("web")
    sizes = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; true"
    assert kube.sh("web", sizes).split() == [str(64 << 20)]
    amounts = {"memory": "96Mi", "cpu": "300m"}
    resources = {"limits": amounts, "requests": amounts}
    patch = json.dumps({"spec": {"containers": [{"name": "main", "resources": resources}]}})
    kube("patch pod web --subresource resize --patch", patch)
    until(lambda: kube.container("web")["resources"] == resources, "the container's new resources")
    assert kube.sh("web", sizes).split() == [str(96 << 20)]
    until(lambda: any(reason == "ResizeCompleted" for reason, _ in kube.events("web")), "its event")
    assert kube.container("web")["restartCount"] == 0


def test_a_runtime_class_names_a_handler(kube: Kubectl) -> None:
    """The OCI runtimes that there are can be asked for by name; what is not there is said."""
    (node,) = json.loads(kube("get nodes -o json"))["items"]
    names = [one["name"] for one in node["status"]["runtimeHandlers"]]
    assert names == ["", "crun", "runc"]
    classes = {"crun": "crun", "runc": "runc", "nowhere": "nobody"}
    for name, handler in classes.items():
        meta = {"name": f"{kube.namespace}-{name}"}
        kube.apply({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": meta, "handler": handler})
        kube.apply(pod(name, "exit 0", restartPolicy="Never", runtimeClassName=meta["name"]))
    kube.phase("crun", "Succeeded")
    kube.phase("runc", "Succeeded")
    text = 'Failed to create pod sandbox: failed to get sandbox runtime: no runtime for "nobody" is configured'
    until(lambda: ("FailedCreatePodSandBox", text) in kube.events("nowhere"), "the word of the runtime")
    for name in classes:
        kube(f"delete runtimeclass {kube.namespace}-{name}")

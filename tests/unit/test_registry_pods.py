from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from kaa.api import scheme
from kaa.api.clock import format_time
from kaa.api.types.core_v1 import Binding, ObjectReference, Pod
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.api.types.policy_v1 import PodDisruptionBudget
from kaa.apiserver.registry.core import eviction, pod_binding
from kaa.apiserver.registry.core.pods import STRATEGY, qos_class

NOW = 1_800_000_000.0


def make_pod(container: dict[str, Any] | None = None, *, status: dict[str, Any] | None = None, **spec: Any) -> Pod:
    given = {"name": "c", "image": "nginx", **(container or {})}
    document = {
        "metadata": {"name": "web", "namespace": "default", "uid": "u", "labels": {"app": "web"}},
        "spec": {"containers": [given], **spec},
        "status": status or {},
    }
    return STRATEGY.default(scheme.convert(Pod, document))


def faults(pod: Pod) -> list[str]:
    return [str(fault) for fault in STRATEGY.validate(pod)]


def cells(pod: Pod) -> list[Any]:
    assert STRATEGY.table is not None
    return list(STRATEGY.table.cells(pod, NOW))


@pytest.mark.parametrize(
    ("image", "policy"),
    [
        ("nginx", "Always"),
        ("nginx:latest", "Always"),
        ("nginx:1.27", "IfNotPresent"),
        ("localhost:5000/nginx", "Always"),
        ("localhost:5000/nginx:2", "IfNotPresent"),
        ("nginx@sha256:" + "0" * 64, "IfNotPresent"),
    ],
)
def test_pull_policy_follows_the_tag(image: str, policy: str) -> None:
    assert make_pod({"image": image}).spec.containers[0].image_pull_policy == policy


def test_requests_default_to_limits() -> None:
    pod = make_pod({"resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}})
    assert pod.spec.containers[0].resources.requests == {"cpu": "500m", "memory": "1Gi"}


def test_a_negative_grace_period_is_a_second() -> None:
    assert STRATEGY.default(make_pod(terminationGracePeriodSeconds=-1)).spec.termination_grace_period_seconds == 1
    assert STRATEGY.default(make_pod(terminationGracePeriodSeconds=0)).spec.termination_grace_period_seconds == 0


def test_host_network_opens_host_ports() -> None:
    assert make_pod({"ports": [{"containerPort": 80}]}, hostNetwork=True).spec.containers[0].ports[0].host_port == 80


@pytest.mark.parametrize(
    ("resources", "qos"),
    [
        ({}, "BestEffort"),
        ({"requests": {"cpu": "1"}}, "Burstable"),
        ({"limits": {"cpu": "1"}}, "Burstable"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}}, "Guaranteed"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m"}}, "Guaranteed"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "2m"}}, "Burstable"),
    ],
)
def test_class_of_service(resources: dict[str, Any], qos: str) -> None:
    assert qos_class(make_pod({"resources": resources}).spec) == qos


def test_gated_pod_says_so() -> None:
    made = STRATEGY.prepare_create(make_pod(schedulingGates=[{"name": "example.com/wait"}]))
    assert made.status.conditions[0].reason == "SchedulingGated"
    assert cells(made)[2] == "SchedulingGated"


@pytest.mark.parametrize(
    ("container", "fault"),
    [
        ({"image": ""}, "spec.containers[0].image: Required value"),
        (
            {"image": " x"},
            'spec.containers[0].image: Invalid value: " x": must not have leading or trailing whitespace',
        ),
        (
            {"volumeMounts": [{"name": "v", "mountPath": "/"}]},
            'spec.containers[0].volumeMounts[0].name: Not found: "v"',
        ),
        (
            {"resources": {"requests": {"example.com/gpu": "1"}}},
            "spec.containers[0].resources.limits: Required value: Limit must be set for non overcommitable resources",
        ),
        (
            {"readinessProbe": {"exec": {"command": ["x"]}, "terminationGracePeriodSeconds": 3}},
            "spec.containers[0].readinessProbe.terminationGracePeriodSeconds: Invalid value: 3:"
            " must not be set for readinessProbes",
        ),
    ],
    ids=["no image", "blank in image", "no such volume", "gpu without limit", "grace of a readiness probe"],
)
def test_container_at_fault(container: dict[str, Any], fault: str) -> None:
    assert faults(make_pod(container)) == [fault]


RULE = {"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}}


@pytest.mark.parametrize(
    ("container", "found"),
    [
        ({"restartPolicy": "Never", "restartPolicyRules": [RULE, {**RULE, "action": "Restart"}]}, []),
        (
            {"restartPolicyRules": [RULE]},
            ["restartPolicy: Required value: must specify restartPolicy when restart rules are used"],
        ),
        (
            {"restartPolicy": "Sometimes"},
            ['restartPolicy: Unsupported value: "Sometimes": supported values: "Always", "Never", "OnFailure"'],
        ),
        (
            {"restartPolicy": "Never", "restartPolicyRules": [{"action": "Stop"}]},
            [
                'restartPolicyRules[0].action: Unsupported value: "Stop": supported values: "Restart", "RestartAllContainers"',
                "restartPolicyRules[0].exitCodes: Required value: must be specified",
            ],
        ),
        (
            {"restartPolicy": "Never", "restartPolicyRules": [RULE] * 21},
            ["restartPolicyRules: Too many: 21: must have at most 20 items"],
        ),
    ],
    ids=["good", "no policy", "no such policy", "no such action", "too many"],
)
def test_rules_of_restart(container: dict[str, Any], found: list[str]) -> None:
    assert faults(make_pod(container)) == [f"spec.containers[0].{fault}" for fault in found]


def test_image_may_change_and_command_may_not() -> None:
    old = make_pod()
    image = replace(old.spec.containers[0], image="nginx:2")
    assert STRATEGY.validate_update(replace(old, spec=replace(old.spec, containers=(image,))), old) == []
    command = replace(old.spec.containers[0], command=("sh",))
    found = STRATEGY.validate_update(replace(old, spec=replace(old.spec, containers=(command,))), old)
    assert [fault.field for fault in found] == ["spec"]
    assert '-   "Command": null,\n+   "Command": [\n+    "sh"\n+   ],' in found[0].body


def test_toleration_may_be_added_but_not_dropped() -> None:
    old = make_pod(tolerations=[{"key": "a", "operator": "Exists"}])
    more = make_pod(tolerations=[{"key": "a", "operator": "Exists"}, {"key": "b", "operator": "Exists"}])
    assert STRATEGY.validate_update(more, old) == []
    assert [fault.field for fault in STRATEGY.validate_update(old, more)] == ["spec.tolerations"]


def test_status_update_keeps_spec_and_joins_addresses() -> None:
    old = STRATEGY.prepare_create(make_pod())
    new = make_pod(hostNetwork=True, status={"phase": "Running", "podIP": "10.0.0.1"})
    made = STRATEGY.prepare_status_update(new, old)
    assert made.spec == old.spec
    assert (made.status.pod_ips[0].ip, made.status.qos_class) == ("10.0.0.1", "BestEffort")


def waiting(reason: str) -> dict[str, Any]:
    return {
        "name": "c",
        "image": "i",
        "imageID": "",
        "ready": False,
        "restartCount": 3,
        "state": {"waiting": {"reason": reason}},
    }


@pytest.mark.parametrize(
    ("status", "shown"),
    [
        ({"phase": "Pending"}, ["0/1", "Pending", "0"]),
        ({"phase": "Running", "containerStatuses": [waiting("CrashLoopBackOff")]}, ["0/1", "CrashLoopBackOff", "3"]),
        (
            {
                "phase": "Running",
                "containerStatuses": [
                    {
                        **waiting("CrashLoopBackOff"),
                        "lastState": {"terminated": {"exitCode": 1, "finishedAt": format_time(NOW - 300)}},
                    }
                ],
            },
            ["0/1", "CrashLoopBackOff", "3 (5m ago)"],
        ),
        (
            {
                "phase": "Succeeded",
                "containerStatuses": [
                    {**waiting(""), "restartCount": 0, "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}
                ],
            },
            ["0/1", "Completed", "0"],
        ),
    ],
    ids=["pending", "crash loop", "crash loop with time", "completed"],
)
def test_table_sums_up_containers(status: dict[str, Any], shown: list[str]) -> None:
    assert cells(make_pod(status=status))[1:4] == shown


def test_table_counts_init_containers() -> None:
    init = {"name": "i", "image": "i"}
    statuses = [{**waiting("PodInitializing"), "name": "i", "restartCount": 0}]
    pod = make_pod(
        initContainers=[init, {**init, "name": "j"}], status={"phase": "Pending", "initContainerStatuses": statuses}
    )
    assert cells(pod)[2] == "Init:0/2"


def test_deleted_pod_is_terminating() -> None:
    pod = make_pod(status={"phase": "Running"})
    gone = replace(pod, metadata=replace(pod.metadata, deletion_timestamp=format_time(NOW)))
    assert cells(gone)[2] == "Terminating"


# ------------------------------------------------------------------------------------------------ binding, eviction

BINDING = Binding(metadata=ObjectMeta(name="web"), target=ObjectReference(kind="Node", name="n1"))


def test_binding_sets_node_and_condition() -> None:
    bound = pod_binding.bind(make_pod(), BINDING, NOW)
    assert bound.spec.node_name == "n1"
    assert [(c.type, c.status) for c in bound.status.conditions] == [("PodScheduled", "True")]


def test_bound_pod_cannot_be_bound_again() -> None:
    with pytest.raises(Exception, match='pod web is already assigned to node "n1"'):
        pod_binding.bind(pod_binding.bind(make_pod(), BINDING, NOW), BINDING, NOW)


def make_budget(allowed: int) -> PodDisruptionBudget:
    status = {"disruptionsAllowed": allowed, "currentHealthy": 2, "desiredHealthy": 2, "observedGeneration": 1}
    document = {
        "metadata": {"name": "pdb", "namespace": "default", "generation": 1},
        "spec": {"selector": {"matchLabels": {"app": "web"}}},
        "status": status,
    }
    return scheme.convert(PodDisruptionBudget, document)


RUNNING = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}


def test_eviction_charges_the_budget() -> None:
    verdict = eviction.decide(make_pod(status=RUNNING), [make_budget(1)], NOW)
    assert verdict.refusal is None
    assert verdict.budget is not None
    assert (verdict.budget.status.disruptions_allowed, list(verdict.budget.status.disrupted_pods)) == (0, ["web"])


def test_spent_budget_refuses_eviction() -> None:
    refusal = eviction.decide(make_pod(status=RUNNING), [make_budget(0)], NOW).refusal
    assert refusal is not None
    assert (refusal.code, refusal.message) == (429, "Cannot evict pod as it would violate the pod's disruption budget.")
    assert refusal.details.causes[0].message == "The disruption budget pdb needs 2 healthy pods and has 2 currently"


def test_pending_pod_needs_no_budget() -> None:
    assert eviction.decide(make_pod(status={"phase": "Pending"}), [make_budget(0)], NOW) == eviction.Verdict()

"""Priority levels and flow schemas: who waits in which queue when the API server is busy.

Source: apiserver pkg/apis/flowcontrol/bootstrap default.go.
"""

from __future__ import annotations

from collections.abc import Sequence

from kaa.api.clock import format_time
from kaa.api.types.flowcontrol_v1 import (
    ExemptPriorityLevelConfiguration,
    FlowDistinguisherMethod,
    FlowSchema,
    FlowSchemaCondition,
    FlowSchemaSpec,
    FlowSchemaStatus,
    GroupSubject,
    LimitedPriorityLevelConfiguration,
    LimitResponse,
    NonResourcePolicyRule,
    PolicyRulesWithSubjects,
    PriorityLevelConfiguration,
    PriorityLevelConfigurationReference,
    PriorityLevelConfigurationSpec,
    QueuingConfiguration,
    ResourcePolicyRule,
    ServiceAccountSubject,
    Subject,
    UserSubject,
)
from kaa.api.types.meta_v1 import ObjectMeta

AUTOUPDATE = "apf.kubernetes.io/autoupdate-spec"
#: {level: shares, lendable percent, queues, hand size}
LEVELS = {
    "system": (30, 33, 64, 6),
    "node-high": (40, 25, 64, 6),
    "leader-election": (10, 0, 16, 4),
    "workload-high": (40, 50, 128, 6),
    "workload-low": (100, 90, 128, 6),
    "global-default": (20, 50, 128, 6),
}
_QUEUE_LENGTH = 50


def _meta(name: str) -> ObjectMeta:
    return ObjectMeta(name=name, annotations={AUTOUPDATE: "true"}, generation=1)


def priority_levels() -> list[PriorityLevelConfiguration]:
    reject = LimitedPriorityLevelConfiguration(
        nominal_concurrency_shares=5, lendable_percent=0, limit_response=LimitResponse(type="Reject")
    )
    exempt = ExemptPriorityLevelConfiguration(nominal_concurrency_shares=0, lendable_percent=0)
    return [
        _level("catch-all", PriorityLevelConfigurationSpec(type="Limited", limited=reject)),
        _level("exempt", PriorityLevelConfigurationSpec(type="Exempt", exempt=exempt)),
        *(_level(name, _limited(*numbers)) for name, numbers in LEVELS.items()),
    ]


def _level(name: str, spec: PriorityLevelConfigurationSpec) -> PriorityLevelConfiguration:
    return PriorityLevelConfiguration(metadata=_meta(name), spec=spec)


def _limited(shares: int, lendable: int, queues: int, hand_size: int) -> PriorityLevelConfigurationSpec:
    queuing = QueuingConfiguration(queues=queues, hand_size=hand_size, queue_length_limit=_QUEUE_LENGTH)
    return PriorityLevelConfigurationSpec(
        type="Limited",
        limited=LimitedPriorityLevelConfiguration(
            nominal_concurrency_shares=shares,
            lendable_percent=lendable,
            limit_response=LimitResponse(type="Queue", queuing=queuing),
        ),
    )


def _group(name: str) -> Subject:
    return Subject(kind="Group", group=GroupSubject(name=name))


def _user(name: str) -> Subject:
    return Subject(kind="User", user=UserSubject(name=name))


_EVERYBODY = (_group("system:unauthenticated"), _group("system:authenticated"))
_NODES = (_group("system:nodes"),)
_SYSTEM_ACCOUNTS = Subject(
    kind="ServiceAccount", service_account=ServiceAccountSubject(name="*", namespace="kube-system")
)
_ANY = ("*",)
_ALL_RESOURCES = ResourcePolicyRule(verbs=_ANY, api_groups=_ANY, resources=_ANY, namespaces=_ANY, cluster_scope=True)
_ALL_PATHS = NonResourcePolicyRule(verbs=_ANY, non_resource_urls=_ANY)


def _leases(*verbs: str) -> ResourcePolicyRule:
    return ResourcePolicyRule(verbs=verbs, api_groups=("coordination.k8s.io",), resources=("leases",), namespaces=_ANY)


def _everything(*subjects: Subject) -> PolicyRulesWithSubjects:
    return PolicyRulesWithSubjects(
        subjects=subjects, resource_rules=(_ALL_RESOURCES,), non_resource_rules=(_ALL_PATHS,)
    )


def flow_schemas(now: float) -> list[FlowSchema]:
    """By precedence. ``now``: seconds since 1970, for the condition that says the level exists."""

    def schema(
        name: str, level: str, precedence: int, rules: Sequence[PolicyRulesWithSubjects], by: str = ""
    ) -> FlowSchema:
        return _schema(name, level, precedence, tuple(rules), by, now)

    probes = NonResourcePolicyRule(verbs=("get",), non_resource_urls=("/healthz", "/readyz", "/livez"))
    leaders = (_user("system:kube-controller-manager"), _user("system:kube-scheduler"), _SYSTEM_ACCOUNTS)
    election = PolicyRulesWithSubjects(subjects=leaders, resource_rules=(_leases("get", "create", "update"),))
    node_status = ResourcePolicyRule(
        verbs=_ANY, api_groups=("",), resources=("nodes", "nodes/status"), namespaces=_ANY, cluster_scope=True
    )
    node_high = PolicyRulesWithSubjects(subjects=_NODES, resource_rules=(node_status, _leases("*")))
    return [
        schema("exempt", "exempt", 1, [_everything(_group("system:masters"))]),
        schema(
            "probes",
            "exempt",
            2,
            [PolicyRulesWithSubjects(subjects=_EVERYBODY, non_resource_rules=(probes,))],
        ),
        schema("system-leader-election", "leader-election", 100, [election], "ByUser"),
        schema("system-node-high", "node-high", 400, [node_high], "ByUser"),
        schema("system-nodes", "system", 500, [_everything(*_NODES)], "ByUser"),
        *(
            schema(name, "workload-high", 800, [_everything(_user(f"system:{name}"))], "ByNamespace")
            for name in ("kube-controller-manager", "kube-scheduler")
        ),
        schema("kube-system-service-accounts", "workload-high", 900, [_everything(_SYSTEM_ACCOUNTS)], "ByNamespace"),
        schema("service-accounts", "workload-low", 9000, [_everything(_group("system:serviceaccounts"))], "ByUser"),
        schema("global-default", "global-default", 9900, [_everything(*_EVERYBODY)], "ByUser"),
        schema("catch-all", "catch-all", 10000, [_everything(*_EVERYBODY)], "ByUser"),
    ]


def _schema(
    name: str, level: str, precedence: int, rules: tuple[PolicyRulesWithSubjects, ...], by: str, now: float
) -> FlowSchema:
    found = FlowSchemaCondition(
        type="Dangling",
        status="False",
        reason="Found",
        message=f'This FlowSchema references the PriorityLevelConfiguration object named "{level}" and it exists',
        last_transition_time=format_time(now),
    )
    return FlowSchema(
        metadata=_meta(name),
        spec=FlowSchemaSpec(
            priority_level_configuration=PriorityLevelConfigurationReference(name=level),
            matching_precedence=precedence,
            distinguisher_method=FlowDistinguisherMethod(type=by) if by else None,
            rules=rules,
        ),
        status=FlowSchemaStatus(conditions=(found,)),
    )

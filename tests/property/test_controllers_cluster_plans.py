"""Plans about what others made: who may be deleted, evicted, counted, signed or listed; and that a plan carried out leaves
nothing to plan."""

from __future__ import annotations

import base64
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from pod_lists import POD_LISTS
from world import NODE_FACTS, make_pod

from kaa.api import quantity
from kaa.api.clock import format_time
from kaa.api.resources import Resource
from kaa.api.scheme import resource_of
from kaa.api.types.certificates_v1 import CertificateSigningRequest, CertificateSigningRequestSpec
from kaa.api.types.core_v1 import (
    ConfigMap,
    Namespace,
    Node,
    NodeCondition,
    NodeSpec,
    NodeStatus,
    Pod,
    ResourceQuota,
    ResourceQuotaSpec,
    ResourceQuotaStatus,
    Secret,
    ServiceAccount,
    Taint,
    Toleration,
)
from kaa.api.types.meta_v1 import LabelSelector, ObjectMeta, OwnerReference
from kaa.api.types.policy_v1 import PodDisruptionBudget, PodDisruptionBudgetSpec
from kaa.api.types.rbac_v1 import AggregationRule, ClusterRole, PolicyRule
from kaa.api.values import Base64, Quantity, Time
from kaa.controllers import (
    bootstrap,
    certificates,
    clusterrole_aggregation,
    disruption,
    graph,
    nodelifecycle,
    podgc,
    resourcequota,
    rootca,
    serviceaccount,
    tainteviction,
    tokens,
    ttl,
)
from kaa.controllers.pods import is_finished, is_ready

NOW = 1_800_000_000.0
NUMBERS = st.integers(0, 6)

# ------------------------------------------------------------------------------------------------ garbage


class Heap:
    """Objects that own one another, and the graph of them. ``step`` carries out the plan of one node."""

    def __init__(self, owners: dict[int, set[int]], blocking: set[int]) -> None:
        self.resource: Resource[Any] = resource_of(ConfigMap)
        self.asked: set[str] = set()  #: of the graph: who may have something to do
        self.graph = graph.Graph(self.asked.add)
        self.objects: dict[str, ObjectMeta] = {}
        for uid, above in owners.items():
            refs = tuple(
                OwnerReference(
                    api_version="v1", kind="ConfigMap", name=f"{o}", uid=f"{o}", block_owner_deletion=uid in blocking
                )
                for o in sorted(above)
            )
            self.put(ObjectMeta(name=f"{uid}", uid=f"{uid}", owner_references=refs))

    def put(self, meta: ObjectMeta) -> None:
        if meta.deletion_timestamp is not None and not meta.finalizers:
            self.objects.pop(meta.uid or "", None)
            self.graph.lose(meta.uid or "")
            return
        self.objects[meta.uid or ""] = meta
        self.graph.see(self.resource, meta)

    def delete(self, uid: str, policy: str) -> None:
        meta = self.objects[uid]
        finalizer = {"Foreground": (graph.FOREGROUND,), "Orphan": (graph.ORPHAN,), "Background": ()}[policy]
        held = tuple(dict.fromkeys((*meta.finalizers, *finalizer)))
        self.put(replace(meta, deletion_timestamp=meta.deletion_timestamp or format_time(0), finalizers=held))

    def disown(self, uid: str, owners: tuple[str, ...]) -> None:
        meta = self.objects[uid]
        left = tuple(ref for ref in meta.owner_references if ref.uid not in owners)
        self.put(replace(meta, owner_references=left))

    def step(self, uid: str) -> None:
        node = self.graph.nodes.get(uid)
        if node is None or node.virtual:
            return
        wanted = graph.plan(node, lambda ref: ref.uid not in self.objects, self.graph.nodes.get)
        meta = self.objects[uid]
        if wanted.orphan is not None:
            for dependent in wanted.orphan:
                self.disown(dependent.uid, (uid,))
            self._unheld(meta, graph.ORPHAN)
        elif wanted.finish:
            assert not any(each.blocks(node) for each in node.dependents.values())
            self._unheld(meta, graph.FOREGROUND)
        elif wanted.delete:
            living = [ref for ref in meta.owner_references if self._lives(ref)]
            assert meta.owner_references, "nobody without owners is garbage"
            assert not living, "nor who has one that lives"
            for blocker in wanted.unblock:
                refs = tuple(replace(r, block_owner_deletion=False) for r in self.objects[blocker.uid].owner_references)
                self.put(replace(self.objects[blocker.uid], owner_references=refs))
            self.delete(uid, wanted.delete)
        elif wanted.disown:
            assert not any(self._lives(ref) for ref in meta.owner_references if ref.uid in wanted.disown)
            self.disown(uid, wanted.disown)

    def _unheld(self, meta: ObjectMeta, finalizer: str) -> None:
        self.put(replace(meta, finalizers=tuple(each for each in meta.finalizers if each != finalizer)))

    def _lives(self, ref: OwnerReference) -> bool:
        """Whether an owner is there and does not wait for who refers to it."""
        owner = self.objects.get(ref.uid)
        if owner is None:
            return False
        waits = owner.deletion_timestamp is not None and graph.FOREGROUND in owner.finalizers
        return not (waits and ref.block_owner_deletion)

    def settle(self) -> None:
        for _ in range(200):
            if not self.asked:
                return
            self.step(self.asked.pop())
        raise AssertionError("no end in sight")


@settings(deadline=None)
@given(
    owners=st.lists(st.sets(NUMBERS, max_size=2), max_size=7).map(lambda found: dict(enumerate(found))),
    blocking=st.sets(NUMBERS).map(lambda found: set(range(7)) - found),
    deletions=st.lists(st.tuples(NUMBERS, st.sampled_from(("Background", "Foreground", "Orphan"))), max_size=4),
)
@example(owners={0: {0}}, blocking={0}, deletions=[(0, "Foreground")])
def test_garbage_goes_and_nothing_else(
    owners: dict[int, set[int]], blocking: set[int], deletions: list[tuple[int, str]]
) -> None:
    heap = Heap(owners, blocking)
    heap.settle()
    for uid, policy in deletions:
        if f"{uid}" in heap.objects:
            dependents = [u for u, m in heap.objects.items() if any(r.uid == f"{uid}" for r in m.owner_references)]
            heap.delete(f"{uid}", policy)
            heap.settle()
            if policy == "Orphan":
                assert {*dependents} - {f"{uid}"} <= {*heap.objects}, "orphans live on"
    for uid, meta in heap.objects.items():
        assert not meta.owner_references or any(ref.uid in heap.objects for ref in meta.owner_references), uid
        assert meta.deletion_timestamp is None, f"{uid} hangs"
    for node in heap.graph.nodes.values():
        assert graph.plan(node, lambda ref: ref.uid not in heap.objects, heap.graph.nodes.get) == graph.Plan()


# ------------------------------------------------------------------------------------------------ budgets and evictions

AMOUNT = st.one_of(st.integers(0, 8), st.integers(0, 100).map(lambda n: f"{n}%"))


@given(
    pods=POD_LISTS,
    least=st.one_of(st.none(), AMOUNT),
    most=AMOUNT,
    scale=st.integers(0, 30),
    granted=st.dictionaries(st.integers(0, 40), st.integers(-300, 0), max_size=4),
)
def test_whoever_evicts_what_is_allowed_leaves_enough(
    pods: list[Pod], least: int | str | None, most: int | str, scale: int, granted: dict[int, int]
) -> None:
    limits = {"max_unavailable": most} if least is None else {"min_available": least}
    spec = PodDisruptionBudgetSpec(selector=LabelSelector(match_labels={"app": "web"}), **limits)
    budget = PodDisruptionBudget(metadata=ObjectMeta(name="web", namespace="default"), spec=spec)
    names = [pod.metadata.name or "" for pod in pods]
    late = {names[at]: format_time(NOW + s) for at, s in granted.items() if at < len(names)}
    budget = replace(budget, status=replace(budget.status, disrupted_pods=late))
    live = [pod for pod in pods if not is_finished(pod)]
    stamp = format_time(NOW)
    found = disruption.status_of(budget, live, scale, NOW, stamp)
    healthy = [p for p in live if is_ready(p) and p.metadata.deletion_timestamp is None]
    assert found.disruptions_allowed <= len(healthy)
    going = [pod for pod in healthy if pod.metadata.name in found.disrupted_pods]
    if found.disruptions_allowed:
        assert len(healthy) - len(going) - found.disruptions_allowed >= found.desired_healthy
    again = disruption.status_of(replace(budget, status=found), live, scale, NOW, stamp)
    assert again == found
    safe = disruption.failed_safe(replace(budget, status=found), "nobody knows", stamp)
    assert safe.disruptions_allowed == 0


@given(pods=POD_LISTS, threshold=st.integers(0, 12))
def test_only_ended_pods_are_surplus(pods: list[Pod], threshold: int) -> None:
    doomed = podgc.surplus(pods, threshold)
    assert all(map(is_finished, doomed))
    left = [pod for pod in pods if pod not in doomed]
    if threshold:
        assert sum(map(is_finished, left)) == min(threshold, sum(map(is_finished, pods)))
    assert podgc.surplus(left, threshold) == []


# ------------------------------------------------------------------------------------------------ nodes

CONDITIONS = st.dictionaries(
    st.sampled_from(("Ready", "MemoryPressure", "DiskPressure", "PIDPressure", "NetworkUnavailable")),
    st.sampled_from(("True", "False", "Unknown")),
)
TAINTS = st.lists(
    st.builds(
        lambda key, effect: Taint(key=key, effect=effect, time_added=format_time(NOW - 50)),
        st.sampled_from((*sorted(nodelifecycle.OURS), "mine")),
        st.sampled_from(("NoSchedule", "PreferNoSchedule", "NoExecute")),
    ),
    max_size=6,
    unique_by=lambda taint: (taint.key, taint.effect),
)


def make_node(conditions: dict[str, str], taints: list[Taint], *, cordoned: bool = False) -> Node:
    found = tuple(NodeCondition(type=type, status=status) for type, status in sorted(conditions.items()))
    spec = NodeSpec(taints=tuple(taints), unschedulable=cordoned or None)
    return Node(metadata=ObjectMeta(name="n1"), spec=spec, status=NodeStatus(conditions=found, **NODE_FACTS))


@given(conditions=CONDITIONS, taints=TAINTS, cordoned=st.booleans(), evict=st.booleans())
def test_taints_say_what_conditions_say_and_leave_others_alone(
    conditions: dict[str, str], taints: list[Taint], cordoned: bool, evict: bool
) -> None:
    node, now = make_node(conditions, taints, cordoned=cordoned), format_time(NOW)
    found = nodelifecycle.taints_of(node, now, evict=evict)
    others = [t for t in taints if t.key == "mine" or t.effect == "PreferNoSchedule"]
    assert [t for t in found if t in others] == others
    drives = {t.key for t in found if t.effect == "NoExecute" and t.key.endswith(("not-ready", "unreachable"))}
    expected = {"False": {nodelifecycle.NOT_READY}, "Unknown": {nodelifecycle.UNREACHABLE}}
    assert drives == (expected.get(conditions.get("Ready", ""), set()) if evict else set())
    after = replace(node, spec=replace(node.spec, taints=found))
    assert nodelifecycle.taints_of(after, now, evict=evict) == found
    silent = replace(node, status=replace(node.status, conditions=nodelifecycle.silenced(node, now)))
    assert nodelifecycle.silenced(silent, now) == nodelifecycle.conditions_of(silent)


@given(
    taints=TAINTS,
    limits=st.lists(st.tuples(st.sampled_from(("mine", None)), st.one_of(st.none(), st.integers(-5, 90))), max_size=3),
)
def test_a_taint_more_never_lets_a_pod_stay_longer(
    taints: list[Taint], limits: list[tuple[str | None, int | None]]
) -> None:
    tolerations = tuple(Toleration(key=key, operator="Exists", toleration_seconds=s) for key, s in limits)
    pod = make_pod("p", node="n1", created_at=NOW - 500, tolerations=tolerations)
    stays = [tainteviction.stays_for(pod, taints[:n], NOW) for n in range(len(taints) + 1)]
    assert stays == sorted(stays, reverse=True)
    everything = Toleration(operator="Exists")
    assert tainteviction.stays_for(replace(pod, spec=replace(pod.spec, tolerations=(everything,))), taints, NOW) > 1e9


@given(sizes=st.lists(st.integers(0, 5000), min_size=1, max_size=20))
def test_a_step_fits_the_cluster(sizes: list[int]) -> None:
    step = 0
    for nodes in sizes:
        step = ttl.step_for(nodes, step)
        least, most, _ = ttl.STEPS[step]
        assert least <= nodes <= most
        assert ttl.step_for(nodes, step) == step


# ------------------------------------------------------------------------------------------------ accounts and roles


@given(
    phase=st.sampled_from(("Active", "Terminating")), found=st.one_of(st.none(), st.sampled_from(("PEM", "mine", "")))
)
def test_a_namespace_has_what_pods_trust_by(phase: str, found: str | None) -> None:
    namespace = Namespace(metadata=ObjectMeta(name="n"))
    namespace = replace(namespace, status=replace(namespace.status, phase=phase))
    standing = None
    if found is not None:
        standing = ConfigMap(metadata=ObjectMeta(name=rootca.CONFIG_MAP, namespace="n"), data={"ca.crt": found})
    wanted = rootca.plan(namespace, standing, "PEM")
    assert (wanted is None) or phase == "Active"
    standing = wanted or standing
    if phase == "Active":
        assert standing is not None
        assert standing.data == {"ca.crt": "PEM"}
        assert standing.metadata.annotations[rootca.DESCRIPTION]
    assert rootca.plan(namespace, standing, "PEM") is None
    account = serviceaccount.plan(namespace, None)
    assert (account is None) == (phase != "Active")
    assert serviceaccount.plan(namespace, account) is None or account is None


@given(data=st.dictionaries(st.sampled_from(("token", "ca.crt", "namespace", "extra")), st.sampled_from(("", "b2xk"))))
def test_a_token_is_filled_in_once(data: dict[str, Any]) -> None:
    meta = ObjectMeta(name="s", namespace="n", annotations={tokens.ACCOUNT_NAME: "robot"})
    secret = Secret(metadata=meta, type="kubernetes.io/service-account-token", data=data)
    account = ServiceAccount(metadata=ObjectMeta(name="robot", namespace="n", uid="u"))
    signed = tokens.filled(secret, account, "PEM", lambda account, name: f"{account.metadata.uid}/{name}") or secret
    assert all(signed.data[key] for key in ("token", "ca.crt", "namespace"))
    assert signed.data["token"] == (data.get("token") or base64.b64encode(b"u/s").decode())
    assert signed.data.get("extra") == data.get("extra")
    assert tokens.filled(signed, account, "PEM", lambda account, name: "another") is None


@given(
    roles=st.dictionaries(st.sampled_from("abcd"), st.tuples(st.booleans(), st.sets(st.sampled_from(("get", "list"))))),
    before=st.sets(st.sampled_from(("get", "delete"))),
)
def test_an_aggregated_role_holds_just_what_it_selects(
    roles: dict[str, tuple[bool, set[str]]], before: set[str]
) -> None:
    def rules(verbs: set[str]) -> tuple[PolicyRule, ...]:
        return tuple(PolicyRule(verbs=(verb,), resources=("pods",), api_groups=("",)) for verb in sorted(verbs))

    parts = [
        ClusterRole(metadata=ObjectMeta(name=name, labels={"for": "whole"} if in_it else {}), rules=rules(verbs))
        for name, (in_it, verbs) in roles.items()
    ]
    rule = AggregationRule(cluster_role_selectors=(LabelSelector(match_labels={"for": "whole"}),))
    meta = ObjectMeta(name="whole", labels={"for": "whole"})
    whole = ClusterRole(metadata=meta, aggregation_rule=rule, rules=rules(before))
    found = clusterrole_aggregation.plan(whole, [*parts, whole])
    after = whole if found is None else replace(whole, rules=found)
    verbs = [verb for each in after.rules or () for verb in each.verbs]
    assert sorted(verbs) == sorted({verb for in_it, verbs in roles.values() if in_it for verb in verbs})
    assert clusterrole_aggregation.plan(after, [*parts, after]) is None


@given(
    ids=st.sets(st.sampled_from(("abcdef", "ghijkl", "mnopqr"))),
    before=st.sets(st.sampled_from(("abcdef", "gone00"))),
    content=st.one_of(st.none(), st.sampled_from(("server: a", "server: b"))),
)
def test_cluster_info_is_signed_by_just_the_tokens_there_are(
    ids: set[str], before: set[str], content: str | None
) -> None:
    data = {f"jws-kubeconfig-{id}": "old" for id in before} | {"other": "kept"}
    data |= {} if content is None else {"kubeconfig": content}
    info = ConfigMap(metadata=ObjectMeta(name="cluster-info", namespace="kube-public"), data=data)
    keys = {id: f"secret-{id}" for id in ids}
    after = bootstrap.plan(info, keys) or info
    assert after.data["other"] == "kept"
    assert bootstrap.plan(after, keys) is None
    if content is not None:
        signatures = {k: v for k, v in after.data.items() if k.startswith("jws-")}
        assert signatures == {
            f"jws-kubeconfig-{id}": bootstrap.detached_signature(content, id, word) for id, word in keys.items()
        }


AMOUNTS = st.sampled_from(("1", "1000m", "2", "0", "1Gi", "1024Mi")).map(Quantity)
USED = st.dictionaries(st.sampled_from(("pods", "requests.memory")), AMOUNTS)


@given(hard=USED, before=USED, shown=USED, counted=USED)
def test_a_quota_shows_what_is_counted_and_then_is_still(
    hard: dict[str, Quantity], before: dict[str, Quantity], shown: dict[str, Quantity], counted: dict[str, Quantity]
) -> None:
    quota = ResourceQuota(metadata=ObjectMeta(name="q"), spec=ResourceQuotaSpec(hard=hard))
    quota = replace(quota, status=ResourceQuotaStatus(hard=before, used=shown))
    found = resourcequota.plan(quota, counted) or quota.status
    assert found.hard == hard
    assert {name: quantity.parse(text) for name, text in found.used.items()} == {
        name: quantity.parse(text) for name, text in counted.items()
    }
    assert resourcequota.plan(replace(quota, status=found), counted) is None


@given(
    signer=st.sampled_from((*sorted(certificates.RULES), "example.com/own")),
    said=st.sets(st.sampled_from(("Approved", "Denied", "Failed"))),
    signed=st.booleans(),
    asked=st.one_of(st.none(), st.integers(-10, 10**9)),
)
def test_only_what_is_approved_is_signed_and_once(signer: str, said: set[str], signed: bool, asked: int | None) -> None:
    spec = CertificateSigningRequestSpec(request=Base64(""), signer_name=signer, expiration_seconds=asked)
    csr = CertificateSigningRequest(metadata=ObjectMeta(name="c"), spec=spec)
    for word in sorted(said):
        csr = certificates.with_condition(csr, word, "Because", "", Time(format_time(NOW)))
    if signed:
        csr = replace(csr, status=replace(csr.status, certificate=Base64("b2xk")))
    may = certificates.awaits_signature(csr)
    assert may == (said == {"Approved"} and not signed and signer in certificates.RULES)
    assert certificates.LEAST_LIFE_S <= certificates.life_s(csr) <= certificates.SIGNING_LIFE_S
    failed = certificates.with_condition(csr, "Failed", "Because", "", Time(format_time(NOW)))
    assert not certificates.awaits_signature(failed)

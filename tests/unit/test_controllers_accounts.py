"""Aggregated ClusterRoles and tokens in Secrets, on a fake API."""

from __future__ import annotations

import asyncio
from base64 import b64decode
from collections.abc import Awaitable, Callable

from msgspec.structs import replace
from world import World

from kaa.api.types.core_v1 import Secret, ServiceAccount
from kaa.api.types.meta_v1 import LabelSelector, ObjectMeta
from kaa.api.types.rbac_v1 import AggregationRule, ClusterRole, PolicyRule
from kaa.controllers.clusterrole_aggregation import plan


def in_world(play: Callable[[World], Awaitable[None]]) -> None:
    async def run() -> None:
        async with World() as world:
            await play(world)

    asyncio.run(run())


def rule(resource: str) -> PolicyRule:
    return PolicyRule(api_groups=("",), resources=(resource,), verbs=("get",))


def role(name: str, *resources: str, into: str = "", gathers: str = "") -> ClusterRole:
    labels = {f"to-{into}": "true"} if into else {}
    selector = LabelSelector(match_labels={f"to-{gathers}": "true"})
    aggregation = AggregationRule(cluster_role_selectors=(selector,)) if gathers else None
    rules = tuple(map(rule, resources))
    return ClusterRole(metadata=ObjectMeta(name=name, labels=labels), rules=rules, aggregation_rule=aggregation)


def test_rules_come_once_each_in_the_order_of_names() -> None:
    roles = [role("view", gathers="view"), role("b", "pods", "secrets", into="view"), role("a", "pods", into="view")]
    assert plan(roles[0], roles) == (rule("pods"), rule("secrets"))
    assert plan(replace(roles[0], rules=(rule("pods"), rule("secrets"))), roles) is None
    assert plan(roles[1], roles) is None


def test_roles_aggregate_through_each_other() -> None:
    async def play(world: World) -> None:
        await world.api.create(role("edit", into="admin", gathers="edit"))
        await world.api.create(role("admin", gathers="admin"))
        await world.api.create(role("base", "pods", into="edit"))
        await world.settle()
        assert (await world.api.get(ClusterRole, "admin")).rules == (rule("pods"),)
        await world.api.delete(ClusterRole, "base")
        await world.settle()
        assert (await world.api.get(ClusterRole, "admin")).rules == ()
        before = world.api.version
        await world.settle()
        assert world.api.version == before

    in_world(play)


def token_secret(name: str = "robot-token", account: str = "robot") -> Secret:
    meta = ObjectMeta(name=name, namespace="default", annotations={"kubernetes.io/service-account.name": account})
    return Secret(metadata=meta, type="kubernetes.io/service-account-token")


def test_a_token_secret_is_filled_in_and_goes_with_its_account() -> None:
    async def play(world: World) -> None:
        account = await world.api.create(ServiceAccount(metadata=ObjectMeta(name="robot", namespace="default")))
        await world.api.create(token_secret())
        await world.api.create(Secret(metadata=ObjectMeta(name="other", namespace="default"), data={"a": "Yg=="}))
        await world.settle()
        secret = await world.api.get(Secret, "robot-token", "default")
        texts = {key: b64decode(value).decode() for key, value in secret.data.items()}
        assert texts == {"ca.crt": "PEM", "namespace": "default", "token": "signed:robot:robot-token"}
        assert secret.metadata.annotations["kubernetes.io/service-account.uid"] == account.metadata.uid
        await world.api.delete(ServiceAccount, "robot", "default")
        await world.settle()
        assert [s.metadata.name for s in world.api.all(Secret)] == ["other"]
        assert world.api.all(Secret)[0].data == {"a": "Yg=="}

    in_world(play)


def test_a_token_secret_of_no_account_goes() -> None:
    async def play(world: World) -> None:
        await world.api.create(token_secret(account="nobody"))
        await world.settle()
        assert world.api.all(Secret) == []

    in_world(play)

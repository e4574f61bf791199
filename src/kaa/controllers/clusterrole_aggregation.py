"""ClusterRoles made of others: a role with an ``aggregationRule`` holds the rules of every role that its selectors match.

Source: kubernetes pkg/controller/clusterroleaggregation.
"""

from __future__ import annotations

from collections.abc import Iterable

from kaa.api import scheme, selectors
from kaa.api.errors import NotFound
from kaa.api.types.rbac_v1 import ClusterRole, PolicyRule
from kaa.client.informer import key_of
from kaa.client.workqueue import Key

from .controller import Context, Controller


def plan(role: ClusterRole, roles: Iterable[ClusterRole]) -> tuple[PolicyRule, ...] | None:
    """The rules that an aggregated role must hold, or None when it holds them already or aggregates nothing.

    Rules come in the order of the selectors, then of the roles' names, each once; the role itself gives nothing.
    """
    if role.aggregation_rule is None:
        return None
    ordered = sorted(roles, key=lambda each: each.metadata.name or "")
    rules: list[PolicyRule] = []
    for selector in map(selectors.from_label_selector, role.aggregation_rule.cluster_role_selectors):
        for each in ordered:
            if each.metadata.name != role.metadata.name and selector.matches(each.metadata.labels):
                for rule in each.rules or ():
                    if rule not in rules:
                        rules.append(rule)
    return None if tuple(rules) == (role.rules or ()) else tuple(rules)


class ClusterRoleAggregation(Controller[Key]):
    """Keys are aggregated roles; a change of any role concerns them all, since its labels may have changed."""

    name = "clusterrole-aggregation-controller"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.roles = self.watch(ClusterRole, self._on_role)

    def _on_role(self, old: ClusterRole | None, new: ClusterRole | None) -> None:
        for role in self.roles:
            if role.aggregation_rule is not None:
                self.queue.add(key_of(role))

    async def reconcile(self, key: Key) -> None:
        role = self.roles.by_key(key)
        rules = plan(role, self.roles) if role is not None else None
        if role is None or rules is None:
            return
        patch = {
            "metadata": {"uid": role.metadata.uid, "resourceVersion": role.metadata.resource_version},
            "rules": [scheme.to_builtins(rule) for rule in rules],
        }
        try:
            written = await self.client.patch(ClusterRole, key.name, patch, field_manager=self.name)
        except NotFound:
            return
        await self.roles.shows(written.metadata.resource_version)

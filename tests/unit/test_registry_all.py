"""Every resource: a strategy, a table, defaults that settle."""

from __future__ import annotations

from typing import Any

import pytest

from kaa.api import scheme
from kaa.api.resources import RESOURCES, Resource
from kaa.apiserver.registry import STRATEGIES, strategy_for

STORED = [resource for resource in RESOURCES if (resource.group, resource.plural) in STRATEGIES]
TEMPLATE = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
SELECTOR = {"matchLabels": {"a": "b"}}

#: {plural: the spec that the kind cannot do without}
SPECS: dict[str, Any] = {
    "pods": TEMPLATE["spec"],
    "deployments": {"selector": SELECTOR, "template": TEMPLATE},
    "replicasets": {"selector": SELECTOR, "template": TEMPLATE},
    "statefulsets": {"selector": SELECTOR, "template": TEMPLATE},
    "daemonsets": {"selector": SELECTOR, "template": TEMPLATE},
    "jobs": {"template": TEMPLATE},
    "cronjobs": {"schedule": "@daily", "jobTemplate": {"spec": {"template": TEMPLATE}}},
}


def least(resource: Resource[Any]) -> Any:
    """The emptiest object that can be read; not necessarily a valid one."""
    document: dict[str, Any] = {"metadata": {"name": "x", "uid": "u"}}
    if resource.plural in SPECS:
        document["spec"] = SPECS[resource.plural]
    return scheme.decode(resource.type, scheme.encode(document))


@pytest.mark.parametrize("resource", STORED, ids=lambda r: f"{r.api_version}/{r.plural}")
class TestEveryResource:
    def test_strategy_is_of_the_served_type(self, resource: Resource[Any]) -> None:
        assert strategy_for(resource).kind is resource.type

    def test_defaults_settle(self, resource: Resource[Any]) -> None:
        strategy = strategy_for(resource)
        once = strategy.default(least(resource))
        assert strategy.default(once) == once

    def test_created_object_can_be_printed_and_selected(self, resource: Resource[Any]) -> None:
        strategy = strategy_for(resource)
        made = strategy.prepare_create(strategy.default(least(resource)))
        assert strategy.table is not None
        assert len(strategy.table.cells(made, 0.0)) == len(strategy.table.columns)
        assert set(strategy.fields(made)) == set(strategy.field_names)

    def test_unchanged_object_may_be_updated(self, resource: Resource[Any]) -> None:
        strategy = strategy_for(resource)
        made = strategy.prepare_create(strategy.default(least(resource)))
        again = strategy.prepare_update(made, made)
        assert not strategy.spec_changed(again, made)
        faults = {str(fault) for fault in strategy.validate_update(again, made)}
        assert faults <= {str(fault) for fault in strategy.validate(made)}

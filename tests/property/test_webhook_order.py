"""Webhooks under any configuration: who is asked, in which order, and how often."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kaa.api.clock import SystemClock
from kaa.api.scheme import convert, resource_of
from kaa.api.types.admissionregistration_v1 import MutatingWebhookConfiguration
from kaa.api.types.core_v1 import ConfigMap
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.apiserver.admission.base import Attributes
from kaa.apiserver.registry import ServiceRanges, build_strategies
from kaa.apiserver.webhooks.dispatch import Reinvocation, mutate
from kaa.apiserver.webhooks.hooks import Hook, hooks_of
from kaa.apiserver.webhooks.matching import rule_matches
from kaa.apiserver.webhooks.sight import Sight, Stage, Versions
from kaa.client.pipeline import Request, User

STRATEGIES = build_strategies(ServiceRanges())
RULE = {"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"]}
NAMES = st.text("abc", min_size=1, max_size=3)
HOOKS = st.lists(st.tuples(NAMES, st.booleans(), st.booleans()), max_size=4)  # name, changes, IfNeeded


class _View:
    clock = SystemClock(seed=1)

    def get(self, kind: type, name: str, namespace: str = "") -> None:
        return None

    def list(self, kind: type, namespace: str = "") -> list[Any]:
        return []

    def version(self, kind: type) -> int:
        return 0


def configuration(name: str, hooks: list[tuple[str, bool, bool]]) -> MutatingWebhookConfiguration:
    webhooks = [
        {
            "name": f"{hook}.kaa.dev",
            "clientConfig": {"url": f"https://x/{name}/{n}/{int(changes)}"},
            "rules": [RULE],
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
            "reinvocationPolicy": "IfNeeded" if again else "Never",
        }
        for n, (hook, changes, again) in enumerate(hooks)
    ]
    return convert(MutatingWebhookConfiguration, {"metadata": {"name": name}, "webhooks": webhooks})


def sight_of(operation: str = "CREATE", resource: type = ConfigMap, **request: Any) -> Sight:
    obj = ConfigMap(metadata=ObjectMeta(name="a", namespace="default"))
    made = Request(User("me"), operation.lower(), resource_of(resource), **request)
    return Sight(Attributes(made, operation, obj), _View(), Stage.MUTATING, STRATEGIES.__getitem__, Versions())


class _Caller:
    """Answers as a webhook's url says: those that change put a growing number into the object."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def post(self, config: Any, body: bytes, timeout_s: float) -> bytes:
        self.asked.append(config.url)
        response: dict[str, Any] = {"uid": json.loads(body)["request"]["uid"], "allowed": True}
        if config.url.endswith("/1"):
            patch = [{"op": "add", "path": "/data", "value": {"n": str(len(self.asked))}}]
            response |= {"patchType": "JSONPatch", "patch": base64.b64encode(json.dumps(patch).encode()).decode()}
        review = {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response}
        return json.dumps(review).encode()


def asked(hooks: list[Hook]) -> list[str]:
    caller, state, sight = _Caller(), Reinvocation(), sight_of(namespace="default")

    async def both_rounds() -> None:
        state.begin(sight.attributes.object)
        await mutate(hooks, sight, caller, state)  # type: ignore[arg-type]  # it posts, as a Caller does
        if state.wanted:
            state.again = True
            state.begin(sight.attributes.object)
            await mutate(hooks, sight, caller, state)  # type: ignore[arg-type]  # as above

    asyncio.run(both_rounds())
    return caller.asked


@given(st.dictionaries(NAMES, HOOKS, max_size=4))
def test_configurations_are_asked_by_name_and_webhooks_as_they_stand(given: dict[str, Any]) -> None:
    made = [configuration(name, hooks) for name, hooks in given.items()]
    hooks = hooks_of(made, lambda conditions, policy: None)  # type: ignore[arg-type, return-value]  # there are none
    wanted = [
        hook.client_config.url for one in sorted(made, key=lambda c: c.metadata.name or "") for hook in one.webhooks
    ]
    assert [hook.webhook.client_config.url for hook in hooks] == wanted
    assert len({hook.key for hook in hooks}) == len(hooks)


@given(HOOKS)
def test_nobody_is_asked_thrice_and_only_who_wants_it_twice(given: list[tuple[str, bool, bool]]) -> None:
    hooks = hooks_of([configuration("c", given)], lambda conditions, policy: None)  # type: ignore[arg-type, return-value]
    calls = asked(hooks)
    for n, (_, _, again) in enumerate(given):
        count = sum(url.startswith(f"https://x/c/{n}/") for url in calls)
        assert 1 <= count <= (2 if again else 1)
        changed_later = any(changes for _, changes, _ in given[n + 1 :])
        if again and changed_later:
            assert count == 2
        if not any(changes for _, changes, _ in given):
            assert count == 1


WORDS = st.sampled_from(["*", "pods", "pods/status", "pods/*", "*/status", "*/*", "configmaps"])


@given(st.lists(WORDS, min_size=1, max_size=3), st.sampled_from(["", "status", "exec"]))
def test_resources_of_a_rule(words: list[str], subresource: str) -> None:
    """A model: each word spelt out."""
    rule = convert(MutatingWebhookConfiguration, {"webhooks": [{"name": "x", "rules": [{**RULE, "resources": words}]}]})
    sight = sight_of(namespace="default", subresource=subresource)
    shape = sight.shape._replace(plural="pods")
    full = {f"{plural}/{sub}".rstrip("/") for plural in ("pods", "*") for sub in (subresource, "*")}
    if subresource:
        full -= {"pods", "*"}
    else:
        full |= {"pods", "*"}
    assert rule_matches(rule.webhooks[0].rules[0], sight, shape) == bool(full & set(words))

"""The quota plugin on a real cache: exact with many writers, and not in proportion to what the namespace holds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest
from api_lab import Lab, run
from msgspec.structs import replace

from kaa.api.errors import ApiError
from kaa.api.types.core_v1 import (
    Container,
    Pod,
    PodSpec,
    ResourceQuota,
    ResourceQuotaSpec,
    ResourceRequirements,
)
from kaa.api.types.meta_v1 import DeleteOptions, ObjectMeta
from kaa.apiserver.cacher import Cacher
from kaa.client.client import PatchType


def make_pod(name: str, cpu: str = "100m") -> Pod:
    resources = ResourceRequirements(requests={"cpu": cpu})
    container = Container(name="c", image="app:1", resources=resources)
    return Pod(metadata=ObjectMeta(name=name, namespace="default"), spec=PodSpec(containers=(container,)))


async def make_quota(lab: Lab, **hard: Any) -> None:
    spec = ResourceQuotaSpec(hard={name.replace("_", "."): amount for name, amount in hard.items()})
    await lab.client.create(ResourceQuota(metadata=ObjectMeta(name="least", namespace="default"), spec=spec))


async def refusal(lab: Lab, pod: Pod) -> str:
    try:
        await lab.client.create(pod)
    except ApiError as err:
        return str(err)
    return ""


def test_of_many_at_once_as_many_as_fit_are_let_in() -> None:
    async def use(lab: Lab) -> None:
        await make_quota(lab, pods="12")
        answers = await asyncio.gather(*(refusal(lab, make_pod(f"p{n}")) for n in range(30)))
        assert sum(not answer for answer in answers) == 12
        assert all("exceeded quota: least, requested: pods=1, used: pods=12" in answer for answer in answers if answer)

    run(use)


def test_a_pod_more_is_counted_without_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    walks: list[type] = []
    listing = Cacher.list

    def counted(self: Cacher, kind: type[Any], namespace: str = "") -> Iterable[Any]:
        walks.append(kind)
        return listing(self, kind, namespace)

    monkeypatch.setattr(Cacher, "list", counted)

    async def use(lab: Lab) -> None:
        await make_quota(lab, pods="100", requests_cpu="3")
        for n in range(30):
            assert await refusal(lab, make_pod(f"p{n}")) == ""
        assert "used: requests.cpu=3" in await refusal(lab, make_pod("more"))
        assert walks.count(Pod) <= 2

    run(use)


def test_what_ends_or_is_over_is_given_back() -> None:
    async def use(lab: Lab) -> None:
        await make_quota(lab, requests_cpu="300m")
        for n in range(3):
            assert await refusal(lab, make_pod(f"p{n}")) == ""
        assert "used: requests.cpu=300m" in await refusal(lab, make_pod("more"))
        await lab.client.delete(Pod, "p0", "default", options=DeleteOptions(grace_period_seconds=0))
        assert await refusal(lab, make_pod("instead")) == ""
        found = await lab.client.get(Pod, "p1", "default")
        await lab.client.update_status(replace(found, status=replace(found.status, phase="Succeeded")))
        assert await refusal(lab, make_pod("after")) == ""
        assert "used: requests.cpu=300m" in await refusal(lab, make_pod("more"))

    run(use)


def test_of_pods_that_grow_at_once_as_many_as_fit_do() -> None:
    async def use(lab: Lab) -> None:
        await make_quota(lab, requests_cpu="700m")
        for n in range(5):
            assert await refusal(lab, make_pod(f"p{n}")) == ""

        async def grown(name: str) -> str:
            spec = {"containers": [{"name": "c", "resources": {"requests": {"cpu": "200m"}}}]}
            try:
                await lab.client.patch(
                    Pod, name, {"spec": spec}, "default", type=PatchType.STRATEGIC, subresource="resize"
                )
            except ApiError as err:
                return str(err)
            return ""

        answers = await asyncio.gather(*(grown(f"p{n}") for n in range(5)))
        assert sum(not answer for answer in answers) == 2, answers

    run(use)

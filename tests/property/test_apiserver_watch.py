"""A random walk over one resource: whatever was listed, replaying the watch from there gives what is listed later."""

from __future__ import annotations

import random

import pytest
from api_lab import Lab, run
from msgspec.structs import replace

from kaa.api.types.core_v1 import ConfigMap
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.client.client import WatchType

STEPS = 120


@pytest.mark.parametrize("seed", range(6))
def test_replaying_a_watch_gives_the_later_list(seed: int) -> None:
    draw = random.Random(seed)

    async def use(lab: Lab) -> None:
        client, model = lab.client, dict[str, ConfigMap]()
        lists = []
        for step in range(STEPS):
            name, labels = draw.choice("abcdef"), {"app": draw.choice("xy")}
            if name not in model:
                metadata = ObjectMeta(name=name, namespace="default", labels=labels)
                model[name] = await client.create(ConfigMap(metadata=metadata))
            elif draw.random() < 0.3:
                await client.delete(ConfigMap, name, "default")
                del model[name]
            else:
                old = model[name]
                metadata = replace(old.metadata, labels=labels)
                model[name] = await client.update(replace(old, metadata=metadata, data={"step": str(step)}))
            if draw.random() < 0.1:
                lists.append(await client.list(ConfigMap))
        for selector in ("", "app=x"):
            wanted = {k: v for k, v in model.items() if not selector or v.metadata.labels["app"] == "x"}
            for start in lists:
                held = {o.metadata.name: o for o in start.items if not selector or o.metadata.labels["app"] == "x"}
                version = last = int(start.resource_version)
                watch = client.watch(
                    ConfigMap, label_selector=selector, resource_version=str(version), bookmarks=False, timeout_s=1
                )
                target = lab.plane.store.revision
                await client.create(
                    ConfigMap(metadata=ObjectMeta(name="end", namespace="default", labels={"app": "x"}))
                )
                async for event in watch:
                    assert int(event.resource_version) > last
                    last = int(event.resource_version)
                    assert event.object is not None
                    if last > target and event.object.metadata.name == "end":
                        break
                    if event.type is WatchType.DELETED:
                        del held[event.object.metadata.name]
                    else:
                        assert (event.object.metadata.name in held) == (event.type is WatchType.MODIFIED)
                        held[event.object.metadata.name] = event.object
                await client.delete(ConfigMap, "end", "default")
                held.pop("end", None)
                assert held == wanted

    run(use)

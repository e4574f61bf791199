"""What every Client does, whatever carries its calls."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from api_lab import Lab, run
from msgspec.structs import replace

from kaa.api.errors import AlreadyExists, Conflict, Invalid, NotFound
from kaa.api.types.core_v1 import ConfigMap
from kaa.api.types.meta_v1 import DeleteOptions, ObjectMeta, Preconditions
from kaa.client.client import Client, PatchType, WatchType

Use = Callable[[Client], Awaitable[None]]


def a_map(name: str, **data: str) -> ConfigMap:
    return ConfigMap(metadata=ObjectMeta(name=name, namespace="default", labels={"app": name}), data=data)


@pytest.fixture(params=["calls", "https"])
def over(request: pytest.FixtureRequest) -> Callable[[Use], None]:
    """Run a function with a client."""

    def with_client(use: Use) -> None:
        async def main(lab: Lab) -> None:
            if request.param == "calls":
                await use(lab.client)
                return
            client = lab.http()
            try:
                await use(client)
            finally:
                await client.close()

        run(main, http=request.param == "https")

    return with_client


def test_create_get_update_delete(over: Callable[[Use], None]) -> None:
    async def use(client: Client) -> None:
        made = await client.create(a_map("a", k="1"))
        assert await client.get(ConfigMap, "a", "default") == made
        assert (await client.update(made)).metadata.resource_version == made.metadata.resource_version
        changed = await client.update(replace(made, data={"k": "2"}))
        assert changed.data == {"k": "2"}
        with pytest.raises(Conflict):
            await client.update(replace(made, data={"k": "3"}))
        with pytest.raises(AlreadyExists):
            await client.create(a_map("a"))
        with pytest.raises(Invalid):
            await client.create(a_map("No Name"))
        with pytest.raises(Conflict):
            await client.delete(
                ConfigMap, "a", "default", options=DeleteOptions(preconditions=Preconditions(uid="other"))
            )
        await client.delete(ConfigMap, "a", "default")
        with pytest.raises(NotFound):
            await client.get(ConfigMap, "a", "default")

    over(use)


def test_pages_and_selectors(over: Callable[[Use], None]) -> None:
    async def use(client: Client) -> None:
        for name in "abcde":
            await client.create(a_map(name))
        page = await client.list(ConfigMap, "default", limit=2)
        assert ([obj.metadata.name for obj in page.items], page.remaining) == (["a", "b"], 3)
        await client.delete(ConfigMap, "c", "default")
        rest = await client.list(ConfigMap, "default", limit=9, continue_token=page.continue_token)
        assert [obj.metadata.name for obj in rest.items] == ["c", "d", "e"]
        assert rest.resource_version == page.resource_version
        chosen = await client.list(ConfigMap, label_selector="app in (a,d)", field_selector="metadata.name!=a")
        assert [obj.metadata.name for obj in chosen.items] == ["d"]
        await client.delete_collection(ConfigMap, "default", label_selector="app!=e")
        assert [obj.metadata.name for obj in (await client.list(ConfigMap)).items] == ["e"]

    over(use)


def test_watch_tells_each_change_once(over: Callable[[Use], None]) -> None:
    async def use(client: Client) -> None:
        start = (await client.list(ConfigMap)).resource_version
        made = await client.create(a_map("a"))
        await client.update(replace(made, metadata=replace(made.metadata, labels={"app": "z"})))
        await client.delete(ConfigMap, "a", "default")
        types = [
            [
                step.type
                async for step in client.watch(ConfigMap, resource_version=start, label_selector=which, timeout_s=1)
            ]
            for which in ("", "app=a")
        ]
        told = [[type for type in found if type is not WatchType.BOOKMARK] for found in types]
        assert told == [
            [WatchType.ADDED, WatchType.MODIFIED, WatchType.DELETED],
            [WatchType.ADDED, WatchType.DELETED],
        ]

    over(use)


@pytest.mark.parametrize("type", list(PatchType))
def test_patches(over: Callable[[Use], None], type: PatchType) -> None:
    whole = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "2"}}
    json_patch = [{"op": "add", "path": "/data", "value": {"k": "2"}}]

    async def use(client: Client) -> None:
        await client.create(a_map("a", k="1"))
        patch = json_patch if type is PatchType.JSON else whole
        made = await client.patch(
            ConfigMap, "a", patch, "default", type=type, field_manager="m", force=type is PatchType.APPLY
        )
        assert made.data == {"k": "2"}

    over(use)


def test_raw(over: Callable[[Use], None]) -> None:
    async def use(client: Client) -> None:
        assert b"gitVersion" in await client.raw("GET", "/version")
        with pytest.raises(NotFound):
            await client.raw("GET", "/nope")

    over(use)

"""A little world for kubelet tests: an API server's store in memory behind the Client Protocol, and pods by keyword."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from kaa.api.clock import VirtualClock, format_time
from kaa.api.errors import AlreadyExists, Conflict, NotFound
from kaa.api.scheme import convert, resource_of, to_builtins
from kaa.api.types.authentication_v1 import TokenRequest
from kaa.api.types.core_v1 import Container, ObjectReference, Pod, PodSpec
from kaa.api.types.meta_v1 import DeleteOptions, ObjectMeta
from kaa.client.client import Listing, PatchType, WatchEvent, WatchType
from kaa.kubelet.config import KubeletConfig
from kaa.kubelet.kubelet import Kubelet
from kaa.runtime.simulated import SimulatedRuntime


def make_container(name: str = "main", **fields: Any) -> Container:
    return Container(name=name, **{"image": "busybox:1.36", **fields})


def make_pod(name: str = "web", *, node: str = "n1", **fields: Any) -> Pod:
    """A pod bound to a node; ``annotations`` and ``uid`` go to its metadata, the rest to its spec."""
    meta = ObjectMeta(
        name=name,
        namespace=fields.pop("namespace", "default"),
        uid=fields.pop("uid", f"uid-{name}"),
        annotations=fields.pop("annotations", {}),
        labels=fields.pop("labels", {}),
        generation=1,
    )
    fields.setdefault("containers", (make_container(),))
    fields.setdefault("restart_policy", "Always")
    return Pod(metadata=meta, spec=PodSpec(node_name=node, **fields))


class FakeClient:
    """Keeps objects by (kind, namespace, name); watches see every change. Enough of an API server for one kubelet."""

    def __init__(self) -> None:
        self.objects: dict[tuple[type, str, str], Any] = {}
        self.watches: list[tuple[type, str | None, str, asyncio.Queue[WatchEvent[Any]]]] = []
        self.version = 0
        self.patches: list[tuple[str, Any]] = []
        self.tokens = 0
        self.asked: list[tuple[str, str]] = []  #: raw requests

    def _fits(self, obj: Any, namespace: str | None, fields: str) -> bool:
        if namespace is not None and (obj.metadata.namespace or "") != namespace:
            return False
        key, _, value = fields.partition("=")
        if key == "metadata.name":
            return bool(obj.metadata.name == value)
        if key == "spec.nodeName":
            return bool(obj.spec.node_name == value)
        return True

    def put(self, obj: Any, kind: WatchType = WatchType.MODIFIED) -> Any:
        self.version += 1
        meta = replace(obj.metadata, resource_version=str(self.version), uid=obj.metadata.uid or f"uid-{self.version}")
        obj = replace(obj, metadata=meta)
        key = (type(obj), meta.namespace or "", meta.name or "")
        if kind is WatchType.DELETED:
            self.objects.pop(key, None)
        else:
            self.objects[key] = obj
        for watched, namespace, fields, queue in self.watches:
            if watched is type(obj) and self._fits(obj, namespace, fields):
                queue.put_nowait(WatchEvent(kind, obj, str(self.version)))
        return obj

    async def get(self, kind: Any, name: str, namespace: str | None = None) -> Any:
        found = self.objects.get((kind, namespace or "", name))
        if found is None:
            raise NotFound.of(resource_of(kind), name)
        return found

    async def list(
        self, kind: Any, namespace: str | None = None, *, field_selector: str = "", **_: Any
    ) -> Listing[Any]:
        found = [o for k, o in self.objects.items() if k[0] is kind and self._fits(o, namespace, field_selector)]
        return Listing(found, str(self.version))

    async def watch(
        self, kind: Any, namespace: str | None = None, *, field_selector: str = "", **_: Any
    ) -> AsyncIterator[WatchEvent[Any]]:
        queue: asyncio.Queue[WatchEvent[Any]] = asyncio.Queue()
        entry = (kind, namespace, field_selector, queue)
        self.watches.append(entry)
        try:
            while True:
                yield await queue.get()
        finally:
            self.watches.remove(entry)

    async def create(self, obj: Any, *, namespace: str | None = None, subresource: str = "", name: str = "") -> Any:
        key = (type(obj), obj.metadata.namespace or "", obj.metadata.name or "")
        if key in self.objects:
            raise AlreadyExists.of(resource_of(obj), obj.metadata.name)
        return self.put(obj, WatchType.ADDED)

    async def patch(
        self,
        kind: Any,
        name: str,
        patch: Mapping[str, Any] | Sequence[Any],
        namespace: str | None = None,
        *,
        type: PatchType = PatchType.MERGE,
        subresource: str = "",
        **_: Any,
    ) -> Any:
        await asyncio.sleep(0)
        old = await self.get(kind, name, namespace)
        self.patches.append((name, patch))
        assert isinstance(patch, Mapping)
        uid = patch.get("metadata", {}).get("uid")
        if uid is not None and uid != old.metadata.uid:
            raise Conflict.of(resource_of(kind), name)
        return self.put(convert(kind, _merged(to_builtins(old), patch)))

    async def delete(
        self, kind: Any, name: str, namespace: str | None = None, *, options: DeleteOptions | None = None
    ) -> None:
        old = await self.get(kind, name, namespace)
        if options is not None and options.preconditions is not None and options.preconditions.uid != old.metadata.uid:
            raise Conflict.of(resource_of(kind), name)
        self.put(old, WatchType.DELETED)

    async def call(
        self, resource: Any, name: str, subresource: str, body: Any, answer: Any, namespace: Any = None
    ) -> Any:
        self.tokens += 1
        status = replace(TokenRequest().status, token=f"token-{self.tokens}")
        return replace(body, status=status)

    async def raw(self, method: str, path: str, body: bytes = b"", *, content_type: str = "") -> bytes:
        self.asked.append((method, path))
        return b"{}"

    def ask_delete(self, name: str, now: float, grace_s: int = 30, namespace: str = "default") -> None:
        """What the API server does of a graceful DELETE."""
        pod = self.objects[Pod, namespace, name]
        meta = replace(
            pod.metadata, deletion_timestamp=format_time(now + grace_s), deletion_grace_period_seconds=grace_s
        )
        self.put(replace(pod, metadata=meta))


_MERGE_KEYS = {"conditions": "type", "podIPs": "ip", "hostIPs": "ip", "addresses": "type"}


def _merged(old: Any, patch: Any) -> Any:
    """A strategic merge, as far as statuses need one."""
    if not isinstance(patch, Mapping):
        return patch
    made = dict(old) if isinstance(old, dict) else {}
    for name, value in patch.items():
        if name.startswith("$"):
            continue
        if value is None:
            made.pop(name, None)
        elif name in _MERGE_KEYS and isinstance(value, list):
            key = _MERGE_KEYS[name]
            held = {} if {"$patch": "replace"} in value else {v[key]: v for v in made.get(name, ())}
            for item in value:
                if item.get("$patch") == "delete":
                    held.pop(item[key], None)
                elif key in item:
                    held[item[key]] = _merged(held.get(item[key], {}), item)
            made[name] = list(held.values())
        else:
            made[name] = _merged(made.get(name), value)
    return made


class Events:
    """A recorder that keeps everything."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str, str]] = []

    def event(self, obj: Any, type: str, reason: str, message: str) -> None:
        name = obj.name if isinstance(obj, ObjectReference) else obj.metadata.name
        self.said.append((name, reason, message))

    def reasons(self, name: str) -> list[str]:
        return [reason for who, reason, _ in self.said if who == name]


class Inline(ThreadPoolExecutor):
    """Runs work for threads at once, where it is asked for: so that a story has no races."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except BaseException as err:
            done.set_exception(err)
        return done


class World:
    """A kubelet on the simulated runtime, under virtual time."""

    def __init__(self, tmp_path: Path, *, inhibitor: Any = None, **config: Any) -> None:
        self.inhibitor = inhibitor
        self.clock = VirtualClock()
        self.client = FakeClient()
        self.runtime = SimulatedRuntime(self.clock)
        self.events = Events()
        self.config = KubeletConfig(
            node_name="n1", root=tmp_path / "kubelet", pod_log_root=tmp_path / "logs", node_ips=("192.0.2.1",), **config
        )
        self.task: asyncio.Task[None] | None = None
        self.kubelet = self.make()

    def make(self) -> Kubelet:
        parts: Any = (self.client, self.runtime, self.clock, self.config, self.events, self.inhibitor)
        return Kubelet(*parts)

    async def __aenter__(self) -> World:
        await self.start()
        return self

    async def start(self) -> None:
        asyncio.get_running_loop().set_default_executor(Inline())
        self.task = asyncio.create_task(self.kubelet.run(), name="kubelet")
        await self.rest()

    async def stop(self) -> None:
        assert self.task is not None
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task

    async def restart(self) -> None:
        await self.stop()
        self.kubelet = self.make()
        await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
        await self.runtime.close()

    async def rest(self) -> None:
        """Let everything come to rest."""
        for _ in range(20):
            await self.clock.settle()

    async def advance(self, seconds: float, step: float = 1.0) -> None:
        while seconds > 0:
            await self.clock.advance(min(step, seconds))
            await self.rest()
            seconds -= step

    async def until(self, true: Callable[[], bool], seconds: float = 60.0) -> None:
        for _ in range(int(seconds * 2)):
            if true():
                return
            await self.advance(0.5, 0.5)
        raise AssertionError("it did not come true")

    def pod(self, name: str = "web", namespace: str = "default") -> Pod:
        found: Pod = self.client.objects[Pod, namespace, name]
        return found

    def exists(self, name: str = "web", namespace: str = "default") -> bool:
        return (Pod, namespace, name) in self.client.objects

    def condition(self, type: str, name: str = "web") -> Any:
        return next((c for c in self.pod(name).status.conditions if c.type == type), None)

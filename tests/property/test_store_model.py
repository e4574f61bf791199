"""Any history of calls, on every store beside a model that is too simple to be wrong: a list of all writes."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kaa.store.base import Compacted, Event, EventType, KeyValue, Revision, RevisionMismatch, Store
from kaa.store.memory import MemoryStore
from kaa.store.sqlite import open_sqlite

T = TypeVar("T")
KEYS = st.sampled_from(["/a", "/a/1", "/a/2", "/a/ß", "/b/1", "/b/2", "/b"])
PREFIXES = st.sampled_from(["", "/", "/a", "/a/", "/b/", "/c"])
VALUES = st.binary(max_size=8)


class Write(NamedTuple):
    """One entry of the model's log; ``value`` is None on a deletion."""

    key: str
    value: bytes | None
    created: int


class StoreMachine(RuleBasedStateMachine):
    """The rules; a subclass says which store, and how to open it again."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.Runner()
        self.log: list[Write] = []
        self.compacted = 0
        self.store: Store

    async def open(self) -> Store:
        raise NotImplementedError

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run(work)

    @initialize()
    def start(self) -> None:
        self.store = self.do(self.open())

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.do(self.store.close())
        self.loop.close()

    # The model

    def state(self, revision: int) -> dict[str, KeyValue]:
        found: dict[str, KeyValue] = {}
        for number, (key, value, created) in enumerate(self.log[:revision], 1):
            if value is None:
                del found[key]
            else:
                found[key] = KeyValue(key, value, Revision(created), Revision(number))
        return found

    def events(self, prefix: str, after: int) -> list[Event]:
        expected: list[Event] = []
        for number, (key, value, created) in enumerate(self.log, 1):
            if number > after and key.startswith(prefix):
                kv = KeyValue(key, value or b"", Revision(created), Revision(number))
                kind = EventType.DELETE if value is None else EventType.PUT
                expected.append(Event(kind, kv, self.state(number - 1).get(key)))
        return expected

    def write(self, key: str, value: bytes | None, now: KeyValue | None) -> None:
        created = now.create_revision if now else len(self.log) + 1
        self.log.append(Write(key, value, created))

    # The rules

    @rule(key=KEYS, value=VALUES, expected=st.sampled_from(["any", "current", "absent", "other"]))
    def put(self, key: str, value: bytes, expected: str) -> None:
        now = self.state(len(self.log)).get(key)
        revision = self._expected(expected, now)
        if revision is not None and revision != (now.mod_revision if now else 0):
            self._refused(self.store.put(key, value, expected=revision), now)
            return
        kv = self.do(self.store.put(key, value, expected=revision))
        self.write(key, value, now)
        assert kv == self.state(len(self.log))[key]

    @rule(key=KEYS, expected=st.sampled_from(["any", "current", "absent", "other"]))
    def delete(self, key: str, expected: str) -> None:
        now = self.state(len(self.log)).get(key)
        revision = self._expected(expected, now)
        if revision is not None and revision != (now.mod_revision if now else 0):
            self._refused(self.store.delete(key, expected=revision), now)
            return
        gone = self.do(self.store.delete(key, expected=revision))
        if now is None:
            assert gone is None
            return
        self.write(key, None, now)
        assert gone == KeyValue(key, now.value, now.create_revision, Revision(len(self.log)))

    @rule(writes=st.lists(st.tuples(KEYS, st.none() | VALUES), max_size=12))
    def group(self, writes: list[tuple[str, bytes | None]]) -> None:
        """Writes at once are taken in the order in which they were begun."""

        async def all_at_once() -> None:
            await asyncio.gather(*(self.store.delete(k) if v is None else self.store.put(k, v) for k, v in writes))

        self.do(all_at_once())
        for key, value in writes:
            now = self.state(len(self.log)).get(key)
            if value is not None or now is not None:
                self.write(key, value, now)

    @rule(prefix=PREFIXES, after=st.just("") | KEYS, limit=st.integers(0, 4), back=st.integers(0, 12))
    def range(self, prefix: str, after: str, limit: int, back: int) -> None:
        revision = max(0, len(self.log) - back)  # where 0 asks for the newest
        if 0 < revision < self.compacted:
            with pytest.raises(Compacted):
                self.do(self.store.range(prefix, after=after, limit=limit, revision=Revision(revision)))
            return
        page = self.do(self.store.range(prefix, after=after, limit=limit, revision=Revision(revision)))
        state = self.state(revision or len(self.log))
        wanted = [state[key] for key in sorted(state) if key.startswith(prefix) and key > after]
        assert list(page.items) == wanted[: limit or None]
        assert page.remaining == len(wanted) - len(page.items)

    @rule(key=KEYS, back=st.integers(0, 12))
    def get(self, key: str, back: int) -> None:
        revision = len(self.log) - back
        if revision > 0 and revision >= self.compacted:
            assert self.do(self.store.get(key, revision=Revision(revision))) == self.state(revision).get(key)

    @rule(prefix=PREFIXES, back=st.integers(0, 20))
    def watch(self, prefix: str, back: int) -> None:
        after = max(0, len(self.log) - back)
        wanted = self.events(prefix, after)

        async def read() -> list[Event]:
            seen: list[Event] = []
            batches = self.store.watch(prefix, after=Revision(after))
            while len(seen) < len(wanted):
                seen += await anext(batches)
            await batches.aclose()  # type: ignore[attr-defined]  # a generator
            return seen

        if after < self.compacted:
            with pytest.raises(Compacted):
                self.do(anext(self.store.watch(prefix, after=Revision(after))))  # type: ignore[arg-type]  # a coroutine
            return
        assert self.do(read()) == wanted

    @rule(back=st.integers(0, 6))
    def compact(self, back: int) -> None:
        revision = max(0, len(self.log) - back)
        self.do(self.store.compact(Revision(revision)))
        self.compacted = max(self.compacted, revision)

    @invariant()
    def revision(self) -> None:
        if hasattr(self, "store"):
            assert self.store.revision == len(self.log)

    def _expected(self, expected: str, now: KeyValue | None) -> Revision | None:
        current = now.mod_revision if now else 0
        return {"any": None, "current": Revision(current), "absent": Revision(0), "other": Revision(current + 1)}[
            expected
        ]

    def _refused(self, attempt: Coroutine[Any, Any, object], now: KeyValue | None) -> None:
        with pytest.raises(RevisionMismatch) as refused:
            self.do(attempt)
        assert refused.value.current == now


class MemoryMachine(StoreMachine):
    async def open(self) -> Store:
        return MemoryStore()


class SqliteMachine(StoreMachine):
    """Keeps few values in memory, so that most reads meet the disk."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="kaa-store-"))

    async def open(self) -> Store:
        return await open_sqlite(self.folder / "kaa.db", cache_bytes=1000)

    @rule()
    def reopen(self) -> None:
        self.do(self.store.close())
        self.store = self.do(self.open())

    def teardown(self) -> None:
        super().teardown()
        shutil.rmtree(self.folder)


TestMemory = MemoryMachine.TestCase
TestMemory.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestSqlite = SqliteMachine.TestCase
TestSqlite.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)

"""The loop that every controller is: keys from informers, one worker on a key, failures later and later.

A controller says which objects it reads (``watch``), which keys an event on them concerns, and how to converge one key
(``reconcile``). It never learns *what* happened, only that it should look again.

    class ServiceAccounts(Controller[Key]):
        name = "serviceaccount-controller"
        def __init__(self, context): super().__init__(context); self.namespaces = self.watch(Namespace, self.on_namespace)
        async def reconcile(self, key): ...
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import structlog

from kaa.api.clock import Clock, format_time
from kaa.api.errors import ApiError, Conflict
from kaa.client.client import Client, Kind
from kaa.client.events import EventRecorder
from kaa.client.informer import Handler, Informer, Informers
from kaa.client.workqueue import Claim, WorkQueue

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)
log = structlog.get_logger(__name__)

RECONCILE_TIMEOUT_S = 300.0
#: Requests for events a second, and at once after a rest: upstream's ``--kube-api-qps`` and ``--kube-api-burst``.
EVENTS_PACE = (20, 30)
#: Events of a key's parts are gathered so long, in seconds a part: a look at the key is proportional to its parts.
GATHER_S_PER_PART = 1 / 10_000
#: Whose client feeds the informers: what kube-controller-manager itself is.
SHARED = "shared-informers"


@dataclass(frozen=True)
class Context:
    """What all controllers of a process share. ``client_for`` gives each the identity upstream gives it."""

    client_for: Callable[[str], Client]
    informers: Informers
    clock: Clock
    events_late_s: float = 0.0  #: how long events may be kept back in a burst


class Controller(Generic[K]):
    """``name`` is the ServiceAccount (``system:serviceaccount:kube-system:NAME``) and, unless ``component`` says
    otherwise, the source of its events."""

    name: ClassVar[str]
    component: ClassVar[str] = ""
    identity: ClassVar[str] = ""  #: whom to be, if not the account of that name
    workers: ClassVar[int] = 5

    def __init__(self, context: Context) -> None:
        self.client = context.client_for(self.identity or self.name)
        self.clock = context.clock
        self.informers = context.informers
        self.events = EventRecorder(
            self.client,
            context.clock,
            self.component or self.name,
            pace=EVENTS_PACE,
            late_s=context.events_late_s,
        )
        self.queue: WorkQueue[K] = WorkQueue(context.clock)
        self._reads: list[Informer[Any]] = []

    def watch(
        self, kind: Kind[T], handler: Handler[T] | None = None, *, keep: Callable[[Any], Any] | None = None
    ) -> Informer[T]:
        """Read a kind through the shared informer; ``handler`` hears of every change. ``keep``: see ``Informers.of``."""
        informer = self.informers.of(kind, keep=keep)
        self._reads.append(informer)
        if handler is not None:
            informer.add_handler(handler)
        return informer

    def look_soon(self, key: K, parts: int) -> None:
        """Look at a key because one of its ``parts`` (its pods) changed: the more there are, the more changes at once."""
        wait = parts * GATHER_S_PER_PART
        self.queue.add_after(key, wait if wait > 0.005 else 0)

    @abstractmethod
    async def reconcile(self, key: K) -> float | None:
        """Converge one key. Returns the seconds after which to look again, if time alone can change the answer."""

    def now(self) -> str:
        return format_time(self.clock.now())

    async def run(self) -> None:
        """Work until cancelled; everything begun here has ended when this returns."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.queue.run(), name=f"{self.name}/queue")
            tasks.create_task(self.events.run(), name=f"{self.name}/events")
            for informer in self._reads:
                await informer.synced.wait()
            for n in range(self.workers):
                tasks.create_task(self._work(), name=f"{self.name}/worker-{n}")

    async def _work(self) -> None:
        while True:
            async with self.queue.claim() as claim:
                await self._settle(claim)

    async def _settle(self, claim: Claim[K]) -> None:
        try:
            async with asyncio.timeout(RECONCILE_TIMEOUT_S):
                claim.done(await self.reconcile(claim.key))
        except Conflict as err:  # someone else wrote first: the informer is about to say what
            log.debug("reconcile met a conflict", controller=self.name, key=str(claim.key), error=str(err))
            claim.retry(err)
        except (ApiError, OSError, TimeoutError) as err:
            if refused_since_it_ends(err):
                claim.done()
                return
            log.warning("reconcile failed", controller=self.name, key=str(claim.key), error=str(err))
            claim.retry(err)
        except Exception as err:
            log.exception("reconcile failed", controller=self.name, key=str(claim.key))
            claim.retry(err)


def refused_since_it_ends(error: Exception) -> bool:
    """Forbidden only because the namespace is being deleted: what was wanted there is wanted no more."""
    causes = error.status.details.causes if isinstance(error, ApiError) and error.status.details else ()
    return any(cause.reason == "NamespaceTerminating" for cause in causes)


async def in_parallel(work: Iterable[Awaitable[T]], *, at_once: int = 50) -> list[T | Exception]:
    """Await everything, so many at once; failures come back in place of results."""
    gate = asyncio.Semaphore(at_once)

    async def one(awaitable: Awaitable[T]) -> T | Exception:
        async with gate:
            try:
                return await awaitable
            except Exception as err:  # handed back: the caller decides
                return err

    async with asyncio.TaskGroup() as tasks:
        started = [tasks.create_task(one(awaitable)) for awaitable in work]
    return [task.result() for task in started]


def count(number: int) -> int | None:
    """A count as the API writes it where zero is left out."""
    return number or None

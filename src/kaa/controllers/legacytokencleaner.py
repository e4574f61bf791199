"""Tokens in Secrets that nobody has used for a year go: first they are marked invalid, and a year later deleted.

Only those that were made for an account without being asked for, which its ``secrets`` list, and that no pod names. Whoever
misses one takes the mark away and has it back.

Source: kubernetes pkg/controller/serviceaccount/legacy_serviceaccount_token_cleaner.go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import structlog

from kaa.api.clock import parse_time
from kaa.api.errors import Conflict, NotFound
from kaa.api.legacy_tokens import DAY_S, INVALID_SINCE, LAST_USED, SINCE, TRACKING, day_of, is_day
from kaa.api.pod_references import references
from kaa.api.types.core_v1 import ConfigMap, Pod, Secret, ServiceAccount
from kaa.api.types.meta_v1 import DeleteOptions, Preconditions
from kaa.client.workqueue import Key

from .controller import Context, Controller, in_parallel
from .secrets import ACCOUNT_TOKEN, kept
from .tokens import account_of, owned

log = structlog.get_logger(__name__)

#: How long a token is left alone after its last use, and again after it was marked.
PERIOD_S = 8760 * 3600.0
EVERY_S = 24 * 3600.0
ALL = Key("", "all")


@dataclass(frozen=True, slots=True)
class Plan:
    mark: tuple[Secret, ...] = ()
    delete: tuple[Secret, ...] = ()


def tracked_long_enough(since: str, now: float, period_s: float = PERIOD_S) -> bool:
    """Whether uses have been written down for a whole period. ``since`` is a day, of which nothing counts yet."""
    return is_day(since) and now >= parse_time(f"{since}T00:00:00Z") + DAY_S + period_s


def plan(
    secrets: Iterable[Secret],
    account_for: Callable[[Secret], ServiceAccount | None],
    named_by_pods: Callable[[str], frozenset[str]],
    now: float,
    period_s: float = PERIOD_S,
) -> Plan:
    """Which tokens to mark and which to delete. ``named_by_pods``: the Secrets that pods of a namespace name."""
    recent = day_of(now - period_s)
    mark: list[Secret] = []
    delete: list[Secret] = []
    for secret in secrets:
        meta = secret.metadata
        account = account_for(secret)
        if not _unused(secret, now - period_s) or account is None:
            continue
        if all(ref.name != meta.name for ref in account.secrets) or meta.name in named_by_pods(meta.namespace or ""):
            continue
        invalid_since = meta.labels.get(INVALID_SINCE, "")
        if not is_day(invalid_since):
            mark.append(secret)
        elif invalid_since < recent:
            delete.append(secret)
    return Plan(tuple(mark), tuple(delete))


def _unused(secret: Secret, since: float) -> bool:
    """Whether it is a token that was neither made nor used since then. What cannot be read counts as a use."""
    meta = secret.metadata
    if secret.type != ACCOUNT_TOKEN or meta.deletion_timestamp is not None:
        return False
    if meta.creation_timestamp is None or parse_time(meta.creation_timestamp) >= since:
        return False
    last_used = meta.labels.get(LAST_USED)
    return last_used is None or (is_day(last_used) and last_used < day_of(since))


class LegacyTokenCleaner(Controller[Key]):
    """Its one key is all of them, looked at once a day."""

    name = "legacy-service-account-token-cleaner"
    workers = 1

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.secrets = self.watch(Secret, keep=kept)
        self.accounts = self.watch(ServiceAccount)
        self.pods = self.watch(Pod)
        self.queue.add(ALL)

    async def reconcile(self, key: Key) -> float:
        now = self.clock.now()
        if not tracked_long_enough(await self._since(), now):
            return EVERY_S
        found = plan(self.secrets, self._account, self._names(), now)
        work = [self._mark(secret, day_of(now)) for secret in found.mark]
        work += [self._delete(secret) for secret in found.delete]
        for failure in await in_parallel(work):
            if isinstance(failure, Exception):
                log.error("a token was not cleaned up", error=str(failure))
        return EVERY_S

    async def _since(self) -> str:
        """The day since which uses are written down; nothing while nobody says it."""
        try:
            found = await self.client.get(ConfigMap, TRACKING, "kube-system")
        except NotFound:
            return ""
        return found.data.get(SINCE, "")

    def _account(self, secret: Secret) -> ServiceAccount | None:
        account = self.accounts.get(account_of(secret), secret.metadata.namespace)
        return account if owned(secret, account) else None

    def _names(self) -> Callable[[str], frozenset[str]]:
        known: dict[str, frozenset[str]] = {}

        def named(namespace: str) -> frozenset[str]:
            if namespace not in known:
                found = (ref for pod in self.pods.in_namespace(namespace) for ref in references(pod))
                known[namespace] = frozenset(name for plural, name in found if plural == "secrets")
            return known[namespace]

        return named

    async def _mark(self, secret: Secret, day: str) -> None:
        meta = secret.metadata
        patch = {"metadata": {"uid": meta.uid, "labels": {INVALID_SINCE: day}}}
        await self.client.patch(Secret, meta.name or "", patch, meta.namespace)

    async def _delete(self, secret: Secret) -> None:
        meta = secret.metadata
        options = DeleteOptions(preconditions=Preconditions(resource_version=meta.resource_version))
        try:
            await self.client.delete(Secret, meta.name or "", meta.namespace, options=options)
        except (Conflict, NotFound):
            return

"""Whether the servers behind APIServices answer: each APIService's Available condition, and what its server serves.

The idea: one keeper a remote APIService. It looks at the Service and its endpoints, then asks the server for its list of
resources, writes the condition if it changed, and rests: half a minute after a success, a growing while after a failure,
no longer than until something it looked at changes. The list that proves the server alive is also its discovery.

Source: kube-aggregator pkg/controllers/status/{local,remote}.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog
from msgspec.structs import replace

from kaa.api import scheme
from kaa.api.clock import Clock, format_time
from kaa.api.errors import ApiError, Conflict, NotFound
from kaa.api.types.apiregistration_v1 import APIService, APIServiceStatus
from kaa.api.types.core_v1 import Service
from kaa.api.types.meta_v1 import APIResourceList
from kaa.client.client import Client
from kaa.client.pipeline import User

from ..hearing import rest
from ..view import View
from .backend import Backend, BadTrust, Identity, user_headers
from .resolve import AVAILABLE, Doubt, Unresolved, address_of, doubt_of, slices_of, with_condition

log = structlog.get_logger(__name__)

RESYNC_S = 30.0
FIRST_RETRY_S, LAST_RETRY_S = 0.1, 30.0
ANSWER_S = 5.0
ATTEMPTS = 5
PASSED = Doubt("Passed", "all checks passed", "True")
LOCAL = Doubt("Local", "Local APIServices are always available", "True")
AGGREGATOR = User("system:kube-aggregator", groups=("system:masters",))
#: Hears what a check found: (the APIService, its server's resources; None when it did not answer)
Heard = Callable[[APIService, APIResourceList | None], None]


class Unanswered(Exception):
    """The server did not answer as it must; the message is the condition's."""


class Keeper:
    """Keeps the condition of one remote APIService true. ``poke`` when something it depends on has changed."""

    def __init__(
        self, name: str, view: View, client: Client, clock: Clock, identity: Identity | None, heard: Heard
    ) -> None:
        self.name = name
        self._view, self._client, self._clock, self._identity = view, client, clock, identity
        self._heard = heard
        self._changed = asyncio.Event()
        self._backend: Backend | None = None

    def poke(self) -> None:
        self._changed.set()

    async def run(self) -> None:
        """Check until cancelled, or until the APIService is gone or local."""
        failures = 0
        try:
            while True:
                self._changed.clear()
                service = self._view.get(APIService, self.name)
                if service is None or service.spec.service is None:
                    return
                passed = await self._checked(service)
                failures = 0 if passed else failures + 1
                seconds = RESYNC_S if passed else min(FIRST_RETRY_S * 2 ** (failures - 1), LAST_RETRY_S)
                await rest(self._changed, self._clock, seconds)
        finally:
            if self._backend is not None:
                self._backend.close()

    async def _checked(self, service: APIService) -> bool:
        try:
            return await self._check(service)
        except Exception:  # this keeper's failure is its own: it looks again
            log.exception("the check of an APIService failed", name=self.name)
            return False

    async def _check(self, service: APIService) -> bool:
        verdict, resources = await self._verdict(service)
        self._heard(service, resources)
        await write_condition(self._client, service, verdict, self._clock)
        return verdict is PASSED

    async def _verdict(self, service: APIService) -> tuple[Doubt, APIResourceList | None]:
        reference = service.spec.service
        assert reference is not None
        found = self._view.get(Service, reference.name or "", reference.namespace or "")
        doubt = doubt_of(found, slices_of(self._view, reference), reference)
        if doubt is not None:
            return doubt, None
        try:
            return PASSED, await self._ask_several(service)
        except Unanswered as err:
            return Doubt("FailedDiscoveryCheck", str(err)), None

    async def _ask_several(self, service: APIService) -> APIResourceList:
        """One server's answer is enough: if the first asked has none, several others are asked at once."""
        try:
            return await self._ask(service)
        except Unanswered:
            more = [self._ask(service) for _ in range(ATTEMPTS - 1)]
        answers = await asyncio.gather(*more, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, APIResourceList):
                return answer
        raise next(answer for answer in answers if isinstance(answer, BaseException))

    async def _ask(self, service: APIService) -> APIResourceList:
        """The resources of the group-version. TLS is not checked: this is about being there. Raises Unanswered."""
        spec, reference = service.spec, service.spec.service
        assert reference is not None
        found = self._view.get(Service, reference.name or "", reference.namespace or "")
        try:
            host, port = address_of(found, slices_of(self._view, reference), reference, self._clock.random)
        except Unresolved as err:
            raise Unanswered(str(err)) from err
        path = f"/apis/{spec.group}/{spec.version}" if spec.group else f"/api/{spec.version}"
        url = f"https://{host}:{port}{path}"
        headers = [*user_headers(AGGREGATOR), ("Accept", "application/json")]
        try:
            async with (
                asyncio.timeout(ANSWER_S),
                self._of(service).pool(host, port).ask("GET", path, headers) as answer,
            ):
                body = await answer.body()
                status = answer.status
        except (OSError, BadTrust) as err:  # TimeoutError is an OSError
            why = str(err) or "context deadline exceeded"
            raise Unanswered(f'failing or missing response from {url}: Get "{url}": {why}') from err
        if not 200 <= status < 300:
            raise Unanswered(f"failing or missing response from {url}: bad status from {url}: {status}")
        try:
            return scheme.decode(APIResourceList, body)
        except scheme.DecodeError:
            return APIResourceList(
                group_version=f"{spec.group}/{spec.version}", resources=()
            )  # it answers: it is there

    def _of(self, service: APIService) -> Backend:
        if self._backend is None:
            trusting = replace(service.spec, insecure_skip_tls_verify=True, ca_bundle=None)
            self._backend = Backend(trusting, self._identity)
        return self._backend


async def write_condition(client: Client, service: APIService, verdict: Doubt, clock: Clock) -> None:
    """Write the Available condition, if it is not so already."""
    conditions = with_condition(service, verdict, format_time(clock.now()))
    if conditions == service.status.conditions:
        return
    log.info("availability of an APIService", name=service.metadata.name, status=verdict.status, reason=verdict.reason)
    try:
        await client.update_status(replace(service, status=APIServiceStatus(conditions=conditions)))
    except (Conflict, NotFound):
        return  # it has changed under us: the change is heard of, and looked at again
    except ApiError as err:
        log.warning("an APIService's condition was not written", name=service.metadata.name, error=str(err))


def said_local(service: APIService) -> bool:
    return any(c.type == AVAILABLE and c.reason == LOCAL.reason for c in service.status.conditions)

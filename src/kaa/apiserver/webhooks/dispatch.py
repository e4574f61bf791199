"""Asking webhooks: those that may change an object one after the other, those that may refuse it all at once.

Source: apiserver pkg/admission/plugin/webhook/mutating/dispatcher.go, validating/dispatcher.go.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import structlog

from kaa.api import scheme
from kaa.api.errors import ApiError, BadRequest
from kaa.api.types.admissionregistration_v1 import MutatingWebhook

from ..patch.json_patch import apply_json_patch
from ..writes import new_uid
from .call import BadConfig, Caller, CallError
from .hooks import Hook
from .review import BadAnswer, Response, patch_of, read_answer, rejection, request_body
from .sight import Shape, Sight, document_of, internal_error

log = structlog.get_logger(__name__)

_SAFE_ON_DRY_RUN = ("None", "NoneOnDryRun")


class HookFailed(Exception):
    """A webhook could not be asked or understood: its failure policy decides."""


@dataclass(slots=True)
class Reinvocation:
    """Who is to be asked again, because the object changed after he saw it.

    ``earlier`` have been asked and want to see later changes; a change makes them ``due``. ``again`` is the second round,
    and there is no third.
    """

    earlier: set[Hashable] = field(default_factory=set)
    due: set[Hashable] = field(default_factory=set)
    wanted: bool = False
    again: bool = False
    #: the object as the last round left it
    output: Any = None

    def asks(self, key: Hashable) -> bool:
        return not self.again or key in self.due

    def changed(self) -> None:
        self.wanted = True
        self._all_due()

    def _all_due(self) -> None:
        self.due |= self.earlier
        self.earlier.clear()

    def begin(self, obj: Any) -> None:
        """A round begins. In the second one, what others made of the object meanwhile makes all due."""
        if self.again and obj != self.output:
            self._all_due()


async def mutate(hooks: Sequence[Hook], sight: Sight, caller: Caller, state: Reinvocation) -> None:
    """Ask the webhooks in order; each sees what those before it made. Raises ApiError."""
    for index, hook in enumerate(hooks):
        shape = await hook.shape(sight)
        if shape is None or not state.asks(hook.key):
            continue
        try:
            changed = await _mutated(hook, sight, shape, caller, int(state.again), index)
        except HookFailed as err:
            if not hook.ignores_failures:
                raise internal_error(str(err)) from err
            _failed_open("mutating", hook, sight, err, int(state.again), index)
            changed = False
        if changed:
            state.changed()
        if hook.webhook.reinvocation_policy == "IfNeeded":
            state.earlier.add(hook.key)
    state.output = sight.attributes.object


async def _mutated(hook: Hook, sight: Sight, shape: Shape, caller: Caller, round: int, index: int) -> bool:
    response = await ask(hook, sight, shape, caller)
    try:
        patch = patch_of(response)
    except (ValueError, msgspec.DecodeError) as err:
        raise internal_error(str(err)) from None
    changed = False
    if patch:
        document = document_of(await sight.object(shape))
        if document is None:
            raise internal_error(
                f'admission webhook "{hook.name}" attempted to modify the object, which is not supported for this operation'
            )
        if response.patch_type != "JSONPatch":
            raise HookFailed(f'failed calling webhook "{hook.name}": unsupported patch type "{response.patch_type}"')
        changed = await sight.put(_patched(document, patch), shape)
    note = {"configuration": hook.configuration, "webhook": hook.name, "mutated": changed}
    key = f"round_{round}_index_{index}"
    sight.attributes.annotate(f"mutation.webhook.admission.k8s.io/{key}", msgspec.json.encode(note).decode())
    return changed


def _patched(document: dict[str, Any], patch: list[Any]) -> dict[str, Any]:
    for operation in patch:
        try:
            document = apply_json_patch(document, [operation])
        except ApiError:
            raise internal_error(misfit(operation)) from None
    return document


def misfit(operation: Any) -> str:
    """Why an operation cannot be applied."""
    if not isinstance(operation, dict):
        return "json: cannot unmarshal array into Go value of type jsonpatch.Operation"
    name, path = operation.get("op"), operation.get("path")
    if name == "test":
        return f"testing value {path} failed: test failed"
    if name in ("add", "replace", "remove", "copy", "move"):
        return f'{name} operation does not apply: doc is missing path: "{path}": missing value'
    return f"Unexpected kind: {name}"


async def validate(hooks: Sequence[Hook], sight: Sight, caller: Caller) -> None:
    """Ask all webhooks that are concerned at once, and wait for all of them. Raises ApiError: the first one's no."""
    asked = [(hook, shape) for hook in hooks if (shape := await hook.shape(sight)) is not None]
    if not asked:
        return
    if len(asked) == 1:
        refusals = [await _refusal(*asked[0], sight, caller, 0)]
    else:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(_refusal(hook, shape, sight, caller, n), name=f"webhook/{hook.name}")
                for n, (hook, shape) in enumerate(asked)
            ]
        refusals = [task.result() for task in tasks]
    for refusal in refusals:
        if refusal is not None:
            raise refusal


async def _refusal(hook: Hook, shape: Shape, sight: Sight, caller: Caller, index: int) -> ApiError | None:
    """Why a webhook stands against a write; None when it does not."""
    try:
        await ask(hook, sight, shape, caller)
    except HookFailed as err:
        if not hook.ignores_failures:
            return internal_error(str(err))
        _failed_open("validating", hook, sight, err, 0, index)
    except ApiError as err:
        return err
    return None


async def ask(hook: Hook, sight: Sight, shape: Shape, caller: Caller) -> Response:
    """Its answer, if that is yes. Raises HookFailed; ApiError: the webhook's no, or what it cannot be asked."""
    webhook = hook.webhook
    if sight.dry_run and webhook.side_effects not in _SAFE_ON_DRY_RUN:
        raise BadRequest(f'admission webhook "{hook.name}" does not support dry run')
    uid = new_uid(sight.view.clock.random.getrandbits(128))
    obj, old = await sight.object(shape), await sight.old(shape)
    body = request_body(hook.version, uid, sight, shape, obj, old)
    mutating = isinstance(webhook, MutatingWebhook)
    try:
        data = await caller.post(webhook.client_config, body, hook.timeout_s)
        response = read_answer(data, hook.version, uid, mutating=mutating)
    except BadConfig as err:
        raise HookFailed(f'failed calling webhook "{hook.name}": could not get REST client: {err}') from err
    except (CallError, scheme.DecodeError) as err:
        raise HookFailed(f'failed calling webhook "{hook.name}": failed to call webhook: {err}') from err
    except BadAnswer as err:
        raise HookFailed(f'failed calling webhook "{hook.name}": received invalid webhook response: {err}') from err
    sight.attributes.warnings.extend(text for text in response.warnings if text not in sight.attributes.warnings)
    for key, value in response.audit_annotations.items():
        sight.attributes.annotate(f"{hook.name}/{key}", value)
    if not response.allowed:
        raise rejection(hook.name, response.status)
    return response


def _failed_open(phase: str, hook: Hook, sight: Sight, err: HookFailed, round: int, index: int) -> None:
    log.warning("webhook failed, failing open", webhook=hook.name, configuration=hook.configuration, error=str(err))
    key = f"failed-open.{phase}.webhook.admission.k8s.io/round_{round}_index_{index}"
    sight.attributes.annotate(key, hook.name)

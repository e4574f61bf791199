"""MutatingWebhookConfigurations.

Source: pkg/registry/admissionregistration; ValidateMutatingWebhookConfiguration.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from kaa.api.fields import FieldError
from kaa.api.types.admissionregistration_v1 import MutatingWebhookConfiguration

from ..strategy import Strategy
from ..tables import age, shape
from .common import default_webhook, webhooks_faults


def _cells(obj: MutatingWebhookConfiguration, now: float) -> Sequence[Any]:
    return obj.metadata.name, len(obj.webhooks), age(obj.metadata, now)


class MutatingWebhookConfigurationStrategy(Strategy[MutatingWebhookConfiguration]):
    kind = MutatingWebhookConfiguration
    allows_unconditional_update = False
    counts_generation = True
    table = shape("admissionregistration/mutatingwebhookconfigurations", "Webhooks:integer|Age", _cells)

    def default(self, obj: MutatingWebhookConfiguration) -> MutatingWebhookConfiguration:
        return replace(obj, webhooks=tuple(default_webhook(hook) for hook in obj.webhooks))

    def spec_changed(self, new: MutatingWebhookConfiguration, old: MutatingWebhookConfiguration) -> bool:
        return new.webhooks != old.webhooks

    def validate(self, obj: MutatingWebhookConfiguration) -> list[FieldError]:
        return list(webhooks_faults(obj.webhooks))


STRATEGY = MutatingWebhookConfigurationStrategy()

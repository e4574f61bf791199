"""ValidatingWebhookConfigurations.

Source: pkg/registry/admissionregistration; ValidateValidatingWebhookConfiguration.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from kaa.api.fields import FieldError
from kaa.api.types.admissionregistration_v1 import ValidatingWebhookConfiguration

from ..strategy import Strategy
from ..tables import age, shape
from .common import default_webhook, webhooks_faults


def _cells(obj: ValidatingWebhookConfiguration, now: float) -> Sequence[Any]:
    return obj.metadata.name, len(obj.webhooks), age(obj.metadata, now)


class ValidatingWebhookConfigurationStrategy(Strategy[ValidatingWebhookConfiguration]):
    kind = ValidatingWebhookConfiguration
    allows_unconditional_update = False
    counts_generation = True
    table = shape("admissionregistration/validatingwebhookconfigurations", "Webhooks:integer|Age", _cells)

    def default(self, obj: ValidatingWebhookConfiguration) -> ValidatingWebhookConfiguration:
        return replace(obj, webhooks=tuple(default_webhook(hook) for hook in obj.webhooks))

    def spec_changed(self, new: ValidatingWebhookConfiguration, old: ValidatingWebhookConfiguration) -> bool:
        return new.webhooks != old.webhooks

    def validate(self, obj: ValidatingWebhookConfiguration) -> list[FieldError]:
        return list(webhooks_faults(obj.webhooks))


STRATEGY = ValidatingWebhookConfigurationStrategy()

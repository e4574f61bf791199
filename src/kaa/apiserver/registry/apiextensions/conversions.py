"""What a definition may say of its webhook that converts between versions.

Source: apiextensions-apiserver pkg/apis/apiextensions/validation, validateCustomResourceConversion; apiserver
pkg/util/webhook/validation.go.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kaa.api import fields, names
from kaa.api.fields import FieldError, Path
from kaa.api.types.apiextensions_v1 import CustomResourceConversion

from ...validation.common import faults_of
from ...validation.webhook_clients import client_faults

_STRATEGIES = ("None", "Webhook")
_REVIEWS = ("v1", "v1beta1")


def conversion_faults(given: CustomResourceConversion, path: Path, *, any_bundle: bool) -> Iterator[FieldError]:
    """``any_bundle``: certificates that cannot be read are let through, as before a definition is established."""
    if not given.strategy:
        yield fields.required(path.child("strategy"))
    elif given.strategy not in _STRATEGIES:
        yield fields.not_supported(path.child("strategy"), given.strategy, _STRATEGIES)
    config = given.webhook.client_config if given.webhook is not None else None
    versions = given.webhook.conversion_review_versions if given.webhook is not None else ()
    at, reviews = path.child("webhookClientConfig"), path.child("conversionReviewVersions")
    if given.strategy != "Webhook":
        for here, is_set in ((at, config is not None), (reviews, bool(versions))):
            if is_set:
                yield fields.forbidden(here, "should not be set when strategy is not set to Webhook")
        return
    if config is None:
        yield fields.required(at, "required when strategy is set to Webhook")
    else:
        yield from client_faults(config, at)
        if config.ca_bundle and not any_bundle and (problem := bundle_problem(config.ca_bundle)):
            yield fields.invalid(at.child("caBundle"), config.ca_bundle, problem)
    yield from _review_versions(versions, reviews)


def bundle_problem(bundle: str) -> str:
    """Why the certificates of a caBundle cannot be read; nothing when they can."""
    import ssl

    from ...aggregation.backend import BadTrust, trust

    try:
        trust(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), bundle)
    except BadTrust:
        return "unable to load root certificates: unable to parse bytes as PEM block"
    return ""


def _review_versions(versions: Sequence[str], path: Path) -> Iterator[FieldError]:
    if not versions:
        yield fields.required(path)
        return
    for n, version in enumerate(versions):
        if version in versions[:n]:
            yield fields.invalid(path.index(n), version, "duplicate version")
        else:
            yield from faults_of(path.index(n), version, names.dns_1035_label(version))
    if not set(_REVIEWS) & set(versions):
        yield fields.invalid(path, list(versions), f"must include at least one of {', '.join(_REVIEWS)}")

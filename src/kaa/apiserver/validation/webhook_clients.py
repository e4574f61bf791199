"""How a webhook says where it is: a URL, or a Service. The same for admission and for conversion.

Source: apiserver pkg/util/webhook/validation.go.
"""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from kaa.api import fields, names
from kaa.api.fields import FieldError, Path
from kaa.api.types import admissionregistration_v1, apiextensions_v1

Client = admissionregistration_v1.WebhookClientConfig | apiextensions_v1.WebhookClientConfig
Service = admissionregistration_v1.ServiceReference | apiextensions_v1.ServiceReference


def client_faults(config: Client, path: Path) -> Iterator[FieldError]:
    if (config.url is None) == (config.service is None):
        yield fields.required(path, "exactly one of url or service is required")
    elif config.url is not None:
        yield from url_faults(path.child("url"), config.url)
    elif config.service is not None:
        yield from _service(config.service, path.child("service"))


def _service(service: Service, path: Path) -> Iterator[FieldError]:
    if not service.name:
        yield fields.required(path.child("name"), "service name is required")
    if not service.namespace:
        yield fields.required(path.child("namespace"), "service namespace is required")
    if service.port is not None and not 1 <= service.port <= 65535:
        detail = "port is not valid: must be between 1 and 65535, inclusive"
        yield fields.invalid(path.child("port"), service.port, detail)
    if service.path:
        yield from _service_path(service.path, path.child("path"))


def _service_path(text: str, path: Path) -> Iterator[FieldError]:
    if not text.startswith("/"):
        yield fields.invalid(path, text, "must start with a '/'")
    steps = text.removesuffix("/").removeprefix("/").split("/")
    if text == "/":
        return
    for n, step in enumerate(steps):
        if not step:
            yield fields.invalid(path, text, f"segment[{n}] may not be empty")
            continue
        for detail in names.dns_subdomain(step):
            yield fields.invalid(path, text, f"segment[{n}]: {detail}")


def url_faults(path: Path, text: str) -> Iterator[FieldError]:
    form = "; desired format: https://host[/path]"
    try:
        found = urlsplit(text)
    except ValueError as err:
        yield fields.required(path, f"url must be a valid URL: {err}{form}")
        return
    if found.scheme != "https":
        yield fields.invalid(path, found.scheme, f"'https' is the only allowed URL scheme{form}")
    if not found.netloc:
        yield fields.invalid(path, found.netloc, f"host must be specified{form}")
    if found.username is not None:
        yield fields.invalid(path, found.username, "user information is not permitted in the URL")
    if found.fragment:
        yield fields.invalid(path, found.fragment, "fragments are not permitted in the URL")
    if found.query:
        yield fields.invalid(path, found.query, "query parameters are not permitted in the URL")

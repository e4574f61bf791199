"""``CredentialProviderConfig``: which programs know credentials for which images. A file, or all files of a folder.

Source: kubelet.config.k8s.io/v1 CredentialProviderConfig; pkg/credentialprovider/plugin/config.go.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from kaa.api import fields, names, yaml
from kaa.api.durations import parse_seconds
from kaa.api.fields import FieldError

GROUP, KIND = "kubelet.config.k8s.io", "CredentialProviderConfig"
_VERSIONS = tuple(f"{GROUP}/{version}" for version in ("v1", "v1beta1", "v1alpha1"))
V1 = "credentialprovider.kubelet.k8s.io/v1"
#: Of questions and answers.
_API_VERSIONS = (V1, f"{V1}alpha1", f"{V1}beta1")
_CACHE_TYPES = ("ServiceAccount", "Token")


class _Strict(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    pass


class Variable(_Strict, frozen=True):
    name: str = ""
    value: str = ""


class TokenAttributes(_Strict, frozen=True):
    """What a program wants to know of the pod's service account."""

    service_account_token_audience: str = ""
    cache_type: str = ""
    require_service_account: bool | None = None
    required_service_account_annotation_keys: tuple[str, ...] = ()
    optional_service_account_annotation_keys: tuple[str, ...] = ()

    @property
    def required_keys(self) -> tuple[str, ...]:
        return self.required_service_account_annotation_keys

    @property
    def optional_keys(self) -> tuple[str, ...]:
        return self.optional_service_account_annotation_keys


class Provider(_Strict, frozen=True):
    """One program. ``match_images`` are locations as a keyring's."""

    name: str = ""
    api_version: str = ""
    match_images: tuple[str, ...] = ()
    default_cache_duration: str | None = None
    args: tuple[str, ...] = ()
    env: tuple[Variable, ...] = ()
    token_attributes: TokenAttributes | None = None

    @property
    def cache_s(self) -> float:
        return parse_seconds(self.default_cache_duration or "0s")


class _Config(_Strict, frozen=True):
    kind: str = ""
    api_version: str = ""
    providers: tuple[Provider, ...] = ()


def read_providers(config: Path, programs: Path) -> list[Provider]:
    """The providers that files name, each with a program in the folder. Blocks. Raises ValueError, in upstream's words."""
    if not programs.is_dir():
        raise ValueError(f"plugin binary directory {programs} did not exist")
    found: dict[str, Provider] = {}
    for path in _files(config):
        for provider in _read(path).providers:
            if provider.name in found:
                raise ValueError(f'duplicate provider name "{provider.name}" found in configuration file(s)')
            found[provider.name] = provider
    faults = list(validate(list(found.values())))
    if faults:
        raise ValueError(f"failed to validate credential provider config: {fields.joined(faults)}")
    for provider in found.values():
        path = programs / provider.name
        if not (path.is_file() and os.access(path, os.X_OK)):
            raise ValueError(f"plugin binary executable {path} did not exist")
    return list(found.values())


def _files(config: Path) -> list[Path]:
    if not config.exists():
        raise ValueError(f'unable to access path "{config}": no such file or directory')
    if not config.is_dir():
        return [config]
    found = sorted(one for one in config.iterdir() if one.suffix in (".json", ".yaml", ".yml") and not one.is_dir())
    if not found:
        raise ValueError(f'no configuration files found in directory "{config}"')
    return found


def _read(path: Path) -> _Config:
    try:
        value = yaml.load(path.read_bytes())
        version, kind = (value.get("apiVersion"), value.get("kind")) if isinstance(value, dict) else (None, None)
        if version not in _VERSIONS or kind != KIND:
            raise ValueError(f'no kind "{kind}" is registered for version "{version}"')
        found = msgspec.convert(value, _Config)
        for provider in found.providers:
            provider.cache_s  # noqa: B018  # raises for what is no duration
        return found
    except (ValueError, OSError) as err:
        raise ValueError(f'error decoding config "{path}": {err}') from None


def validate(providers: Sequence[Provider]) -> Iterator[FieldError]:
    """What is wrong. Source: validateCredentialProviderConfig."""
    where = fields.Path("providers")
    if not providers:
        yield fields.required(where, "at least 1 item in plugins is required")
    for provider in providers:
        yield from _name(where.child("name"), provider.name)
        if not provider.api_version:
            yield fields.required(where.child("apiVersion"))
        elif provider.api_version not in _API_VERSIONS:
            yield fields.not_supported(where.child("apiVersion"), provider.api_version, _API_VERSIONS)
        yield from _match_images(where.child("matchImages"), provider.match_images)
        if provider.default_cache_duration is None:
            yield fields.required(where.child("defaultCacheDuration"))
        elif provider.cache_s < 0:
            yield fields.invalid(
                where.child("defaultCacheDuration"),
                provider.default_cache_duration,
                "defaultCacheDuration must be greater than or equal to 0",
            )
        if provider.token_attributes is not None:
            yield from _token_attributes(where.child("tokenAttributes"), provider, provider.token_attributes)


def _name(where: fields.Path, name: str) -> Iterator[FieldError]:
    if "/" in name:
        yield fields.invalid(where, name, "provider name cannot contain '/'")
    if " " in name:
        yield fields.invalid(where, name, "provider name cannot contain spaces")
    if name in (".", ".."):
        yield fields.invalid(where, name, f"provider name cannot be '{name}'")
    if not name:
        yield fields.required(where)


def _match_images(where: fields.Path, patterns: Sequence[str]) -> Iterator[FieldError]:
    if not patterns:
        yield fields.required(where, "at least 1 item in matchImages is required")
    for pattern in patterns:
        try:
            urlsplit(f"https://{pattern}").port  # noqa: B018  # raises for what is none
        except ValueError as err:
            yield fields.invalid(where, pattern, f"match image is invalid: {err}")


def _token_attributes(where: fields.Path, provider: Provider, wanted: TokenAttributes) -> Iterator[FieldError]:
    required, optional = wanted.required_keys, wanted.optional_keys
    if not wanted.service_account_token_audience:
        yield fields.required(where.child("serviceAccountTokenAudience"))
    if wanted.require_service_account is None:
        yield fields.required(where.child("requireServiceAccount"))
    if provider.api_version != V1:
        yield fields.forbidden(where, f"tokenAttributes is only supported for {V1} API version")
    if wanted.require_service_account is False and required:
        yield fields.forbidden(
            where.child("requiredServiceAccountAnnotationKeys"),
            "requireServiceAccount cannot be false when requiredServiceAccountAnnotationKeys is set",
        )
    yield from _keys(where.child("requiredServiceAccountAnnotationKeys"), required)
    yield from _keys(where.child("optionalServiceAccountAnnotationKeys"), optional)
    if both := sorted({*required} & {*optional}):
        yield fields.invalid(where, both, "annotation keys cannot be both required and optional")
    if not wanted.cache_type:
        yield fields.required(
            where.child("cacheType"),
            "cacheType is required to be set when tokenAttributes is specified. Supported values are: "
            + ", ".join(_CACHE_TYPES),
        )
    elif wanted.cache_type not in _CACHE_TYPES:
        yield fields.not_supported(where.child("cacheType"), wanted.cache_type, _CACHE_TYPES)


def _keys(where: fields.Path, keys: Sequence[str]) -> Iterator[FieldError]:
    for number, key in enumerate(keys):
        for fault in names.qualified_name(key.lower()):
            yield fields.invalid(where, key, fault)
        if key in keys[:number]:
            yield fields.duplicate(where, key)

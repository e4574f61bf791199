"""URLs: ``url(self.endpoint).getScheme() == 'https'``.

Source: apiserver pkg/cel/library/urls.go; Go net/url.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar
from urllib.parse import quote, unquote, unquote_plus

from ..declarations import Library, function, member
from ..errors import EvaluationError
from ..types import BOOL, STRING, ListType, MapType, OpaqueType, Type

URL = OpaqueType("kubernetes.URL")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2}).{0,2}", re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_BAD_HOST = re.compile(r"[^A-Za-z0-9\-_.~!$&'()*+,;=:\[\]<>\"%\x80-\U0010ffff]")


@dataclass(frozen=True)
class URLValue:
    """A parsed URL. ``host`` holds the port, ``path`` is still escaped as it came."""

    cel_type: ClassVar[Type] = URL
    scheme: str
    host: str
    path: str
    query: str
    fragment: str
    userinfo: str

    def hostname(self) -> str:
        host = self.host
        if host.startswith("["):
            return host[1:].partition("]")[0]
        return host.partition(":")[0]

    def port(self) -> str:
        after = self.host.rpartition("]")[2]
        return after.partition(":")[2]

    def escaped_path(self) -> str:
        if re.fullmatch(r"(?:[A-Za-z0-9\-_.~!$&'()*+,;=:@/\[\]]|%[0-9A-Fa-f]{2})*", self.path):
            return self.path
        return quote(unquote(self.path), safe="/$&+,:;=@-_.~")

    def values(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for pair in self.query.split("&"):
            if pair == "" or ";" in pair or _BAD_ESCAPE.search(pair):
                continue
            name, _, value = pair.partition("=")
            found.setdefault(unquote_plus(name), []).append(unquote_plus(value))
        return found


class _BadUrl(ValueError):
    pass


def _parse(text: str, *, request: bool) -> URLValue:
    """As Go's url.Parse, or with ``request`` its ParseRequestURI. Raises _BadUrl with its reason."""
    fragment = ""
    if not request:
        text, _, fragment = text.partition("#")
    if _CONTROL.search(text):
        raise _BadUrl("net/url: invalid control character in URL")
    if text == "" and request:
        raise _BadUrl("empty url")
    if text == "*":
        return URLValue("", "", "*", "", fragment, "")
    scheme, rest = _scheme(text)
    rest, _, query = rest.partition("?")
    if not rest.startswith("/"):
        if scheme:
            return URLValue(scheme, "", "", query, fragment, "")
        if request:
            raise _BadUrl("invalid URI for request")
        if ":" in rest.partition("/")[0]:
            raise _BadUrl("first path segment in URL cannot contain colon")
    host, userinfo = "", ""
    if rest.startswith("//") and (scheme or not rest.startswith("///")):
        authority, slash, path = rest[2:].partition("/")
        rest = slash + path
        userinfo, _, host = authority.rpartition("@")
        _check_host(host)
    escape = _BAD_ESCAPE.search(rest)
    if escape:
        raise _BadUrl(f'invalid URL escape "{escape.group()[:3]}"')
    return URLValue(scheme, unquote(host) if "%" in host else host, rest, query, fragment, userinfo)


def _scheme(text: str) -> tuple[str, str]:
    found = _SCHEME.match(text)
    if found:
        return found.group(1).lower(), text[found.end() :]
    if text.startswith(":"):
        raise _BadUrl("missing protocol scheme")
    return "", text


def _check_host(host: str) -> None:
    if host.startswith("["):
        if "]" not in host:
            raise _BadUrl("missing ']' in host")
        port = host.rpartition("]")[2]
    else:
        at = host.rfind(":")
        port = host[at:] if at >= 0 else ""
    if port and not re.fullmatch(r":[0-9]*", port):
        raise _BadUrl(f'invalid port "{port}" after host')
    bad = _BAD_HOST.search(host)
    if bad:
        raise _BadUrl(f'invalid character "{bad.group()}" in host name')


def request_fault(text: str) -> str | None:
    """Why the text is no absolute URI or path, in Go's words; None where it is one."""
    try:
        _parse(text, request=True)
    except _BadUrl as err:
        return f'parse "{text}": {err}'
    return None


def _to_url(text: str) -> URLValue:
    fault = request_fault(text)
    if fault is None:
        try:
            return _parse(text, request=False)
        except _BadUrl as err:
            fault = f'parse "{text}": {err}'
    raise EvaluationError(f"URL parse error during conversion from string: {fault}")


_U = (URL,)
_QUERY = MapType(STRING, ListType(STRING))

LIBRARY = Library(
    "kubernetes.urls",
    (
        function("url", "string_to_url", (STRING,), URL, _to_url),
        function("isURL", "is_url_string", (STRING,), BOOL, lambda text: request_fault(text) is None),
        member("getScheme", "url_get_scheme", _U, STRING, lambda url: url.scheme),
        member("getHost", "url_get_host", _U, STRING, lambda url: url.host),
        member("getHostname", "url_get_hostname", _U, STRING, lambda url: url.hostname()),
        member("getPort", "url_get_port", _U, STRING, lambda url: url.port()),
        member("getEscapedPath", "url_get_escaped_path", _U, STRING, lambda url: url.escaped_path()),
        member("getQuery", "url_get_query", _U, _QUERY, lambda url: url.values()),
    ),
    types={"kubernetes.URL": URL},
)

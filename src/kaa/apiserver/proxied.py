"""What a pod, a service or a node answers through ``proxy``, told as if it stood under this server.

The idea: whoever answers believes to be asked at ``/``, and its links and redirects say so. They get the path in front
under which it was asked here, where they lead to the same host. Everything else passes as it came.

Source: apimachinery pkg/util/proxy (transport.go, upgradeaware.go).
"""

from __future__ import annotations

import asyncio
import html
import re
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from posixpath import join, normpath
from urllib.parse import urlsplit, urlunsplit

from .connect_relay import Relay, contents, header, without
from .http import Connection

PAGE_LIMIT = 4 * 1024 * 1024  #: bytes of a page whose links are rewritten; a longer one passes as it came
#: what of which elements is a link
_LINKS = {
    "a": ("href",),
    "applet": ("codebase",),
    "area": ("href",),
    "audio": ("src",),
    "base": ("href",),
    "blockquote": ("cite",),
    "body": ("background",),
    "button": ("formaction",),
    "command": ("icon",),
    "del": ("cite",),
    "embed": ("src",),
    "form": ("action",),
    "frame": ("longdesc", "src"),
    "head": ("profile",),
    "html": ("manifest",),
    "iframe": ("longdesc", "src"),
    "img": ("longdesc", "src", "usemap"),
    "input": ("src", "usemap", "formaction"),
    "ins": ("cite",),
    "link": ("href",),
    "object": ("classid", "codebase", "data", "usemap"),
    "q": ("cite",),
    "script": ("src",),
    "source": ("src",),
    "video": ("poster", "src"),
}
#: hold no elements
_TEXTS = frozenset({"script", "style", "textarea", "title", "xmp", "iframe", "noembed", "noframes"})
#: a comment, or a start tag: its name and its attributes. Every ``<`` is looked at once, whatever is left open.
_TAG = re.compile(
    r"<!--.*?(?:-->|\Z)|<([a-zA-Z][^\s/>]*+)((?:[^>\"']|\"[^\"]*+(?:\"|\Z)|'[^']*+(?:'|\Z))*+)(?:>|\Z)", re.DOTALL
)
_ATTRIBUTE = re.compile(r"([^\s=/\"'>]++)(\s*+=\s*+)(\"[^\"]*\"|'[^']*'|[^\s\"'>]++)")


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the one who answers stands: asked here as ``prefix`` of ``asked_host``, and itself at ``host``."""

    prefix: str
    host: str
    asked_host: str

    def link(self, link: str) -> str:
        """A link of its answer, as it leads there from here."""
        try:
            _, host, path, query, fragment = urlsplit(link)
        except ValueError:
            return link
        if (host and host not in (self.host, self.asked_host)) or not path.startswith("/"):
            return link
        if path.startswith(self.prefix):
            return urlunsplit(("", "", path, query, fragment))
        joined = join(self.prefix, normpath(path).lstrip("/")) if path.strip("/") else self.prefix
        if path.endswith("/"):
            joined = joined.rstrip("/") + "/"
        return urlunsplit(("", "", joined, query, fragment))

    def page(self, text: str) -> str:
        """A page of HTML, its links led over here."""
        parts, at = [], 0
        while tag := _TAG.search(text, at):
            parts.append(text[at : tag.start()])
            name = (tag[1] or "").lower()
            parts.append(self._tag(tag, _LINKS[name]) if name in _LINKS else tag[0])
            at = tag.end()
            if name in _TEXTS:
                end = re.compile(rf"</{name}", re.IGNORECASE).search(text, at)
                until = end.start() if end else len(text)
                parts.append(text[at:until])
                at = until
        return "".join((*parts, text[at:]))

    def _tag(self, tag: re.Match[str], links: tuple[str, ...]) -> str:
        def attribute(found: re.Match[str]) -> str:
            if found[1].lower() not in links:
                return found[0]
            given = html.unescape(found[3].strip("\"'"))
            led = self.link(given)
            return found[0] if led == given else f'{found[1]}{found[2]}"{html.escape(led)}"'

        start = tag.start(2) - tag.start()
        end = start + len(tag[2])
        return tag[0][:start] + _ATTRIBUTE.sub(attribute, tag[2]) + tag[0][end:]


class ProxyRelay(Relay):
    """A relay that leads links and redirects over here."""

    def __init__(
        self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, standing: Standing, method: str
    ) -> None:
        location = header(head, b"location")
        if location:
            led = standing.link(location.decode("latin-1")).encode("latin-1", "replace")
            head = without(head, b"location")[:-2] + b"Location: " + led + b"\r\n\r\n"
        super().__init__(without(head, *_CORS), reader, writer)
        self._standing, self._method = standing, method
        kind = header(head, b"content-type").split(b";")[0].strip().lower()
        self._is_page = kind == b"text/html" and not location and method != "HEAD" and b" 101 " not in head[:14]

    async def _down(self, connection: Connection) -> None:
        if self._is_page:
            await self._page(connection)
        else:
            await super()._down(connection)

    async def _page(self, connection: Connection) -> None:
        body = contents(self._head, self._reader)
        held = [chunk async for chunk in _up_to(body, PAGE_LIMIT)]
        page, packing = b"".join(held), header(self._head, b"content-encoding")
        head = without(self._head, b"content-length", b"transfer-encoding")
        plain = unpacked(page, packing)
        if len(page) <= PAGE_LIMIT and plain is not None:
            # bytes that are no UTF-8 are handed through
            page = self._standing.page(plain.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
            head = without(head, b"content-encoding")[:-2] + b"Content-Length: %d\r\n\r\n" % len(page)
        await connection.write(self._last(head) + page)
        async for chunk in body:  # only of a page beyond the limit: the connection's end is its end
            await connection.write(chunk)


_CORS = (
    b"access-control-allow-credentials",
    b"access-control-allow-headers",
    b"access-control-allow-methods",
    b"access-control-allow-origin",
)


async def _up_to(body: AsyncIterator[bytes], limit: int) -> AsyncIterator[bytes]:
    size = 0
    async for chunk in body:
        size += len(chunk)
        yield chunk
        if size > limit:
            return


def unpacked(page: bytes, packing: bytes) -> bytes | None:
    """The page as it is to be read; None when that cannot be said, or is too much."""
    if not packing or packing == b"identity":
        return page
    if packing not in (b"gzip", b"deflate"):
        return None
    reader = zlib.decompressobj(wbits=47 if packing == b"gzip" else -15)
    try:
        plain = reader.decompress(page, PAGE_LIMIT)
    except zlib.error:
        return None
    return None if reader.unconsumed_tail else plain

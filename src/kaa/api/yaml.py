"""YAML as Kubernetes reads it: go-yaml's types, not Python's.

PyYAML's C parser does the work; what differs is which plain words are not text. ``y``, ``on`` and ``yes`` are true,
``012`` is ten, but ``2001-01-01`` stays text and ``1:30`` is no number. Keys become text, as JSON wants them.

Source: sigs.k8s.io/yaml on go-yaml v2, resolve.go. PyYAML is imported when first needed.
"""

from __future__ import annotations

import base64
import json
import re
from functools import cache
from typing import Any

from .values import whole

_TRUE = ("y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON")
_FALSE = ("n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF")
_INT = re.compile(r"[-+]?(0b[01_]+|0x[0-9a-fA-F_]+|0o?[0-7_]+|[1-9][0-9_]*|0)$")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$")
#: How deep a document may nest: bounded, so that no input exhausts the stack.
DEPTH_LIMIT = 1000
#: How many pairs one mapping may take over by ``<<``.
MERGE_LIMIT = 100_000
SWELLS = "document contains excessive aliasing"
_LONGEST_INT = 70  # characters of 64 bits in base two, with sign and prefix
#: Levels that PyYAML's C parser, which recurses without a check, certainly has stack for.
_SAFE_LEVELS = 10_000


class YAMLError(ValueError):
    """The text is no YAML document; the message says where."""


def load(data: bytes | str, twice: list[str] | None = None) -> Any:
    """The plain JSON value of one document. Raises YAMLError.

    Args:   twice: takes a line for each key that stands again in its mapping: ``line 3: key "a" already set in map``.
    """
    import yaml

    try:
        _check_depth(data)
        loader = _loader()(data)
        try:
            value = _Plain().value(loader.get_single_data(), 0)
        finally:
            loader.dispose()
        if twice is not None:
            twice += [f"line {line}: key {key} already set in map" for line, key in sorted(loader.twice)]
        return value
    except (yaml.YAMLError, RecursionError, ValueError, UnicodeDecodeError) as err:
        raise YAMLError(" ".join(str(err).split())) from None


def load_all(data: bytes | str) -> list[Any]:
    """The plain JSON values of all documents; empty ones are left out. Raises YAMLError."""
    import yaml

    try:
        _check_depth(data)
        return [_Plain().value(value, 0) for value in yaml.load_all(data, Loader=_loader()) if value is not None]
    except (yaml.YAMLError, RecursionError, ValueError, UnicodeDecodeError) as err:
        raise YAMLError(" ".join(str(err).split())) from None


class _Plain:
    """One document's JSON value. What aliases repeat is counted, so that a few lines cannot swell to a machine's memory.

    Source: go-yaml v2, decode.go, ``allowedAliasRatio``.
    """

    def __init__(self) -> None:
        self._seen: set[int] = set()  # ids of containers met; the document keeps them alive
        self._values = self._repeated = self._inside = 0

    def value(self, value: Any, depth: int) -> Any:
        self._values += 1
        if self._inside:
            self._repeated += 1
            if self._repeated > 100 and self._values > 1000 and self._repeated > self._values * self._ratio():
                raise YAMLError(SWELLS)
        if not isinstance(value, (dict, list)):
            return value
        if depth > DEPTH_LIMIT:
            raise YAMLError("nested too deeply")
        again = id(value) in self._seen
        self._seen.add(id(value))
        self._inside += again
        try:
            if isinstance(value, dict):
                return {_key(key): self.value(inner, depth + 1) for key, inner in value.items()}
            return [self.value(inner, depth + 1) for inner in value]
        finally:
            self._inside -= again

    def _ratio(self) -> float:
        """How much of the values so far may be repetition: nearly all of a small document, a tenth of a vast one."""
        return min(0.99, max(0.10, 0.99 - 0.89 * (self._values - 400_000) / 3_600_000))


def _check_depth(data: bytes | str) -> None:
    """Refuse what nests so deeply that the C parser would overflow the process's stack and kill it.

    A level takes a bracket of its own or a column of a line. Only texts that have more of those are looked at closely.
    """
    text = data.encode() if isinstance(data, str) else data
    if len(text) <= _SAFE_LEVELS:
        return
    longest = max(map(len, text.splitlines()), default=0)
    if text.count(b"[") + text.count(b"{") + longest <= _SAFE_LEVELS:
        return
    import yaml

    depth = 0
    for event in yaml.parse(data, Loader=_loader()):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > DEPTH_LIMIT:
                raise YAMLError("nested too deeply")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _key(key: Any) -> str:
    if isinstance(key, str):
        return key
    if isinstance(key, bool):
        return "true" if key else "false"
    if key is None:
        return "null"
    if isinstance(key, (int, float)):
        return str(key)
    raise YAMLError(f"a key of type {type(key).__name__} has no place in JSON")


@cache
def _loader() -> Any:
    import yaml

    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class Loader(base):  # type: ignore[misc]  # the C loader has no stubs
        yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

        def __init__(self, stream: Any) -> None:
            super().__init__(stream)
            self.twice: set[tuple[int, str]] = set()  # (line of the value, key as Go writes it)

        def flatten_mapping(self, node: Any) -> None:
            """Note keys that stand twice, and take over what ``<<`` names, within a limit: merges of merges grow as fast
            as aliases do."""
            self._note_twins(node)
            pairs = 0
            for key, value in node.value:
                if key.tag != "tag:yaml.org,2002:merge":
                    continue
                for source in value.value if isinstance(value, yaml.SequenceNode) else (value,):
                    if isinstance(source, yaml.MappingNode):
                        self.flatten_mapping(source)
                        pairs += len(source.value)
                    if pairs > MERGE_LIMIT:
                        raise YAMLError(SWELLS)
            super().flatten_mapping(node)

        def _note_twins(self, node: Any) -> None:
            keys = [(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            if len(set(keys)) == len(keys):
                return
            seen = set()
            for key, value in node.value:
                name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else None
                if name in seen and key.tag != "tag:yaml.org,2002:merge":
                    text = json.dumps(key.value, ensure_ascii=False) if key.tag.endswith(":str") else key.value
                    self.twice.add((value.start_mark.line + 1, text))
                seen.add(name)

    words = "|".join((*_TRUE, *_FALSE))
    Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(f"(?:{words})$"), list("yYnNtTfFoO"))
    Loader.add_implicit_resolver("tag:yaml.org,2002:int", _INT, list("-+0123456789"))
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
    Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
    Loader.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile(r"(?:<<)$"), ["<"])
    Loader.add_constructor("tag:yaml.org,2002:bool", lambda loader, node: loader.construct_scalar(node) in _TRUE)
    Loader.add_constructor("tag:yaml.org,2002:int", _int)
    Loader.add_constructor("tag:yaml.org,2002:float", lambda loader, node: whole(loader.construct_yaml_float(node)))
    Loader.add_constructor("tag:yaml.org,2002:timestamp", lambda loader, node: loader.construct_scalar(node))
    Loader.add_constructor("tag:yaml.org,2002:binary", _binary)
    Loader.add_constructor("tag:yaml.org,2002:set", base.construct_yaml_map)
    for name in ("omap", "pairs"):
        Loader.add_constructor(f"tag:yaml.org,2002:{name}", base.construct_yaml_seq)
    return Loader


def _binary(loader: Any, node: Any) -> str:
    """Base 64 that was tagged as such: a text, for JSON has no bytes. Raises ValueError."""
    word: str = loader.construct_scalar(node)
    return base64.b64decode(word).decode("utf-8", "replace")


def _int(loader: Any, node: Any) -> int | float | str:
    """A number of 64 bits; what is longer is a float when it is decimal, else text, as go-yaml has it."""
    word: str = loader.construct_scalar(node)
    text = word.replace("_", "")
    if len(text) <= _LONGEST_INT and -(1 << 63) <= (number := _parsed(text)) < 1 << 64:
        return number
    return whole(float(text)) if text.lstrip("+-").isdigit() else word


def _parsed(text: str) -> int:
    sign = -1 if text.startswith("-") else 1
    digits = text.lstrip("+-")
    for prefix, base in (("0b", 2), ("0x", 16), ("0o", 8)):
        if digits.startswith(prefix):
            return sign * int(digits[2:], base)
    return sign * int(digits, 8 if len(digits) > 1 and digits[0] == "0" else 10)

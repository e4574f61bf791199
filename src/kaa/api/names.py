"""What names, labels and ports may look like, and the words that say why one may not.

Each check returns the faults it found (empty: fine). Texts are upstream's (apimachinery pkg/util/validation).
"""

from __future__ import annotations

import ipaddress
import random
import re
from functools import lru_cache

_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_LABEL_1035 = "[a-z]([-a-z0-9]*[a-z0-9])?"
_QUALIFIED = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_VALUE = f"({_QUALIFIED})?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_ENV = r"[^=\x00-\x1f\x7f-\U0010ffff]+"
_KEY = "[-._a-zA-Z0-9]+"
_SHAPES = {text: re.compile(text) for text in (_LABEL, _LABEL_1035, _QUALIFIED, _VALUE, _SUBDOMAIN, _ENV, _KEY)}

EMPTY = "name part must be non-empty"


def _fits(pattern: str, text: str) -> bool:
    return _SHAPES[pattern].fullmatch(text) is not None


def regex_error(message: str, pattern: str, *examples: str) -> str:
    """``… (e.g. 'my-name',  or '123-abc', regex used for validation is '…')``, spaces as upstream prints them."""
    if not examples:
        return f"{message} (regex used for validation is '{pattern}')"
    listed = ",  or ".join(f"'{example}'" for example in examples)
    return f"{message} (e.g. {listed}, regex used for validation is '{pattern}')"


def max_length(limit: int, unit: str = "characters") -> str:
    """Names count characters, the values and keys of labels bytes: so upstream words it."""
    return f"must be no more than {limit} {unit}"


def dns_label(text: str) -> list[str]:
    """A lowercase RFC 1123 label: names of namespaces, containers, volumes."""
    faults = [max_length(63)] if len(text) > 63 else []
    if not _fits(_LABEL, text):
        message = (
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-',"
            " and must start and end with an alphanumeric character"
        )
        faults.append(regex_error(message, _LABEL, "my-name", "123-abc"))
    return faults


def dns_1035_label(text: str) -> list[str]:
    """A DNS-1035 label: names of services."""
    faults = [max_length(63)] if len(text) > 63 else []
    if not _fits(_LABEL_1035, text):
        message = (
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-',"
            " start with an alphabetic character, and end with an alphanumeric character"
        )
        faults.append(regex_error(message, _LABEL_1035, "my-name", "abc-123"))
    return faults


def dns_subdomain(text: str) -> list[str]:
    """A lowercase RFC 1123 subdomain: names of most objects."""
    faults = [max_length(253)] if len(text) > 253 else []
    if not _fits(_SUBDOMAIN, text):
        message = (
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.',"
            " and must start and end with an alphanumeric character"
        )
        faults.append(regex_error(message, _SUBDOMAIN, "example.com"))
    return faults


def path_segment(text: str) -> list[str]:
    """Names that only have to fit in a URL: roles, CRD fields."""
    if text in (".", ".."):
        return [f"may not be '{text}'"]
    return [f"may not contain '{mark}'" for mark in ("/", "%") if mark in text]


def qualified_name(text: str) -> list[str]:
    """``prefix/name``: keys of labels and annotations, resource names, finalizers."""
    faults: list[str] = []
    prefix, slash, name = text.rpartition("/")
    if text.count("/") > 1:
        message = (
            "a valid label key must consist of alphanumeric characters, '-', '_' or '.',"
            " and must start and end with an alphanumeric character"
        )
        return [regex_error(message, _QUALIFIED, "MyName", "my.name", "123-abc") + _OR_PREFIX]
    if slash and not prefix:
        faults.append("prefix part must be non-empty")
    elif slash:
        faults += [f"prefix part {fault}" for fault in dns_subdomain(prefix)]
    if not name:
        faults.append(EMPTY)
    elif len(name) > 63:
        faults.append(f"name part {max_length(63, 'bytes')}")
    if not _fits(_QUALIFIED, name):
        message = (
            "name part must consist of alphanumeric characters, '-', '_' or '.',"
            " and must start and end with an alphanumeric character"
        )
        faults.append(regex_error(message, _QUALIFIED, "MyName", "my.name", "123-abc"))
    return faults


_OR_PREFIX = " with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"


def label_value(text: str) -> list[str]:
    faults = [max_length(63, "bytes")] if len(text) > 63 else []
    if not _fits(_VALUE, text):
        message = (
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.',"
            " and must start and end with an alphanumeric character"
        )
        faults.append(regex_error(message, _VALUE, "MyValue", "my_value", "12345"))
    return faults


def env_var_name(text: str) -> list[str]:
    if _fits(_ENV, text):
        return []
    return ["a valid environment variable name must consist only of printable ASCII characters other than '='"]


def config_key(text: str) -> list[str]:
    """A key of a ConfigMap or Secret."""
    faults = [max_length(253)] if len(text) > 253 else []
    if not _fits(_KEY, text):
        message = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'"
        return [*faults, regex_error(message, _KEY, "key.name", "KEY_NAME", "key-name")]
    if text in (".", ".."):
        faults.append(f"must not be '{text}'")
    elif text.startswith(".."):
        faults.append("must not start with '..'")
    return faults


def port_number(port: int) -> list[str]:
    return [] if 1 <= port <= 65535 else ["must be between 1 and 65535, inclusive"]


def port_name(text: str) -> list[str]:
    """An IANA service name: ``http``, ``my-port-1``."""
    faults = []
    if len(text) > 15:
        faults.append("must be no more than 15 characters")
    if not re.fullmatch("[-a-z0-9]+", text):
        faults.append("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)")
    if not re.search("[a-z]", text):
        faults.append("must contain at least one letter (a-z)")
    if "--" in text:
        faults.append("must not contain consecutive hyphens")
    if text and (text[0] == "-" or text[-1] == "-"):
        faults.append("must not begin or end with a hyphen")
    return faults


def ip_address(text: str) -> list[str]:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return ["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"]
    return []


@lru_cache(maxsize=1 << 14)
def ip_version(text: str) -> int:
    """4 or 6; 0 for what is no address. Of addresses of endpoints it is asked over and over."""
    try:
        return ipaddress.ip_address(text).version
    except ValueError:
        return 0


_SUFFIX_LETTERS = "bcdfghjklmnpqrstvwxz2456789"  # no vowels and no look-alikes: no words by accident


def random_suffix(source: random.Random, length: int = 5) -> str:
    """Letters from one draw: the source may be the kernel's, where each draw is a system call."""
    drawn, letters = source.getrandbits(8 * length), ""
    for _ in range(length):
        drawn, n = divmod(drawn, len(_SUFFIX_LETTERS))
        letters += _SUFFIX_LETTERS[n]
    return letters


def safe_encode(text: str) -> str:
    """Digits and letters as names may hold them without making words: used for ``pod-template-hash``."""
    return "".join(_SUFFIX_LETTERS[ord(letter) % len(_SUFFIX_LETTERS)] for letter in text)


def generate_name(base: str, source: random.Random) -> str:
    """A name for ``metadata.generateName``: the base, cut to fit 63, and five random letters."""
    return base[:58] + random_suffix(source)

"""The libraries that Kubernetes gives to expressions, and which it gives where.

Source: apiserver pkg/cel/environment/base.go as of 1.36, whose compatibility version is 1.35; dynamic-resource-allocation
cel/compile.go; apiserver pkg/admission/plugin/policy/mutating/compilation.go.
"""

from __future__ import annotations

from .. import macros, standard
from ..declarations import Library, function, member
from ..regex import find, find_all
from ..types import INT, STRING, ListType
from . import authorization, formats, lists, network, quantities, semvers, strings, urls

_TWO = (STRING, STRING)

REGEX = Library(
    "kubernetes.regex",
    (
        member("find", "string_find_string", _TWO, STRING, find),
        member("findAll", "string_find_all_string", _TWO, ListType(STRING), find_all),
        member("findAll", "string_find_all_string_int", (*_TWO, INT), ListType(STRING), find_all),
    ),
)
TWO_VARIABLES = Library("two-variable comprehensions", macros=macros.TWO_VARIABLES)
#: ``cel.bind(name, value, result)``: for device selectors alone
BINDINGS = Library("bindings", macros=macros.BINDINGS)
#: ``jsonpatch.escapeKey(key)``: for mutating admission policies alone
JSON_PATCH = Library(
    "kubernetes.jsonpatch",
    (
        function(
            "jsonpatch.escapeKey",
            "string_jsonpatch_escapeKey_string",
            (STRING,),
            STRING,
            lambda key: key.replace("~", "~0").replace("/", "~1"),
        ),
    ),
)

#: what every expression may call
KUBERNETES: tuple[Library, ...] = (
    standard.LIBRARY,
    standard.OPTIONAL_TYPES,
    strings.LIBRARY,
    lists.SETS,
    lists.KUBERNETES_LISTS,
    lists.LISTS,
    REGEX,
    urls.LIBRARY,
    network.LIBRARY,
    quantities.LIBRARY,
    formats.LIBRARY,
    semvers.LIBRARY,
    authorization.LIBRARY,
    TWO_VARIABLES,
)
MUTATING: tuple[Library, ...] = (*KUBERNETES, JSON_PATCH)
DEVICES: tuple[Library, ...] = (*KUBERNETES, BINDINGS)

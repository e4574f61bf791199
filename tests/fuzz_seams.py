"""Where bytes from outside come in: a function each, that takes anything and raises only what its callers answer for.

``tests/property/test_fuzz_seams.py`` throws hypothesis' inputs at them, ``tools/fuzz.py`` atheris' coverage-guided ones.
A seam returns for what is refused in words that a client sees; whatever else it raises is a finding.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec

from kaa.api import durations, protobuf, quantity, scheme, selectors, yaml
from kaa.api.cel import DYN, CelError, CompileError, Environment
from kaa.api.clock import parse_time
from kaa.api.errors import ApiError, Unclassified
from kaa.api.jsonpath import JSONPathError, compile_path
from kaa.api.types.apps_v1 import Deployment
from kaa.api.types.core_v1 import ConfigMap, Pod
from kaa.apiserver import bodies, connect_options, patches, queries, reads, routes, timeouts, wire
from kaa.apiserver.validation import cron as cron_rules
from kaa.client.client import PatchType
from kaa.client.pipeline import Request, User
from kaa.controllers import cron

Seam = Callable[[bytes], object]

LIVE: dict[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "x", "namespace": "default", "labels": {"a": "b"}, "finalizers": ["a/b"]},
    "spec": {
        "replicas": 1,
        "selector": {"matchLabels": {"a": "b"}},
        "template": {"spec": {"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}]}]}},
    },
}
CEL = Environment({"object": DYN, "oldObject": DYN, "request": DYN})
COST_LIMIT = 10_000
LONGEST_WORDS = 4096  # of what is read a token at a time


def text_of(data: bytes) -> str:
    return data.decode("utf-8", "replace")[:LONGEST_WORDS]


def _in_words(err: ApiError, *codes: int) -> None:
    """A refusal must be one of these, or what upstream itself answers with a bare 500."""
    assert err.status.code in codes or isinstance(err, Unclassified), err


def labels(data: bytes) -> None:
    try:
        selector = selectors.parse_labels(text_of(data))
    except selectors.SelectorError:
        return
    selector.matches({"a": "b"})
    assert selectors.parse_labels(str(selector)) == selector


def fields(data: bytes) -> None:
    try:
        found = selectors.parse_fields(text_of(data))
    except selectors.SelectorError:
        return
    selectors.matches_fields(found, {"metadata.name": "x"})


def quantities(data: bytes) -> None:
    try:
        quantity.parse(text_of(data))
    except quantity.InvalidQuantity:
        return
    shown = quantity.canonical(text_of(data))
    assert quantity.canonical(shown) == shown


def schedules(data: bytes) -> None:
    text = text_of(data)
    if cron_rules.fault(text):
        return
    if text.startswith(("TZ=", "CRON_TZ=")):
        return  # its zone is for the controller to find
    cron.parse(text).after(1_700_000_000.0)  # what validation lets pass, the controller can read


def times(data: bytes) -> None:
    for read in (parse_time, durations.parse_seconds, durations.parse_nanos):
        try:
            read(text_of(data))  # type: ignore[operator]  # each takes a text
        except ValueError:
            continue


def tokens(data: bytes) -> None:
    for read in (reads.read_token, reads.parse_version, reads.parse_limit, queries.parse_int64):
        try:
            read(text_of(data))
        except ApiError as err:
            _in_words(err, 400)


def targets(data: bytes) -> None:
    raw, _, query = data.decode("latin-1").partition("?")
    options = routes.parse_query(query)
    routes.resolve("GET", raw, options, scheme.resource_by_path)
    for check in (queries.check, connect_options_of):
        try:
            check(Request(User("u"), "list", scheme.resource_of(Pod), options=options))
        except ApiError as err:
            _in_words(err, 400, 422)
    for watch in (False, True):
        try:
            reads.check_list_options(options, watch=watch)
        except ApiError as err:
            _in_words(err, 400, 422)


def connect_options_of(request: Request) -> None:
    read: Any = getattr(connect_options, "read", None)
    if read is not None:
        read(request)


def accepts(data: bytes) -> None:
    text = data.decode("latin-1")
    wire.wants_gzip(text)
    try:
        wire.negotiate(text, protobuf=True)
    except ApiError as err:
        _in_words(err, 406)
    try:
        timeouts.time_limit(text, 60)
    except ApiError as err:
        _in_words(err, 400)


def protobufs(data: bytes) -> None:
    with suppress(protobuf.Malformed):
        protobuf.document_from_protobuf(b"k8s\x00" + data)
    for struct in (Pod, ConfigMap, Deployment):
        try:
            protobuf.to_document(struct, data)
        except protobuf.Malformed:
            continue


def yamls(data: bytes) -> None:
    try:
        made = yaml.load(data)
    except yaml.YAMLError:
        return
    msgspec.json.encode(made)


def expressions(data: bytes) -> None:
    try:
        program = CEL.compile(text_of(data))
    except CompileError:
        return
    try:
        program.evaluate({"object": LIVE, "oldObject": LIVE, "request": {}}, budget=COST_LIMIT)
    except CelError:
        return


def json_paths(data: bytes) -> None:
    try:
        find = compile_path(text_of(data))
    except JSONPathError:
        return
    list(find(LIVE))


def written(data: bytes) -> None:
    """A body of a create, in each of the forms, at each level of strictness."""
    for kind in (bodies.JSON, bodies.YAML, bodies.PROTOBUF):
        for level in ("Strict", "Ignore"):
            request = Request(
                User("u"), "create", scheme.resource_of(Deployment), "default", "x", "", data, kind, {"fieldValidation": level}
            )  # fmt: skip
            try:
                bodies.read(request, request.resource)
            except ApiError as err:
                _in_words(err, 400, 422)
            except RecursionError:
                continue  # the front answers it


def patched(data: bytes) -> None:
    """A body of a patch, in each of the formats but apply."""
    struct = Deployment
    view = scheme.convert(struct, LIVE)
    for kind in (PatchType.JSON, PatchType.MERGE, PatchType.STRATEGIC):
        request = Request(User("u"), "patch", scheme.resource_of(struct), "default", "x", "", data, kind.value)
        try:
            patch = patches.read_patch(request, kind)
            own = patches.own_faults(request, kind, patch)
            touched = patches.touched_fields(kind, patch, struct)
            document = patches.apply_patch(kind, scheme.document(patches.only(view, touched)), patch, struct)
            patches.strictness(request, kind, patch, document, own, scheme.unknown_fields(struct, document))
            try:
                made = scheme.convert(struct, document)
            except scheme.DecodeError:
                continue  # 422
            msgspec.structs.replace(view, **{name: getattr(made, name) for name in touched})
        except ApiError as err:
            _in_words(err, 400, 413, 422)
        except RecursionError:
            continue


def applied(data: bytes) -> None:
    from kaa.apiserver.patch.documents import WrongDocument, fields_of, merged, without
    from kaa.apiserver.patch.managed_fields import document_view

    view = document_view(scheme.resource_of(Deployment))
    try:
        sent = bodies.plain_document(data, bodies.YAML, "")
        if not isinstance(sent, dict):
            return
        owned = fields_of(view, sent)
    except (ApiError, WrongDocument, RecursionError):
        return
    both = merged(view, LIVE, sent)
    without(view, both, owned)


#: {name: seam}
SEAMS: dict[str, Seam] = {
    seam.__name__: seam
    for seam in (
        labels, fields, quantities, schedules, times, tokens, targets, accepts, protobufs, yamls, expressions, json_paths,
        written, patched, applied,
    )
}  # fmt: skip

#: {name: inputs from which others are made}
SEEDS: dict[str, tuple[bytes, ...]] = {
    "labels": (b"a=b,c!=d,e in (f,g),!h,i notin (),j", b"x>1,y<2", b"a==b"),
    "fields": (b"metadata.name=x,spec.nodeName!=a\\,b", b"status.phase==Running"),
    "quantities": (b"1.5Gi", b"250m", b"3e2", b"-0.0000001", b"1E", b"1e-30", b"+.5n"),
    "schedules": (b"*/5 1-3,7 * JAN-MAR mon", b"@every 1h30m", b"@daily", b"0 0 29 2 *", b"TZ=UTC * * * * *"),
    "times": (b"2026-01-02T03:04:05Z", b"2026-01-02T03:04:05.123456+01:00", b"1h2m3.5s", b"-1us"),
    "tokens": (b"eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MSwic3RhcnQiOiJhXHUwMDAwIn0", b"eyJ2IjoxfQ", b"18446744073709551615"),
    "targets": (b"/api/v1/namespaces/a/pods/b/log?watch=1&limit=5&resourceVersionMatch=Exact", b"/apis/apps/v1/watch/%zz//?a=%"),
    "accepts": (b"application/json;as=Table;v=v1;g=meta.k8s.io,application/json", b"*/*;q=0.1, gzip", b"application/yaml;as=x"),
    "protobufs": (protobuf.encode_object(scheme.convert(Deployment, LIVE))[4:], b"\n\x00\x12\x00"),
    "yamls": (b"a: &x [1, *x, {<<: *x}]", b"- 0x1f\n- 1:30\n- !!binary aGk=\n- !!timestamp 2001-01-01", b"? [a]\n: b", b"{a: b}\n---\n"),
    "expressions": (b"object.spec.replicas > 1 && object.metadata.labels.all(k, k.matches('a+'))", b"'a'.format([1])", b"[1,2].map(x, x * 2)", b"quantity('1Gi').add(1)"),
    "json_paths": (b"{.spec.template.spec.containers[*].name}", b".metadata.labels['a']", b"{..name}", b"{.a[?(@.b==1)]}"),
    "written": (msgspec.json.encode(LIVE), protobuf.encode_object(scheme.convert(Deployment, LIVE)), b"kind: Deployment\nspec: {a: &a [*a]}"),
    "patched": (
        b'[{"op":"copy","from":"/spec/template","path":"/spec/x"},{"op":"test","path":"/metadata/name","value":"x"}]',
        b'{"spec":{"template":{"spec":{"containers":[{"name":"c","$patch":"delete"},{"$patch":"replace"}]}}}}',
        b'{"metadata":{"$deleteFromPrimitiveList/finalizers":["a/b"],"$setElementOrder/finalizers":["z"]},"$retainKeys":["spec"]}',
    ),
    "applied": (msgspec.json.encode(LIVE), b"spec: {template: {spec: {containers: [{name: c}, {name: c}, {}, 1]}}}", b"metadata: {finalizers: [a/b, a/b]}"),
}  # fmt: skip

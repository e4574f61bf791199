"""What can be asked of each path, in a form that ``render`` writes as OpenAPI v3 and v2.

One row of ``api.resources`` becomes its collection, its objects, their subresources and the deprecated ``/watch/`` paths.
Names follow upstream's rules, for generated clients are made of them: ``listCoreV1NamespacedPod``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from kaa.api.resources import Resource, Subresource, struct_of

from .schemas import META, Json, definition_of_resource, definition_of_type, gvk

_JSON, _YAML, _PROTOBUF = "application/json", "application/yaml", "application/vnd.kubernetes.protobuf"
ENCODINGS = (_JSON, _PROTOBUF, _YAML)
STREAMED = (_JSON, f"{_JSON};stream=watch", _PROTOBUF, f"{_PROTOBUF};stream=watch", _YAML)
CUSTOM_ENCODINGS = (_JSON, _YAML)
ANY = ("*/*",)
_APPLY = "application/apply-patch+yaml"
PATCHES = (_APPLY, *(f"application/{kind}-patch+json" for kind in ("json", "merge", "strategic-merge")))
CUSTOM_PATCHES = (_APPLY, "application/json-patch+json", "application/merge-patch+json")


class Parameter(NamedTuple):
    name: str
    type: str
    description: str
    place: str = "query"


class Operation(NamedTuple):
    """One method of one path. ``answers`` is {status: definition, or "string"}; ``body`` is a definition."""

    method: str
    id: str
    description: str
    tag: str
    answers: dict[str, str]
    produces: tuple[str, ...] = ENCODINGS
    action: str = ""
    kind: Json | None = None
    parameters: tuple[Parameter, ...] = ()
    body: str = ""
    body_required: bool = True
    consumes: tuple[str, ...] = ANY


def _params(*rows: tuple[str, str, str]) -> dict[str, Parameter]:
    return {name: Parameter(name, kind, text) for name, kind, text in rows}


_ALL = _params(
    ("allowWatchBookmarks", "boolean", "Send BOOKMARK events in a watch."),
    ("command", "string", "Program and arguments, once each; no shell is involved."),
    ("container", "string", "The container; the only one when the pod has one."),
    ("continue", "string", "Token of the previous page of the same list."),
    ("dryRun", "string", "All: go through every stage, store nothing."),
    ("fieldManager", "string", "Name of who makes the change, at most 128 printable characters."),
    ("fieldSelector", "string", "Selects objects by their fields."),
    ("fieldValidation", "string", "What to do about unknown and duplicate fields: Ignore, Warn or Strict."),
    ("follow", "boolean", "Go on with lines as they are written."),
    ("force", "boolean", "Take over fields that other managers own; for apply only."),
    ("gracePeriodSeconds", "integer", "Seconds before the object is deleted; zero deletes at once."),
    (
        "ignoreStoreReadErrorWithClusterBreakingPotential",
        "boolean",
        "Delete an object that cannot be read from the store, past finalizers and preconditions.",
    ),
    ("insecureSkipTLSVerifyBackend", "boolean", "Do not verify the certificate of the kubelet."),
    ("labelSelector", "string", "Narrows the list of returned objects to those whose labels it selects."),
    ("limit", "integer", "Most objects to return in one page."),
    ("limitBytes", "integer", "Bytes after which to end the log."),
    ("orphanDependents", "boolean", "Deprecated: use propagationPolicy."),
    ("path", "string", "The URL path to use in the proxied request."),
    ("ports", "integer", "Ports to forward; needed for WebSockets."),
    ("pretty", "string", "If 'true', indent the answer."),
    ("previous", "boolean", "The log of the container's previous run."),
    ("propagationPolicy", "string", "What becomes of dependents: Orphan, Background or Foreground."),
    ("resourceVersion", "string", "Which versions may answer."),
    ("resourceVersionMatch", "string", "How resourceVersion is applied to a list."),
    ("sendInitialEvents", "boolean", "Begin a watch with events that make up the current state."),
    ("shardSelector", "string", "Selects objects by a range of a field's hash."),
    ("sinceSeconds", "integer", "Seconds before now from which to show the log."),
    ("stderr", "boolean", "Carry standard error."),
    ("stdin", "boolean", "Carry standard input."),
    ("stdout", "boolean", "Carry standard output."),
    ("stream", "string", "Which stream of the log: All, Stdout or Stderr."),
    ("tailLines", "integer", "Lines from the end of the log to show."),
    ("timeoutSeconds", "integer", "Seconds after which the call ends."),
    ("timestamps", "boolean", "Put a timestamp before every line."),
    ("tty", "boolean", "Give the process a terminal."),
    (
        "watch",
        "boolean",
        "Watch for changes to the described resources: a stream of what is added, modified and deleted.",
    ),
)


def _pick(names: str) -> tuple[Parameter, ...]:
    return tuple(_ALL[name] for name in names.split())


_DELETION = (
    "dryRun gracePeriodSeconds ignoreStoreReadErrorWithClusterBreakingPotential orphanDependents propagationPolicy"
)
_LIST = _pick(
    "allowWatchBookmarks continue fieldSelector labelSelector limit pretty resourceVersion resourceVersionMatch"
    " sendInitialEvents shardSelector timeoutSeconds watch"
)
_DELETE_MANY = _pick(
    f"{_DELETION} continue fieldSelector labelSelector limit pretty resourceVersion resourceVersionMatch"
    " sendInitialEvents shardSelector timeoutSeconds"
)
_READ = _pick("pretty")
_WRITE = _pick("dryRun fieldManager fieldValidation pretty")
_PATCH = _pick("dryRun fieldManager fieldValidation force pretty")
_DELETE = _pick(f"{_DELETION} pretty")
_LOG = _pick(
    "container follow insecureSkipTLSVerifyBackend limitBytes pretty previous sinceSeconds stream tailLines timestamps"
)
_CONNECTIONS = {
    "attach": _pick("container stderr stdin stdout tty"),
    "exec": _pick("command container stderr stdin stdout tty"),
    "portforward": _pick("ports"),
    "proxy": _pick("path"),
}
_PROXIED = ("delete", "get", "head", "options", "patch", "post", "put")
_IN_NAMESPACE = Parameter("namespace", "string", "The namespace of the object.", "path")
_WITH_PATH = Parameter("path", "string", "The rest of the URL path.", "path")

#: (group, kind) whose deletion answers with the object instead of a Status. Source: the registries' ReturnDeletedObject.
_STATUS = f"{META}.Status"
_DELETE_OPTIONS = f"{META}.DeleteOptions"
_PATCH_BODY = f"{META}.Patch"


def group_word(group: str) -> str:
    """``rbac.authorization.k8s.io`` -> ``RbacAuthorization``; the core group is ``Core``."""
    parts = group.removesuffix(".k8s.io").split(".") if group else ["core"]
    return "".join(_title(word) for part in parts for word in part.split("-"))


def _title(word: str) -> str:
    return word[:1].upper() + word[1:]


def tag_of(group: str, version: str) -> str:
    word = group_word(group)
    return word[0].lower() + word[1:] + (f"_{version}" if version else "")


def _article(kind: str) -> str:
    if kind.endswith("s") and not kind.endswith("ss"):
        return kind
    return f"{'an' if kind[0] in 'AEIOU' else 'a'} {kind}"


class Operations:
    """The paths of one resource."""

    def __init__(self, resource: Resource[Any]) -> None:
        self.resource = resource
        self.definition = definition_of_resource(resource)
        self.kind = gvk(resource.group, resource.version, resource.kind)
        self.words = group_word(resource.group) + _title(resource.version)
        self.scope = "Namespaced" if resource.namespaced else ""
        self.tag = tag_of(resource.group, resource.version)
        self.produces = CUSTOM_ENCODINGS if resource.custom else ENCODINGS
        self.consumes = CUSTOM_ENCODINGS if resource.custom else ANY
        self.streamed = CUSTOM_ENCODINGS if resource.custom else STREAMED
        self.patches = CUSTOM_PATCHES if resource.custom else PATCHES

    def paths(self) -> Iterator[tuple[str, list[Operation]]]:
        resource = self.resource
        inside = f"{resource.root}/namespaces/{{namespace}}" if resource.namespaced else resource.root
        one = f"{inside}/{resource.plural}/{{name}}"
        if resource.namespaced and "list" in resource.verbs:
            yield f"{resource.root}/{resource.plural}", [self._list(everywhere=True)]
        if collection := self._collection():
            yield f"{inside}/{resource.plural}", collection
        if "get" in resource.verbs:
            yield one, self._object("", self.definition, resource.verbs, self.kind)
        for sub in resource.subresources:
            yield from self._subresource(one, sub)
        if "watch" in resource.verbs and not resource.custom:
            yield from self._watches()

    # ------------------------------------------------------------------------------------------------ parts

    def _id(self, verb: str, *, scope: str | None = None, suffix: str = "") -> str:
        return f"{verb}{self.words}{self.scope if scope is None else scope}{self.resource.kind}{suffix}"

    def _place(self, *, name: bool, namespaced: bool = True) -> tuple[Parameter, ...]:
        made = (Parameter("name", "string", f"name of the {self.resource.kind}", "path"),) if name else ()
        return (*made, _IN_NAMESPACE) if self.resource.namespaced and namespaced else made

    def _operation(self, method: str, name: str, words: str, answers: dict[str, str], **more: Any) -> Operation:
        more.setdefault("produces", self.produces)
        more.setdefault("consumes", self.consumes)
        return Operation(method, name, words, self.tag, answers, **{"kind": self.kind, **more})

    def _list(self, *, everywhere: bool = False) -> Operation:
        verbs = "list or watch" if "watch" in self.resource.verbs else "list"
        return self._operation(
            "get",
            self._id("list", suffix="ForAllNamespaces", scope="") if everywhere else self._id("list"),
            f"{verbs} objects of kind {self.resource.kind}",
            {"200": f"{self.definition}List"},
            produces=self.streamed,
            action="list",
            parameters=(*_LIST, *self._place(name=False, namespaced=not everywhere)),
        )

    def _collection(self) -> list[Operation]:
        verbs, place = self.resource.verbs, self._place(name=False)
        made = [self._list()] if "list" in verbs else []
        if "create" in verbs:
            words = f"create {_article(self.resource.kind)}"
            made.append(self._create(self._id("create"), words, self.definition, place, self.kind))
        if "deletecollection" in verbs:
            made.append(
                self._operation(
                    "delete",
                    f"delete{self.words}Collection{self.scope}{self.resource.kind}",
                    f"delete collection of {self.resource.kind}",
                    {"200": _STATUS},
                    action="deletecollection",
                    parameters=(*_DELETE_MANY, *place),
                    body=_DELETE_OPTIONS,
                    body_required=False,
                )
            )
        return made

    def _create(self, name: str, words: str, of: str, place: tuple[Parameter, ...], kind: Json) -> Operation:
        answers = dict.fromkeys(("200", "201", "202"), of)
        parameters = (*_WRITE, *place)
        return self._operation("post", name, words, answers, action="post", parameters=parameters, body=of, kind=kind)

    def _object(self, sub: str, of: str, verbs: Iterable[str], kind: Json) -> list[Operation]:
        """Reading and writing an object, or (``sub``) a part of it that reads and writes like one."""
        suffix = "".join(_title(part) for part in sub.split("-"))
        what = f"{sub} of the specified {self.resource.kind}" if sub else f"the specified {self.resource.kind}"
        place = self._place(name=True)
        both = dict.fromkeys(("200", "201"), of)
        made = []
        for verb in verbs:
            if verb == "get":
                action: dict[str, Any] = {"action": "get", "parameters": (*_READ, *place)}
                made.append(
                    self._operation(
                        "get", self._id("read", suffix=suffix), f"read {what}", {"200": of}, kind=kind, **action
                    )
                )
            elif verb == "update":
                action = {"action": "put", "parameters": (*_WRITE, *place), "body": of}
                made.append(
                    self._operation(
                        "put", self._id("replace", suffix=suffix), f"replace {what}", both, kind=kind, **action
                    )
                )
            elif verb == "patch":
                action = {"action": "patch", "parameters": (*_PATCH, *place), "body": _PATCH_BODY}
                name, words = self._id("patch", suffix=suffix), f"partially update {what}"
                made.append(self._operation("patch", name, words, both, consumes=self.patches, kind=kind, **action))
            elif verb == "delete" and not sub:
                made.append(self._delete(place))
        return made

    def _delete(self, place: tuple[Parameter, ...]) -> Operation:
        kind = self.resource.kind
        returned = self.resource.answers_deletion_with_object
        return self._operation(
            "delete",
            self._id("delete"),
            f"delete {_article(kind)}",
            dict.fromkeys(("200", "202"), self.definition if returned else _STATUS),
            action="delete",
            parameters=(*_DELETE, *place),
            body=_DELETE_OPTIONS,
            body_required=False,
        )

    def _subresource(self, one: str, sub: Subresource) -> Iterator[tuple[str, list[Operation]]]:
        path = f"{one}/{sub.name}"
        group, version = (sub.group, sub.version) if sub.version else (self.resource.group, self.resource.version)
        kind = gvk(group, version, sub.kind)
        if sub.name in _CONNECTIONS and not self.resource.custom:
            yield path, self._connect(sub, kind)
            if sub.name == "proxy":
                yield f"{path}/{{path}}", self._connect(sub, kind, rest=True)
            return
        if sub.name == "log" and not self.resource.custom:
            name, produces = self._id("read", suffix="Log"), (*ENCODINGS, "text/plain")
            words, place = f"read log of the specified {self.resource.kind}", (*_LOG, *self._place(name=True))
            yield (
                path,
                [
                    self._operation(
                        "get", name, words, {"200": "string"}, produces=produces, action="get", parameters=place
                    )
                ],
            )
            return
        of = (
            self.definition
            if sub.kind == self.resource.kind
            else definition_of_type(struct_of(group, version, sub.kind))
        )
        if sub.verbs == ("create",):
            name, words = (
                self._id("create", suffix=_title(sub.name)),
                f"create {sub.name} of {_article(self.resource.kind)}",
            )
            yield path, [self._create(name, words, of, self._place(name=True), kind)]
        else:
            yield path, self._object(sub.name, of, sub.verbs, kind)

    def _connect(self, sub: Subresource, kind: Json, *, rest: bool = False) -> list[Operation]:
        parameters = (*_CONNECTIONS[sub.name], *self._place(name=True), *([_WITH_PATH] if rest else []))
        suffix = _title(sub.name) + ("WithPath" if rest else "")
        methods = _PROXIED if sub.name == "proxy" else ("get", "post")
        return [
            self._operation(
                method,
                f"connect{self.words}{_title(method)}{self.scope}{self.resource.kind}{suffix}",
                f"connect {method.upper()} requests to {sub.name} of {self.resource.kind}",
                {"200": "string"},
                produces=ANY,
                action="connect",
                parameters=parameters,
                kind=kind,
            )
            for method in methods
        ]

    def _watches(self) -> Iterator[tuple[str, list[Operation]]]:
        resource, kind = self.resource, self.resource.kind
        root = f"{resource.root}/watch"
        inside = f"{root}/namespaces/{{namespace}}" if resource.namespaced else root
        of_list = f"watch individual changes to a list of {kind}; deprecated: use the 'watch' parameter of a list"
        of_one = f"watch changes to an object of kind {kind}; deprecated: use a list with 'watch' and 'fieldSelector'"
        if resource.namespaced:
            name = self._id("watch", scope="", suffix="ListForAllNamespaces")
            yield f"{root}/{resource.plural}", [self._watch(name, of_list, "watchlist", ())]
        place = self._place(name=False)
        yield (
            f"{inside}/{resource.plural}",
            [self._watch(self._id("watch", suffix="List"), of_list, "watchlist", place)],
        )
        place = self._place(name=True)
        yield f"{inside}/{resource.plural}/{{name}}", [self._watch(self._id("watch"), of_one, "watch", place)]

    def _watch(self, name: str, words: str, action: str, place: tuple[Parameter, ...]) -> Operation:
        answers, parameters = {"200": f"{META}.WatchEvent"}, (*_LIST, *place)
        return self._operation(
            "get", name, words, answers, produces=self.streamed, action=action, parameters=parameters
        )


def information(path: str) -> tuple[str, Operation]:
    """The operation of a discovery path: ``api``, ``apis``, ``apis/apps``, ``apis/apps/v1``, ``version``."""
    match path.split("/"):
        case ["api"]:
            found = ("getCoreAPIVersions", "get available API versions", tag_of("", ""), "APIVersions")
        case ["apis"]:
            found = ("getAPIVersions", "get available API versions", "apis", "APIGroupList")
        case ["apis", group]:
            found = (f"get{group_word(group)}APIGroup", "get information of a group", tag_of(group, ""), "APIGroup")
        case [*_, version]:
            group = path.split("/")[1] if path.startswith("apis/") else ""
            name = f"get{group_word(group)}{_title(version)}APIResources"
            found = (name, "get available resources", tag_of(group, version), "APIResourceList")
    name, words, tag, kind = found
    return f"/{path}/", Operation("get", name, words, tag, {"200": f"{META}.{kind}"})


#: {path of the document: (URL path, its one operation)} of what has no group
SINGLE: dict[str, tuple[str, Operation]] = {
    "version": (
        "/version/",
        Operation(
            "get",
            "getCodeVersion",
            "get the version information for this server",
            "version",
            {"200": "io.k8s.apimachinery.pkg.version.Info"},
            (_JSON,),
        ),
    ),
    ".well-known/openid-configuration": (
        "/.well-known/openid-configuration/",
        Operation(
            "get",
            "getServiceAccountIssuerOpenIDConfiguration",
            "get the OpenID configuration of the service account issuer",
            "WellKnown",
            {"200": "string"},
            (_JSON,),
        ),
    ),
    "openid/v1/jwks": (
        "/openid/v1/jwks/",
        Operation(
            "get",
            "getServiceAccountIssuerOpenIDKeyset",
            "get the public keys that verify service account tokens",
            "openid",
            {"200": "string"},
            ("application/jwk-set+json",),
        ),
    ),
}

"""kubeconfig files: reading anyone's, and adding a cluster of ours to one without disturbing the rest.

Reading follows kubectl: ``$KUBECONFIG`` may name several files, of which the first to say something wins; paths are relative
to the file that holds them. Writing keeps what is there, in its order, and replaces the file whole with mode 0600.

Source: client-go tools/clientcmd.
"""

from __future__ import annotations

import base64
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from kaa.api.clock import parse_time

EXEC_TIMEOUT_S = 60.0
_EXEC_VERSIONS = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")
#: How much of what a plugin printed goes into an error.
_SHOWN_CHARS = 500


class KubeconfigError(ValueError):
    """The file cannot be used; the message says why and what is missing."""


@dataclass(frozen=True, slots=True)
class ExecPlugin:
    """A command that prints credentials."""

    command: str
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    api_version: str = _EXEC_VERSIONS[0]
    install_hint: str = ""
    folder: str = ""


@dataclass(frozen=True, slots=True)
class Credentials:
    """How to show who one is. Certificates and keys are PEM."""

    certificate: bytes = b""
    key: bytes = b""
    token: str = ""
    token_file: str = ""
    username: str = ""
    password: str = ""
    exec: ExecPlugin | None = None
    impersonate: str = ""
    impersonate_groups: tuple[str, ...] = ()
    expires_at: float | None = None  #: when a plugin's answer ends, in seconds since 1970


@dataclass(frozen=True, slots=True)
class Access:
    """A context, resolved: where the server is, whom to trust, who to be."""

    context: str
    server: str
    namespace: str = "default"
    ca: bytes = b""  #: PEM; empty: the system's
    insecure: bool = False
    server_name: str = ""
    proxy_url: str = ""
    credentials: Credentials = field(default_factory=Credentials)


def paths(environment: Mapping[str, str] | None = None) -> list[Path]:
    """The files to read: ``$KUBECONFIG``'s, else ``~/.kube/config``."""
    env = os.environ if environment is None else environment
    given = [Path(text) for text in env.get("KUBECONFIG", "").split(os.pathsep) if text]
    return list(dict.fromkeys(given)) or [Path(env.get("HOME", "~")).expanduser() / ".kube" / "config"]


def load(files: Sequence[Path], context: str = "") -> Access:
    """Resolve a context, by default the current one. Raises KubeconfigError."""
    merged = merge([(path, _read(path)) for path in files if path.exists()])
    name = context or merged["current-context"]
    if not name:
        raise KubeconfigError(f"no context is chosen in {', '.join(map(str, files))}")
    chosen = _find(merged, "contexts", "context", name)
    cluster = _find(merged, "clusters", "cluster", str(chosen.get("cluster", "")))
    user = _find(merged, "users", "user", str(chosen["user"])) if chosen.get("user") else {}
    if not cluster.get("server"):
        raise KubeconfigError(f"cluster {chosen.get('cluster')!r} names no server")
    return Access(
        context=name,
        server=str(cluster["server"]).rstrip("/"),
        namespace=chosen.get("namespace") or "default",
        ca=_material(cluster, "certificate-authority"),
        insecure=bool(cluster.get("insecure-skip-tls-verify")),
        server_name=cluster.get("tls-server-name") or "",
        proxy_url=cluster.get("proxy-url") or "",
        credentials=_credentials(user),
    )


def contexts(files: Sequence[Path]) -> tuple[str, list[str]]:
    """The current context, and all there are."""
    merged = merge([(path, _read(path)) for path in files if path.exists()])
    return merged["current-context"], list(merged["contexts"])


def merge(documents: Sequence[tuple[Path, Mapping[str, Any]]]) -> dict[str, Any]:
    """{list: {name: value}} of several files, the first to name something winning; relative paths made absolute."""
    merged: dict[str, Any] = {"current-context": "", "clusters": {}, "contexts": {}, "users": {}}
    for path, document in documents:
        merged["current-context"] = merged["current-context"] or document.get("current-context") or ""
        for plural, singular in (("clusters", "cluster"), ("contexts", "context"), ("users", "user")):
            for row in document.get(plural) or ():
                value = {**(row.get(singular) or {}), "_folder": str(path.parent)}
                merged[plural].setdefault(row.get("name", ""), value)
    return merged


def token_of(credentials: Credentials, environment: Mapping[str, str] | None = None) -> Credentials:
    """The credentials with what their file or plugin says now. Runs a command: call it in a thread."""
    if credentials.token_file:
        token = Path(credentials.token_file).read_text().strip()
        return Credentials(certificate=credentials.certificate, key=credentials.key, token=token)
    return run_plugin(credentials.exec, environment) if credentials.exec is not None else credentials


def run_plugin(plugin: ExecPlugin, environment: Mapping[str, str] | None = None) -> Credentials:
    """What an exec plugin prints, as credentials. Raises KubeconfigError."""
    if plugin.api_version not in _EXEC_VERSIONS:
        raise KubeconfigError(f"exec plugin: invalid apiVersion {plugin.api_version!r}")
    request = {"kind": "ExecCredential", "apiVersion": plugin.api_version, "spec": {"interactive": False}}
    env = {**(os.environ if environment is None else environment), **plugin.env}
    env["KUBERNETES_EXEC_INFO"] = msgspec.json.encode(request).decode()
    command = plugin.command
    if plugin.folder and os.sep in command:
        command = str(Path(plugin.folder) / command)
    try:
        done = subprocess.run(
            [command, *plugin.args], env=env, capture_output=True, timeout=EXEC_TIMEOUT_S, check=False
        )
    except FileNotFoundError as err:
        hint = f"\n{plugin.install_hint}" if plugin.install_hint else ""
        raise KubeconfigError(f"exec: executable {plugin.command} not found{hint}") from err
    except subprocess.TimeoutExpired as err:
        raise KubeconfigError(f"exec: {plugin.command} did not answer within {EXEC_TIMEOUT_S:.0f} s") from err
    if done.returncode:
        said = done.stderr.decode(errors="replace")[:_SHOWN_CHARS].strip()
        raise KubeconfigError(f"exec: executable {plugin.command} failed with exit code {done.returncode}: {said}")
    return _plugin_answer(plugin, done.stdout)


def _plugin_answer(plugin: ExecPlugin, output: bytes) -> Credentials:
    try:
        status = msgspec.json.decode(output, type=dict[str, Any]).get("status") or {}
    except msgspec.MsgspecError as err:
        raise KubeconfigError(f"exec: {plugin.command} printed no ExecCredential") from err
    token, certificate = status.get("token") or "", status.get("clientCertificateData") or ""
    if not token and not certificate:
        raise KubeconfigError(f"exec: {plugin.command} gave neither a token nor a certificate")
    key, until = status.get("clientKeyData") or "", status.get("expirationTimestamp") or ""
    try:
        expires_at = parse_time(until) if until else None
    except ValueError as err:
        raise KubeconfigError(f"exec: {plugin.command}: expirationTimestamp: {err}") from err
    return Credentials(token=token, certificate=certificate.encode(), key=key.encode(), expires_at=expires_at)


def _credentials(user: Mapping[str, Any]) -> Credentials:
    told = user.get("exec") or None
    plugin = None
    if told:
        plugin = ExecPlugin(
            command=told.get("command", ""),
            args=tuple(told.get("args") or ()),
            env={row["name"]: row["value"] for row in told.get("env") or ()},
            api_version=told.get("apiVersion", ""),
            install_hint=told.get("installHint") or "",
            folder=user.get("_folder", ""),
        )
    token_file = user.get("tokenFile") or ""
    return Credentials(
        certificate=_material(user, "client-certificate"),
        key=_material(user, "client-key"),
        token=user.get("token") or "",
        token_file=str(Path(user.get("_folder", "")) / token_file) if token_file else "",
        username=user.get("username") or "",
        password=user.get("password") or "",
        exec=plugin,
        impersonate=user.get("as") or "",
        impersonate_groups=tuple(user.get("as-groups") or ()),
    )


def _material(row: Mapping[str, Any], key: str) -> bytes:
    """PEM that stands in the file (``…-data``) or in another one."""
    inline: str | None = row.get(f"{key}-data")
    file: str | None = row.get(key)
    if inline:
        try:
            return base64.b64decode(inline)
        except ValueError as err:
            raise KubeconfigError(f"{key}-data is not base64") from err
    if not file:
        return b""
    path = Path(row.get("_folder", "")) / file
    try:
        return path.read_bytes()
    except OSError as err:
        raise KubeconfigError(f"unable to read {key} {path}: {err.strerror}") from err


def _find(merged: Mapping[str, Any], plural: str, singular: str, name: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] | None = merged[plural].get(name)
    if found is None:
        raise KubeconfigError(f"{singular} {name!r} does not exist")
    return found


def _read(path: Path) -> dict[str, Any]:
    import yaml

    try:
        found = yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as err:
        raise KubeconfigError(f"error loading config file {str(path)!r}: {err}") from err
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise KubeconfigError(f"error loading config file {str(path)!r}: not a mapping")
    return found


# -------------------------------------------------------------------------------------------------------- writing


def entry(access: Access) -> dict[str, Any]:
    """A whole document of one context; cluster and user bear the context's name."""
    name, credentials = access.context, access.credentials
    cluster: dict[str, Any] = {"server": access.server}
    if access.ca:
        cluster = {"certificate-authority-data": base64.b64encode(access.ca).decode(), **cluster}
    if access.insecure:
        cluster["insecure-skip-tls-verify"] = True
    user: dict[str, Any] = {}
    if credentials.certificate:
        user["client-certificate-data"] = base64.b64encode(credentials.certificate).decode()
        user["client-key-data"] = base64.b64encode(credentials.key).decode()
    if credentials.token:
        user["token"] = credentials.token
    context: dict[str, Any] = {"cluster": name, "user": name}
    if access.namespace != "default":
        context["namespace"] = access.namespace
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"cluster": cluster, "name": name}],
        "contexts": [{"context": context, "name": name}],
        "current-context": name,
        "preferences": {},
        "users": [{"name": name, "user": user}],
    }


def add(path: Path, access: Access, *, make_current: bool = True) -> None:
    """Put a context into a file, over one of the same name; everything else stays, in its order."""
    new = entry(access)
    document = _read(path) if path.exists() else {}
    if not document:
        document = {**new, "current-context": ""}
    for plural in ("clusters", "contexts", "users"):
        document[plural] = _placed(document.get(plural) or [], new[plural][0])
    if make_current or not document.get("current-context"):
        document["current-context"] = access.context
    _write(path, document)


def remove(path: Path, context: str) -> bool:
    """Take a context of ours out again, with its cluster and user; whether it was there."""
    document = _read(path) if path.exists() else {}
    before = document.get("contexts") or []
    if all(row.get("name") != context for row in before):
        return False
    for plural in ("clusters", "contexts", "users"):
        document[plural] = [row for row in document.get(plural) or [] if row.get("name") != context]
    if document.get("current-context") == context:
        document["current-context"] = ""
    _write(path, document)
    return True


def _placed(rows: list[dict[str, Any]], new: dict[str, Any]) -> list[dict[str, Any]]:
    if any(row.get("name") == new["name"] for row in rows):
        return [new if row.get("name") == new["name"] else row for row in rows]
    return [*rows, new]


def _write(path: Path, document: Mapping[str, Any]) -> None:
    """Whole or not at all, and through a link to the file behind it."""
    import yaml

    target = path.resolve()
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    text = yaml.safe_dump(dict(document), sort_keys=False, width=2**31, default_flow_style=False)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)

"""The credentials that a node lives by: its kubeconfig, or one that TLS bootstrap makes; and whether they are accepted.

Source: pkg/kubelet/certificate/bootstrap.
"""

from __future__ import annotations

import base64
from pathlib import Path

import msgspec
import structlog

from kaa.api.clock import Clock, SystemClock
from kaa.api.errors import ApiError, Forbidden, Unauthorized
from kaa.client.access import Session, whoami
from kaa.client.kubeconfig import Access, KubeconfigError, load
from kaa.kubelet import bootstrap
from kaa.kubelet.bootstrap import CLIENT_SIGNER, CertificateError, Pair, Store, node_identity

from .config import ConfigError
from .joined_config import JoinConfig

log = structlog.get_logger("kaa.kubelet")
RETRY_S, RETRY_MAX_S = 0.5, 7.0


def read_access(path: Path, what: str) -> Access:
    """Raises ConfigError."""
    if not path.exists():
        raise ConfigError(f"{what} {path} does not exist")
    try:
        return load([path])
    except (KubeconfigError, OSError) as err:
        raise ConfigError(f"{what} {path} cannot be used: {err}") from err


def lives_by(config: JoinConfig) -> Access | None:
    """The node's own credentials; None when TLS bootstrap has to make them first. Raises ConfigError."""
    path = config.client_config
    if not path.exists():
        if config.bootstrap_kubeconfig:
            return None
        raise ConfigError(
            f"kubeconfig {path} does not exist; give one that exists, or --bootstrap-kubeconfig FILE with a bootstrap token"
            " to have it made (`kubeadm token create --print-join-command` makes a token on upstream's clusters)"
        )
    try:
        access = load([path])
    except (KubeconfigError, OSError) as err:
        if config.bootstrap_kubeconfig:
            log.warning("kubeconfig not used, it is made anew", path=str(path), error=str(err))
            return None
        raise ConfigError(f"kubeconfig {path} cannot be used: {err}") from err
    if config.bootstrap_kubeconfig and not _is_valid(access, SystemClock()):
        log.warning("the certificate of the kubeconfig has ended, it is asked for anew", path=str(path))
        return None
    return access


def _is_valid(access: Access, clock: Clock) -> bool:
    """Whether credentials may still work: a certificate that has ended does not."""
    if not access.credentials.certificate:
        return True
    try:
        return Pair.read(access.credentials.certificate, b"").ends > clock.now()
    except ValueError:
        return False


async def bootstrapped(config: JoinConfig, clock: Clock) -> Access:
    """Ask for a client certificate with the bootstrap credentials, and write the kubeconfig that shows it."""
    given = read_access(Path(config.bootstrap_kubeconfig), "bootstrap kubeconfig")
    session = session_of(given, clock, Path(config.bootstrap_kubeconfig))
    store = Store(config.pki_dir, "kubelet-client")
    try:
        await server_answers(session, clock, config.bootstrap_kubeconfig)
        log.info("asking for a client certificate", node=config.node_name, server=given.server)
        await bootstrap.request_certificate(
            session.client,
            clock,
            store,
            node_identity(config.node_name),
            CLIENT_SIGNER,
            waiting=ask_for_approval,
        )
    except Forbidden as err:
        raise ConfigError(
            f"the bootstrap credentials may not ask for a certificate ({err}); bind the ClusterRole system:node-bootstrapper"
            " to the group of the token, system:bootstrappers"
        ) from err
    except (CertificateError, ApiError) as err:
        raise ConfigError(f"no client certificate: {err}") from err
    finally:
        await session.close()
    write_kubeconfig(config.client_config, given, store.current)
    log.info("client certificate received", kubeconfig=str(config.client_config))
    return load([config.client_config])


def write_kubeconfig(path: Path, given: Access, current: Path) -> None:
    """What upstream's kubelet writes after its bootstrap: the same cluster, and a certificate by its file."""
    cluster: dict[str, object] = {"server": given.server}
    if given.ca:
        cluster["certificate-authority-data"] = base64.b64encode(given.ca).decode()
    if given.insecure:
        cluster["insecure-skip-tls-verify"] = True
    if given.server_name:
        cluster["tls-server-name"] = given.server_name
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "default-cluster", "cluster": cluster}],
        "contexts": [
            {
                "name": "default-context",
                "context": {"cluster": "default-cluster", "namespace": "default", "user": "default-auth"},
            }
        ],
        "current-context": "default-context",
        "users": [{"name": "default-auth", "user": {"client-certificate": str(current), "client-key": str(current)}}],
    }
    bootstrap.write_private(path, msgspec.json.format(msgspec.json.encode(document)) + b"\n")  # JSON is YAML


def session_of(access: Access, clock: Clock, path: Path) -> Session:
    try:
        return Session(access, clock, "kubelet")
    except (KubeconfigError, OSError) as err:
        raise ConfigError(f"kubeconfig {path} cannot be used: {err}") from err


async def server_answers(session: Session, clock: Clock, path: str) -> None:
    """Wait until the API server is ready. Raises ConfigError for what waiting does not mend."""
    wait, said = RETRY_S, ""
    while True:
        try:
            await session.client.raw("GET", "/readyz")
            return
        except Unauthorized as err:
            raise ConfigError(
                f"{session.access.server} does not accept the credentials of {path} ({err}); they have expired, or are"
                " another cluster's"
            ) from err
        except Forbidden:
            return  # it answers; who may read /readyz is its own affair
        except ApiError as err:
            text = str(err)
        if "CERTIFICATE_VERIFY_FAILED" in text:
            raise ConfigError(
                f"{session.access.server} is not whom {path} trusts ({text}); put the cluster's CA into its"
                " certificate-authority-data"
            )
        if text != said:
            log.info("the API server does not answer yet, trying again", server=session.access.server, error=text)
            said = text
        await clock.sleep(wait)
        wait = min(wait * 2, RETRY_MAX_S)


async def check_identity(session: Session, config: JoinConfig) -> None:
    """Whether the API server takes us for this node. Raises ConfigError when it takes us for another."""
    user = await whoami(session.client)
    own = f"system:node:{config.node_name}"
    if user.startswith("system:node:") and user != own:
        name = user.removeprefix("system:node:")
        raise ConfigError(f"the credentials are those of node {name!r}: give --node-name {name}")
    if user and user != own:
        log.warning("these are no credentials of a node: NodeRestriction does not hold for it", user=user, wanted=own)


def ask_for_approval(name: str) -> None:
    log.info(f"waiting for a certificate request to be approved; by hand: kubectl certificate approve {name}")

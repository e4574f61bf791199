"""ServiceAccount: every pod runs as one, and its token, the cluster's CA and its namespace are mounted.

Source: plugin/pkg/admission/serviceaccount.
"""

from __future__ import annotations

from random import Random

from msgspec.structs import replace

from kaa.api.names import random_suffix
from kaa.api.types.core_v1 import (
    ConfigMapProjection,
    Container,
    DownwardAPIProjection,
    DownwardAPIVolumeFile,
    KeyToPath,
    LocalObjectReference,
    ObjectFieldSelector,
    Pod,
    PodSpec,
    ProjectedVolumeSource,
    ServiceAccount,
    ServiceAccountTokenProjection,
    Volume,
    VolumeMount,
    VolumeProjection,
)

from ..memo import Memo
from ..view import View
from .base import Attributes
from .plugin import Passive, refuse

MIRROR = "kubernetes.io/config.mirror"
MOUNT_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"
VOLUME_PREFIX = "kube-api-access-"
TOKEN_SECONDS = 60 * 60 + 7
_SOURCES = (
    VolumeProjection(
        service_account_token=ServiceAccountTokenProjection(path="token", expiration_seconds=TOKEN_SECONDS)
    ),
    VolumeProjection(
        config_map=ConfigMapProjection(name="kube-root-ca.crt", items=(KeyToPath(key="ca.crt", path="ca.crt"),))
    ),
    VolumeProjection(
        downward_api=DownwardAPIProjection(
            items=(
                DownwardAPIVolumeFile(
                    path="namespace",
                    field_ref=ObjectFieldSelector(api_version="v1", field_path="metadata.namespace"),
                ),
            )
        )
    ),
)
_PROJECTED = ProjectedVolumeSource(default_mode=0o644, sources=_SOURCES)


#: How often, and with which wait between, ``default`` is looked for.
DEFAULT_TRIES, DEFAULT_RETRY_S = 20, 0.05


class ServiceAccountAdmission(Passive):
    name = "ServiceAccount"
    kinds = frozenset({"pods"})

    async def admit(self, attributes: Attributes, view: View) -> None:
        if attributes.operation != "CREATE" or not attributes.on("pods"):
            return
        pod: Pod = attributes.object
        if MIRROR in pod.metadata.annotations:
            _check_mirror(attributes, pod)
            return
        account_name = pod.spec.service_account_name or "default"
        account = await _find_soon(attributes, account_name, view)
        random = view.clock.random if _mounts(pod, account) else None
        attributes.object = replace(pod, spec=_as_account(pod.spec, account_name, account.image_pull_secrets, random))

    async def validate(self, attributes: Attributes, view: View) -> None:
        if attributes.operation != "CREATE" or not attributes.on("pods"):
            return
        pod: Pod = attributes.object
        if MIRROR in pod.metadata.annotations:
            _check_mirror(attributes, pod)
            return
        if not pod.spec.service_account_name:
            raise refuse(
                attributes, f"no service account specified for pod {pod.metadata.namespace}/{pod.metadata.name}"
            )
        account = _find(attributes, pod.spec.service_account_name, view)
        if account.metadata.annotations.get("kubernetes.io/enforce-mountable-secrets") == "true":
            _check_secrets(attributes, pod, account)


@Memo
def _as_account(
    spec: PodSpec, account: str, pull_secrets: tuple[LocalObjectReference, ...], random: Random | None
) -> PodSpec:
    """The spec as it runs under an account. ``random``: where the volume's name comes from; None mounts no token.

    Pods of one template share the name that was drawn for the first: it has to differ within a pod only.
    """
    made = replace(
        spec,
        service_account_name=account,
        service_account=account,
        image_pull_secrets=spec.image_pull_secrets or pull_secrets,
    )
    return made if random is None else mount_token(made, f"{VOLUME_PREFIX}{random_suffix(random)}")


async def _find_soon(attributes: Attributes, name: str, view: View) -> ServiceAccount:
    """The account; ``default`` is waited for a moment, since its controller makes it right after its namespace."""
    tries = DEFAULT_TRIES if name == "default" else 1
    for _ in range(tries - 1):
        if view.get(ServiceAccount, name, attributes.request.namespace) is not None:
            break
        await view.clock.sleep(DEFAULT_RETRY_S)
    return _find(attributes, name, view)


def _find(attributes: Attributes, name: str, view: View) -> ServiceAccount:
    namespace = attributes.request.namespace
    account = view.get(ServiceAccount, name, namespace)
    if account is None:
        why = f'error looking up service account {namespace}/{name}: serviceaccount "{name}" not found'
        raise refuse(attributes, why)
    return account


def _mounts(pod: Pod, account: ServiceAccount) -> bool:
    """The pod's word comes before the account's; without either, the token is mounted."""
    wish = pod.spec.automount_service_account_token
    if wish is None:
        wish = account.automount_service_account_token
    return wish is not False


def mount_token(spec: PodSpec, volume_name: str) -> PodSpec:
    """The spec with the volume, mounted in each container that has nothing at that path."""
    present = next((v.name for v in spec.volumes if v.name.startswith(VOLUME_PREFIX) and v.projected), None)
    mount = VolumeMount(name=present or volume_name, read_only=True, mount_path=MOUNT_PATH)
    containers = tuple(_mounted(container, mount) for container in spec.containers)
    inits = tuple(_mounted(container, mount) for container in spec.init_containers)
    if containers == spec.containers and inits == spec.init_containers:
        return spec
    volumes = spec.volumes if present else (*spec.volumes, Volume(name=volume_name, projected=_PROJECTED))
    return replace(spec, containers=containers, init_containers=inits, volumes=volumes)


def _mounted(container: Container, mount: VolumeMount) -> Container:
    if any(m.mount_path == MOUNT_PATH for m in container.volume_mounts):
        return container
    return replace(container, volume_mounts=(*container.volume_mounts, mount))


def _check_mirror(attributes: Attributes, pod: Pod) -> None:
    """Mirror pods are the kubelet's: they may refer to nothing that the API server keeps."""
    spec = pod.spec
    if spec.service_account_name:
        raise refuse(attributes, "a mirror pod may not reference service accounts")
    for container in (*spec.containers, *spec.init_containers):
        if any(e.secret_ref for e in container.env_from) or any(
            e.value_from and e.value_from.secret_key_ref for e in container.env
        ):
            raise refuse(attributes, "a mirror pod may not reference secrets")
    if any(volume.secret for volume in spec.volumes):
        raise refuse(attributes, "a mirror pod may not reference secrets")
    for volume in spec.volumes:
        if volume.projected and any(s.service_account_token for s in volume.projected.sources):
            raise refuse(attributes, "a mirror pod may not use ServiceAccountToken volume projections")


def _check_secrets(attributes: Attributes, pod: Pod, account: ServiceAccount) -> None:
    """The account may restrict its pods to the secrets that it lists."""
    allowed = {ref.name for ref in account.secrets}
    name = account.metadata.name
    for volume in pod.spec.volumes:
        secret = volume.secret.secret_name if volume.secret else None
        if secret and secret not in allowed:
            why = f'volume with secret.secretName="{secret}" is not allowed because service account {name} does not reference that secret'
            raise refuse(attributes, why)
    pulls = {ref.name for ref in account.image_pull_secrets}
    for ref in pod.spec.image_pull_secrets:
        if ref.name not in pulls:
            why = f'imagePullSecrets[0].name="{ref.name}" is not allowed because service account {name} does not reference that imagePullSecret'
            raise refuse(attributes, why)

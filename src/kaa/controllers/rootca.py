"""``kube-root-ca.crt`` in every namespace: the certificate by which pods know the API server.

Source: kubernetes pkg/controller/certificates/rootcacertpublisher.
"""

from __future__ import annotations

from msgspec.structs import replace

from kaa.api.errors import AlreadyExists, NotFound
from kaa.api.types.core_v1 import ConfigMap, Namespace
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.client.informer import key_of
from kaa.client.workqueue import Key

from .controller import Context, Controller
from .namespace import is_active

CONFIG_MAP = "kube-root-ca.crt"
DESCRIPTION = "kubernetes.io/description"
#: What upstream writes there, word for word: programs compare it.
DESCRIPTION_TEXT = (
    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal"
    " service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters."
)


def plan(namespace: Namespace | None, found: ConfigMap | None, root_ca: str) -> ConfigMap | None:
    """The ConfigMap as it must be written, or None when it stands already or does not belong."""
    if namespace is None or not is_active(namespace):
        return None
    data = {"ca.crt": root_ca}
    if found is None:
        annotations = {DESCRIPTION: DESCRIPTION_TEXT}
        meta = ObjectMeta(name=CONFIG_MAP, namespace=namespace.metadata.name, annotations=annotations)
        return ConfigMap(metadata=meta, data=data)
    if found.data == data and found.metadata.annotations.get(DESCRIPTION):
        return None
    annotations = {**found.metadata.annotations, DESCRIPTION: DESCRIPTION_TEXT}
    return replace(found, data=data, metadata=replace(found.metadata, annotations=annotations))


class RootCAPublisher(Controller[Key]):
    """Keys are namespaces."""

    name = "root-ca-cert-publisher"

    def __init__(self, context: Context, root_ca: bytes) -> None:
        super().__init__(context)
        self.root_ca = root_ca.decode()
        self.namespaces = self.watch(Namespace, self._on_namespace)
        self.maps = self.watch(ConfigMap, self._on_map)

    def _on_namespace(self, old: Namespace | None, new: Namespace | None) -> None:
        if new is not None:
            self.queue.add(key_of(new))

    def _on_map(self, old: ConfigMap | None, new: ConfigMap | None) -> None:
        found = new or old
        if found is not None and found.metadata.name == CONFIG_MAP:
            self.queue.add(Key("", found.metadata.namespace or ""))

    async def reconcile(self, key: Key) -> None:
        found = self.maps.get(CONFIG_MAP, key.name)
        wanted = plan(self.namespaces.by_key(key), found, self.root_ca)
        if wanted is None:
            return
        try:
            await (self.client.create(wanted) if found is None else self.client.update(wanted))
        except (AlreadyExists, NotFound):
            return

"""The ServiceAccount ``default`` of every namespace.

Source: kubernetes pkg/controller/serviceaccount.
"""

from __future__ import annotations

from kaa.api.errors import AlreadyExists
from kaa.api.types.core_v1 import Namespace, ServiceAccount
from kaa.api.types.meta_v1 import ObjectMeta
from kaa.client.informer import key_of
from kaa.client.workqueue import Key

from .controller import Context, Controller
from .namespace import is_active

ACCOUNT = "default"


def plan(namespace: Namespace | None, account: ServiceAccount | None) -> ServiceAccount | None:
    """The account to create, if one is missing where one belongs."""
    if namespace is None or not is_active(namespace) or account is not None:
        return None
    return ServiceAccount(metadata=ObjectMeta(name=ACCOUNT, namespace=namespace.metadata.name))


class ServiceAccounts(Controller[Key]):
    """Keys are namespaces."""

    name = "service-account-controller"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.namespaces = self.watch(Namespace, self._on_namespace)
        self.accounts = self.watch(ServiceAccount, self._on_account)

    def _on_namespace(self, old: Namespace | None, new: Namespace | None) -> None:
        if new is not None:
            self.queue.add(key_of(new))

    def _on_account(self, old: ServiceAccount | None, new: ServiceAccount | None) -> None:
        if new is None and old is not None and old.metadata.name == ACCOUNT:
            self.queue.add(Key("", old.metadata.namespace or ""))

    async def reconcile(self, key: Key) -> None:
        missing = plan(self.namespaces.by_key(key), self.accounts.get(ACCOUNT, key.name))
        if missing is None:
            return
        try:
            await self.client.create(missing)
        except AlreadyExists:
            return

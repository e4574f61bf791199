"""Tokens in Secrets, the old way: a Secret of type ``kubernetes.io/service-account-token`` that names an account is filled
in, and goes when the account does.

Whoever puts the controllers together gives them the signer: keys are the API server's affair.

Source: kubernetes pkg/controller/serviceaccount/tokens_controller.go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from msgspec.structs import replace

from kaa.api.errors import NotFound
from kaa.api.types.core_v1 import Secret, ServiceAccount
from kaa.api.types.meta_v1 import DeleteOptions, Preconditions
from kaa.client.workqueue import Key

from .controller import SHARED, Context, Controller
from .secrets import ACCOUNT_TOKEN, encoded, kept

ACCOUNT_NAME = "kubernetes.io/service-account.name"
ACCOUNT_UID = "kubernetes.io/service-account.uid"
BY_ACCOUNT = "account"
#: ``issue(account, secret_name)`` signs a token that never expires.
Issue = Callable[[ServiceAccount, str], str]


def account_of(secret: Secret) -> str:
    """The account that a token Secret names; empty for any other Secret."""
    return secret.metadata.annotations.get(ACCOUNT_NAME, "") if secret.type == ACCOUNT_TOKEN else ""


def owned(secret: Secret, account: ServiceAccount | None) -> bool:
    """Whether the Secret's account is this one. Without a uid it means any account of that name."""
    uid = secret.metadata.annotations.get(ACCOUNT_UID, "")
    return account is not None and uid in ("", account.metadata.uid)


def filled(secret: Secret, account: ServiceAccount, root_ca: str, issue: Issue) -> Secret | None:
    """The Secret with all it should have, or None when it has it."""
    wanted = {**secret.data, "ca.crt": encoded(root_ca)} if root_ca else dict(secret.data)
    if not wanted.get("namespace"):
        wanted["namespace"] = encoded(secret.metadata.namespace or "")
    if not wanted.get("token"):
        wanted["token"] = encoded(issue(account, secret.metadata.name or ""))
    if wanted == secret.data:
        return None
    names = {ACCOUNT_NAME: account.metadata.name or "", ACCOUNT_UID: account.metadata.uid or ""}
    annotations = {**secret.metadata.annotations, **names}
    return replace(secret, data=wanted, metadata=replace(secret.metadata, annotations=annotations))


class Tokens(Controller[Key]):
    """Keys are token Secrets. Works as kube-controller-manager itself, which alone may write Secrets everywhere."""

    name = "tokens-controller"
    identity = SHARED

    def __init__(self, context: Context, root_ca: bytes, issue: Issue) -> None:
        super().__init__(context)
        self.root_ca, self.issue = root_ca.decode(), issue
        self.secrets = self.informers.of(Secret, keep=kept)
        self.secrets.add_index(BY_ACCOUNT, _account_words)
        self.watch(Secret, self._on_secret, keep=kept)
        self.accounts = self.watch(ServiceAccount, self._on_account)

    def _on_secret(self, old: Secret | None, new: Secret | None) -> None:
        found = new or old
        assert found is not None
        if account_of(found):
            self.queue.add(Key(found.metadata.namespace or "", found.metadata.name or ""))

    def _on_account(self, old: ServiceAccount | None, new: ServiceAccount | None) -> None:
        account = new or old
        assert account is not None
        for secret in self.secrets.by_index(BY_ACCOUNT, f"{account.metadata.namespace}/{account.metadata.name}"):
            self.queue.add(Key(secret.metadata.namespace or "", secret.metadata.name or ""))

    async def reconcile(self, key: Key) -> None:
        seen = self.secrets.by_key(key)
        if seen is None:
            await self._forget(key)
            return
        account = await self._account(seen)
        if account is None:
            await self._delete(seen)
        elif filled(seen, account, self.root_ca, self.issue) is not None:
            await self._fill(seen, account)

    async def _account(self, secret: Secret) -> ServiceAccount | None:
        """The Secret's account; the server is asked before anyone believes that there is none."""
        name, namespace = account_of(secret), secret.metadata.namespace
        account = self.accounts.get(name, namespace)
        if owned(secret, account):
            return account
        try:
            account = await self.client.get(ServiceAccount, name, namespace)
        except NotFound:
            return None
        return account if owned(secret, account) else None

    async def _fill(self, seen: Secret, account: ServiceAccount) -> None:
        try:
            live = await self.client.get(Secret, seen.metadata.name or "", seen.metadata.namespace)
            wanted = filled(live, account, self.root_ca, self.issue)
            if live.metadata.uid == seen.metadata.uid and wanted is not None:
                await self.client.update(wanted)
        except NotFound:
            return

    async def _delete(self, secret: Secret) -> None:
        meta = secret.metadata
        options = DeleteOptions(preconditions=Preconditions(uid=meta.uid, resource_version=meta.resource_version))
        try:
            await self.client.delete(Secret, meta.name or "", meta.namespace, options=options)
        except NotFound:
            return

    async def _forget(self, key: Key) -> None:
        """Accounts no longer list a Secret that is gone."""
        for account in self.accounts.in_namespace(key.namespace):
            left = tuple(each for each in account.secrets if each.name != key.name)
            if left != account.secrets:
                try:
                    await self.client.update(replace(account, secrets=left))
                except NotFound:
                    return


def _account_words(secret: Secret) -> Iterable[str]:
    name = account_of(secret)
    return (f"{secret.metadata.namespace}/{name}",) if name else ()

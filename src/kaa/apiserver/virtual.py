"""What a POST does that stores no object of its own: reviews, tokens, bindings, evictions.

One function each; ``install`` puts them where the pipeline looks.
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from kaa.api.errors import NotFound, Unclassified
from kaa.api.fields import joined
from kaa.api.scheme import resource_of
from kaa.api.types.core_v1 import Binding, Pod
from kaa.api.types.meta_v1 import DeleteOptions, ListMeta, Preconditions, Status
from kaa.api.types.policy_v1 import Eviction, PodDisruptionBudget
from kaa.client.pipeline import Request

from .admission.base import Attributes
from .authn import token_request, token_review
from .authn.chain import DefaultAuthenticator
from .authn.tokens import TokenIssuer
from .authz import reviews
from .authz.union import DefaultAuthorizer
from .patch.managed_fields import Tracker
from .pipeline import ApiServer, Outcome
from .registry.core import eviction, pod_binding
from .writes import is_dry_run

_AUTHN, _AUTHZ = "authentication.k8s.io", "authorization.k8s.io"


class Virtuals:
    """The handlers, with what they decide by."""

    def __init__(
        self, api: ApiServer, authenticator: DefaultAuthenticator, authorizer: DefaultAuthorizer, issuer: TokenIssuer
    ) -> None:
        self._api, self._authenticator, self._authorizer, self._issuer = api, authenticator, authorizer, issuer

    def install(self) -> None:
        self._api.virtual.update(
            {
                (_AUTHN, "tokenreviews", ""): self._token_review,
                (_AUTHN, "selfsubjectreviews", ""): self._self_subject_review,
                (_AUTHZ, "subjectaccessreviews", ""): self._subject_access_review,
                (_AUTHZ, "localsubjectaccessreviews", ""): self._local_subject_access_review,
                (_AUTHZ, "selfsubjectaccessreviews", ""): self._self_subject_access_review,
                (_AUTHZ, "selfsubjectrulesreviews", ""): self._self_subject_rules_review,
                ("", "serviceaccounts", "token"): self._token,
                ("", "pods", "binding"): self._bind,
                ("", "bindings", ""): self._bind,
                ("", "pods", "eviction"): self._evict,
            }
        )

    def _owned(self, request: Request, review: Any) -> Any:
        """A review with its sender as the owner of its fields, as any object that is created."""
        return Tracker(request, self._api.strategy_for(request.resource), self._api.clock).created(review)

    async def _token_review(self, request: Request, review: Any) -> Outcome:
        review, warnings = self._owned(request, review), list[str]()

        def remark(key: str, value: str, warning: str) -> None:
            if request.note is not None:
                request.note(key, value)
            if warning:
                warnings.append(warning)

        made = token_review.token_review(review, self._authenticator, self._api.cacher, remark)
        return Outcome(201, object=made, warnings=warnings)

    async def _self_subject_review(self, request: Request, review: Any) -> Outcome:
        return Outcome(201, object=token_review.self_subject_review(review, request.user, self._api.cacher))

    async def _subject_access_review(self, request: Request, review: Any) -> Outcome:
        review = self._owned(request, review)
        return Outcome(201, object=reviews.subject_access_review(review, self._authorizer, self._api.cacher))

    async def _local_subject_access_review(self, request: Request, review: Any) -> Outcome:
        review = self._owned(request, review)
        answer = reviews.local_subject_access_review(review, request.namespace, self._authorizer, self._api.cacher)
        return Outcome(201, object=answer)

    async def _self_subject_access_review(self, request: Request, review: Any) -> Outcome:
        review = self._owned(request, review)
        answer = reviews.self_subject_access_review(review, request.user, self._authorizer, self._api.cacher)
        return Outcome(201, object=answer)

    async def _self_subject_rules_review(self, request: Request, review: Any) -> Outcome:
        answer = reviews.self_subject_rules_review(review, request.user, self._authorizer.rbac, self._api.cacher)
        return Outcome(201, object=answer)

    async def _token(self, request: Request, body: Any) -> Outcome:
        attributes = Attributes(request, "CREATE", body, dry_run=is_dry_run(request))
        await self._api.admission.admit(attributes, self._api.cacher)
        await self._api.admission.validate(attributes, self._api.cacher)
        answer = token_request.answer(
            attributes.object,
            request.namespace,
            request.name,
            self._issuer,
            self._api.cacher,
            audiences=(self._issuer.issuer,),
            user=request.user,
        )
        return Outcome(201, object=answer, warnings=attributes.warnings)

    async def _bind(self, request: Request, binding: Binding) -> Outcome:
        """Put a pod on its node."""
        name = request.name or binding.metadata.name or ""
        api = self._api
        attributes = Attributes(request, "CREATE", binding, dry_run=is_dry_run(request))
        await api.admission.admit(attributes, api.cacher)
        await api.admission.validate(attributes, api.cacher)
        binding = attributes.object
        faults = pod_binding.validate_binding(binding)
        if faults:
            raise Unclassified(joined(faults))
        inner = _on_pod(request, name)
        now = api.clock.now()

        def change(pod: Pod | None) -> Pod:
            if pod is None:
                raise NotFound.of(resource_of(Pod), name)
            return pod_binding.bind(pod, binding, now)

        await api.writer.change(inner, change)
        return Outcome(
            201, object=Status(metadata=ListMeta(), status="Success", code=201), warnings=attributes.warnings
        )

    async def _evict(self, request: Request, asked: Eviction) -> Outcome:
        """Delete a pod if its disruption budget allows."""
        api = self._api
        pod = api.cacher.get(Pod, request.name, request.namespace)
        if pod is None:
            raise NotFound.of(resource_of(Pod), request.name)
        dry_run = is_dry_run(request) or bool(asked.delete_options and asked.delete_options.dry_run)
        attributes = Attributes(request, "CREATE", asked, dry_run=dry_run)
        await api.admission.admit(attributes, api.cacher)
        await api.admission.validate(attributes, api.cacher)
        asked = attributes.object
        options = asked.delete_options or DeleteOptions()
        budgets = eviction.budgets_of(pod, api.cacher.list(PodDisruptionBudget, request.namespace))
        verdict = eviction.decide(pod, budgets, api.clock.now())
        if verdict.refusal is not None:
            raise verdict.refusal
        if verdict.budget is not None and not options.dry_run:
            await self._take(request, verdict.budget)
        if options.preconditions is None:
            options = replace(options, preconditions=Preconditions(uid=pod.metadata.uid))
        if not dry_run:
            options = await self._mark(request, options)
        inner = _on_pod(request, request.name)
        inner.verb, inner.body = "delete", options
        await api.deleter.delete(inner)
        return Outcome(
            201, object=Status(metadata=ListMeta(), status="Success", code=201), warnings=attributes.warnings
        )

    async def _mark(self, request: Request, options: DeleteOptions) -> DeleteOptions:
        """Write on the pod why it goes, unless it is another than was asked for: the deletion then says so."""
        wanted, now = options.preconditions or Preconditions(), self._api.clock.now()

        def change(pod: Pod | None) -> Pod:
            if pod is None:
                raise NotFound.of(resource_of(Pod), request.name)
            if wanted.uid not in (None, pod.metadata.uid):
                return pod
            if wanted.resource_version not in (None, pod.metadata.resource_version):
                return pod
            return eviction.mark(pod, now)

        before = self._api.cacher.get(Pod, request.name, request.namespace)
        written = await self._api.writer.change(_on_pod(request, request.name), change)
        if before is None or wanted.resource_version != before.metadata.resource_version or written.entry is None:
            return options
        return replace(options, preconditions=replace(wanted, resource_version=str(written.entry.revision)))

    async def _take(self, request: Request, budget: PodDisruptionBudget) -> None:
        """Write down the disruption that the budget has granted, at the version it was granted on."""
        inner = Request(
            user=request.user,
            verb="update",
            resource=resource_of(PodDisruptionBudget),
            namespace=request.namespace,
            name=budget.metadata.name or "",
            subresource="status",
            user_agent=request.user_agent,
        )
        await self._api.writer.update(inner, budget)


def _on_pod(request: Request, name: str) -> Request:
    """The same request as a change of the pod itself."""
    return Request(
        user=request.user,
        verb="update",
        resource=resource_of(Pod),
        namespace=request.namespace,
        name=name,
        subresource="binding",
        options=request.options,
        user_agent=request.user_agent,
    )

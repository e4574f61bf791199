"""TokenReview and SelfSubjectReview: whose token is this, and who am I. Source: pkg/registry/authentication."""

from __future__ import annotations

from msgspec.structs import replace

from kaa.api.clock import format_time
from kaa.api.errors import BadRequest, Unauthorized
from kaa.api.types.authentication_v1 import (
    SelfSubjectReview,
    SelfSubjectReviewStatus,
    TokenReview,
    TokenReviewStatus,
    UserInfo,
)
from kaa.client.pipeline import User

from ..view import View
from .base import Authenticator, Credentials, Remark, unheard
from .chain import UnionAuthenticator
from .tokens import TokenAuthenticator


def user_info(user: User) -> UserInfo:
    return UserInfo(
        username=user.name,
        uid=user.uid or None,
        groups=tuple(user.groups),
        extra={key: tuple(values) for key, values in user.extra.items()},
    )


def token_review(
    review: TokenReview, authenticator: UnionAuthenticator, view: View, remark: Remark = unheard
) -> TokenReview:
    """The review with its status; a token that is not valid is an answer, not an error."""
    if not review.spec.token:
        raise BadRequest("token is required for TokenReview in authentication")
    try:
        found = _review(review, authenticator, view, remark)
    except Unauthorized as err:
        detail = "" if err.message in ("Unauthorized", _INVALID) else err.message
        text = f"[{_INVALID}, {detail}]" if detail else _INVALID
        return replace(review, status=TokenReviewStatus(error=text))
    return replace(review, status=found)


_INVALID = "invalid bearer token"


def _review(review: TokenReview, authenticator: UnionAuthenticator, view: View, remark: Remark) -> TokenReviewStatus:
    credentials = Credentials(authorization=f"Bearer {review.spec.token}", remark=remark)
    wanted = review.spec.audiences
    fault: Unauthorized | None = None
    for one in authenticator.authenticators:
        try:
            found = _ask(one, credentials, review.spec.token, wanted, view)
        except Unauthorized as err:
            fault = err
            continue
        if found is not None:
            return found
    raise fault or Unauthorized(_INVALID)


def _ask(
    one: Authenticator, credentials: Credentials, token: str, wanted: tuple[str, ...], view: View
) -> TokenReviewStatus | None:
    if isinstance(one, TokenAuthenticator):
        verified = one.review(token, view, wanted, remark=credentials.remark)
        if verified is None:
            return None
        return TokenReviewStatus(authenticated=True, user=user_info(verified.user), audiences=tuple(verified.audiences))
    user = one.authenticate(credentials, view)
    return TokenReviewStatus(authenticated=True, user=user_info(user), audiences=wanted) if user else None


def self_subject_review(review: SelfSubjectReview, user: User, view: View) -> SelfSubjectReview:
    """Who asks. Raises nothing: whoever got here is known."""
    meta = replace(review.metadata, creation_timestamp=format_time(view.clock.now()))
    return replace(review, metadata=meta, status=SelfSubjectReviewStatus(user_info=user_info(user)))

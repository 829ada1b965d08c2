"""/sign-on: to the identity provider and back."""

import logging
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request, status
from fastapi.responses import RedirectResponse
from starlette.responses import Response

from dicom_node import accounts
from dicom_node.errors import AccountError, SignOnError
from dicom_node.logins import open_session
from dicom_node.web.access.cookies import SIGN_ON
from dicom_node.web.access.gate import Access, address_of
from dicom_node.web.access.login import FLOOD, logged_in, login_page, safe_path
from dicom_node.web.access.oidc import IdentityProvider, SignedOn
from dicom_node.web.access.throttle import Throttle
from models.audit import AuditAction, record

log = logging.getLogger(__name__)

_AWAY_SECONDS: Final = 600
_CODES: Final = (60, 600.0)  # that let nobody in: each is a request to the provider
_NO_ROLE: Final = "none of your groups at the identity provider may use this node"
_CANCELLED: Final = "the identity provider let nobody in: begin again, or ask an administrator"


def router(access: Access, provider: IdentityProvider) -> APIRouter:
    """Return the two routes."""
    routes = APIRouter(include_in_schema=False)
    codes = Throttle(*_CODES)

    @routes.get("/sign-on")
    def leave(request: Request, next: str = "/") -> Response:  # noqa: A002  name of the parameter
        """Send the browser to the provider, with a cookie that its way back needs."""
        seed = provider.new_seed()
        try:
            answer = RedirectResponse(provider.address(seed), status.HTTP_303_SEE_OTHER)
        except SignOnError as error:
            return _refused(access, request, error)
        access.cookies.put(answer, SIGN_ON, f"{seed}:{safe_path(next)}", _AWAY_SECONDS)
        return answer

    @routes.get("/sign-on/callback")
    def come_back(
        request: Request,
        code: Annotated[str, Query(max_length=4096)] = "",
        state: Annotated[str, Query(max_length=256)] = "",
    ) -> Response:
        """Log in whom the provider vouches for."""
        address = address_of(request)
        seed, _, path = (access.cookies.read(request, SIGN_ON) or "").partition(":")
        try:
            if not code or not seed:
                raise SignOnError(_CANCELLED)
            if not codes.note(address):
                return login_page(access, request, "/", FLOOD, status.HTTP_429_TOO_MANY_REQUESTS)
            secret = _open(access, request, provider.finish(seed, code, state))
        except AccountError as error:
            return _refused(access, request, error)
        codes.take_back(address)
        answer = logged_in(access, request, secret, path)
        access.cookies.drop(answer, SIGN_ON)
        return answer

    return routes


def _open(access: Access, request: Request, who: SignedOn) -> str:
    peer = address_of(request)
    issuer = access.settings.oidc.issuer or ""
    if who.role is None:
        with access.database.write() as session:
            accounts.without_role(session, issuer, who.subject, peer)
        raise SignOnError(_NO_ROLE)
    with access.database.write() as session:
        account = accounts.signed_on(session, issuer, who.subject, who.name, who.role, peer)
        record(session, AuditAction.LOGIN, "sign_on", actor=account.name, peer=peer)
        return open_session(session, account, access.lifetimes)


def _refused(access: Access, request: Request, error: AccountError) -> Response:
    """Show the login page with what went wrong. The log has the cause, the audit the fact."""
    log.warning("sign-on refused: %s (%s)", error, type(error.__cause__).__name__)
    if access.failed_sign_ons.note(address_of(request)):
        with access.database.write() as session:
            record(session, AuditAction.LOGIN_FAILED, "sign_on", peer=address_of(request))
    answer = login_page(access, request, "/", f"{error}.", status.HTTP_403_FORBIDDEN)
    access.cookies.drop(answer, SIGN_ON)
    return answer

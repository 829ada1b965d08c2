"""Pages before there is a login, and its end: /login, /logout, invitations."""

from typing import Annotated, Final
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, Form, Request, status
from fastapi.responses import RedirectResponse
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from dicom_node import accounts
from dicom_node.errors import AccountError
from dicom_node.logins import end_session, open_session
from dicom_node.passwords import MIN_LENGTH, require_sound
from dicom_node.web.access import csrf
from dicom_node.web.access.cookies import SESSION
from dicom_node.web.access.gate import Access, address_of
from dicom_node.web.auth import Principal, Requires, Scope
from dicom_node.web.rendering import page
from models.account import Role
from models.audit import AuditAction, record

REFUSED: Final = (
    "Name or password is wrong, or the account is shut for a while after too many attempts."
)
FLOOD: Final = "Too many failed logins from this address: try again in ten minutes."
_NO_INVITATION: Final = (
    "This invitation was used, is too old, or is none. Ask an administrator for another one."
)
# Text of a form; longer than any name, password or path that means something.
_LONGEST: Final = 2048
Text = Annotated[str, Form(max_length=_LONGEST)]


def safe_path(text: str) -> str:
    """Return a path of this site to go on to; anything that may lead elsewhere becomes `/`.

    So does what no page of this site has in its address, and no cookie can hold.
    """
    is_path = text.startswith("/") and not text.startswith(("//", "/\\"))
    is_plain = text.isascii() and text.isprintable() and "\\" not in text
    if not is_path or not is_plain or len(text) > _LONGEST:
        return "/"
    try:
        parts = urlsplit(text)
    except ValueError:
        return "/"
    return "/" if parts.scheme or parts.netloc else text


def router(access: Access) -> APIRouter:
    """Return the routes of logging in and out with a password."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/login")
    async def login(request: Request, next: str = "/") -> Response:  # noqa: A002  name of the parameter
        """Show the form; who is logged in already goes on."""
        if await access.whoever(request) is not None:
            return RedirectResponse(safe_path(next), status.HTTP_303_SEE_OTHER)
        return await run_in_threadpool(login_page, access, request, next)

    @routes.post("/login")
    def log_in(request: Request, name: Text, password: Text, next: Text = "/") -> Response:  # noqa: A002  as above
        """Log in, or show the form again with one sentence that is the same whatever is wrong."""
        csrf.require_same_origin(request)
        address = address_of(request)
        if not access.failed_logins.note(address):
            return login_page(access, request, next, FLOOD, status.HTTP_429_TOO_MANY_REQUESTS)
        secret = access.login.attempt(name, password, address)
        if secret is None:
            return login_page(access, request, next, REFUSED, status.HTTP_403_FORBIDDEN)
        access.failed_logins.take_back(address)
        return logged_in(access, request, secret, next)

    @routes.post("/logout")
    def log_out(
        request: Request,
        who: Annotated[Principal, Depends(Requires(Role.VIEWER, Scope.RESULTS))],
    ) -> Response:
        """End the session."""
        secret = access.cookies.read(request, SESSION)
        with access.database.write() as session:
            end_session(session, secret or "")
            record(session, AuditAction.LOGOUT, "asked", actor=who.name, peer=address_of(request))
        answer = RedirectResponse("/login", status.HTTP_303_SEE_OTHER)
        access.cookies.drop(answer, SESSION)
        return answer

    _add_invitations(routes, access)
    return routes


def _add_invitations(routes: APIRouter, access: Access) -> None:
    @routes.get("/invitations/{secret}")
    def invitation(request: Request, secret: str) -> Response:
        """Show the form of a link that works."""
        return _invitation_page(access, request, secret)

    @routes.post("/invitations/{secret}")
    def accept(
        request: Request, secret: str, name: Text, password: Text, repeated: Text
    ) -> Response:
        """Make the account and log in."""
        csrf.require_same_origin(request)
        with access.database.read() as session:
            if accounts.invitation(session, secret) is None:
                return _invitation_page(access, request, secret)
        try:
            require_repeated(password, repeated)
            require_sound(name, password)
            hashed = access.passwords.hash(password)
            with access.database.write() as session:
                peer = address_of(request)
                account = accounts.accept(session, secret, name, hashed, peer)
                record(session, AuditAction.LOGIN, "invitation", actor=account.name, peer=peer)
                opened = open_session(session, account, access.lifetimes)
        except AccountError as error:
            return _invitation_page(access, request, secret, str(error), name)
        return logged_in(access, request, opened, "/")


def require_repeated(password: str, repeated: str) -> None:
    """Raise AccountError unless a new password was typed twice alike."""
    if password != repeated:
        msg = "the two passwords differ: type the same one twice"
        raise AccountError(msg)


def logged_in(access: Access, request: Request, secret: str, path: str) -> Response:
    """Return the answer that gives the browser its new session; an earlier one of it ends."""
    former = access.cookies.read(request, SESSION)
    if former is not None:
        with access.database.write() as session:
            end_session(session, former)
    answer = RedirectResponse(safe_path(path), status.HTTP_303_SEE_OTHER)
    access.cookies.put(answer, SESSION, secret)
    return answer


def login_page(
    access: Access,
    request: Request,
    path: str,
    message: str | None = None,
    code: int = status.HTTP_200_OK,
) -> Response:
    """Return the form, with what went wrong."""
    with access.database.read() as session:
        is_empty = not accounts.has_accounts(session)
    context = {
        "message": message,
        "next": safe_path(path),
        "sign_on": access.settings.oidc.label if access.settings.oidc.issuer else None,
        "is_empty": is_empty,
    }
    return page(request, "login.html", context, status_code=code)


def _invitation_page(
    access: Access, request: Request, secret: str, message: str | None = None, name: str = ""
) -> Response:
    with access.database.read() as session:
        found = accounts.invitation(session, secret)
    context = {
        "role": found.role.value if found else None,
        "message": message if found else _NO_INVITATION,
        "name": name,
        "min_length": MIN_LENGTH,
    }
    code = status.HTTP_400_BAD_REQUEST if found and message else status.HTTP_200_OK
    code = code if found else status.HTTP_404_NOT_FOUND
    return page(request, "invitation.html", context, status_code=code)

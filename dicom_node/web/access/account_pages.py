"""Pages about accounts: one's own password, and for administrators everybody's role and tokens."""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Form, HTTPException, Request, status
from fastapi.responses import RedirectResponse
from starlette.responses import Response

from dicom_node import accounts
from dicom_node.accounts import Actor
from dicom_node.errors import AccountError
from dicom_node.logins import open_session
from dicom_node.passwords import MIN_LENGTH, require_sound
from dicom_node.web.access.gate import Access, address_of
from dicom_node.web.access.login import Text, logged_in, require_repeated
from dicom_node.web.auth import Principal, Requires, Scope
from dicom_node.web.rendering import page
from models.account import Account, Role
from models.settings import Settings

Administrator = Annotated[Principal, Depends(Requires(Role.ADMIN, Scope.ACCOUNTS))]
# What makes credentials.
Person = Annotated[Principal, Depends(Requires(Role.ADMIN, Scope.ACCOUNTS, needs_person=True))]
Somebody = Annotated[Principal, Depends(Requires(Role.VIEWER, Scope.ACCOUNTS))]
Change = Callable[..., None]

_TOLD: Final = {
    "results": "studies, images, figures",
    "worklist": "claim, read, feedback",
    "deliveries": "what is sent to whom",
    "audit": "who did what",
    "system": "ledger, destinations, workers",
    "accounts": "accounts and tokens",
    "store": "objects in, by STOW-RS",
}
_CHANGES: Final[dict[str, Change]] = {
    "disable": accounts.disable,
    "enable": accounts.enable,
    **{role.value: partial(accounts.change_role, role=role) for role in Role},
}
_OFFERED_DAYS: Final = (7, 30, 90, 365)


def router(access: Access, settings: Settings) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(include_in_schema=False)
    _add_accounts(routes, access, settings)
    _add_tokens(routes, access)
    _add_own(routes, access)
    return routes


def _add_accounts(routes: APIRouter, access: Access, settings: Settings) -> None:
    @routes.get("/accounts")
    def listed(request: Request, who: Administrator) -> Response:
        """List everybody."""
        return _accounts_page(access, request, who)

    @routes.post("/accounts/invitations")
    def invite(request: Request, who: Person, role: Annotated[Role, Form()]) -> Response:
        """Make a link, and show it this once."""
        with access.database.write() as session:
            secret = accounts.invite(session, role, _actor(request, who))
        link = f"{settings.web.base_url}/invitations/{secret}"
        return _accounts_page(access, request, who, link=link, role=role)

    @routes.post("/accounts/{account_id}")
    def change(
        request: Request, who: Person, account_id: int, to: Annotated[str, Form()]
    ) -> Response:
        """Shut an account out, let it in again, or give it another role."""
        if to not in _CHANGES:
            raise HTTPException(status.HTTP_422_UNPROCESSABLE_CONTENT, "no such change")
        try:
            with access.database.write() as session:
                account = session.get(Account, account_id)
                if account is None:
                    raise HTTPException(status.HTTP_404_NOT_FOUND, "there is no such account")
                _CHANGES[to](session, account, actor=_actor(request, who))
        except AccountError as error:
            return _accounts_page(access, request, who, message=f"{error}.")
        return RedirectResponse("/accounts", status.HTTP_303_SEE_OTHER)


def _accounts_page(
    access: Access,
    request: Request,
    who: Principal,
    *,
    message: str | None = None,
    link: str | None = None,
    role: Role | None = None,
) -> Response:
    with access.database.read() as session:
        rows = accounts.listed_accounts(session)
    context = {
        "accounts": rows,
        "roles": list(Role),
        "message": message,
        "link": link,
        "role": role,
        "hours": accounts.INVITATION_HOURS,
    }
    code = status.HTTP_409_CONFLICT if message else status.HTTP_200_OK
    return page(request, "accounts.html", context, principal=who, status_code=code)


def _add_tokens(routes: APIRouter, access: Access) -> None:
    @routes.get("/tokens")
    def listed(request: Request, who: Administrator) -> Response:
        """List the tokens of everybody."""
        return _tokens_page(access, request, who)

    @routes.post("/tokens")
    def create(
        request: Request,
        who: Person,
        account: Text,
        name: Text,
        scopes: Annotated[list[Scope] | None, Form()] = None,
        days: Annotated[int, Form(ge=1, le=accounts.MAX_TOKEN_DAYS)] = accounts.TOKEN_DAYS,
    ) -> Response:
        """Make a token, and show it this once."""
        try:
            with access.database.write() as session:
                owner = accounts.named(session, account)
                wanted = frozenset(each.value for each in scopes or ())
                actor = _actor(request, who)
                secret = accounts.create_token(session, owner, name, wanted, actor, days=days)
        except AccountError as error:
            return _tokens_page(access, request, who, message=f"{error}.")
        return _tokens_page(access, request, who, secret=secret)

    @routes.post("/tokens/{token_id}/revoke")
    def revoke(request: Request, who: Administrator, token_id: int) -> Response:
        """End a token."""
        with access.database.write() as session:
            accounts.revoke_token(session, token_id, _actor(request, who))
        return RedirectResponse("/tokens", status.HTTP_303_SEE_OTHER)


def _tokens_page(
    access: Access,
    request: Request,
    who: Principal,
    *,
    message: str | None = None,
    secret: str | None = None,
) -> Response:
    with access.database.read() as session:
        tokens = accounts.listed_tokens(session)
        names = [row["name"] for row in accounts.listed_accounts(session) if not row["is_disabled"]]
    context = {
        "tokens": tokens,
        "names": names,
        "scopes": {scope.value: _TOLD[scope.value] for scope in Scope},
        "days": _OFFERED_DAYS,
        "default_days": accounts.TOKEN_DAYS,
        "message": message,
        "secret": secret,
    }
    code = status.HTTP_409_CONFLICT if message else status.HTTP_200_OK
    return page(request, "tokens.html", context, principal=who, status_code=code)


def _add_own(routes: APIRouter, access: Access) -> None:
    @routes.get("/account")
    def own(request: Request, who: Somebody) -> Response:
        """Show one's own account."""
        return _own_page(access, request, who)

    @routes.post("/account/password")
    def change_password(
        request: Request, who: Somebody, current: Text, password: Text, repeated: Text
    ) -> Response:
        """Take another password; every other session of the account ends."""
        address = address_of(request)
        try:
            _require_current(access, who, current, address)
            require_repeated(password, repeated)
            require_sound(who.name, password)
            hashed = access.passwords.hash(password)
            with access.database.write() as session:
                account = accounts.named(session, who.name)
                accounts.set_password(session, account, hashed, _actor(request, who))
                secret = open_session(session, account, access.lifetimes)
        except AccountError as error:
            return _own_page(access, request, who, f"{error}.")
        return logged_in(access, request, secret, "/account")


def _require_current(access: Access, who: Principal, password: str, address: str) -> None:
    """Raise AccountError unless this is the password of whoever asks; counts like a login."""
    if not access.failed_logins.note(address):
        msg = "too many failed attempts from this address: try again in ten minutes"
        raise AccountError(msg)
    if not access.login.confirm(who.name, password, address):
        msg = "the current password is wrong"
        raise AccountError(msg)
    access.failed_logins.take_back(address)


def _own_page(
    access: Access, request: Request, who: Principal, message: str | None = None
) -> Response:
    with access.database.read() as session:
        account = accounts.named(session, who.name)
    context = {
        "message": message,
        "has_password": account.password_hash is not None,
        "last_login_at": account.last_login_at,
        "min_length": MIN_LENGTH,
    }
    code = status.HTTP_400_BAD_REQUEST if message else status.HTTP_200_OK
    return page(request, "account.html", context, principal=who, status_code=code)


def _actor(request: Request, who: Principal) -> Actor:
    return Actor(who.name, address_of(request))

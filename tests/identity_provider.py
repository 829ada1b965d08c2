"""An OpenID provider for tests: discovery, authorization code with PKCE, ID tokens, userinfo.

It logs in whoever `person` is, without asking, and keeps to the protocol where a client does not.
"""

import base64
import hashlib
import secrets
import time
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import urlencode

from joserfc import jwt
from joserfc.jwk import RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route


def new_key() -> RSAKey:
    """Return a key pair with an id of its own."""
    return RSAKey.generate_key(2048, {"kid": secrets.token_hex(4), "use": "sig"})


@cache
def _first_key() -> RSAKey:
    """Making one takes longer than most tests."""
    return new_key()


@dataclass
class IdentityProvider:
    """One provider. `person` is who sits before the browser; `claims` overrides the ID token's."""

    issuer: str
    client_id: str = "node"
    client_secret: str | None = "s3cret:&"  # noqa: S105  of a test
    redirect_uri: str = ""
    person: dict[str, Any] = field(default_factory=dict)
    claims: dict[str, Any] = field(default_factory=dict)
    userinfo: str | None = None  # another address than its own
    hidden: tuple[str, ...] = ()  # claims that only userinfo tells
    key: RSAKey = field(default_factory=_first_key)
    published_keys: list[RSAKey] | None = None
    is_posted: bool = False  # the secret comes in the body, not by Basic
    refuses: bool = False
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    access_tokens: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)

    def app(self) -> Starlette:
        """Return the application."""
        return Starlette(
            routes=[
                Route("/.well-known/openid-configuration", self._configuration),
                Route("/authorize", self._authorize),
                Route("/token", self._token, methods=["POST"]),
                Route("/keys", self._keys),
                Route("/userinfo", self._userinfo),
            ]
        )

    async def _configuration(self, _request: Request) -> Response:
        self.asked.append("configuration")
        method = "client_secret_post" if self.is_posted else "client_secret_basic"
        return JSONResponse(
            {
                "issuer": self.issuer,
                "authorization_endpoint": f"{self.issuer}/authorize",
                "token_endpoint": f"{self.issuer}/token",
                "jwks_uri": f"{self.issuer}/keys",
                "userinfo_endpoint": self.userinfo or f"{self.issuer}/userinfo",
                "token_endpoint_auth_methods_supported": [method],
            }
        )

    async def _authorize(self, request: Request) -> Response:
        asked = dict(request.query_params)
        assert asked["client_id"] == self.client_id
        assert asked["response_type"] == "code"
        assert asked["redirect_uri"] == self.redirect_uri
        assert asked["code_challenge_method"] == "S256"
        assert "openid" in asked["scope"].split()
        if self.refuses:
            answer = {"error": "access_denied", "state": asked["state"]}
        else:
            code = secrets.token_urlsafe(16)
            self.codes[code] = asked
            answer = {"code": code, "state": asked["state"]}
        return RedirectResponse(f"{self.redirect_uri}?{urlencode(answer)}", 302)

    async def _token(self, request: Request) -> Response:
        self.asked.append("token")
        form = dict(await request.form())
        asked = self.codes.pop(str(form.get("code")), None)  # a code works once
        challenge = base64.urlsafe_b64encode(
            hashlib.sha256(str(form.get("code_verifier")).encode()).digest()
        ).rstrip(b"=")
        is_fit = (
            asked is not None
            and asked["code_challenge"] == challenge.decode()
            and form.get("redirect_uri") == self.redirect_uri
            and form.get("grant_type") == "authorization_code"
        )
        if asked is None or not is_fit or not self._knows(request, form):
            return JSONResponse({"error": "invalid_grant"}, 400)
        access_token = secrets.token_urlsafe(16)
        self.access_tokens.add(access_token)
        told = {key: value for key, value in self.person.items() if key not in self.hidden}
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "aud": self.client_id,
            "iat": now,
            "exp": now + 300,
            "nonce": asked["nonce"],
            **told,
            **self.claims,
        }
        signed = jwt.encode({"alg": "RS256", "kid": self.key.kid}, claims, self.key)
        body = {"access_token": access_token, "token_type": "Bearer", "id_token": signed}
        return JSONResponse(body)

    def _knows(self, request: Request, form: dict[str, Any]) -> bool:
        """Whether the client proves who it is, in the one way that it was told."""
        if self.client_secret is None:
            return form.get("client_id") == self.client_id
        if self.is_posted:
            return form.get("client_secret") == self.client_secret
        both = f"{self.client_id}:{self.client_secret}".encode()
        expected = f"Basic {base64.b64encode(both).decode()}"
        return request.headers.get("authorization") == expected

    async def _keys(self, _request: Request) -> Response:
        self.asked.append("keys")
        keys = self.published_keys if self.published_keys is not None else [self.key]
        return JSONResponse({"keys": [each.as_dict(private=False) for each in keys]})

    async def _userinfo(self, request: Request) -> Response:
        self.asked.append("userinfo")
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if given not in self.access_tokens:
            return JSONResponse({"error": "invalid_token"}, 401)
        return JSONResponse(self.person)

"""Login by an identity provider: OpenID Connect Core 1.0, authorization code (3.1) with PKCE.

Nothing is kept between the way there and the way back: `state`, `nonce` and the code verifier are
derived from one random value in a cookie of the browser, so the way back only works in the browser
that went.
"""

import hashlib
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, cast

import httpx
from authlib.oauth2.auth import ClientAuth
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri, prepare_token_request
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from authlib.oidc.core import CodeIDToken
from authlib.oidc.discovery import OpenIDProviderMetadata, get_well_known_url
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet, KeySetSerialization

from dicom_node.errors import SignOnError, StartError
from models.account import Role
from models.people_sections import OidcSettings
from models.web_address import is_safe_address

# Signatures by a key pair; one by a shared secret could be made with the public key.
_ALGORITHMS: Final = ["RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA"]
_METADATA_SECONDS: Final = 3600.0
_LEEWAY_SECONDS: Final = 60
_NEEDED: Final = ("authorization_endpoint", "token_endpoint", "jwks_uri")
# A request to a provider that is silent holds a thread of the web side until it is given up.
_AT_ONCE: Final = 16
_PATIENCE_SECONDS: Final = 1.0  # for whoever else reads what it publishes
_SILENT_SECONDS: Final = 30.0  # in which it is not asked again
_SILENT: Final = "the identity provider does not answer: try again in a minute"
_ROLES: Final = tuple(Role)


@dataclass(frozen=True)
class SignedOn:
    """Whom the provider vouches for; without a role none of the groups is one of the settings."""

    subject: str
    name: str
    role: Role | None


@dataclass
class IdentityProvider:
    """One provider. What it publishes of itself is read when it is needed, and again each hour.

    While it is silent most of those who come are told so at once. Safe for several threads.
    """

    settings: OidcSettings
    redirect_uri: str
    _secret: str | None = field(repr=False)
    monotonic: Callable[[], float] = time.monotonic
    _read_at: float = 0.0
    _silent_until: float = 0.0
    _metadata: Mapping[str, Any] | None = None
    _keys: KeySet | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _turns: threading.BoundedSemaphore = field(
        default_factory=lambda: threading.BoundedSemaphore(_AT_ONCE), repr=False
    )

    @classmethod
    def of(cls, settings: OidcSettings, base_url: str) -> "IdentityProvider | None":
        """Return the provider of the settings. Raises StartError when its secret is not there."""
        if settings.issuer is None:
            return None
        return cls(settings, f"{base_url}/sign-on/callback", _client_secret(settings))

    def new_seed(self) -> str:
        """Return what the browser keeps while it is away."""
        return secrets.token_urlsafe(32)

    def address(self, seed: str) -> str:
        """Return where the browser is sent. Raises SignOnError when the provider is away."""
        with self._turn():
            endpoint = self._published()["authorization_endpoint"]
        uri: str = prepare_grant_uri(
            endpoint,
            self.settings.client_id,
            "code",
            redirect_uri=self.redirect_uri,
            scope=" ".join(self.settings.scopes),
            state=_derived(seed, "state"),
            nonce=_derived(seed, "nonce"),
            code_challenge=create_s256_code_challenge(_derived(seed, "verifier")),
            code_challenge_method="S256",
        )
        return uri

    def finish(self, seed: str, code: str, state: str) -> SignedOn:
        """Return who came back. Raises SignOnError with what is to be told."""
        if not secrets.compare_digest(state.encode(), _derived(seed, "state").encode()):
            msg = "this login was begun in another window, or long ago: begin again"
            raise SignOnError(msg)
        with self._turn():
            tokens = self._tokens(code, _derived(seed, "verifier"))
            claims = self._claims(tokens, _derived(seed, "nonce"))
            told = {**self._user_info(tokens, claims), **claims}
        subject = str(claims["sub"])
        name = str(told.get(self.settings.name_claim) or subject)
        return SignedOn(subject, name, self._role(told))

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Ask the provider in the block. Raises SignOnError when it is silent, or many ask it."""
        self._require_answering()
        if not self._turns.acquire(blocking=False):
            raise SignOnError(_SILENT)
        try:
            yield
        finally:
            self._turns.release()

    def _require_answering(self) -> None:
        if self.monotonic() < self._silent_until:
            raise SignOnError(_SILENT)

    def _published(self) -> Mapping[str, Any]:
        if not self._lock.acquire(timeout=_PATIENCE_SECONDS):
            raise SignOnError(_SILENT)
        try:
            is_old = self.monotonic() - self._read_at > _METADATA_SECONDS
            if self._metadata is None or is_old:
                self._metadata, self._keys = self._read_metadata(), None
                self._read_at = self.monotonic()
            return self._metadata
        finally:
            self._lock.release()

    def _read_metadata(self) -> Mapping[str, Any]:
        """Return what the provider publishes, if secrets may go to each of its addresses."""
        found: Mapping[str, Any] = OpenIDProviderMetadata(
            self._get(get_well_known_url(self.settings.issuer, external=True))
        )
        used = {*_NEEDED, *({"userinfo_endpoint"} & found.keys())}
        unsafe = [key for key in used if not is_safe_address(str(found.get(key, "")))]
        if found.get("issuer") != self.settings.issuer or unsafe:
            msg = "the identity provider publishes another issuer, or addresses without TLS"
            raise SignOnError(msg)
        return found

    def _tokens(self, code: str, verifier: str) -> Mapping[str, Any]:
        published = self._published()
        supported = published.get("token_endpoint_auth_methods_supported") or []
        is_posted = "client_secret_post" in supported and "client_secret_basic" not in supported
        method = "client_secret_post" if is_posted else "client_secret_basic"
        auth = ClientAuth(self.settings.client_id, self._secret, method if self._secret else "none")
        body = prepare_token_request(
            "authorization_code", code=code, redirect_uri=self.redirect_uri, code_verifier=verifier
        )
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        url, headers, body = auth.prepare("POST", published["token_endpoint"], headers, body)
        return self._request("POST", url, headers, body)

    def _claims(self, tokens: Mapping[str, Any], nonce: str) -> dict[str, Any]:
        """Return the claims of the ID token, verified as 3.1.3.7 says."""
        encoded = tokens.get("id_token")
        if not isinstance(encoded, str):
            msg = "the identity provider gave no ID token"
            raise SignOnError(msg)
        try:
            token = self._decoded(encoded)
            claims = CodeIDToken(
                token.claims,
                token.header,
                options={
                    "iss": {"essential": True, "value": str(self.settings.issuer)},
                    "aud": {"essential": True, "value": str(self.settings.client_id)},
                },
                params={
                    "nonce": nonce,
                    "client_id": self.settings.client_id,
                    "access_token": tokens.get("access_token"),
                },
            )
            claims.validate(leeway=_LEEWAY_SECONDS)
        except (JoseError, ValueError) as error:
            msg = "what the identity provider says cannot be verified"
            raise SignOnError(msg) from error
        return dict(claims)

    def _decoded(self, encoded: str) -> jwt.Token:
        """Return the token; with a key that is not known yet, after another look at the keys."""
        known = self._keys
        try:
            return jwt.decode(encoded, known or self._read_keys(), algorithms=_ALGORITHMS)
        except (JoseError, ValueError):
            if known is None:
                raise
            return jwt.decode(encoded, self._read_keys(), algorithms=_ALGORITHMS)

    def _read_keys(self) -> KeySet:
        found = self._get(self._published()["jwks_uri"])
        self._keys = KeySet.import_key_set(cast("KeySetSerialization", found))
        return self._keys

    def _user_info(self, tokens: Mapping[str, Any], claims: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the ID token does not hold, where the provider says it elsewhere (5.3)."""
        url = self._published().get("userinfo_endpoint")
        if url is None or _claim(claims, self.settings.roles_claim) is not None:
            return {}
        headers = {"Authorization": f"Bearer {tokens.get('access_token', '')}"}
        found = self._request("GET", url, headers)
        if found.get("sub") != claims["sub"]:
            msg = "what the identity provider says cannot be verified"
            raise SignOnError(msg)
        return dict(found)

    def _role(self, claims: Mapping[str, Any]) -> Role | None:
        """Return the highest role that the claim gives."""
        said = _claim(claims, self.settings.roles_claim)
        values = said if isinstance(said, list) else [said]
        given = {self.settings.roles.get(str(value)) for value in values}
        return next((role for role in reversed(_ROLES) if role.value in given), None)

    def _get(self, url: str) -> dict[str, Any]:
        return self._request("GET", url, {})

    def _request(
        self, method: str, url: str, headers: Mapping[str, str], body: str | None = None
    ) -> dict[str, Any]:
        """Return the JSON of an answer. Raises SignOnError, without what was answered."""
        self._require_answering()  # it may have fallen silent while others waited
        asked = {"Accept": "application/json", **headers}
        try:
            with httpx.Client(timeout=self.settings.timeout_seconds) as client:
                said = client.request(method, url, headers=asked, content=body)
            found = said.json() if said.is_success else None
        except httpx.TransportError as error:
            self._silent_until = self.monotonic() + _SILENT_SECONDS
            raise SignOnError(_SILENT) from error
        except (httpx.HTTPError, ValueError) as error:
            msg = f"the identity provider does not answer ({type(error).__name__})"
            raise SignOnError(msg) from error
        if not isinstance(found, dict):
            msg = f"the identity provider refused (HTTP {said.status_code})"
            raise SignOnError(msg)
        return found


def _derived(seed: str, use: str) -> str:
    return hashlib.sha256(f"{use}:{seed}".encode()).hexdigest()


def _claim(claims: Mapping[str, Any], path: str) -> object:
    """Return a claim by its name, or by the dotted path of one inside another."""
    if path in claims:
        found: object = claims[path]
        return found
    head, dot, rest = path.partition(".")
    inner = claims.get(head)
    return _claim(inner, rest) if dot and isinstance(inner, Mapping) else None


def _client_secret(settings: OidcSettings) -> str | None:
    """Return the secret of the file or variable. Raises StartError, without any of its text."""
    if settings.client_secret_variable is not None:
        found = os.environ.get(settings.client_secret_variable)
        if not found:
            name = settings.client_secret_variable
            msg = f"the environment has no {name} (web.oidc.client_secret_variable)"
            raise StartError(msg)
        return found
    if settings.client_secret_file is None:
        return None
    try:
        text = settings.client_secret_file.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not ASCII"
        msg = f"web.oidc.client_secret_file {settings.client_secret_file} cannot be read: {why}"
        raise StartError(msg) from None
    if not text:
        msg = f"web.oidc.client_secret_file {settings.client_secret_file} is empty"
        raise StartError(msg)
    return text

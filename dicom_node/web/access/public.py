"""The routes that want no login, with the reason. Any other one without `Requires` fails a test."""

from typing import Final

PUBLIC: Final = {
    "/api/v1/health": "up or not: probes and the supervisor ask it; no patient data",
    "/static": "style sheets and scripts, as published",
    "/login": "before there is a login",
    "/sign-on": "on the way to the identity provider",
    "/sign-on/callback": "on the way back from it",
    "/invitations/{secret}": "the secret in the address admits",
}

"""Passwords: what one must be, its hash by argon2 (RFC 9106), a check that always costs the same.

The package argon2 belongs to the extra [web]; it is imported when a password is looked at.
"""

import unicodedata
from functools import cached_property
from typing import TYPE_CHECKING, Final

from dicom_node.errors import AccountError, StartError

if TYPE_CHECKING:
    from argon2 import PasswordHasher

MIN_LENGTH: Final = 12
_MAX_LENGTH: Final = 1024  # of what is hashed: a longer one would be work for an attacker to order


def require_sound(name: str, password: str) -> None:
    """Raise AccountError unless the password is long enough and not the name of its account."""
    if len(password) < MIN_LENGTH:
        msg = f"the password is too short: take at least {MIN_LENGTH} characters"
        raise AccountError(msg)
    if len(password) > _MAX_LENGTH:
        msg = f"the password is too long: take at most {_MAX_LENGTH} characters"
        raise AccountError(msg)
    if _normal(password).casefold().strip() == name.casefold():
        msg = "the password is the name of the account: take another one"
        raise AccountError(msg)


class Passwords:
    """Hashes passwords with one set of parameters, by default those that RFC 9106 recommends."""

    def __init__(self, hasher: "PasswordHasher | None" = None) -> None:
        try:
            from argon2 import PasswordHasher  # noqa: PLC0415  of the extra [web] alone
        except ImportError as error:
            msg = "passwords need the extra [web]: pip install 'dicom-node[web]'"
            raise StartError(msg) from error
        self._hasher = hasher or PasswordHasher()

    @cached_property
    def _nobody(self) -> str:
        return self._hasher.hash("the password of nobody")

    def hash(self, password: str) -> str:
        """Return the hash to store, with salt and parameters in it."""
        return self._hasher.hash(_normal(password))

    def verify(self, stored: str | None, password: str) -> bool:
        """Say whether a password belongs to a hash; without a hash no, after as long a time."""
        from argon2.exceptions import InvalidHashError, VerificationError  # noqa: PLC0415  as above

        nobody = self._nobody
        try:
            fits = self._hasher.verify(stored or nobody, _normal(password[:_MAX_LENGTH]))
        except (VerificationError, InvalidHashError):
            return False
        return fits and stored is not None

    def is_outdated(self, stored: str) -> bool:
        """Say whether a hash was made with other parameters than today's."""
        return self._hasher.check_needs_rehash(stored)


def _normal(password: str) -> str:
    """Return the password as one sequence of code points, however the keyboard composed it."""
    return unicodedata.normalize("NFKC", password)

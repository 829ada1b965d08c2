"""TLS of both directions: BCP 195 (RFC 8996, RFC 9325) as PS3.15 B.12 takes it over.

Contexts are made from PEM files. `ServerCredentials` makes a new one when a file changes, so that a
renewed certificate serves the next connection without a restart.
"""

import contextlib
import logging
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dicom_node.errors import StartError
from models.sections import TlsSettings

log = logging.getLogger(__name__)

# RFC 9325 4.2.1, the suites that it recommends for TLS 1.2; TLS 1.3 has only sound ones. Security
# level 2: keys of RSA with 2048 bits or more, no SHA-1 in signatures (RFC 9325 4.5).
CIPHERS: Final = {  # OpenSSL's name: IANA's
    "ECDHE-ECDSA-AES128-GCM-SHA256": "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256": "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384": "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384": "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
}
_CIPHER_STRING: Final = f"{':'.join(CIPHERS)}:@SECLEVEL=2"
_DAY_SECONDS: Final = 86400.0
_ALERT_SECONDS: Final = 2.0  # within which a receiver that refuses our certificate says so


class TlsSocket(ssl.SSLSocket):
    """A socket that closes itself when it fails.

    pynetdicom closes a socket only after an orderly shutdown, which a broken one does not have; it
    would keep its descriptor until garbage is collected.
    """

    def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002  ssl's
        """Shake hands, or close."""
        with self._closing_on_failure():
            super().do_handshake(block)

    def shutdown(self, how: int) -> None:
        """Shut down, or close."""
        with self._closing_on_failure():
            super().shutdown(how)

    @contextlib.contextmanager
    def _closing_on_failure(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            self.close()
            raise


@dataclass(frozen=True)
class Refusal:
    """Why a connection was not admitted: a stable word, and what OpenSSL said where it did."""

    outcome: str
    detail: str = ""


# X509_V_ERR_… of OpenSSL's x509_vfy.h
_BAD_CERTIFICATE: Final[dict[int, str]] = {
    2: "certificate_of_unknown_ca",
    9: "certificate_not_yet_valid",
    10: "certificate_expired",
    18: "certificate_of_unknown_ca",
    19: "certificate_of_unknown_ca",
    20: "certificate_of_unknown_ca",
    21: "certificate_of_unknown_ca",
}

_HANDSHAKE_REASONS: Final[dict[str, str]] = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "no_certificate",
    "UNSUPPORTED_PROTOCOL": "tls_version",
    "NO_PROTOCOLS_AVAILABLE": "tls_version",
    "NO_SHARED_CIPHER": "no_shared_cipher",
    "WRONG_VERSION_NUMBER": "not_tls",
    "HTTP_REQUEST": "not_tls",
    "UNEXPECTED_EOF_WHILE_READING": "connection_lost",
}


def refusal_of(error: OSError | ValueError) -> Refusal:
    """Return what a failed handshake means. OpenSSL's words quote nothing that the peer sent."""
    if isinstance(error, ssl.SSLCertVerificationError):
        outcome = _BAD_CERTIFICATE.get(error.verify_code, "certificate_invalid")
        return Refusal(outcome, error.verify_message)
    if isinstance(error, ssl.SSLError):
        reason = error.reason or type(error).__name__
        return Refusal(_HANDSHAKE_REASONS.get(reason, "handshake_failed"), reason)
    if isinstance(error, TimeoutError):
        return Refusal("handshake_timeout")
    return Refusal("connection_lost", type(error).__name__)


def server_context(tls: TlsSettings) -> ssl.SSLContext:
    """Return a context for the listener. Raises StartError naming the setting that is wrong."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _restrict(context)
    # Every association proves its certificate anew: nothing is resumed from a ticket.
    context.options |= ssl.OP_NO_TICKET | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.num_tickets = 0
    _load_own(context, tls)
    _require_validity(tls, as_server=True)
    if tls.trusted_cas is not None:
        _load_trusted(context, tls.trusted_cas)
        context.verify_mode = (
            ssl.CERT_REQUIRED if tls.require_client_certificate else ssl.CERT_OPTIONAL
        )
    return context


def client_context(tls: TlsSettings) -> ssl.SSLContext:
    """Return a context for a sender: it verifies the receiver's certificate and host.

    Raises StartError naming the setting that is wrong.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _restrict(context)
    if tls.trusted_cas is None:
        msg = "a destination with tls needs dicom.tls.trusted_cas"
        raise StartError(msg)
    _load_trusted(context, tls.trusted_cas)
    if tls.certificate is not None:
        _load_own(context, tls)
        _require_validity(tls, as_server=False)
    return context


def days_left(tls: TlsSettings, *, as_server: bool) -> float:
    """Return for how many days our certificate is valid.

    Raises StartError when it is not, or not for this side of a connection: it is shown in a
    handshake in memory, and a peer that trusts it alone says what it thinks of it.
    """
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if as_server else ssl.PROTOCOL_TLS_CLIENT)
    judge = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT if as_server else ssl.PROTOCOL_TLS_SERVER)
    for context in (own, judge):
        if context.protocol == ssl.PROTOCOL_TLS_CLIENT:
            context.check_hostname = False
    own.verify_mode = ssl.CERT_NONE
    _load_own(own, tls)
    judge.verify_mode = ssl.CERT_REQUIRED
    judge.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    judge.load_verify_locations(tls.certificate)
    if not as_server:
        _load_own(judge, tls)
    try:
        expiry = _shake_hands(own, judge)
    except ssl.SSLCertVerificationError as error:
        msg = (
            f"dicom.tls.certificate {tls.certificate} is of no use ({error.verify_message}): "
            "renew it"
        )
        raise StartError(msg) from error
    return (expiry - time.time()) / _DAY_SECONDS


def what_fails(context: ssl.SSLContext, host: str, port: int, seconds: float) -> str | None:
    """Try a handshake and return what fails in it, as a part of a sentence; None when it works.

    pynetdicom only says that a connection failed. With TLS 1.3 the other side judges our
    certificate after our part of the handshake, so its answer is waited for.
    """
    try:
        with (
            socket.create_connection((host, port), seconds) as plain,
            context.wrap_socket(plain, server_hostname=host) as sock,
        ):
            sock.settimeout(min(seconds, _ALERT_SECONDS))
            with contextlib.suppress(TimeoutError):
                sock.recv(1)
    except ssl.SSLCertVerificationError as error:
        return f"TLS: its certificate is refused here ({error.verify_message})"
    except ssl.SSLError as error:
        return f"TLS: the handshake failed ({error.reason or type(error).__name__})"
    except OSError as error:
        return error.strerror or str(error)
    return None


def handshake_problem(
    context: ssl.SSLContext | None, host: str, port: int, seconds: float
) -> str | None:
    """Return what fails in a handshake; None when TLS is not at fault, or not spoken.

    With TLS 1.3 a server refuses our certificate after our part of the handshake, when the request
    is on its way; its alert may be lost with the connection.
    """
    problem = what_fails(context, host, port, seconds) if context is not None else None
    return problem if problem is not None and problem.startswith("TLS:") else None


class ServerCredentials:
    """The listener's context, made anew when one of its files changes."""

    def __init__(self, tls: TlsSettings) -> None:
        self._tls = tls
        self._lock = threading.Lock()
        self._stamp = self._look()
        self._context = server_context(tls)

    def context(self) -> ssl.SSLContext:
        """Return the context of the newest files, or the former one while those are unusable."""
        with self._lock:
            stamp = self._look()
            if stamp != self._stamp:
                self._stamp = stamp
                try:
                    self._context = server_context(self._tls)
                    log.info("TLS: certificate files changed and were read again")
                except StartError as error:
                    log.error("TLS: changed files are not used, the former ones are: %s", error)  # noqa: TRY400  no traceback wanted
            return self._context

    def _look(self) -> tuple[tuple[int, int, int] | None, ...]:
        files = (self._tls.certificate, self._tls.private_key, self._tls.trusted_cas)
        return tuple(_stamp(path) for path in files if path is not None)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _restrict(context: ssl.SSLContext) -> None:
    """Apply BCP 195: TLS 1.2 or newer (RFC 8996), its suites, no renegotiation (RFC 9325 3.5)."""
    context.sslsocket_class = TlsSocket
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHER_STRING)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION


def _read(setting: str, path: Path | None, wanted: str) -> Path:
    """Return the path of a PEM file that has what is wanted. Raises StartError."""
    try:
        text = path.read_text("ascii", "replace") if path is not None else ""
    except OSError as error:
        msg = f"dicom.tls.{setting} {path} cannot be read: {error.strerror}"
        raise StartError(msg) from error
    if path is None or wanted not in text:
        msg = f"dicom.tls.{setting} {path} has no PEM block of that kind: export it as PEM"
        raise StartError(msg)
    if "ENCRYPTED" in text:
        msg = f"dicom.tls.{setting} {path} is encrypted: store it decrypted, with mode 0600"
        raise StartError(msg)
    return path


def _load_own(context: ssl.SSLContext, tls: TlsSettings) -> None:
    certificate = _read("certificate", tls.certificate, "BEGIN CERTIFICATE")
    key = _read("private_key", tls.private_key, "PRIVATE KEY")
    try:
        context.load_cert_chain(certificate, key)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            msg = f"dicom.tls.private_key {key} is not the key of dicom.tls.certificate"
        else:
            msg = f"dicom.tls.certificate {certificate} or its key is unusable ({error.reason})"
        raise StartError(msg) from error


def _load_trusted(context: ssl.SSLContext, trusted_cas: Path) -> None:
    path = _read("trusted_cas", trusted_cas, "BEGIN CERTIFICATE")
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        msg = f"dicom.tls.trusted_cas {path} is unusable ({error.reason})"
        raise StartError(msg) from error


def _require_validity(tls: TlsSettings, *, as_server: bool) -> None:
    days_left(tls, as_server=as_server)


def _shake_hands(own: ssl.SSLContext, judge: ssl.SSLContext) -> float:
    """Let two contexts shake hands in memory; return when the certificate of `own` ends, Unix s.

    Raises ssl.SSLCertVerificationError when `judge` refuses it.
    """
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    own_is_server = own.protocol == ssl.PROTOCOL_TLS_SERVER
    sides = [
        own.wrap_bio(there, back, server_side=own_is_server),
        judge.wrap_bio(back, there, server_side=not own_is_server),
    ]
    pending = list(sides)
    while pending:
        for side in list(pending):
            try:
                side.do_handshake()
                pending.remove(side)
            except ssl.SSLWantReadError:
                continue
    seen = sides[1].getpeercert() or {}
    return float(ssl.cert_time_to_seconds(str(seen["notAfter"])))

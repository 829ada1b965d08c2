"""Run the web application until a signal ends it: safely bound, over TLS where that is set."""

import contextlib
import sys
import threading
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Final

import uvicorn
from sqlalchemy.exc import SQLAlchemyError
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp

from dicom_node import accounts
from dicom_node.errors import StartError
from dicom_node.web.app import create_app
from dicom_node.web.certificate import Certificate
from dicom_node.web.changes import Changes
from models.people_sections import WebSettings
from models.session import Database
from models.settings import Settings

_LOOPBACK_NAMES: Final = ("localhost", "127.0.0.1", "[::1]")
_GRACE_SECONDS: Final = 10  # for answers that are under way when the end comes
_LOOK_SECONDS: Final = 30.0
_CHANNEL_BYTES: Final = 1 << 12  # of a message to us over a WebSocket; nothing is read of it
_CANNOT_START: Final = 3  # as uvicorn's own command ends


def run(settings: Settings, database: Database) -> None:
    """Serve on `web.host`:`web.port`; uvicorn handles SIGTERM and SIGINT.

    Raises StartError when that would be unsafe, or a certificate or secret cannot be used.
    """
    require_safe(settings.web)
    certificate = Certificate.of(settings.web)
    made = create_app(settings, database)
    application = only_for(settings.web, made)
    done = threading.Event()
    upkeep = Upkeep(settings, database, certificate)
    threading.Thread(target=upkeep.run, args=(done,), daemon=True).start()
    config = uvicorn.Config(application, **options(settings.web, certificate))
    server = Server(config, made.state.changes)
    try:
        server.run()
    finally:
        done.set()
    if not server.started:
        sys.exit(_CANNOT_START)


class Server(uvicorn.Server):
    """Ends the streams of live pages with the first signal: the end would wait for each of them."""

    def __init__(self, config: uvicorn.Config, changes: Changes) -> None:
        super().__init__(config)
        self._changes = changes

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal."""
        self._changes.close()
        super().handle_exit(sig, frame)


def require_safe(web: WebSettings) -> None:
    """Raise StartError when passwords and images would cross a network in the clear."""
    if not (web.is_loopback or web.is_secure):
        msg = (
            f"web.host {web.host} is reached over the network without TLS: set web.certificate and "
            "web.private_key, or web.behind_proxy = true where a proxy has TLS"
        )
        raise StartError(msg)


def only_for(web: WebSettings, application: ASGIApp) -> ASGIApp:
    """Return the application for requests that are meant for this host alone.

    A name that an attacker points at this host would else make his page one of the same origin.
    Without `web.hosts` a node on loopback has the names of loopback, any other one takes all.
    """
    if not web.hosts and (web.behind_proxy or not web.is_loopback):
        return application
    own = f"[{web.host}]" if ":" in web.host else web.host
    allowed = dict.fromkeys((*web.hosts, *_LOOPBACK_NAMES, own))
    return TrustedHostMiddleware(application, list(allowed), www_redirect=False)


def options(web: WebSettings, certificate: Certificate | None) -> dict[str, Any]:
    """Return how uvicorn is to serve. Only configured proxies may say whose a request is."""
    found: dict[str, Any] = {
        "host": web.host,
        "port": web.port,
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "proxy_headers": web.behind_proxy,
        "forwarded_allow_ips": [str(each) for each in web.proxies],
        "timeout_graceful_shutdown": _GRACE_SECONDS,
        "ws_max_size": _CHANNEL_BYTES,
    }
    if certificate is not None:
        found["ssl_context_factory"] = lambda _config, _default: certificate.context
    return found


@dataclass
class Upkeep:
    """What goes on beside the requests: the first administrator's link, renewed certificates."""

    settings: Settings
    database: Database
    certificate: Certificate | None
    _may_be_empty: bool = field(default=True)

    def run(self, done: threading.Event) -> None:
        """Look now and then, until the end."""
        self.look()
        while not done.wait(_LOOK_SECONDS):
            self.look()

    def look(self) -> None:
        """Do what is due. A database that is away is asked again at the next look."""
        if self._may_be_empty:
            with contextlib.suppress(SQLAlchemyError):
                self._invite()
                self._may_be_empty = False
        if self.certificate is not None:
            self.certificate.renew()

    def _invite(self) -> None:
        """Print a link for the first administrator. It is a secret, so no log handler gets it."""
        with self.database.read() as session:
            if accounts.has_accounts(session):
                return
        with self.database.write() as session:
            secret = accounts.invite_first(session)
        if secret is not None:
            print(  # noqa: T201  for the person who starts the node
                "nobody has an account yet; the first administrator's is made here, once, within "
                f"{accounts.INVITATION_HOURS} hours: "
                f"{self.settings.web.base_url}/invitations/{secret}",
                flush=True,
            )

"""The certificate of the web side: BCP 195 as for DICOM, and renewed files without a restart."""

import logging
import ssl
from pathlib import Path

from dicom_node.errors import StartError
from dicom_node.tls import server_context
from models.people_sections import WebSettings
from models.sections import TlsSettings

log = logging.getLogger(__name__)

Stamp = tuple[tuple[int, int, int], ...]


class Certificate:
    """One context for the life of the server; a connection has the certificate of its beginning."""

    def __init__(self, certificate: Path, private_key: Path) -> None:
        self._files = (certificate, private_key)
        self._tls = TlsSettings(
            certificate=certificate, private_key=private_key, require_client_certificate=False
        )
        self._stamp = self._look()
        self.context = self._read()

    @classmethod
    def of(cls, web: WebSettings) -> "Certificate | None":
        """Return that of the settings. Raises StartError naming the setting that is wrong."""
        if web.certificate is None or web.private_key is None:
            return None
        return cls(web.certificate, web.private_key)

    def renew(self) -> bool:
        """Use files that have changed, or the former ones while those are unusable."""
        stamp = self._look()
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        try:
            self._read()  # proves that they fit each other
            self.context.load_cert_chain(*self._files)
        except (StartError, OSError) as error:
            log.error("TLS: changed files are not used, the former ones are: %s", error)  # noqa: TRY400  no traceback wanted
            return False
        log.info("TLS: certificate files changed and were read again")
        return True

    def _read(self) -> ssl.SSLContext:
        try:
            return server_context(self._tls)
        except StartError as error:
            raise StartError(str(error).replace("dicom.tls.", "web.")) from error

    def _look(self) -> Stamp:
        found = []
        for path in self._files:
            try:
                stat = path.stat()
            except OSError:
                continue
            found.append((stat.st_mtime_ns, stat.st_size, stat.st_ino))
        return tuple(found)

"""Certificate authorities for tests, made with the openssl command."""

import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from models.sections import TlsSettings

_CONFIGURATION = """
[ca]
default_ca = here
[here]
database = {folder}/index.txt
new_certs_dir = {folder}
rand_serial = yes
unique_subject = no
default_md = sha256
policy = any
[any]
commonName = supplied
[req]
distinguished_name = none
prompt = no
[none]
"""
_CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
_USES = {"both": "serverAuth,clientAuth", "server": "serverAuth", "client": "clientAuth"}


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, PEM."""

    certificate: Path
    private_key: Path


@dataclass(frozen=True)
class Authority:
    """A private CA in a folder."""

    folder: Path

    @property
    def certificate(self) -> Path:
        """What a peer trusts."""
        return self.folder / "ca.pem"

    @classmethod
    def make(cls, folder: Path) -> "Authority":
        """Make the CA."""
        folder.mkdir(parents=True)
        (folder / "index.txt").touch()
        (folder / "ca.cnf").write_text(_CONFIGURATION.format(folder=folder))
        made = cls(folder)
        made._openssl(
            *("req", "-x509", *_CURVE, "-keyout", "ca.key", "-out", "ca.pem", "-days", "30"),
            *("-subj", f"/CN=Test CA {folder.name}", "-config", "ca.cnf"),
            *("-addext", "basicConstraints=critical,CA:TRUE"),
        )
        return made

    def issue(
        self,
        name: str,
        *,
        valid_from: timedelta = timedelta(days=-1),
        valid_to: timedelta = timedelta(days=30),
        use: str = "both",
        names: str = "IP:127.0.0.1,IP:::1,DNS:localhost",
    ) -> Pair:
        """Return a new certificate for this host, valid between two points from now."""
        pair = Pair(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        extensions = f"subjectAltName={names}\nextendedKeyUsage={_USES[use]}\n"
        (self.folder / "extensions").write_text(extensions)
        self._openssl(
            *("req", "-new", *_CURVE, "-keyout", pair.private_key, "-out", "request"),
            *("-subj", f"/CN={name}", "-config", "ca.cnf"),
        )
        now = datetime.now(UTC)
        start, end = (f"{now + each:%Y%m%d%H%M%S}Z" for each in (valid_from, valid_to))
        self._openssl(
            *("ca", "-batch", "-config", "ca.cnf", "-cert", "ca.pem", "-keyfile", "ca.key"),
            *("-in", "request", "-out", pair.certificate, "-notext", "-extfile", "extensions"),
            *("-startdate", start, "-enddate", end),
        )
        return pair

    def settings(self, pair: Pair, **values: object) -> TlsSettings:
        """Return settings of a node that has this certificate and trusts this CA."""
        files = {"certificate": pair.certificate, "private_key": pair.private_key}
        return TlsSettings.model_validate({**files, "trusted_cas": self.certificate, **values})

    def _openssl(self, *arguments: str | Path) -> None:
        command = ["openssl", *map(str, arguments)]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

"""How the web side listens: on loopback, behind a proxy, over TLS, for which names."""

import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from certificates import Authority, Pair
from click.testing import CliRunner
from rows import open_database
from servers import free_port, wait_until
from web_accounts import bearer
from web_served import listening, migrated, served, serving, web_settings

from dicom_node.cli import cli
from dicom_node.errors import StartError
from dicom_node.supervisor import Supervisor
from dicom_node.web import serve
from dicom_node.web.certificate import Certificate
from models.people_sections import WebSettings

_EVERYWHERE = "0.0.0.0"  # noqa: S104  refused


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("web") / "ca")


def _files(pair: Pair) -> dict[str, Path]:
    return {"certificate": pair.certificate, "private_key": pair.private_key}


def _trusting(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=authority.certificate)


def test_without_tls_it_listens_on_this_host_only() -> None:
    for host in ("127.0.0.1", "localhost", "::1", "127.0.5.9"):
        serve.require_safe(WebSettings(host=host))
    for host in (_EVERYWHERE, "::", "10.1.2.3", "node.example"):
        with pytest.raises(StartError, match=r"set web\.certificate and web\.private_key, or web"):
            serve.require_safe(WebSettings(host=host))
        serve.require_safe(WebSettings(host=host, behind_proxy=True))


def test_the_command_says_it_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DICOM_NODE_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("DICOM_NODE_WEB__HOST", _EVERYWHERE)
    with open_database(f"sqlite:///{tmp_path / 'node.db'}"):
        result = CliRunner().invoke(cli, ["web"])
    assert isinstance(result.exception, StartError)
    assert "web.host 0.0.0.0 is reached over the network without TLS" in str(result.exception)


def test_over_tls_the_login_is_served_and_the_supervisor_sees_it(
    tmp_path: Path, authority: Authority
) -> None:
    """The supervisor asks whether it lives, not who it is."""
    pair = authority.issue("tls")
    port = free_port()
    settings = web_settings(tmp_path, port=port, **_files(pair))
    with migrated(settings) as database, serving(settings, database, port=port) as url:
        assert url.startswith("https://")
        with httpx.Client(base_url=url, verify=_trusting(authority)) as client:
            assert client.get("/login").status_code == 200
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"http://127.0.0.1:{port}/login")
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        old.set_ciphers("AES128-SHA:@SECLEVEL=0")
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with socket.create_connection(("127.0.0.1", port)) as plain, pytest.raises(ssl.SSLError):
            old.wrap_socket(plain)
        assert Supervisor(settings)._health() is None


def test_a_renewed_certificate_serves_the_next_connection(
    tmp_path: Path, authority: Authority
) -> None:
    first, second = authority.issue("first"), authority.issue("second")
    live = Pair(tmp_path / "node.pem", tmp_path / "node.key")
    _copy(first, live)
    certificate = Certificate(live.certificate, live.private_key)
    port = free_port()
    settings = web_settings(tmp_path, **_files(live))

    def subject() -> str:
        context = _trusting(authority)
        with (
            socket.create_connection(("127.0.0.1", port)) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as secure,
        ):
            told: Any = secure.getpeercert()
            return dict(pair[0] for pair in told["subject"])["commonName"]

    with migrated(settings) as database:
        upkeep = serve.Upkeep(settings, database, certificate)
        app = serve.create_app(settings, database)
        options = serve.options(settings.web, certificate)
        with listening(app, **{**options, "port": port}):
            assert subject() == "first"
            shutil.copy(second.certificate, live.certificate)  # the key is still the former one's
            upkeep.look()
            assert subject() == "first"
            _copy(second, live)
            upkeep.look()
            assert subject() == "second"


def _copy(pair: Pair, to: Pair) -> None:
    shutil.copy(pair.certificate, to.certificate)
    shutil.copy(pair.private_key, to.private_key)


def test_a_certificate_that_is_of_no_use_ends_the_start(
    tmp_path: Path, authority: Authority
) -> None:
    expired = authority.issue("expired", valid_to=timedelta(hours=-1))
    good, other = authority.issue("good"), authority.issue("other")
    for pair, sentence in (
        (Pair(tmp_path / "gone.pem", good.private_key), r"^web\.certificate .* cannot be read"),
        (Pair(good.certificate, other.private_key), r"^web\.private_key .* is not the key of web"),
        (expired, r"^web\.certificate .* is of no use \(certificate has expired\)"),
    ):
        with pytest.raises(StartError, match=sentence):
            Certificate(pair.certificate, pair.private_key)


def test_on_loopback_a_request_for_another_name_is_refused(tmp_path: Path) -> None:
    """A name of an attacker that points here would make his page one of ours."""
    with served(web_settings(tmp_path)) as (_, client):
        port = client.base_url.port
        for name, code in (
            (f"127.0.0.1:{port}", 200),
            ("localhost", 200),
            (f"[::1]:{port}", 200),
            ("evil.example", 400),
            ("127.0.0.1.evil.example", 400),
        ):
            assert client.get("/login", headers={"Host": name}).status_code == code, name


def test_elsewhere_names_are_checked_where_the_settings_have_some(tmp_path: Path) -> None:
    (tmp_path / "any").mkdir()
    with served(web_settings(tmp_path / "any", behind_proxy=True)) as (_, client):
        assert client.get("/login", headers={"Host": "node.example"}).status_code == 200
    named = web_settings(tmp_path, behind_proxy=True, hosts=["node.example"])
    with served(named) as (_, client):
        for name, code in (("node.example", 200), ("localhost", 200), ("evil.example", 400)):
            assert client.get("/login", headers={"Host": name}).status_code == code


def test_counts_are_for_this_host_or_for_everybody_if_so_set(tmp_path: Path) -> None:
    """A proxy is on this host, too: behind one nobody is trusted for where he comes from."""
    paths = ("/metrics", "/api/v1/ledger")
    for number, (web, code) in enumerate(
        (
            ({}, 200),
            ({"behind_proxy": True}, 401),
            ({"behind_proxy": True, "open_metrics": True}, 200),
        )
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        with served(web_settings(folder, **web)) as (database, client):
            assert [client.get(path).status_code for path in paths] == [code, code]
            headers = bearer(database)
            assert [client.get(path, headers=headers).status_code for path in paths] == [200, 200]
            assert client.get("/api/v1/health").status_code == 200


def test_the_command_prints_the_link_and_ends_while_a_stream_is_open(tmp_path: Path) -> None:
    port = free_port()
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("DICOM_NODE_")},
        "DICOM_NODE_DATA_DIR": str(tmp_path),
        "DICOM_NODE_WEB__PORT": str(port),
    }
    with open_database(f"sqlite:///{tmp_path / 'node.db'}"):
        command = [sys.executable, "-m", "dicom_node", "web"]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        assert f"http://127.0.0.1:{port}/invitations/" in line
        path = line.strip().rsplit(str(port), 1)[1]
        wait_until(lambda: _answers(port), 30, "the web page")
        assert httpx.get(f"http://127.0.0.1:{port}{path}").status_code == 200
        assert httpx.get(f"http://127.0.0.1:{port}/login?patient=JANE").status_code == 200
        assert httpx.get(f"http://127.0.0.1:{port}/no/JANE").status_code == 404
        started = time.monotonic()
        with socket.create_connection(("127.0.0.1", port)) as idle:
            idle.sendall(b"GET /api/v1/health HTTP/1.1\r\nHost: localhost\r\n")  # never ended
            process.terminate()
            output, log = process.communicate(timeout=120)
        assert time.monotonic() - started < 60
        assert process.returncode in (0, -15)
        assert path not in output + log
        assert "JANE" not in output + log


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/api/v1/health").status_code == 200
    except httpx.HTTPError:
        return False

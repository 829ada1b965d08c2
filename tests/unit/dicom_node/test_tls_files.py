"""The files of `dicom.tls`: what is wrong with one is said in one sentence, at the start."""

import re
import ssl
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from certificates import Authority, Pair

from dicom_node.doctor import check_certificate
from dicom_node.errors import StartError
from dicom_node.tls import CIPHERS, client_context, days_left, server_context
from models.sections import TlsSettings
from models.settings import load_settings

DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory, dcmtk: Callable[[str], Path]) -> Authority:
    """A private CA."""
    dcmtk("openssl")
    return Authority.make(tmp_path_factory.mktemp("pki") / "hospital")


@pytest.fixture(scope="module")
def node(authority: Authority) -> Pair:
    """A certificate of it, good for ten days."""
    return authority.issue("node", valid_to=10 * DAY)


def _sentence(settings: TlsSettings) -> str:
    with pytest.raises(StartError) as caught:
        server_context(settings)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_contexts_keep_to_the_profile(authority: Authority, node: Pair) -> None:
    settings = authority.settings(node)
    for context in (server_context(settings), client_context(settings)):
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2
        assert context.maximum_version == ssl.TLSVersion.MAXIMUM_SUPPORTED
        assert context.verify_mode == ssl.CERT_REQUIRED
        names = [each["name"] for each in context.get_ciphers()]
        assert [name for name in names if not name.startswith("TLS_")] == list(CIPHERS)
    assert client_context(settings).check_hostname


@pytest.mark.parametrize("setting", ["certificate", "private_key", "trusted_cas"])
def test_a_missing_file_is_named(
    authority: Authority, node: Pair, setting: str, tmp_path: Path
) -> None:
    gone = tmp_path / "gone.pem"
    text = _sentence(authority.settings(node, **{setting: gone}))
    assert text == f"dicom.tls.{setting} {gone} cannot be read: No such file or directory"


@pytest.mark.parametrize("setting", ["certificate", "private_key", "trusted_cas"])
@pytest.mark.parametrize("content", [b"", b"\x30\x82\x01\x0a", b"hello"])
def test_a_file_that_is_no_pem_is_named(
    authority: Authority, node: Pair, setting: str, content: bytes, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.write_bytes(content)
    text = _sentence(authority.settings(node, **{setting: other}))
    assert text.startswith(f"dicom.tls.{setting} {other} has no PEM block")


@pytest.mark.parametrize("setting", ["certificate", "trusted_cas"])
def test_a_damaged_certificate_is_named(
    authority: Authority, node: Pair, setting: str, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged.pem"
    damaged.write_text("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n")
    assert str(damaged) in _sentence(authority.settings(node, **{setting: damaged}))


def test_the_key_of_another_certificate_is_refused(authority: Authority, node: Pair) -> None:
    other = authority.issue("other")
    text = _sentence(authority.settings(Pair(node.certificate, other.private_key)))
    assert text.endswith("is not the key of dicom.tls.certificate")


def test_an_encrypted_key_is_refused_without_asking_for_a_password(
    authority: Authority, node: Pair, tmp_path: Path
) -> None:
    encrypted = tmp_path / "encrypted.key"
    authority._openssl(
        *("pkcs8", "-topk8", "-in", node.private_key, "-out", encrypted),
        *("-passout", "pass:secret"),
    )
    assert "is encrypted" in _sentence(authority.settings(Pair(node.certificate, encrypted)))


@pytest.mark.parametrize(
    ("first", "last", "reason"),
    [(-9, -2, "certificate has expired"), (2, 9, "certificate is not yet valid")],
)
def test_a_certificate_out_of_its_time_is_refused(
    authority: Authority, first: int, last: int, reason: str
) -> None:
    pair = authority.issue("untimely", valid_from=first * DAY, valid_to=last * DAY)
    assert reason in _sentence(authority.settings(pair))


def test_a_certificate_for_clients_alone_cannot_serve(authority: Authority) -> None:
    settings = authority.settings(authority.issue("client", use="client"))
    assert "unsuitable certificate purpose" in _sentence(settings)
    assert client_context(settings).verify_mode == ssl.CERT_REQUIRED


def test_the_days_left_are_known_on_both_sides(authority: Authority, node: Pair) -> None:
    for as_server in (True, False):
        assert days_left(authority.settings(node), as_server=as_server) == pytest.approx(
            10, abs=0.1
        )


def test_check_warns_before_the_end(authority: Authority, node: Pair) -> None:
    def check(pair: Pair) -> str:
        return check_certificate(
            load_settings(None, dicom={"tls": authority.settings(pair, port=0)})
        )

    assert check(authority.issue("long", valid_to=90.5 * DAY)) == "valid for 90 more days"
    with pytest.raises(RuntimeError, match=r"node.pem ends in 10\.0 days: renew it"):
        check(node)


def test_the_documented_commands_make_a_usable_certificate(
    repository: Path, dcmtk: Callable[[str], Path], tmp_path: Path
) -> None:
    dcmtk("openssl")
    text = (repository / "docs" / "security.md").read_text()
    (commands,) = re.findall(r"```sh\n(openssl req .*?)```", text, re.DOTALL)
    subprocess.run(["sh", "-e", "-c", commands], cwd=tmp_path, check=True, capture_output=True)
    made = Authority(tmp_path).settings(Pair(tmp_path / "node.pem", tmp_path / "node.key"))
    assert server_context(made).verify_mode == client_context(made).verify_mode == ssl.CERT_REQUIRED
    assert days_left(made, as_server=True) == pytest.approx(397, abs=0.1)

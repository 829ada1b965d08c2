"""Allow-lists: which addresses are in, and which settings make no sense."""

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from dicom_node.access import AllowList
from models.sections import DicomSettings
from models.settings import load_settings


def _allowed(*addresses: str) -> AllowList:
    return AllowList.of(DicomSettings(allowed_addresses=addresses))


def test_without_a_list_everybody_is_admitted() -> None:
    assert _allowed().admits("203.0.113.9")
    assert _allowed().admits("2001:db8::1")
    assert _allowed().admits_as("ANY", "203.0.113.9")


@pytest.mark.parametrize(
    ("address", "admitted"),
    [
        ("10.1.0.0", True),
        ("10.1.255.255", True),
        ("10.2.0.0", False),
        ("::ffff:10.1.2.3", True),  # an IPv4 peer of an IPv6 socket
        ("::ffff:10.2.2.3", False),
        ("192.0.2.7", True),
        ("192.0.2.8", False),
        ("fd00:1::5", True),
        ("fd00:2::5", False),
        ("fe80::1%eth0", True),
        ("::10.1.2.3", False),  # "IPv4-compatible", which no socket reports
    ],
)
def test_networks_of_both_families(address: str, admitted: bool) -> None:  # noqa: FBT001  a table
    allowed = _allowed("10.1.0.0/16", "192.0.2.7", "fd00:1::/32", "fe80::/10")
    assert allowed.admits(address) is admitted


def test_a_mapped_network_means_the_ipv4_one() -> None:
    assert _allowed("::ffff:10.1.0.0/112").admits("10.1.2.3")
    assert not _allowed("::ffff:10.1.0.0/112").admits("10.2.2.3")


def test_an_ae_title_is_bound_to_its_networks_and_the_others_are_not() -> None:
    peers = [{"ae_title": "CR1", "addresses": ["10.1.7.0/24", "fd00:7::/64"]}]
    allowed = AllowList.of(DicomSettings.model_validate({"peers": peers}))
    assert allowed.admits_as("CR1", "10.1.7.9")
    assert allowed.admits_as("CR1", "::ffff:10.1.7.9")
    assert allowed.admits_as("CR1", "fd00:7::9")
    assert not allowed.admits_as("CR1", "10.1.8.9")
    assert allowed.admits_as("CR2", "10.1.8.9")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"allowed_addresses": ["10.1.0.0/33"]}, "10.1.0.0/33 is no network"),
        ({"allowed_addresses": ["10.1.0.1/16"]}, "10.1.0.1/16 is no network"),
        ({"allowed_addresses": ["pacs.example"]}, "write 10.1.0.0/16, 10.1.2.3 or fd00:1::/32"),
        ({"peers": [{"ae_title": "CR1", "addresses": ["x"]}]}, "x is no network"),
        ({"peers": [{"ae_title": "CR1", "addresses": []}]}, "at least 1 item"),
        ({"peers": [{"ae_title": "CR1", "addresses": ["10.0.0.1"]}] * 2}, "names CR1 twice"),
        ({"plain": False}, "set dicom.tls.port"),
        ({"tls": {"port": 2762}}, "needs dicom.tls.certificate"),
        ({"tls": {"certificate": "a.pem"}}, "go together"),
        (
            {"tls": {"port": 2762, "certificate": "a.pem", "private_key": "a.key"}},
            "needs dicom.tls.trusted_cas",
        ),
        ({"tls": {"profile": "basic"}}, "bcp195"),
    ],
)
def test_settings_that_make_no_sense_are_refused_in_words(
    settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValidationError, match="validation error") as caught:
        DicomSettings.model_validate(settings)
    assert sentence in str(caught.value)


def test_settings_survive_the_way_to_a_child_process() -> None:
    peers = [{"ae_title": "CR1", "addresses": ["10.1.7.0/24"]}]
    settings = DicomSettings.model_validate({"allowed_addresses": ["fd00::/8"], "peers": peers})
    assert DicomSettings.model_validate(settings.model_dump(mode="json")) == settings


@pytest.mark.parametrize(
    "where",
    [
        lambda to: {"destinations": [{"name": "pacs", **to}]},
        lambda to: {"commitment_provider": {"peers": [to]}},
        lambda to: {"query_retrieve": {"move_destinations": [to]}},
    ],
)
def test_a_receiver_over_tls_needs_a_ca_to_verify_it(
    where: Callable[[dict[str, Any]], dict[str, Any]],
) -> None:
    to = {"ae_title": "PACS", "host": "10.0.0.5", "port": 2762, "tls": True}
    with pytest.raises(ValidationError, match=r"PACS has tls: set dicom\.tls\.trusted_cas"):
        load_settings(None, **where(to))
    assert load_settings(None, **where(to), dicom={"tls": {"trusted_cas": "ca.pem"}})

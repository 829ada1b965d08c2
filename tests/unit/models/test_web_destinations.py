"""Settings of destinations with a URL, and the headers that they want."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from dicom_node.cli import _with_options
from dicom_node.errors import StartError
from dicom_node.query.destinations import MoveDestinations
from dicom_node.senders.headers import headers_of
from dicom_node.supervisor import child_environment
from models.sections import DestinationSettings
from models.settings import load_settings


def _web(**values: Any) -> DestinationSettings:
    return DestinationSettings.model_validate(
        {"name": "web", "url": "http://pacs.example/dicom-web/"} | values
    )


@pytest.mark.parametrize(
    ("url", "host", "port", "tls"),
    [
        ("http://pacs.example/dicom-web", "pacs.example", 80, False),
        ("https://pacs.example", "pacs.example", 443, True),
        ("https://10.0.0.5:8443/dcm4chee-arc/aets/X/rs", "10.0.0.5", 8443, True),
        ("http://[fd00::1]:8042/dicom-web/", "fd00::1", 8042, False),
    ],
)
def test_the_columns_follow_from_the_url(url: str, host: str, port: int, *, tls: bool) -> None:
    parsed = DestinationSettings.parse(url)
    assert (parsed.name, parsed.ae_title) == (url, "DICOMWEB")
    assert (parsed.host, parsed.port, parsed.tls) == (host, port, tls)
    assert DestinationSettings.model_validate(parsed.model_dump()) == parsed


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"url": "ftp://pacs/"}, "must be like https://"),
        ({"url": "http:///x"}, "must be like https://"),
        ({"url": "http://pacs:99999/"}, "Port out of range"),
        ({"url": "http://me:secret@pacs/"}, "must hold no password"),
        ({"url": "http://pacs/?a=1"}, "end with its path"),
        ({"url": "http://pacs/a b"}, "end with its path"),
        ({"host": "elsewhere"}, "its url says host: leave that out"),
        ({"port": 104, "tls": True}, "its url says port, tls"),
        ({"headers_variable": "DICOM_NODE_TOKEN"}, "must not begin with DICOM_NODE_"),
        ({"commitment": True}, "there is no commitment over it"),
        (
            {"url": None, "ae_title": "A", "host": "h", "port": 1, "headers_variable": "X"},
            "has HTTP headers and no url",
        ),
    ],
)
def test_what_makes_no_sense_is_said(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message) as caught:
        _web(**values)
    assert "secret" not in str(caught.value).split("input_value")[0]


def test_without_a_url_the_address_is_still_wanted() -> None:
    with pytest.raises(ValidationError, match="ae_title"):
        DestinationSettings.model_validate({"name": "x", "host": "h", "port": 1})


def test_a_url_over_tls_wants_the_cas_that_know_it() -> None:
    with pytest.raises(ValidationError, match="web has tls: set "):
        load_settings(None, destinations=[{"name": "web", "url": "https://pacs.example/"}])


def test_long_urls_have_names_that_fit_and_differ() -> None:
    names = {
        DestinationSettings.parse(f"http://pacs.example/{'x' * 80}/{end}").name for end in "ab"
    }
    assert len(names) == 2
    assert {len(name) for name in names} == {64}


def test_a_destination_with_a_url_is_no_move_destination() -> None:
    settings = load_settings(None, destinations=[_web()])
    assert MoveDestinations.of(settings).receivers == {}


def test_the_command_line_takes_a_url_and_every_process_gets_it() -> None:
    given: dict[str, Any] = dict.fromkeys(("ae_title", "dicom_port", "web_port", "workers"))
    pacs = ("http://pacs.example/dicom-web", "PACS@10.0.0.5:104")
    settings = _with_options(load_settings(None), pacs=pacs, **given)
    assert list(settings.destinations_over_web) == ["http://pacs.example/dicom-web"]
    environment = child_environment(settings)
    children = json.loads(environment["DICOM_NODE_DESTINATIONS"])
    read = tuple(DestinationSettings.model_validate(each) for each in children)
    assert read == settings.destinations


def test_headers_of_the_variable_go_over_those_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "headers"
    file.write_text("# of the PACS\n\nX-Site: north\nAuthorization: Bearer old\n")
    monkeypatch.setenv("HEADERS", "Authorization: Bearer new")
    destination = _web(headers_file=file, headers_variable="HEADERS")
    assert headers_of(destination) == {"X-Site": "north", "Authorization": "Bearer new"}
    assert headers_of(_web()) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Bearer topsecret", "line 1: write it as `Name: value`"),
        ("A: b\nAuthorization : topsecret", "line 2"),
        ("A: topsecret\x01", "line 1"),
        ("Host: topsecret", "the node sets Host itself"),
        ("content-length: 3", "the node sets content-length itself"),
    ],
)
def test_headers_that_are_none_are_named_without_their_text(
    tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "headers"
    file.write_text(text)
    with pytest.raises(StartError, match=message) as caught:
        headers_of(_web(headers_file=file))
    assert "topsecret" not in str(caught.value)


def test_a_headers_file_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="cannot be read: No such file"):
        headers_of(_web(headers_file=tmp_path / "none"))

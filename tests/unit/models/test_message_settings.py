"""Settings of destinations that get messages, and of routes: what makes no sense is said."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from dicom_node.supervisor import child_environment
from models.message_sections import RouteSettings
from models.sections import DestinationSettings
from models.settings import load_settings

PACS = {"name": "pacs", "ae_title": "PACS", "host": "h", "port": 104}


@pytest.mark.parametrize(
    ("url", "protocol", "ae_title", "port", "tls"),
    [
        ("hl7://ris.example", "hl7", "HL7", 2575, False),
        ("hl7s://ris.example:6661/", "hl7", "HL7", 6661, True),
        ("fhir+https://ehr.example/r4b", "fhir", "FHIR", 443, True),
        ("fhir+http://[fd00::1]:8080/fhir", "fhir", "FHIR", 8080, False),
        ("https://pacs.example/dicom-web", "stow", "DICOMWEB", 443, True),
    ],
)
def test_the_url_says_what_is_spoken(
    url: str, protocol: str, ae_title: str, port: int, *, tls: bool
) -> None:
    parsed = DestinationSettings.parse(url)
    assert (parsed.protocol, parsed.ae_title, parsed.port, parsed.tls) == (
        protocol,
        ae_title,
        port,
        tls,
    )
    assert parsed.takes_messages == (protocol in {"hl7", "fhir"})
    assert DestinationSettings.model_validate(parsed.model_dump()) == parsed


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"url": "hl7://ris/path"}, "host and port alone"),
        ({"url": "hl7://ris", "captures": "always"}, "no DICOM object: leave out captures"),
        (
            {"url": "fhir+http://e", "segmentations": "never", "rejection_notes": "never"},
            "leave out segmentations, rejection_notes",
        ),
        ({"url": "hl7://ris", "commitment": True}, "there is no commitment over it"),
        ({"url": "hl7://ris", "headers_variable": "X"}, "speaks HL7 v2: leave its HTTP headers"),
        ({"url": "hl7://ris", "receiving_facility": "A|B"}, "receiving_facility"),
        ({"url": "fhir+http://e", "receiving_facility": "A"}, "speaks no HL7 v2"),
        ({"url": "http://pacs/", "not_analysed": "always"}, "gets no message: not_analysed"),
        (PACS | {"receiving_application": "A"}, "speaks no HL7 v2"),
    ],
)
def test_destinations_that_make_no_sense(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DestinationSettings.model_validate({"name": "x"} | values)


@pytest.mark.parametrize(
    ("routes", "message"),
    [
        (
            [{"name": "a", "send_to": ["elsewhere"]}],
            "a sends to elsewhere, which is no destination",
        ),
        ([{"name": "a", "send_to": ["pacs"]}] * 2, "differ in their names; repeated: a"),
        ([{"name": "a"}], "route a sends nowhere"),
        ([{"name": "a", "send_to": ["pacs"], "band": "severe"}], "Extra inputs"),
        ([{"name": "a", "send_to": ["pacs"], "bands": ["bad"]}], "bands"),
        ([{"name": "a", "send_to": ["pacs"], "min_percent": 101}], "min_percent"),
        (
            [{"name": "a", "send_to": ["pacs"], "states": ["not_analysed"], "min_percent": 1}],
            "route a never matches",
        ),
    ],
)
def test_routes_that_make_no_sense(routes: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        load_settings(None, destinations=[PACS], routes=routes)


def test_every_process_gets_routes_and_messages() -> None:
    settings = load_settings(
        None,
        destinations=[PACS, {"name": "ris", "url": "hl7://ris", "not_analysed": "always"}],
        routes=[{"name": "all", "send_to": ["pacs", "ris"], "min_percent": 5}],
        messages={"identifier_systems": {"NORTH": "urn:oid:1.2.3"}},
    )
    environment = child_environment(settings)
    routes = json.loads(environment["DICOM_NODE_ROUTES"])
    assert tuple(RouteSettings.model_validate(each) for each in routes) == settings.routes
    messages = json.loads(environment["DICOM_NODE_MESSAGES"])
    assert messages["identifier_systems"] == {"NORTH": "urn:oid:1.2.3"}
    assert settings.makes_hl7
    assert not settings.makes_fhir
    assert settings.tells_not_analysed
    assert settings.destinations_with_notes == {"pacs"}

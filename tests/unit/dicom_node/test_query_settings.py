"""Query/Retrieve: what the settings allow, and what the conformance statement says of it."""

from typing import Any

import pytest
from pydantic import ValidationError

from dicom_node.conformance import query
from dicom_node.errors import UnknownDestinationError
from dicom_node.listener import build_ae
from dicom_node.query.destinations import MoveDestinations
from dicom_node.query.status import QUERY_STATUS
from models.settings import Settings, load_settings

_WS1 = {"ae_title": "WS1", "host": "10.0.0.9", "port": 104}
_PACS = {"name": "pacs", "ae_title": "PACS", "host": "10.0.0.1", "port": 104, "tls": True}


def _settings(destinations: list[dict[str, Any]] | None = None, **section: Any) -> Settings:
    return load_settings(
        None,
        dicom={"tls": {"trusted_cas": "ca.pem"}},
        destinations=destinations or [],
        query_retrieve={"enabled": True, "calling_aets": ["WS1"]} | section,
    )


def test_nobody_is_allowed_by_default() -> None:
    with pytest.raises(ValidationError, match=r"needs query_retrieve\.calling_aets"):
        _settings(calling_aets=[])


def test_a_move_destination_stands_once() -> None:
    with pytest.raises(ValidationError, match="names WS1 twice"):
        _settings(move_destinations=[_WS1, _WS1])


def test_tls_to_a_move_destination_needs_to_know_whom_to_trust() -> None:
    section = {"move_destinations": [_WS1 | {"tls": True}]}
    with pytest.raises(ValidationError, match="WS1 has tls"):
        load_settings(None, query_retrieve=section)


def test_receivers_and_move_destinations_by_ae_title() -> None:
    here = _PACS | {"name": "again", "host": "10.0.0.2", "tls": False}
    found = MoveDestinations.of(_settings([_PACS, here], move_destinations=[_WS1]))
    assert found.receiver("WS1").host == "10.0.0.9"
    assert found.receiver("PACS").host == "10.0.0.1"  # the first of two receivers
    assert found.sender.tls_receivers == {"PACS"}
    with pytest.raises(UnknownDestinationError):
        found.receiver("NOWHERE")


def test_a_move_destination_takes_the_place_of_a_receiver() -> None:
    other = _WS1 | {"ae_title": "PACS"}
    found = MoveDestinations.of(_settings([_PACS], move_destinations=[other]))
    assert found.receiver("PACS").host == "10.0.0.9"
    assert found.sender.tls_receivers == frozenset()


def test_roles_and_contexts_change_only_where_it_is_on() -> None:
    off, on = (
        {cx.abstract_syntax: (cx.scu_role, cx.scp_role) for cx in build_ae(it).supported_contexts}
        for it in (load_settings(None), _settings())
    )
    model = {"1.2.840.10008.5.1.4.1.2.2.1", "1.2.840.10008.5.1.4.1.2.2.2"}
    model |= {"1.2.840.10008.5.1.4.1.2.2.3"}
    assert on.keys() - off.keys() == model
    assert off["1.2.840.10008.5.1.4.1.1.1"] == (None, None)
    assert on["1.2.840.10008.5.1.4.1.1.1"] == (True, True)
    assert on["1.2.840.10008.1.1"] == (None, None)


def test_every_status_has_a_condition_and_is_listed() -> None:
    assert query.CONDITIONS.keys() == QUERY_STATUS.keys()
    listed = query.statuses()
    statuses = {status for status, _ in QUERY_STATUS.values()} | {0xA701, 0xA702, 0xB000, 0xFF01}
    assert [status for status in statuses if f"| `0x{status:04X}` |" not in listed] == []
    assert "| `0xA700` | Refused: out of resources | C-FIND |" in listed
    assert "| `0xA701` | Refused: out of resources | C-MOVE, C-GET |" in listed

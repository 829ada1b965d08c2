"""dicom_node.routing: which results go where, and why."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.routing import (
    EARLIER,
    NO_ROUTES,
    SILENT,
    UNROUTED,
    Routing,
    StudyFacts,
    is_like,
    receivers,
    route,
)
from models.message_sections import RouteSettings
from models.settings import Settings, load_settings

FACTS = StudyFacts(
    calling_aets=frozenset({"ER1", "CR2"}),
    stations=frozenset({"XR-07"}),
    institutions=frozenset({"North Hospital"}),
    band="moderate",
    percent=30.0,
)
NOTHING = StudyFacts(state="not_analysed")


def _routed(facts: StudyFacts, *routes: dict[str, Any]) -> Routing:
    made = [{"name": f"r{n}", "send_to": ["pacs"]} | each for n, each in enumerate(routes)]
    return route([RouteSettings(**each) for each in made], facts)


@pytest.mark.parametrize(
    ("conditions", "failed"),
    [
        ({}, None),
        ({"calling_aets": ["ER1"]}, None),
        ({"calling_aets": ["er?"]}, None),
        ({"calling_aets": ["OR1"]}, "calling AE CR2 and ER1 is not OR1"),
        ({"stations": ["XR-*"], "institutions": ["north*"]}, None),
        ({"stations": ["XR-*"], "institutions": ["South"]}, "institution North Hospital is not"),
        ({"bands": ["moderate", "severe"]}, None),
        ({"bands": ["severe"]}, "band moderate is not severe"),
        ({"min_percent": 30}, None),
        ({"min_percent": 30.5}, "percentage 30 % is not 30.5 % or more"),
        ({"states": ["analysed"]}, None),
        ({"states": ["not_analysed"]}, "state analysed is not not_analysed"),
    ],
)
def test_all_conditions_must_hold_and_the_failed_one_is_named(
    conditions: dict[str, Any], failed: str | None
) -> None:
    (decision,) = _routed(FACTS, conditions).decisions
    assert decision.matches == (failed is None)
    if failed is not None:
        (reason,) = decision.reasons
        assert reason.startswith(failed)
    assert len(decision.reasons) >= 1


@pytest.mark.parametrize(
    "conditions",
    [{"stations": ["*"]}, {"institutions": ["*"]}, {"bands": ["none"]}, {"min_percent": 0}],
)
def test_what_is_not_known_fulfils_no_condition(conditions: dict[str, Any]) -> None:
    (decision,) = _routed(NOTHING, conditions).decisions
    assert not decision.matches
    assert "(none) is not" in decision.reasons[0]


def test_routes_add_up_until_one_that_is_the_last() -> None:
    routed = _routed(
        FACTS,
        {"send_to": ["pacs"]},
        {"send_to": ["pacs", "er"], "bands": ["moderate"]},
        {"send_to": [], "stations": ["XR-07"], "last": True},
        {"send_to": ["late"]},
    )
    assert routed.destinations == {"pacs": ("r0", "r1"), "er": ("r1",)}
    assert routed.decisions[3].reasons == ["an earlier route that matches is the last"]
    other = _routed(FACTS, {"last": True, "stations": ["XR-08"]}, {"send_to": ["late"]})
    assert other.destinations == {"late": ("r1",)}


@given(st.text(max_size=20))
def test_a_pattern_is_no_program(text: str) -> None:
    assert is_like(text, "*")
    assert is_like(text, text.replace("*", "?")) or "\n" in text
    assert not is_like(text + "x", "?" * len(text))
    assert is_like("a+b", "a+b")
    assert not is_like("aab", "a+b")
    assert not is_like("a", "[a]")


def _settings(*routes: dict[str, Any]) -> Settings:
    destinations = [
        {"name": "pacs", "ae_title": "PACS", "host": "h", "port": 104},
        {"name": "ris", "url": "hl7://ris"},
        {"name": "ehr", "url": "fhir+http://ehr/fhir", "not_analysed": "always"},
    ]
    return load_settings(None, destinations=destinations, routes=routes)


def test_without_routes_everybody_gets_everything() -> None:
    found = receivers(_settings(), FACTS, ())
    assert {each.gets for each in found.values()} == {True}
    assert {each.reasons for each in found.values()} == {(NO_ROUTES,)}


def test_who_has_an_earlier_result_hears_of_its_correction() -> None:
    settings = _settings({"name": "severe", "bands": ["severe"], "send_to": ["ris", "pacs"]})
    found = receivers(settings, FACTS, {"ris"})
    assert (found["ris"].gets, found["ris"].reasons) == (True, (EARLIER,))
    assert (found["pacs"].gets, found["pacs"].reasons) == (False, (UNROUTED,))


def test_messages_of_nothing_go_where_they_are_wanted_or_correct_something() -> None:
    found = receivers(_settings(), NOTHING, ())
    assert (found["ris"].gets, found["ris"].reasons) == (False, (SILENT,))
    assert found["ehr"].gets
    assert found["pacs"].gets  # it gets no message, and there is no object
    assert receivers(_settings(), NOTHING, {"ris"})["ris"].gets

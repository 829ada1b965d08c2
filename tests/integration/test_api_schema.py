"""The schema says everything, and the API keeps to it, whatever it is asked."""

import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from api_node import ApiNode, api_node_on
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.openapi import from_dict
from schemathesis.specs.openapi import checks
from web_accounts import bearer
from web_served import app_of

from dicom_node.web.api.openapi import schema_of
from models.account import Role

_CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
    checks.missing_required_header,
    checks.unsupported_method,
    checks.ignored_auth,
]
_EXAMPLES = 8  # of each operation
_SECONDS = 15.0  # for all of them, on a machine with other things to do; each is asked once
_SETTINGS = settings(
    max_examples=_EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
)
_OBJECTS = ("image.png", "overlay.png", "layer.png", "seg.dcm", "sr.dcm")


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def node(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ApiNode]:
    with api_node_on(request, tmp_path_factory.mktemp("schema")) as made:
        yield made


@pytest.fixture(scope="module")
def schema(node: ApiNode) -> dict[str, Any]:
    return schema_of(app_of(node.settings, node.database))


def _operations(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            yield f"{method} {path}", operation


def test_the_schema_is_for_those_who_may_see_results(node: ApiNode) -> None:
    shown = node.get("openapi.json")
    assert shown["openapi"].startswith("3.1")
    assert {path.split("/")[3] for path in shown["paths"]} == {
        *("studies", "results", "instances", "worklist", "audit", "deliveries", "destinations"),
        *("health", "ledger", "models", "openapi.json"),
    }
    assert node.client.get("openapi.json", headers={"Authorization": "Bearer x"}).status_code == 401
    assert node.client.get(node.url.removesuffix("api/v1/") + "openapi.json").status_code == 404
    with node.as_role(Role.VIEWER) as viewer:
        assert viewer.get("openapi.json").json() == shown


def test_every_operation_is_described_with_its_errors(schema: dict[str, Any]) -> None:
    lacking = [
        name
        for name, operation in _operations(schema)
        if not (operation.get("summary") and operation.get("description"))
        and not name.endswith(_OBJECTS)
    ]
    assert lacking == []
    for name, operation in _operations(schema):
        if name.endswith("/health"):
            continue
        assert operation["security"] == [{"token": []}, {"session": []}], name
        answers = operation["responses"]
        assert {"400", "401", "403", "422", "503"} <= set(answers), name
        for code, answer in answers.items():
            if code >= "400":
                assert set(answer["content"]) == {"application/problem+json"}, (name, code)


def _untyped(part: Any, place: str, schema: dict[str, Any]) -> Iterator[str]:
    """Yield where a schema allows anything; a mapping of free keys has to say so."""
    if "$ref" in part:
        assert part["$ref"].rpartition("/")[2] in schema["components"]["schemas"]
        return
    if not set(part) & {"type", "anyOf", "allOf", "enum", "const"}:
        yield place
    for each in part.get("anyOf", []):
        yield from _untyped(each, place, schema)
    if "items" in part:
        yield from _untyped(part["items"], f"{place}[]", schema)
    for name, each in part.get("properties", {}).items():
        yield from _untyped(each, f"{place}.{name}", schema)


def test_no_answer_is_untyped(schema: dict[str, Any]) -> None:
    found: list[str] = []
    for name, operation in _operations(schema):
        for code, answer in operation["responses"].items():
            if code == "304":
                continue
            assert answer["content"], (name, code)
            for media_type, each in answer["content"].items():
                assert each.get("schema"), (name, code, media_type)
                found += _untyped(each["schema"], f"{name} {code}", schema)
    for name, each in schema["components"]["schemas"].items():
        found += _untyped(each, name, schema)
    assert found == []
    patient = re.compile("patient_id|accession")
    for name, operation in _operations(schema):
        named = [each["name"] for each in operation.get("parameters", ())]
        assert not any(map(patient.search, named)), name


def test_the_document_names_every_route_and_filter(
    schema: dict[str, Any], repository: Path
) -> None:
    document = (repository / "docs" / "api.md").read_text()
    for name, operation in _operations(schema):
        last = re.sub(r"\{\w+\}", "", name.rpartition("/api/v1")[2]).rstrip("/").rpartition("/")[2]
        assert f"/{last}" in document, name
        if name.endswith(("/studies", "/results")):
            named = {each["name"] for each in operation["parameters"]}
            assert {each for each in named if f"`{each}" not in document} == set()


def _answers(operation: Any, headers: dict[str, str], seconds: float) -> Counter[int]:
    """Ask by the schema and against it; return the statuses. Fails where a check does."""
    modes = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    cases = [operation.as_strategy(generation_mode=mode) for mode in modes]
    answered: Counter[int] = Counter()
    until = time.monotonic() + seconds

    @_SETTINGS
    @given(st.one_of(cases))
    def ask(case: schemathesis.Case) -> None:
        if not answered or time.monotonic() < until:
            answer = case.call_and_validate(headers=headers, checks=_CHECKS)
            answered[answer.status_code] += 1

    ask()
    return answered


def test_the_api_keeps_to_its_schema_whatever_it_is_asked(node: ApiNode) -> None:
    app = app_of(node.settings, node.database)
    headers = bearer(node.database)
    known = [*node.uids.values(), *map(node.image, node.uids)]
    loaded = from_dict(schema_of(app))
    loaded.app = app

    @loaded.hook
    def map_path_parameters(_context: Any, path_parameters: Any) -> Any:
        """Ask of what is there in half of the cases."""
        uid = (path_parameters or {}).get("uid")
        if isinstance(uid, str) and len(uid) % 2:
            path_parameters["uid"] = known[len(uid) * 7 % len(known)]
        return path_parameters

    share = _SECONDS / len(loaded)
    operations = [each.ok() for each in loaded.get_all_operations()]
    answers = {each.label: _answers(each, headers, share) for each in operations}
    assert len(answers) == len(loaded)
    assert all(answers.values())
    assert {200, 404} <= set(answers["GET /api/v1/studies/{uid}"])

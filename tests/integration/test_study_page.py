"""The pages by HTTP: what a study without a layer shows, what is refused, and what is recorded."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from builders import chest_dataset, write_part10
from readings import add_figure, add_study
from rows import add_analysis, add_instance, count, random_uid
from sqlalchemy import select, update
from web_accounts import browser
from web_served import PAGE, served, web_settings

from dicom_node.web.metrics.paced import Paced
from models.account import Role
from models.audit import AuditAction, AuditEvent
from models.base import utc_now
from models.imaging import Instance, Study
from models.reading import Feedback
from models.result import Analysis, Artifact
from models.session import Database
from models.states import ArtifactKind, InstanceState, StudyState

_UID = "1.2.840.99"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[tuple[Database, httpx.Client]]:
    with served(web_settings(tmp_path)) as (database, client):
        yield database, client


def _get(client: httpx.Client, database: Database, path: str, role: Role = Role.VIEWER) -> Any:
    return client.get(path, headers={**browser(database, role).headers, **PAGE})


def _add_study(database: Database, *kinds: ArtifactKind, notes: list[str] | None = None) -> int:
    """Add an analysed study with these pictures; return the image's id."""
    instance = add_instance(database, study_instance_uid=_UID, state=InstanceState.ANALYSED)
    analysis, _ = add_analysis(database, instance, 12.5, caveats=("uncertain",))
    with database.write() as session:
        for kind in kinds:
            key = f"{kind.value}.png"
            row = Artifact(kind=kind, storage_key=key, sha256="0" * 64, size_bytes=1)
            row.analysis_id = analysis
            session.add(row)
            session.flush()
            row.analysis.notes = notes or []
        session.execute(update(Study).values(patient_id="P-1", opacity_percent=12.5))
        session.execute(update(Instance).values(patient_id="P-1"))
    return instance


def test_a_study_of_before_shows_the_overlay_picture(node: tuple[Database, httpx.Client]) -> None:
    database, client = node
    _add_study(database, ArtifactKind.DISPLAY, ArtifactKind.OVERLAY)
    text = _get(client, database, f"/studies/{_UID}").text
    assert "/overlay.png" in text
    assert "/layer.png" not in text
    assert 'id="strength" min="0" max="100" value="100" step="5" disabled' in text


def test_purged_pictures_are_said_and_the_figures_stay(
    node: tuple[Database, httpx.Client],
) -> None:
    database, client = node
    _add_study(database, ArtifactKind.DISPLAY, ArtifactKind.LAYER)
    with database.write() as session:
        session.execute(update(Artifact).values(purged_at=utc_now()))
    text = _get(client, database, f"/studies/{_UID}").text
    assert "Retention has removed the pictures" in text
    assert ".png" not in text
    assert "12.5" in text


def test_text_of_a_worker_is_text(node: tuple[Database, httpx.Client]) -> None:
    database, client = node
    _add_study(database, ArtifactKind.DISPLAY, notes=["<script>alert(1)</script>"])
    text = _get(client, database, f"/studies/{_UID}").text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "<script>alert" not in text


def test_an_image_of_another_patient_is_not_shown_as_the_patient_s(
    node: tuple[Database, httpx.Client],
) -> None:
    database, client = node
    _add_study(database, ArtifactKind.DISPLAY)
    other = add_instance(database, study_instance_uid=_UID, state=InstanceState.NOT_ANALYSED)
    with database.write() as session:
        row = session.get_one(Instance, other)
        row.patient_id, row.reason, uid = "P-2", "lateral_view", row.sop_instance_uid
    text = _get(client, database, f"/studies/{_UID}").text
    assert uid not in text
    assert "Image 2" not in text


def test_a_late_image_is_compared_by_its_own_figure_and_not_reported_yet(
    node: tuple[Database, httpx.Client],
) -> None:
    database, client = node
    add_study(database, 40.0, study_date="20250301")
    this = add_study(database, 35.0, study_date="20250302")
    assert "\N{MINUS SIGN}5.0 points" in _get(client, database, f"/studies/{this}").text
    late = add_instance(database, study_instance_uid=this, state=InstanceState.ANALYSED)
    add_analysis(database, late, 65.0)
    with database.write() as session:
        of_this = update(Study).where(Study.study_instance_uid == this)
        session.execute(of_this.values(state=StudyState.OPEN))
    text = _get(client, database, f"/studies/{this}").text
    assert "<strong>+25.0 points</strong>" in text
    assert "UTC: 65.0 %</title>" in text
    assert "Not reported yet: revision 1, " in text
    assert "Reported " not in text


_REFUSED = (
    ("/studies/1.2.3", 404, "there is no study with this Study Instance UID"),
    ("/studies/1.2.3/state", 404, "there is no study"),
    ("/studies/..%2F..%2Fetc", 404, ""),
    ("/studies/1.2.x", 422, "not understood"),
    ("/quarantine/999", 404, "there is no object 999"),
    ("/?view=everything", 422, "not understood"),
    ("/?cursor=nonsense", 400, "the cursor is none of this listing"),
    ("/static/../app.py", 404, ""),
)


def test_a_study_is_shown_under_the_odd_uid_that_intake_took(
    node: tuple[Database, httpx.Client],
) -> None:
    database, client = node
    add_instance(database, study_instance_uid="1.2..3.")
    assert _get(client, database, "/studies/1.2..3.").status_code == 200


def test_what_is_not_there_is_said(node: tuple[Database, httpx.Client]) -> None:
    database, client = node
    found = {path: _get(client, database, path, Role.ADMIN) for path, _, _ in _REFUSED}
    for path, status, said in _REFUSED:
        assert (path, found[path].status_code) == (path, status)
        assert said in found[path].text


def test_the_heading_names_the_patient_of_the_images_that_count(
    node: tuple[Database, httpx.Client], tmp_path: Path
) -> None:
    """The oldest image is under a wrong name: it was replaced, or waits for somebody."""
    database, client = node
    (tmp_path / "data" / "spool").mkdir(parents=True, exist_ok=True)
    for name, state in (
        ("WRONG^REPLACED", InstanceState.SUPERSEDED),
        ("WRONG^WAITING", InstanceState.QUARANTINED),
        ("WRONG^WITHDRAWN", InstanceState.WITHDRAWN),
        ("RIGHT^NAME", InstanceState.QUEUED),
    ):
        key = add_instance(database, study_instance_uid=_UID, state=state)
        with database.read() as session:
            where = session.get_one(Instance, key).storage_key
        ds = chest_dataset(PatientName=name)
        write_part10(tmp_path / "data" / "spool" / where, ds)
    text = _get(client, database, f"/studies/{_UID}").text
    assert "<h1>RIGHT, NAME</h1>" in text
    assert "WRONG" not in text


def test_an_opinion_is_about_the_figure_that_stood_on_the_page(
    node: tuple[Database, httpx.Client],
) -> None:
    database, client = node
    uid = add_study(database, 20.0)
    add_figure(database, uid, 10.0, revision=2)
    path = f"/studies/{uid}/feedback"
    headers = {**browser(database, Role.VIEWER).headers, **PAGE}
    page = client.get(f"/studies/{uid}", headers=headers).text
    form = {
        name: found[1]
        for name in ("sop_instance_uid", "analysis_id", "number")
        if (found := re.search(f'name="{name}" value="([^"]+)"', page))
    }
    assert client.post(path, data=form | {"verdict": "accept"}, headers=headers).status_code == 303
    assert "<strong>viewer</strong> accepted" in _get(client, database, f"/studies/{uid}").text
    assert "<strong>viewer</strong>" not in _get(client, database, f"/studies/{uid}?image=2").text
    with database.read() as session:
        seen = session.get_one(Analysis, int(form["analysis_id"]))
    add_analysis(database, seen.instance_id, 70.0, model="unet-next")
    answer = client.post(path, data=form | {"verdict": "reject"}, headers=headers)
    assert answer.status_code == 409
    assert "This image of the study has another figure by now: look at it first." in answer.text
    assert '<span class="percent">70.0' in answer.text
    assert count(database, Feedback) == 1


def test_a_form_without_its_token_changes_nothing(node: tuple[Database, httpx.Client]) -> None:
    database, client = node
    _add_study(database)
    headers = {**browser(database, Role.VIEWER).headers, **PAGE}
    del headers["X-CSRF-Token"]
    path = f"/studies/{_UID}/reading"
    assert client.post(path, data={"to": "claim"}, headers=headers).status_code == 403
    with database.read() as session:
        assert session.scalar(select(Study.reading_state)) == "unread"


def test_who_looks_is_written_down(node: tuple[Database, httpx.Client]) -> None:
    database, client = node
    _add_study(database)
    _get(client, database, f"/studies/{_UID}")
    _get(client, database, "/")
    headers = {**browser(database, Role.OPERATOR).headers, **PAGE}
    client.post("/audit", data={"patient_id": "P-1", "user": "x"}, headers=headers)
    actions = (AuditAction.PATIENT_DATA_READ, AuditAction.AUDIT_READ)
    with database.read() as session:
        found = {
            (row.action.value, row.outcome): row
            for row in session.scalars(select(AuditEvent).where(AuditEvent.action.in_(actions)))
        }
    study = found["patient_data_read", "study"]
    assert (study.actor, study.patient_id, study.study_instance_uid) == ("viewer", "P-1", _UID)
    listed = found["patient_data_read", "worklist"]
    assert listed.patient == {"patient_ids": ["P-1"]}
    searched = found["audit_read", "page"]
    assert (searched.actor, searched.patient_id) == ("operator", "P-1")
    assert searched.details == {"filter": {"user": "x"}, "rows": 0}


def test_the_export_of_the_audit_is_for_administrators(
    node: tuple[Database, httpx.Client],
) -> None:
    database, client = node
    for role, status in ((Role.OPERATOR, 403), (Role.ADMIN, 200)):
        headers = {**browser(database, role).headers, **PAGE}
        answer = client.post("/audit/export/csv", data={}, headers=headers)
        assert answer.status_code == status
    assert answer.headers["content-disposition"] == 'attachment; filename="audit.csv"'


def test_a_decision_that_cannot_be_is_said_on_the_page(
    node: tuple[Database, httpx.Client],
) -> None:
    database, client = node
    key = _add_study(database)
    headers = {**browser(database, Role.OPERATOR).headers, **PAGE}
    form = {"to": "release", "why": "because"}
    answer = client.post(f"/quarantine/{key}", data=form, headers=headers)
    assert answer.status_code == 409
    assert f"object {key} is not in quarantine but analysed" in answer.text
    bad = {"to": "correct", "why": "because", "patient_id": "A\\B"}
    assert client.post(f"/quarantine/{key}", data=bad, headers=headers).status_code == 422
    unnamed = {"to": "correct", "why": "because"}
    answer = client.post(f"/quarantine/{key}", data=unnamed, headers=headers)
    assert "a correction needs the PatientID" in answer.text


def test_a_destination_that_nobody_named_is_not_asked(
    node: tuple[Database, httpx.Client],
) -> None:
    database, client = node
    headers = {**browser(database, Role.OPERATOR).headers, **PAGE}
    path = f"/system/destinations/{random_uid()}/echo"
    assert client.post(path, headers=headers).status_code == 404
    form = {"destination": "nobody"}
    answer = client.post("/deliveries/retry", data=form, headers=headers)
    assert answer.status_code == 409
    assert "no destination is named" in answer.text


def test_what_is_not_counted_yet_is_said_on_the_page_of_the_system(
    node: tuple[Database, httpx.Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    database, client = node
    text = _get(client, database, "/system", Role.OPERATOR).text
    assert "Not enough images yet to compare" in text
    monkeypatch.setattr(Paced, "value", lambda _: None)
    text = _get(client, database, "/system", Role.OPERATOR).text
    assert text.lower().count("being counted: reload in a moment") == 3  # ledger, disks, drift
    assert "Not enough images yet to compare" not in text

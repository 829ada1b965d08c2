"""`audit verify` finds what somebody with SQL, and without the key, did, and says where."""

import secrets
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from audits import SealedAudit, backdated, events_in, set_time_of_seals
from rows import add_instance, open_database
from sqlalchemy import select

from dicom_node.audit.keys import load_keys
from dicom_node.audit.redactions import Redaction, redact
from dicom_node.audit.verify import Verification
from models.audit import AuditAction, record
from models.base import utc_now
from models.seal import AuditMark
from models.session import Database

Place = tuple[str, int | None, int | None]


@pytest.fixture
def audit(emptied_database: Database, tmp_path: Path) -> SealedAudit:
    """Three batches: events 1 to 3, 4 and 5, 6."""
    audit = SealedAudit.of(emptied_database, tmp_path)
    audit.sealed(3, 2, 1)
    return audit


def test_an_untouched_audit_is_sound(audit: SealedAudit) -> None:
    assert audit.findings() == []


def test_a_node_that_seals_meanwhile_is_sound(
    audit: SealedAudit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it anchors while the rows are read is in no row of this view; its events grow old."""
    now = utc_now()
    clock = [now]
    monkeypatch.setattr("dicom_node.audit.verify.utc_now", lambda: clock[0])
    audit.add(1, at=now)

    def go_on(_: int) -> None:
        audit.seal()
        audit.sealed(1)
        clock[0] += timedelta(hours=1)

    with audit.database.read() as session:
        verification = Verification(session, load_keys(audit.key), audit.anchor, go_on)
        assert list(verification.findings()) == []
    assert audit.found() == []


def _edit(column: str, value: str) -> Callable[[SealedAudit], None]:
    return lambda it: it.sql(f"UPDATE audit_event SET {column} = {value} WHERE id = 4")  # noqa: S608  constants of this file


@pytest.mark.parametrize(
    "edit",
    [
        ("at", "'2020-01-01 00:00:00.000000'"),
        ("action", "'query'"),
        ("action", "'never_heard_of'"),
        ("outcome", "'duplicate'"),
        ("calling_aet", "'OTHER'"),
        ("calling_aet", "NULL"),
        ("called_aet", "'OTHER'"),
        ("peer", "'10.0.0.1:1'"),
        ("study_instance_uid", "'1.2.4'"),
        ("sop_instance_uid", "'1.2.4'"),
        ("status", "0"),
        ("actor", "'ann'"),
        ("model", "'unet 2'"),
        ("details", """'{"size_bytes": 18}'"""),
    ],
    ids=lambda it: it[0],
)
def test_an_edited_event_is_named(audit: SealedAudit, edit: tuple[str, str]) -> None:
    _edit(*edit)(audit)
    (finding,) = audit.findings()
    assert (finding.kind, finding.seal, finding.event_id) == ("event_changed", 2, 4)
    assert "event 4" in finding.what
    assert finding.at is not None


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("""UPDATE audit_event SET patient = '{"patient_id": "P2"}' WHERE id = 4""", "changed"),
        ("UPDATE audit_event SET patient_id = 'P2' WHERE id = 4", "changed"),
        ("UPDATE audit_event SET patient = NULL WHERE id = 4", "changed"),
        ("UPDATE audit_event SET patient = NULL, patient_id = NULL WHERE id = 4", "removed"),
        ("UPDATE audit_mark SET patient_salt = NULL WHERE event_id = 4", "changed"),
    ],
)
def test_an_edited_patient_is_named(audit: SealedAudit, statement: str, kind: str) -> None:
    audit.sql(statement)
    assert audit.found() == [(f"patient_{kind}", 2, 4)]


def test_a_patient_that_was_put_to_an_event_without_one_is_named(audit: SealedAudit) -> None:
    audit.add(patient_id=None)
    audit.seal()
    assert audit.found() == []
    audit.sql("""UPDATE audit_event SET patient = '{"patient_id": "P2"}' WHERE id = 7""")
    assert audit.found() == [("patient_changed", 4, 7)]


def test_a_deleted_event_is_named(audit: SealedAudit) -> None:
    audit.sql("DELETE FROM audit_event WHERE id = 2")
    (finding,) = audit.findings()
    assert (finding.kind, finding.seal, finding.event_id) == ("event_deleted", 1, 2)


CUTS: dict[str, tuple[list[str], list[Place]]] = {
    "event and mark": (
        ["DELETE FROM audit_event WHERE id = 2", "DELETE FROM audit_mark WHERE event_id = 2"],
        [("marks_missing", 1, 1), ("seal_changed", 1, 1)],
    ),
    "a batch in the middle": (
        [
            "DELETE FROM audit_mark WHERE seal_number = 2",
            "DELETE FROM audit_seal WHERE number = 2",
            "DELETE FROM audit_event WHERE id IN (4, 5)",
        ],
        [("seal_missing", 3, 6)],
    ),
    "the first batch": (
        [
            "DELETE FROM audit_mark WHERE seal_number = 1",
            "DELETE FROM audit_seal WHERE number = 1",
            "DELETE FROM audit_event WHERE id < 4",
        ],
        [("seal_missing", 2, 4)],
    ),
    "the tail": (
        [
            "DELETE FROM audit_mark WHERE seal_number > 1",
            "DELETE FROM audit_seal WHERE number > 1",
            "DELETE FROM audit_event WHERE id > 3",
        ],
        [("tail_cut", 2, None)],
    ),
    "everything": (
        [
            "DELETE FROM audit_mark",
            "DELETE FROM audit_seal",
            "DELETE FROM audit_event",
        ],
        [("tail_cut", 1, None)],
    ),
    "only the seals of the tail": (
        ["DELETE FROM audit_mark WHERE seal_number = 3", "DELETE FROM audit_seal WHERE number = 3"],
        [("event_unsealed", None, 6), ("tail_cut", 3, None)],
    ),
}


@pytest.mark.parametrize("cut", CUTS)
def test_what_was_cut_out_shows(audit: SealedAudit, cut: str) -> None:
    statements, found = CUTS[cut]
    for statement in statements:
        audit.sql(statement)
    assert audit.found() == found


def test_a_cut_tail_says_up_to_where_it_was(audit: SealedAudit) -> None:
    for statement in CUTS["the tail"][0]:
        audit.sql(statement)
    (finding,) = audit.findings()
    assert finding.what == (
        "the tail was cut after seal 1: the anchor goes on to seal 3, up to event 6"
    )
    assert audit.findings(anchor=False) == []  # without the anchor nobody could know


def test_hashing_everything_again_without_the_key_is_found(audit: SealedAudit) -> None:
    """The one who does it has the code, the database and the ids of the keys."""
    audit.sql("UPDATE audit_event SET outcome = 'duplicate' WHERE id = 5")
    audit.hash_again()
    assert audit.found(anchor=False) == [
        ("seal_changed", 1, 1),
        ("event_changed", 1, 1),
        ("seal_changed", 2, 4),
        ("event_changed", 2, 4),
        ("seal_changed", 3, 6),
        ("event_changed", 3, 6),
        ("patient_changed", 3, 6),
    ]
    differing = [place for place in audit.found() if place[0] == "anchor_differs"]
    assert [seal for _, seal, _ in differing] == [1, 2, 3]


def test_a_copied_mark_does_not_prove_another_event(audit: SealedAudit) -> None:
    audit.sql(
        "UPDATE audit_mark SET event_mac = (SELECT m.event_mac FROM audit_mark m"
        " WHERE m.event_id = 1) WHERE event_id = 2"
    )
    assert audit.found() == [("seal_changed", 1, 1), ("event_changed", 1, 2)]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_seal SET sealed_at = '2020-01-01 00:00:00.000000' WHERE number = 2",
        "UPDATE audit_seal SET first_event_id = 3 WHERE number = 2",
        "UPDATE audit_seal SET events = 1 WHERE number = 2",
    ],
)
def test_an_edited_seal_is_named(audit: SealedAudit, statement: str) -> None:
    audit.sql(statement)
    assert [place[:2] for place in audit.found()] == [("seal_changed", 2)]


def test_a_seal_of_an_unknown_key_is_named(audit: SealedAudit) -> None:
    audit.sql("UPDATE audit_seal SET key_id = '0123456789abcdef' WHERE number = 2")
    assert audit.found() == [("seal_unknown_key", 2, 4)]


def test_an_event_that_was_put_in_past_the_node_is_named(audit: SealedAudit) -> None:
    """Into a place that was sealed: the sealer goes on behind it."""
    audit.sql("DELETE FROM audit_mark WHERE event_id = 6")
    audit.sql("DELETE FROM audit_seal WHERE number = 3")
    audit.sql("DELETE FROM audit_event WHERE id = 6")
    audit.anchor.write_text("".join(audit.anchor.read_text().splitlines(keepends=True)[:2]))
    audit = SealedAudit(audit.database, audit.settings)
    backdated(audit.database, 20)
    audit.seal()
    backdated(audit.database, 10)
    assert audit.sealer._position is not None
    audit.sealer._position.gaps.clear()  # an hour later
    audit.seal()
    assert audit.found() == [("event_unsealed", None, 10)]


def test_without_a_dispatcher_the_unsealed_ones_are_one_finding(audit: SealedAudit) -> None:
    audit.add(4, at=utc_now())
    assert audit.findings() == []  # too young to be sealed
    audit.add(30)
    audit.sql("DELETE FROM audit_event WHERE id = 20")
    found = [(it.kind.value, it.event_id, it.last_event_id) for it in audit.findings()]
    assert found == [("event_unsealed", 11, 19), ("event_unsealed", 21, 40)]


def test_marks_of_no_seal_are_named(tmp_path: Path) -> None:
    with open_database(f"sqlite:///{tmp_path / 'node.db'}") as database:
        audit = SealedAudit.of(database, tmp_path)
        audit.sealed(2, 1)
        with database.engine.connect() as connection:
            connection.exec_driver_sql("COMMIT")
            connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
            connection.exec_driver_sql("DELETE FROM audit_seal WHERE number = 2")
        assert audit.found() == [("marks_unsealed", 2, 3), ("tail_cut", 2, None)]


def _without_line(number: int) -> Callable[[SealedAudit], None]:
    def cut(audit: SealedAudit) -> None:
        lines = audit.anchor.read_text().splitlines(keepends=True)
        audit.anchor.write_text("".join(lines[:number] + lines[number + 1 :]))

    return cut


def _line(number: object) -> str:
    return f'{{"number": {number}, "mac": "", "sealed_at": "", "last_event_id": 1}}'


@pytest.mark.parametrize(
    ("tamper", "found"),
    [
        (_without_line(0), []),  # it may begin later than the seals
        (_without_line(1), [("anchor_incomplete", 2, None)]),
        (_without_line(2), [("anchor_incomplete", 3, None)]),
        (lambda it: it.anchor.unlink(), [("anchor_incomplete", None, None)]),
        (
            lambda it: it.anchor.write_text(it.anchor.read_text() + "{}\n"),
            [("anchor_unreadable", None, None)],
        ),
        *(
            (lambda it, line=line: it.anchor.write_text(it.anchor.read_text() + f"{line}\n"), bad)
            for line in ("[" * 100_000, _line(0), _line(-1 << 40), _line("1e999"), _line(1 << 40))
            for bad in [[("anchor_unreadable", None, None)]]
        ),
        (
            lambda it: it.anchor.write_text(it.anchor.read_text().replace('"mac": "', '"mac": "0')),
            [
                *[("anchor_differs", each, None) for each in (1, 2, 3)],
                ("anchor_incomplete", 1, None),
            ],
        ),
    ],
)
def test_the_anchor_itself_is_looked_at(
    audit: SealedAudit, tamper: Callable[[SealedAudit], None], found: list[Place]
) -> None:
    set_time_back = timedelta(hours=1)
    assert audit.findings() == []
    tamper(audit)
    young = audit.found()
    with audit.database.read() as session:
        verification = Verification(session, load_keys(audit.key), None)
        assert list(verification.findings()) == []
    set_time_of_seals(audit.database, set_time_back)
    old = [place for place in audit.found() if place[0].startswith("anchor")]
    assert old == found
    assert [place for place in young if place[0] == "anchor_incomplete"] in (
        [],
        [("anchor_incomplete", None, None)],  # a file that is gone is no matter of age
    )


REASON = "erasure request 17"


def test_redacting_a_patient_is_no_tampering(audit: SealedAudit) -> None:
    audit.add(2, patient_id="P2")
    audit.seal()
    wanted = Redaction("ann", REASON, patient_id="P1")
    assert redact(audit.database, audit.settings, wanted) == 6
    audit.seal()
    assert audit.findings() == []
    events = events_in(audit.database)
    assert [it.patient_id for it in events] == [*[None] * 6, "P2", "P2", None]
    assert all(it.patient is None for it in events[:6])
    assert (events[-1].action, events[-1].actor) == (AuditAction.AUDIT_REDACTED, "ann")
    assert events[-1].patient == {"why": REASON}
    with audit.database.read() as session:
        salts = session.scalars(select(AuditMark.patient_salt).where(AuditMark.event_id <= 6))
        assert set(salts) == {None}
    assert redact(audit.database, audit.settings, wanted) == 0


def test_redaction_covers_events_that_were_not_sealed_yet(audit: SealedAudit) -> None:
    audit.add(3)
    assert redact(audit.database, audit.settings, Redaction("ann", REASON, "P1")) == 9
    audit.seal()
    assert audit.findings() == []


def test_redaction_finds_the_patient_wherever_it_is_named(audit: SealedAudit) -> None:
    add_instance(audit.database, study_instance_uid="1.9")  # of P1
    payloads = [
        ({"patient_id": "P7", "patient_id_before": "P1"}, "1.2"),
        ({"why": "P1 came twice", "before": {"patient_id": "P3"}}, "1.2"),
        ({"PatientName": "DOE"}, "1.9"),
        ({"patient_id": "P11"}, "1.2"),
        ({"note": "P1 in a text that is no reason"}, "1.2"),
        ({"PatientName": "ROE"}, "1.2"),
    ]
    with audit.database.write() as session:
        for patient, study in payloads:
            record(session, AuditAction.QUERY, "success", study_instance_uid=study, patient=patient)
            session.flush()
    assert redact(audit.database, audit.settings, Redaction("ann", REASON, "P1")) == 6 + 3
    left = [it.patient for it in events_in(audit.database)[6:12]]
    assert left == [None, None, None, *[patient for patient, _ in payloads[3:]]]


def test_redaction_can_be_narrowed_to_studies_and_to_events(audit: SealedAudit) -> None:
    """Two patients of two sources may share a PatientID."""
    audit.add(1, study="1.7")
    narrowed = Redaction("ann", REASON, "P1", study_instance_uids=("1.7",))
    assert redact(audit.database, audit.settings, narrowed) == 1
    assert redact(audit.database, audit.settings, Redaction("ann", REASON, event_ids=(2, 99))) == 1
    patients = [it.patient_id for it in events_in(audit.database)]
    assert patients == ["P1", None, *["P1"] * 4, None, None, None]
    audit.seal()
    assert audit.findings() == []


def test_a_redaction_that_was_made_without_the_key_is_none(audit: SealedAudit) -> None:
    """Even though the sealer seals it like any event."""
    audit.sql("UPDATE audit_event SET patient = NULL, patient_id = NULL WHERE id = 4")
    details = {"by": "ann", "events": [4], "key_id": "0" * 16, "mac": secrets.token_hex(32)}
    for key_id in ("0" * 16, load_keys(audit.key).newest, None):
        with audit.database.write() as session:
            made_up = details | {"key_id": key_id}
            record(session, AuditAction.AUDIT_REDACTED, "redacted", details=made_up)
    audit.seal()
    assert audit.found() == [("patient_removed", 2, 4)]


def test_a_redaction_does_not_excuse_another_event(audit: SealedAudit) -> None:
    redact(audit.database, audit.settings, Redaction("ann", REASON, event_ids=(4,)))
    audit.seal()
    audit.sql("UPDATE audit_event SET patient = NULL, patient_id = NULL WHERE id = 5")
    audit.sql("UPDATE audit_event SET details = '{}' WHERE id = 4")
    assert audit.found() == [("event_changed", 2, 4), ("patient_removed", 2, 5)]

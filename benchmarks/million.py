"""Fill a database with as many instances as a large hospital sends in some years, by SQL alone.

Every second image is a lateral, one in ten frontals was not analysed; 20 senders of unequal size,
two and a half studies per patient, half of the studies read, every event sealed. Rows only: there
are no files.
"""

from collections.abc import Iterator
from typing import Any, Final

from rich.progress import track
from sqlalchemy import Table, text

from models.session import METADATA, Database

YEARS: Final = 2
_DAY: Final = "timestamptz '2025-01-01 00:00+00'"
_STUDY: Final = f"({_DAY} + i * interval '1 second' * ({YEARS} * 31536000.0 / :studies))"
# Of study i: a share in [0, 1) that differs by salt, the same each time.
_SHARE: Final = "(abs(hashint4extended(i::int, {salt})) % 100000 / 100000.0)"
_UID: Final = "'1.2.826.0.1.3680043.8.498.{kind}.' || "
_SHA: Final = "md5('{kind}' || {key}) || md5('{kind}-' || {key})"
_PERCENT: Final = (
    f"(CASE WHEN {_SHARE.format(salt=1)} < 0.4 THEN 0.0"
    f" ELSE round((100 * power({_SHARE.format(salt=2)}, 3))::numeric, 3)::float END)"
)
_IS_ANALYSED: Final = f"({_SHARE.format(salt=3)} < 0.9)"
_BAND: Final = (
    "(CASE WHEN {p} < 1 THEN 'none' WHEN {p} < 25 THEN 'mild' WHEN {p} < 50 THEN 'moderate'"
    " ELSE 'severe' END)"
)
_AE: Final = f"('XR' || floor(20 * power({_SHARE.format(salt=4)}, 2))::int)"
_PATIENT: Final = "('P' || (i::bigint * 7919 % greatest(:studies * 2 / 5, 1)))"
_READ: Final = f"({_SHARE.format(salt=5)} < 0.5)"
_READER: Final = f"('reader' || floor(30 * {_SHARE.format(salt=6)})::int)"
_MODEL: Final = "(CASE WHEN i * 2 < :studies THEN 1 ELSE 2 END)"
_MODEL_NAME: Final = f"('unet 1.' || {_MODEL} + 1 || '.0')"
_SIDES: Final = ("total", "left", "right")
_STUDIES: Final = "generate_series(1, :studies) AS i"
_ANALYSED: Final = f"{_STUDIES} WHERE {_IS_ANALYSED}"


def fill(database: Database, instances: int) -> None:
    """Insert the rows. The database is migrated, empty and of PostgreSQL."""
    studies = instances // 2
    with database.engine.begin() as connection:
        connection.execute(text("SET LOCAL synchronous_commit = off"))
        for table, values, source in track(list(_tables()), "filling"):
            names = ", ".join(f'"{name}"' for name in values)
            wanted = ", ".join(str(value) for value in values.values())
            statement = f"INSERT INTO {table} ({names}) SELECT {wanted} FROM {source}"  # noqa: S608  all from here
            connection.execute(text(statement), {"studies": studies})
            _continue_ids(connection, METADATA.tables[table])
    with database.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("VACUUM ANALYZE"))


def _continue_ids(connection: Any, table: Table) -> None:  # noqa: ANN401  of the engine
    """Have the next id of a table be a new one."""
    if "id" in table.c:
        sequence = f"pg_get_serial_sequence('{table.name}', 'id')"
        connection.execute(text(f"SELECT setval({sequence}, max(id)) FROM {table.name}"))  # noqa: S608  a table of ours


def _tables() -> Iterator[tuple[str, dict[str, object], str]]:
    """Yield table, columns as SQL, and where their rows come from."""
    yield from _fixed()
    yield "study", _study(), _STUDIES
    yield "series", _series(), _STUDIES
    for view in (0, 1):
        yield "instance", _instance(view), _STUDIES
    yield "analysis", _analysis(), _ANALYSED
    doubtful = f"{_ANALYSED} AND {_SHARE.format(salt=8)} < 0.05"
    yield "analysis_caveat", {"analysis_id": "i", "caveat": "'uncertain'"}, doubtful
    for kind in ("seg", "sr"):
        yield "artifact", _artifact(kind), _ANALYSED
    yield "reported_analysis", {"artifact_id": "2 * i", "analysis_id": "i"}, _ANALYSED
    for offset in (1, 0):
        yield "delivery", _delivery(offset), _ANALYSED
    yield "reading", _reading(), f"{_ANALYSED} AND {_READ}"
    yield from _events()
    yield from _seals()


def _seals() -> Iterator[tuple[str, dict[str, object], str]]:
    """Yield the seals of all events, 500 each, and their marks; the bytes prove nothing."""
    batch = "audit_event.id / 500 + 1"
    seal = {
        "number": batch,
        "first_event_id": "min(audit_event.id)",
        "last_event_id": "max(audit_event.id)",
        "events": "count(*)",
        "sealed_at": "max(audit_event.at)",
        "key_id": "'benchmark'",
        "previous_mac": _SHA.format(kind="seal", key=f"{batch} - 1"),
        "mac": _SHA.format(kind="seal", key=batch),
    }
    yield "audit_seal", seal, f"audit_event GROUP BY {batch}"
    mark = {"event_id": "audit_event.id", "seal_number": batch}
    mac = f"decode({_SHA.format(kind='mark', key='audit_event.id')}, 'hex')"
    yield "audit_mark", mark | {"event_mac": mac}, "audit_event"


def _fixed() -> Iterator[tuple[str, dict[str, object], str]]:
    """Yield the small tables."""
    network = {
        "id": "i",
        "name": "'unet'",
        "version": "'1.' || i + 1 || '.0'",
        "sha256": _SHA.format(kind="model", key="i"),
        "created_at": _DAY,
    }
    yield "model_version", network, "generate_series(1, 2) AS i"
    pacs = {"id": "1", "name": "'PACS'", "ae_title": "'PACS'", "host": "'pacs'", "port": "104"}
    yield "destination", pacs | {"enabled": "true"}, "generate_series(1, 1)"
    reader = {"id": "i", "name": "'reader' || i - 1", "role": "'viewer'", "created_at": _DAY}
    yield "account", reader, "generate_series(1, 30) AS i"


def _series() -> dict[str, object]:
    return {
        "id": "i",
        "study_id": "i",
        "series_instance_uid": _UID.format(kind=2) + "i",
        "modality": f"CASE WHEN {_SHARE.format(salt=7)} < 0.3 THEN 'CR' ELSE 'DX' END",
    }


def _reading() -> dict[str, object]:
    return {
        "study_id": "i",
        "revision": "1",
        "percent": _PERCENT,
        "read_by": _READER,
        "read_at": f"{_STUDY} + interval '1 hour'",
    }


def _study() -> dict[str, object]:
    figure = f"CASE WHEN {_IS_ANALYSED} THEN {{}} END"
    return {
        "id": "i",
        "study_instance_uid": _UID.format(kind=1) + "i",
        "state": f"CASE WHEN i > :studies - 200 THEN 'open' WHEN {_IS_ANALYSED} THEN 'delivered'"
        " ELSE 'closed' END",
        "patient_id": _PATIENT,
        "issuer_of_patient_id": "'HOSPITAL'",
        "accession_number": "'A' || i",
        "study_date": f"to_char({_STUDY}, 'YYYYMMDD')",
        "exam_at": f"{_STUDY} - interval '10 minutes'",
        "calling_aet": _AE,
        "created_at": _STUDY,
        "last_received_at": f"{_STUDY} + interval '1 minute'",
        "revision": f"CASE WHEN {_IS_ANALYSED} THEN 1 ELSE 0 END",
        "opacity_percent": figure.format(_PERCENT),
        "severity": figure.format(_BAND.format(p=_PERCENT)),
        "model_version_id": figure.format(_MODEL),
        "reading_state": f"CASE WHEN {_IS_ANALYSED} AND {_READ} THEN 'read' ELSE 'unread' END",
        "reading_order": f"CASE WHEN {_IS_ANALYSED} THEN 0 - {_PERCENT} ELSE 1 END",
    }


def _instance(view: int) -> dict[str, object]:
    """Return a frontal (0) or a lateral (1) image of each study."""
    key = f"(2 * i - 1 + {view})"
    state = f"CASE WHEN {_IS_ANALYSED} THEN 'analysed' ELSE 'not_analysed' END"
    reason = f"CASE WHEN NOT {_IS_ANALYSED} THEN 'no_lungs' END"
    return {
        "id": key,
        "series_id": "i",
        "sop_instance_uid": _UID.format(kind=3) + key,
        "sop_class_uid": "'1.2.840.10008.5.1.4.1.1.1.1'",
        "transfer_syntax_uid": "'1.2.840.10008.1.2.1'",
        "data_set_sha256": _SHA.format(kind="instance", key=key),
        "size_bytes": "8000000",
        "storage_key": f"'00/' || {key} || '.dcm'",
        "state": "'not_analysed'" if view else state,
        "reason": "'lateral_view'" if view else reason,
        "patient_id": _PATIENT,
        "issuer_of_patient_id": "'HOSPITAL'",
        "calling_aet": _AE,
        "called_aet": "'NODE'",
        "received_at": f"{_STUDY} + interval '{view} minute'",
    }


def _analysis() -> dict[str, object]:
    numbers = dict.fromkeys(
        [f"{what}_pixels_{side}" for what in ("lung", "opacity") for side in _SIDES], "100000"
    )
    return numbers | {
        "id": "i",
        "instance_id": "2 * i - 1",
        "model_version_id": _MODEL,
        "configuration_hash": _SHA.format(kind="configuration", key="1"),
        "severity": _BAND.format(p=_PERCENT),
        **{f"opacity_percent_{side}": _PERCENT for side in _SIDES},
        "orientation_assumed": "false",
        "notes": "'[]'::json",
        "device": "'cpu'",
        "seconds": "0.8",
        "created_at": f"{_STUDY} + interval '2 minutes'",
    }


def _artifact(kind: str) -> dict[str, object]:
    key = "(2 * i)" if kind == "sr" else "(2 * i - 1)"
    subject: dict[str, object] = {"study_id": "i", "revision": "1"}
    return (subject if kind == "sr" else {"analysis_id": "i"}) | {
        "id": key,
        "kind": f"'{kind}'",
        "sop_class_uid": "'1.2.840.10008.5.1.4.1.1.66.4'",
        "sop_instance_uid": _UID.format(kind=4) + key,
        "storage_key": f"'00/' || {key} || '.{kind}'",
        "sha256": _SHA.format(kind="artifact", key=key),
        "size_bytes": "60000",
        "created_at": f"{_STUDY} + interval '2 minutes'",
    }


def _delivery(offset: int) -> dict[str, object]:
    """Return the delivery of each SEG (1) or SR (0): one in a thousand did not arrive."""
    return {
        "id": f"(2 * i - {offset})",
        "artifact_id": f"2 * i - {offset}",
        "destination_id": "1",
        "state": f"CASE WHEN {_SHARE.format(salt=9)} < 0.001 THEN 'dead' ELSE 'sent' END",
        "attempts": "1",
        "status": "0",
        "next_attempt_at": _STUDY,
        "sent_at": f"{_STUDY} + interval '3 minutes'",
        "created_at": f"{_STUDY} + interval '2 minutes'",
    }


def _events() -> Iterator[tuple[str, dict[str, object], str]]:
    """Yield the audit: objects received, analysed and sent, and what people read."""
    named = {"patient_id": _PATIENT, "patient": f"json_build_object('patient_id', {_PATIENT})"}
    for view in (0, 1):
        sent = {"calling_aet": _AE, "called_aet": "'NODE'", "status": "0"}
        uid = _UID.format(kind=3) + f"(2 * i - 1 + {view})"
        stored = _event("instance_stored", "stored", f"{view} minute", sop_instance_uid=uid)
        yield "audit_event", stored | sent | named, _STUDIES
    analysed = _event("instance_analysed", "analysed", "2 minutes", model=_MODEL_NAME)
    yield "audit_event", analysed, _ANALYSED
    for kind in ("seg", "sr"):
        arrived = _event("artifact_sent", f"{kind}_sent", "3 minutes", called_aet="'PACS'")
        yield "audit_event", arrived | {"status": "0"}, _ANALYSED
    read = _event("patient_data_read", "study", "1 hour", actor=_READER)
    yield "audit_event", read | named, f"{_ANALYSED} AND {_READ}"


def _event(action: str, outcome: str, later: str, **columns: str) -> dict[str, object]:
    """Return an event about study i, so much later than it came."""
    return {
        "at": f"{_STUDY} + interval '{later}'",
        "action": f"'{action}'",
        "outcome": f"'{outcome}'",
        "study_instance_uid": _UID.format(kind=1) + "i",
        "details": "'{}'::json",
        **columns,
    }

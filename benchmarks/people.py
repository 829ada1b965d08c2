"""Measure how long a page of the worklist, of studies and of the audit takes, by every filter.

The database is a PostgreSQL of its own with a million instances (benchmarks/million.py), on this
machine. Every filter is asked many times with other values, first pages and pages after them; the
plans of PostgreSQL are looked at: a sequential scan of a large table ends the script with 1.

    python benchmarks/people.py [--instances 1000000] [--times 40]
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from million import YEARS, fill
from rich.progress import track
from sqlalchemy import Connection, event, func, select, text
from sqlalchemy.orm import Session

from dicom_node.audit.log import AuditFilter, events
from dicom_node.paging import Page
from dicom_node.studies import StudyFilter, StudySort, studies
from dicom_node.worklist.rows import WorklistFilter, worklist
from migrations import schema
from models.audit import AuditAction, AuditEvent
from models.imaging import Instance, Study
from models.session import Database
from models.settings import Settings, load_settings
from models.states import ReadingState, StudyState

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from servers import find_postgres, postgres

BOUND_MS: Final = 100.0
_PAGE: Final = 50
_LARGE: Final = frozenset(
    {"study", "series", "instance", "analysis", "artifact", "delivery", "reading"}
    | {"audit_event", "audit_mark"}
)
_BEGAN: Final = datetime(2025, 1, 1, tzinfo=UTC)
Ask = Callable[[Session, str | None], Page[Any]]


@dataclass
class Case:
    """One filter of one listing: a question with fresh values each time it is called."""

    listing: str
    name: str
    make: Callable[[random.Random], Ask]
    seconds: list[float] = field(default_factory=list)
    rows: int = 0
    scans: set[str] = field(default_factory=set)
    indexes: set[str] = field(default_factory=set)


def main() -> None:
    """Fill, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--instances", type=int, default=1_000_000)
    parser.add_argument("--times", type=int, default=40)
    arguments = parser.parse_args()
    binaries = find_postgres()
    if binaries is None:
        sys.exit("PostgreSQL is not installed: apt install postgresql")
    with tempfile.TemporaryDirectory() as folder, postgres(binaries) as url:
        settings = load_settings(data_dir=Path(folder), database_url=f"{url}/postgres")
        database = Database(settings.effective_database_url)
        schema.upgrade(database)
        fill(database, arguments.instances)
        cases = list(_cases(settings, arguments.instances // 2))
        for case in track(cases, "asking"):
            _measure(database, case, arguments.times)
        _print(database, cases)
        database.dispose()
    slow = [case for case in cases if _p95(case) > BOUND_MS / 1000]
    sys.exit(1 if slow or any(case.scans for case in cases) else 0)


def _measure(database: Database, case: Case, times: int) -> None:
    """Ask `times` times; look at the plans of the first three."""
    chance = random.Random(case.name)
    for number in range(times):
        ask = case.make(chance)
        with database.read() as session:
            if number < 3:  # noqa: PLR2004  some values
                _explain(session, ask, case)
            cursor = None
            for _ in range(2):
                began = time.perf_counter()
                page = ask(session, cursor)
                case.seconds.append(time.perf_counter() - began)
                case.rows += len(page.rows)
                cursor = page.next
                if cursor is None:
                    break


def _explain(session: Session, ask: Ask, case: Case) -> None:
    """Have PostgreSQL plan every statement of a question as it comes."""
    seen: list[tuple[str, Any]] = []
    engine = session.get_bind()

    def note(_c: Any, _cursor: Any, statement: str, values: Any, *_: Any) -> None:  # noqa: ANN401  SQLAlchemy's
        seen.append((statement, values))

    event.listen(engine, "before_cursor_execute", note)
    try:
        page = ask(session, None)
        if page.next is not None:
            ask(session, page.next)
    finally:
        event.remove(engine, "before_cursor_execute", note)
    for statement, values in seen:
        if statement.lstrip().upper().startswith("SELECT"):
            for node in _nodes(session.connection(), statement, values):
                if node["Node Type"] == "Seq Scan" and node["Relation Name"] in _LARGE:
                    case.scans.add(node["Relation Name"])
                if name := node.get("Index Name"):
                    case.indexes.add(name)


def _nodes(connection: Connection, statement: str, values: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401  a row
    answer = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", values).scalar_one()
    todo = [json.loads(answer)[0]["Plan"] if isinstance(answer, str) else answer[0]["Plan"]]
    while todo:
        node = todo.pop()
        yield node
        todo += node.get("Plans", ())


def _values(studies_in_all: int) -> dict[str, Callable[[random.Random], Any]]:
    """Return by the name of a filter's field how a value for it is drawn."""

    def moment(chance: random.Random) -> datetime:
        return _BEGAN + timedelta(days=chance.random() * 365 * YEARS)

    def study(chance: random.Random) -> int:
        return chance.randrange(1, studies_in_all + 1)

    def patient(chance: random.Random) -> str:
        return f"P{study(chance) * 7919 % (studies_in_all * 2 // 5)}"

    def source(chance: random.Random) -> str:
        return f"XR{chance.randrange(20)}"

    return {
        "since": moment,
        "until": moment,
        "patient_id": patient,
        "issuer_of_patient_id": lambda _: "HOSPITAL",
        "accession_number": lambda chance: f"A{study(chance)}",
        "study_instance_uid": lambda chance: f"1.2.826.0.1.3680043.8.498.1.{study(chance)}",
        "calling_aet": source,
        "ae_title": lambda chance: chance.choice([source(chance), "PACS"]),
        "state": lambda chance: chance.choice(list(StudyState)),
        "reading_state": lambda chance: chance.choice(list(ReadingState)),
        "severity": lambda chance: chance.choice(["none", "mild", "moderate", "severe"]),
        "min_percent": lambda chance: chance.uniform(0, 100),
        "max_percent": lambda chance: chance.uniform(0, 100),
        "model": lambda _: "unet",
        "model_version": lambda chance: chance.choice(["1.2.0", "1.3.0"]),
        "modality": lambda chance: chance.choice(["CR", "DX"]),
        "reason": lambda chance: chance.choice(["no_lungs", "lateral_view"]),
        "caveat": lambda _: "uncertain",
        "late": lambda chance: chance.choice([True, False]),
        "priority": lambda chance: chance.choice(["HIGH", "MEDIUM", "LOW"]),
        "reader": lambda chance: f"reader{chance.randrange(30)}",
        "user": lambda chance: f"reader{chance.randrange(30)}",
        "action": lambda chance: chance.choice(
            [AuditAction.INSTANCE_STORED, AuditAction.ARTIFACT_SENT, AuditAction.PATIENT_DATA_READ]
        ),
        "outcome": lambda chance: chance.choice(["stored", "sr_sent", "analysed", "study"]),
    }


def _cases(settings: Settings, studies_in_all: int) -> Iterator[Case]:
    """Yield every filter of every listing alone, and some together."""
    values = _values(studies_in_all)

    def ask_worklist(wanted: WorklistFilter) -> Ask:
        return lambda session, cursor: worklist(session, settings, wanted, cursor, _PAGE)

    def ask_audit(wanted: AuditFilter) -> Ask:
        return lambda session, cursor: events(session, wanted, cursor, _PAGE)

    def ask_studies(sort: StudySort) -> Callable[[StudyFilter], Ask]:
        return lambda wanted: (
            lambda session, cursor: studies(session, wanted, sort, cursor=cursor, limit=_PAGE)
        )

    yield from _of("worklist", WorklistFilter(), ask_worklist, values)
    yield from _of("audit", AuditFilter(), ask_audit, values)
    for sort in StudySort:
        yield from _of(f"studies by {sort}", StudyFilter(), ask_studies(sort), values)


def _of(
    listing: str,
    nothing: Any,  # noqa: ANN401  a filter
    ask: Callable[[Any], Ask],
    values: dict[str, Callable[[random.Random], Any]],
) -> Iterator[Case]:
    names: list[Sequence[str]] = [(), *((each.name,) for each in fields(nothing))]
    names += [("since", "until"), *((name, "since") for name in ("calling_aet", "action", "model"))]
    for wanted in names:
        if all(hasattr(nothing, name) for name in wanted):

            def make(chance: random.Random, wanted: Sequence[str] = wanted) -> Ask:
                drawn = {name: values[name](chance) for name in wanted}
                if "since" in drawn and "until" in drawn:
                    drawn["until"] = drawn["since"] + timedelta(days=7)
                if "reader" in drawn:  # of unread studies there is none
                    drawn["reading_state"] = ReadingState.READ
                return ask(replace(nothing, **drawn))

            yield Case(listing, " + ".join(wanted) or "(no filter)", make)


def _p95(case: Case) -> float:
    return statistics.quantiles(case.seconds, n=20)[-1]


def _print(database: Database, cases: Sequence[Case]) -> None:
    with database.read() as session:
        for model in (Instance, Study, AuditEvent):
            number = session.scalar(select(func.count()).select_from(model))
            print(f"{number:,} rows of {model.__tablename__}")
        size = session.scalar(text("SELECT pg_size_pretty(pg_database_size(current_database()))"))
    print(f"{size} with indexes; pages of {_PAGE}\n")
    print("| listing | filter | p50 ms | p95 ms | rows per page | sequential scans | indexes |")
    print("|---|---|--:|--:|--:|---|---|")
    for case in cases:
        p50, p95 = statistics.median(case.seconds) * 1000, _p95(case) * 1000
        mark = " **slow**" if p95 > BOUND_MS else ""
        indexes = ", ".join(sorted(name for name in case.indexes if name.startswith("ix")))
        print(
            f"| {case.listing} | {case.name} | {p50:.1f} | {p95:.1f}{mark} "
            f"| {case.rows / len(case.seconds):.0f} | {', '.join(sorted(case.scans))} | {indexes} |"
        )


if __name__ == "__main__":
    main()

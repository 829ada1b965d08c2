"""`ledger --repair`: each damage shows or sticks, is mended once, and nothing else is touched."""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from builders import chest_dataset, write_part10
from click.testing import CliRunner
from rows import (
    add_analysis,
    add_destination,
    add_instance,
    add_job,
    add_report,
    open_database,
    outcomes,
    random_uid,
)
from sqlalchemy import select, text, update

from dicom_node.cli import cli
from dicom_node.ledger import compute
from dicom_node.repair import Mended, repair
from models.audit import AuditAction, record
from models.base import utc_now
from models.delivery import Delivery
from models.imaging import Instance, Study
from models.job import Job
from models.session import Database
from models.settings import Settings, load_settings
from models.states import DeliveryState, InstanceState, JobKind, JobState, StoreOutcome, StudyState

HOUR = timedelta(hours=1)


@dataclass
class Bench:
    """One study, analysed, reported and due at one destination, without the file of its SR."""

    database: Database
    settings: Settings

    def put(self, model: type, **values: object) -> None:
        """Write columns of every row of a table."""
        with self.database.write() as session:
            session.execute(update(model).values(**values))

    def sql(self, statement: str) -> None:
        """Break something."""
        with self.database.write() as session:
            session.execute(text(statement))

    def one(self, model: type, *where: Any) -> Any:
        """Return the only such row."""
        with self.database.read() as session:
            return session.scalars(select(model).where(*where)).one()

    def unbalanced(self) -> set[str]:
        """Return the lines of the ledger that do not balance."""
        lines = compute(self.database, self.settings)
        return {line.name for line in lines if not line.balanced}

    def repaired(self) -> dict[str, Mended]:
        """Repair once; return the kinds of which anything was found."""
        return {it.name: it for it in repair(self.database, self.settings) if it.found}


@pytest.fixture
def bench(database_url: str, tmp_path: Path) -> Iterator[Bench]:
    settings = load_settings(None, data_dir=tmp_path / "data", database_url=database_url)
    with open_database(database_url) as database:
        yield Bench(database, settings)


def _image(bench: Bench, state: InstanceState) -> int:
    """Add an instance with its file and its C-STORE."""
    ds = chest_dataset(SOPInstanceUID=random_uid())
    key = f"00/{ds.SOPInstanceUID}.dcm"
    write_part10(bench.settings.spool_dir / key, ds)
    with bench.database.write() as session:
        record(session, AuditAction.INSTANCE_STORED, StoreOutcome.STORED.value)
    return add_instance(
        bench.database,
        sop_instance_uid=str(ds.SOPInstanceUID),
        state=state,
        storage_key=key,
    )


def _waiting(bench: Bench) -> int:
    return add_job(bench.database, _image(bench, InstanceState.QUEUED))


def _reported(bench: Bench, destinations: int = 1) -> None:
    """Add an analysed image whose report is planned everywhere."""
    instance = _image(bench, InstanceState.ANALYSED)
    analysis, segmentation = add_analysis(bench.database, instance)
    report = add_report(bench.database, [analysis], storage_key="00/sr.dcm")
    uid = str(bench.one(Instance).sop_instance_uid)
    write_part10(bench.settings.artifact_dir / "00/sr.dcm", _evidence(uid))
    bench.put(Study, state=StudyState.REPORTED, revision=1)
    names = [f"PACS{number}" for number in range(destinations)]
    rows = [add_destination(bench.database, name, 104) for name in names]
    with bench.database.write() as session:
        for destination in rows:
            session.add(Delivery(artifact_id=segmentation, destination_id=destination))
            session.add(Delivery(artifact_id=report, destination_id=destination))
        record(
            session,
            AuditAction.DELIVERIES_PLANNED,
            "planned",
            study_instance_uid="1.2.840.1",
            details={"artifacts": 2, "deliveries": 2 * destinations},
        )


def _evidence(uid: str) -> Any:
    image = chest_dataset()
    item, series, study = type(image)("", {}), type(image)("", {}), type(image)("", {})
    item.ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    item.ReferencedSOPInstanceUID = uid
    series.SeriesInstanceUID, series.ReferencedSOPSequence = "1.2.3", [item]
    study.StudyInstanceUID, study.ReferencedSeriesSequence = "1.2.4", [series]
    return chest_dataset(CurrentRequestedProcedureEvidenceSequence=[study])


def test_a_sound_node_is_left_alone(bench: Bench) -> None:
    _reported(bench)
    assert (bench.unbalanced(), bench.repaired()) == (set(), {})
    assert outcomes(bench.database, AuditAction.LEDGER_REPAIRED) == []


def _job_state(state: JobState) -> Callable[[Bench], None]:
    def damage(bench: Bench) -> None:
        bench.put(Job, state=state, attempts=3)

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        lambda bench: bench.sql("DELETE FROM job"),
        _job_state(JobState.DEAD),
        _job_state(JobState.FAILED),
        _job_state(JobState.CANCELLED),
    ],
)
def test_a_queued_instance_without_a_job_gets_one(
    bench: Bench, damage: Callable[[Bench], None]
) -> None:
    _waiting(bench)
    damage(bench)
    assert bench.unbalanced() == {"instances"}
    assert bench.repaired() == {
        "queued instances without a job": Mended("queued instances without a job", 1, 1)
    }
    job = bench.one(Job)
    assert (job.state, job.attempts, job.published_at) == (JobState.PENDING, 0, None)
    assert job.model_selector == "unet"
    assert (bench.unbalanced(), bench.repaired()) == (set(), {})
    assert len(outcomes(bench.database, AuditAction.LEDGER_REPAIRED)) == 1


def test_a_queued_instance_whose_job_is_done_is_shown_and_left_to_a_person(bench: Bench) -> None:
    _waiting(bench)
    bench.put(Job, state=JobState.DONE)
    assert bench.unbalanced() == {"instances"}
    (found,) = bench.repaired().values()
    assert (found.found, found.repaired) == (1, 0)
    assert bench.one(Job).state is JobState.DONE


def test_a_job_too_much_does_not_hide_an_instance_without_one(bench: Bench) -> None:
    _waiting(bench)
    bench.sql("DELETE FROM job")
    add_job(bench.database, _image(bench, InstanceState.NOT_ANALYSED))
    assert bench.unbalanced() == {"instances"}


@pytest.mark.parametrize("lease_until", [utc_now() - HOUR, None])
def test_an_expired_job_is_taken_back(bench: Bench, lease_until: Any) -> None:
    _waiting(bench)
    bench.put(Job, state=JobState.LEASED, lease_until=lease_until, attempts=1, lease_owner="a:1")
    assert bench.repaired()["expired leases of jobs"].repaired == 1
    assert bench.one(Job).state is JobState.PENDING
    assert (bench.unbalanced(), bench.repaired()) == (set(), {})


def test_a_job_that_is_leased_is_left_alone(bench: Bench) -> None:
    _waiting(bench)
    bench.put(Job, state=JobState.LEASED, lease_until=utc_now() + HOUR, attempts=1)
    assert bench.repaired() == {}


def test_a_message_of_long_ago_is_published_again(bench: Bench) -> None:
    _waiting(bench)
    bench.put(Job, published_at=utc_now() - HOUR)
    assert bench.repaired()["pending jobs without a message"].repaired == 1
    assert bench.one(Job).published_at is None
    assert bench.repaired() == {}


def test_an_expired_delivery_becomes_due(bench: Bench) -> None:
    _reported(bench)
    past = utc_now() - HOUR
    bench.put(Delivery, state=DeliveryState.SENDING, lease_until=past, lease_owner="a:1")
    assert bench.repaired()["expired leases of deliveries"].repaired == 2
    assert bench.repaired() == {}
    with bench.database.read() as session:
        assert set(session.scalars(select(Delivery.state))) == {DeliveryState.DUE}


def test_a_settled_study_without_a_report_job_gets_one(bench: Bench) -> None:
    _reported(bench)
    bench.put(Study, state=StudyState.SETTLED, revision=2)
    assert bench.unbalanced() == {"settled studies"}
    assert bench.repaired()["settled studies without a report job"].repaired == 1
    job = bench.one(Job)
    assert (job.kind, job.state, job.revision) == (JobKind.REPORT, JobState.PENDING, 2)
    assert (bench.unbalanced(), bench.repaired()) == (set(), {})


def test_a_dead_report_waits_for_retry(bench: Bench) -> None:
    _reported(bench)
    bench.put(Study, state=StudyState.SETTLED, revision=2)
    with bench.database.write() as session:
        session.add(Job(kind=JobKind.REPORT, study_id=1, revision=2, state=JobState.DEAD))
    assert (bench.unbalanced(), bench.repaired()) == ({"settled studies"}, {})


@pytest.mark.parametrize("lost", ["DELETE FROM delivery", "DELETE FROM delivery WHERE id = 2"])
def test_deliveries_that_were_planned_are_planned_again(bench: Bench, lost: str) -> None:
    _reported(bench, destinations=2)
    bench.sql(lost)
    assert bench.unbalanced() == {"deliveries planned in the audit"}
    assert bench.repaired()["reported studies without deliveries"].repaired == 1
    assert (bench.unbalanced(), bench.repaired()) == (set(), {})


def test_a_reported_study_that_was_never_planned_is(bench: Bench) -> None:
    _reported(bench)
    bench.sql("DELETE FROM delivery")
    bench.sql("DELETE FROM audit_event WHERE action = 'deliveries_planned'")
    assert bench.repaired()["reported studies without deliveries"].repaired == 1
    assert (bench.unbalanced(), bench.repaired()) == (set(), {})
    with bench.database.read() as session:
        assert len(session.scalars(select(Delivery)).all()) == 2


def test_a_receiver_that_is_new_gets_nothing_of_the_past(bench: Bench) -> None:
    _reported(bench)
    bench.sql("DELETE FROM delivery WHERE id = 2")
    add_destination(bench.database, "NEW", 104)
    found = bench.repaired()["reported studies without deliveries"]
    assert (found.found, found.repaired) == (1, 0)
    with bench.database.read() as session:
        assert len(session.scalars(select(Delivery)).all()) == 1
    assert bench.unbalanced() == {"deliveries planned in the audit"}


@pytest.mark.parametrize(
    ("state", "line"),
    [
        (InstanceState.RECEIVED, "waiting instances"),
        (InstanceState.ANALYSED, "analysed instances of reported studies"),
    ],
)
def test_an_image_that_no_report_would_name_opens_its_study(
    bench: Bench, state: InstanceState, line: str
) -> None:
    _reported(bench)
    forgotten = _image(bench, state)
    if state is InstanceState.ANALYSED:
        add_analysis(bench.database, forgotten)
    assert bench.unbalanced() == {line}
    assert bench.repaired()["studies with an image in no report"].repaired == 1
    assert bench.one(Study).state is StudyState.OPEN
    assert (bench.unbalanced(), bench.repaired()) == (set(), {})


def test_a_file_without_a_row_is_taken_in(bench: Bench) -> None:
    ds = chest_dataset(SOPInstanceUID=random_uid())
    path = bench.settings.spool_dir / "00/orphan.dcm"
    write_part10(path, ds)
    an_hour_ago = time.time() - HOUR.total_seconds()
    os.utime(path, (an_hour_ago, an_hour_ago))
    assert bench.unbalanced() == {"spool files"}
    assert bench.repaired()["spool files without a row"].repaired == 1
    assert (bench.unbalanced(), bench.repaired()) == (set(), {})
    assert outcomes(bench.database, AuditAction.INSTANCE_RECOVERED) == ["stored"]


def test_the_command_repairs_then_says_how_things_are(bench: Bench) -> None:
    _waiting(bench)
    bench.sql("DELETE FROM job")
    environment = {"DICOM_NODE_DATABASE_URL": bench.settings.effective_database_url}
    options = ["--data-dir", str(bench.settings.data_dir)]
    runner = CliRunner(env=environment)
    assert runner.invoke(cli, ["ledger", *options]).exit_code == 1
    said = runner.invoke(cli, ["ledger", "--repair", *options])
    assert said.exit_code == 0, said.output
    assert "queued instances without a job: 1 found, 1 due again" in said.output
    again = runner.invoke(cli, ["ledger", "--repair", "--json", *options])
    assert again.exit_code == 0
    assert "found" not in again.stdout


def test_two_repairs_at_once_mend_each_row_once(bench: Bench) -> None:
    for _ in range(10):
        _waiting(bench)
    bench.sql("DELETE FROM job WHERE id > 5")
    bench.put(Job, published_at=utc_now() - HOUR)
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(bench.repaired) for _ in "ab"]
    repaired = [it.repaired for each in both for it in each.result().values()]
    assert sum(repaired) == 10
    assert len(outcomes(bench.database, AuditAction.LEDGER_REPAIRED)) == 10
    with bench.database.read() as session:
        assert len(session.scalars(select(Job)).all()) == 10
    assert (bench.unbalanced(), bench.repaired()) == (set(), {})

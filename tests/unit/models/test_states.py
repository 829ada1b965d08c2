"""The transition table and `advance` on real databases."""

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pytest
from rows import add_instance, open_database
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError, StatementError

from models.base import advance
from models.imaging import Instance, Study
from models.job import Job
from models.states import (
    TRANSITIONS,
    CircuitState,
    CommitmentState,
    DeliveryState,
    EventReportState,
    IllegalTransitionError,
    InstanceState,
    JobKind,
    JobState,
    ReadingState,
    StudyState,
    WorkitemState,
    check_transition,
)

MACHINES = [
    InstanceState,
    StudyState,
    JobState,
    DeliveryState,
    CommitmentState,
    EventReportState,
    CircuitState,
    ReadingState,
    WorkitemState,
]


@pytest.mark.parametrize("machine", MACHINES)
def test_every_state_is_in_the_table_and_leads_only_to_states_of_its_own_machine(
    machine: type,
) -> None:
    table = TRANSITIONS[machine]
    assert list(table) == list(machine)
    assert all(type(new) is machine for targets in table.values() for new in targets)


def test_the_same_word_in_two_machines_stays_apart() -> None:
    check_transition(JobState.FAILED, JobState.PENDING)
    with pytest.raises(IllegalTransitionError):
        check_transition(InstanceState.FAILED, JobState.PENDING)


def test_what_is_analysed_stays_so() -> None:
    with pytest.raises(IllegalTransitionError, match="analysed may not become failed"):
        check_transition(InstanceState.ANALYSED, InstanceState.FAILED)


def test_only_ends_have_no_way_out() -> None:
    ends = {state for machine in MACHINES for state in machine if not TRANSITIONS[machine][state]}
    assert ends == {
        InstanceState.SUPERSEDED,
        DeliveryState.COMMITTED,
        DeliveryState.WITHDRAWN,
        CommitmentState.ANSWERED,
        WorkitemState.COMPLETED,
        WorkitemState.CANCELED,
    }


def test_advance_moves_a_row_once_and_tells_the_loser(database_url: str) -> None:
    with open_database(database_url) as database:
        instance_id = add_instance(database, state=InstanceState.QUEUED)
        with database.read() as first, database.read() as second:
            ours, theirs = (
                first.get_one(Instance, instance_id),
                second.get_one(Instance, instance_id),
            )
        with database.write() as session:
            assert advance(session, session.merge(ours), InstanceState.ANALYSED)
        with database.write() as session:
            # The second still believes that the row is queued: load=False keeps its view.
            stale = session.merge(theirs, load=False)
            assert not advance(session, stale, InstanceState.FAILED)
            assert stale.state is InstanceState.ANALYSED


def test_many_claims_of_one_job_have_one_winner(database_url: str) -> None:
    with open_database(database_url) as database:
        instance_id = add_instance(database, state=InstanceState.QUEUED)
        with database.write() as session:
            job = Job(kind=JobKind.ANALYSE, instance_id=instance_id, model_selector="unet")
            session.add(job)
            session.flush()
            job_id = job.id

        def claim(number: int) -> bool:
            with database.write() as session:
                row = session.get_one(Job, job_id)
                if row.state is not JobState.PENDING:
                    return False
                return advance(session, row, JobState.LEASED, lease_owner=str(number))

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(claim, range(8))) == 1


def test_a_second_row_of_the_same_bytes_is_impossible(database_url: str) -> None:
    with open_database(database_url) as database:
        add_instance(database, sop_instance_uid="1.2.3", data_set_sha256="a" * 64)
        with pytest.raises(IntegrityError):
            add_instance(
                database,
                sop_instance_uid="1.2.3",
                data_set_sha256="a" * 64,
                state=InstanceState.QUARANTINED,
            )


def test_one_sop_instance_uid_can_be_live_only_once(database_url: str) -> None:
    with open_database(database_url) as database:
        add_instance(database, sop_instance_uid="1.2.3", data_set_sha256="a" * 64)
        quarantined = InstanceState.QUARANTINED
        for digit in "bc":
            add_instance(
                database, sop_instance_uid="1.2.3", data_set_sha256=digit * 64, state=quarantined
            )
        with pytest.raises(IntegrityError):
            add_instance(database, sop_instance_uid="1.2.3", data_set_sha256="d" * 64)


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": JobKind.REPORT, "study_id": 1},
        {"kind": JobKind.ANALYSE, "study_id": 1, "revision": 1},
        {"kind": JobKind.ANALYSE, "instance_id": 1},
    ],
)
def test_a_job_without_its_subject_is_refused(database_url: str, fields: dict[str, object]) -> None:
    with open_database(database_url) as database:
        add_instance(database)
        with pytest.raises(IntegrityError), database.write() as session:
            session.add(Job(**fields))


def test_times_come_back_aware_and_equal(database_url: str) -> None:
    with open_database(database_url) as database:
        add_instance(database)
        with database.read() as session:
            study = session.scalars(select(Study)).one()
        assert study.created_at.tzinfo is not None
        assert study.created_at.utcoffset().total_seconds() == 0


def test_a_naive_time_is_refused(database_url: str) -> None:

    with open_database(database_url) as database:
        add_instance(database)
        naive = datetime(2026, 1, 1)  # noqa: DTZ001  the point of the test
        with pytest.raises(StatementError, match="naive"), database.write() as session:
            session.scalars(select(Study)).one().last_received_at = naive

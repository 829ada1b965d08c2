"""Storage Commitment over TLS, with a clock that jumps, and with old questions forgotten."""

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from certificates import Authority
from commitments import (
    Answer,
    CommitmentBench,
    CommitmentPacs,
    on_a_new_association,
    on_the_same_association,
    orders,
    report_on,
)
from rows import count, open_database
from sqlalchemy import update

from dicom_node import delivery
from dicom_node.commitment.answers import record_report
from dicom_node.commitment.forgetting import Forgetter
from dicom_node.errors import UnknownTransactionError
from dicom_node.ledger import compute
from dicom_node.listener import Listener
from dicom_node.tls import client_context, server_context
from models.base import utc_now
from models.commitment import CommitmentItem, CommitmentOrder, CommitmentRequest
from models.delivery import Delivery
from models.sections import DeliverySettings
from models.states import CommitmentState, EventReportState

DAY = timedelta(days=1)


@pytest.fixture
def bench(database_url: str, tmp_path: Path) -> Iterator[CommitmentBench]:
    with open_database(database_url) as database:
        folder = tmp_path / "data"
        yield CommitmentBench(database, folder, database_url, commitment_hold_seconds=1)


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory, dcmtk: Callable[[str], Path]) -> Authority:
    dcmtk("openssl")
    return Authority.make(tmp_path_factory.mktemp("commitment-pki") / "hospital")


@pytest.mark.parametrize("answer", [on_the_same_association, on_a_new_association])
def test_it_is_asked_and_answered_over_tls(
    hospital: Authority, tmp_path: Path, answer: Answer
) -> None:
    """Both ways, each side showing its certificate; the plain port of the node is closed."""
    url = f"sqlite:///{tmp_path / 'node.db'}"
    ours = hospital.settings(hospital.issue("node"), port=0)
    theirs = hospital.settings(hospital.issue("pacs"), port=0)
    with open_database(url) as database:
        bench = CommitmentBench(database, tmp_path / "data", url, tls=ours.model_dump())
        listener = Listener(bench.settings, database)
        pacs = CommitmentPacs(
            answer,
            node_port=listener.tls_port or 0,
            context=server_context(theirs),
            calling_context=client_context(theirs),
        )
        try:
            with pacs.running():
                bench.send_to(pacs.port)
                assert bench.asker().step()
        finally:
            listener.stop()
    assert pacs.statuses == [0x0000]
    assert bench.states() == ["committed", "committed"]


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_jumps_stops_no_question(bench: CommitmentBench, hours: int) -> None:
    """Back: it was due in the far future, as it seems. Ahead: it is asked earlier than meant."""
    with CommitmentPacs().running() as pacs:
        bench.send_to(pacs.port)
        bench.asker().step()  # no answer
        pacs.answer = on_the_same_association
        assert not bench.asker().step()  # it waits for the first one
        shift = timedelta(hours=-4 if hours > 0 else 4)  # as the rows see such a jump, and more
        with bench.database.write() as session:
            for row in session.query(Delivery):
                assert row.commitment_due_at is not None
                row.commitment_due_at += shift
        assert bench.asker().step()
    assert bench.states() == ["committed", "committed"]


def test_questions_are_forgotten_when_their_time_is_over(bench: CommitmentBench) -> None:
    with CommitmentPacs().running() as pacs:
        bench.send_to(pacs.port)
        for _ in range(2):
            bench.asker().step()
            bench.make_due()
        pacs.answer = on_the_same_association
        bench.asker().step()
    balanced = [line.balanced for line in compute(bench.database, bench.settings)]
    assert [it.state for it in bench.requests()] == [
        CommitmentState.EXPIRED,
        CommitmentState.EXPIRED,
        CommitmentState.ANSWERED,
    ]
    with bench.database.write() as session:
        old = update(CommitmentRequest).where(CommitmentRequest.id.in_([1, 3]))
        session.execute(old.values(expires_at=utc_now() - 31 * DAY))
    forgetter = Forgetter(DeliverySettings(), bench.database)
    assert forgetter.step()
    assert not forgetter.step()
    assert [it.id for it in bench.requests()] == [2]
    assert count(bench.database, CommitmentItem) == 2
    assert bench.states() == ["committed", "committed"]
    assert [line.balanced for line in compute(bench.database, bench.settings)] == balanced
    with pytest.raises(UnknownTransactionError):  # a month late
        record_report(bench.database, bench.settings.delivery, report_on(pacs.asked[0]))


def test_nothing_is_forgotten_where_the_setting_says_so(bench: CommitmentBench) -> None:
    kept = bench.settings.delivery.model_copy(update={"commitment_keep_days": 0.0})
    settings = bench.settings.model_copy(update={"delivery": kept})
    stop = threading.Event()
    assert "forget-commitments" not in delivery._steps(settings, bench.database, stop)
    assert "forget-commitments" in delivery._steps(bench.settings, bench.database, stop)


def test_what_senders_asked_is_forgotten_once_it_was_answered(bench: CommitmentBench) -> None:
    """A question may name 10000 instances: a modality that asks daily would fill the disk."""
    long_ago, now = utc_now() - 31 * DAY, utc_now()
    rows = [  # state, asked, answered
        (EventReportState.ACCEPTED, long_ago, long_ago),
        (EventReportState.DEAD, long_ago, None),
        (EventReportState.DUE, long_ago, None),
        (EventReportState.ACCEPTED, long_ago, now),  # asked again yesterday
        (EventReportState.ACCEPTED, now, now),
    ]
    with bench.database.write() as session:
        session.add_all(
            CommitmentOrder(
                transaction_uid=f"2.25.{number}",
                calling_aet="CT",
                instances=[["1.2", "1.3"]],
                state=state,
                asked_at=asked,
                reported_at=answered,
            )
            for number, (state, asked, answered) in enumerate(rows)
        )
    forgetter = Forgetter(DeliverySettings(), bench.database)
    while forgetter.step():
        pass
    kept = [order.transaction_uid for order in orders(bench.database)]
    assert sorted(kept) == ["2.25.2", "2.25.3", "2.25.4"]

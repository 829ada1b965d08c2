"""Storage Commitment as SCU: what receivers answer, and what becomes of deliveries."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest
from commitments import (
    CommitmentBench,
    CommitmentPacs,
    Modality,
    calling_back,
    on_a_new_association,
    on_the_same_association,
    report_on,
    send_report,
    wait_for,
)
from pynetdicom.association import Association
from rows import SEG, open_database, outcomes
from sqlalchemy import select, update

from dicom_node import delivery
from dicom_node.commitment.messages import (
    DUPLICATE_TRANSACTION,
    Failure,
    Question,
    Reference,
    Report,
    encode_question,
    encode_report,
)
from dicom_node.doctor import check_commitment
from dicom_node.errors import CommitmentPeerError
from dicom_node.ledger import compute
from dicom_node.listener import Listener
from dicom_node.planning import delivered_studies
from dicom_node.senders.cstore import CStoreSender
from models.audit import AuditAction
from models.base import utc_now
from models.delivery import Delivery
from models.sections import CommitmentProviderSettings
from models.states import CommitmentState

_ASK = """
import sys
from pathlib import Path
from dicom_node.commitment.asking import Asker
from models.session import Database
from models.settings import load_settings
_, url, folder, port = sys.argv
where = [{"name": "PACS", "ae_title": "PACS", "host": "127.0.0.1", "port": int(port),
          "commitment": True}]
settings = load_settings(None, data_dir=Path(folder), database_url=url, destinations=where)
Asker(settings, Database(url), 1).step()
"""


@pytest.fixture
def bench(database_url: str, tmp_path: Path) -> Iterator[CommitmentBench]:
    with open_database(database_url) as database:
        yield CommitmentBench(database, tmp_path / "data", database_url)


@pytest.fixture
def node(bench: CommitmentBench) -> Iterator[Listener]:
    """The listener of a node that asks for commitment."""
    listener = Listener(bench.settings, bench.database)
    yield listener
    listener.stop()


def _is_delivered(bench: CommitmentBench) -> bool:
    with bench.database.read() as session:
        return bool(delivered_studies(session, bench.settings))


def test_an_answer_on_the_same_association_commits_everything(bench: CommitmentBench) -> None:
    with CommitmentPacs(on_the_same_association).running() as pacs:
        bench.send_to(pacs.port)
        assert (bench.states(), _is_delivered(bench)) == (["sent", "sent"], False)
        assert bench.asker().step()
    assert (bench.states(), _is_delivered(bench)) == (["committed", "committed"], True)
    assert pacs.statuses == [0x0000]
    (question,) = pacs.asked  # one transaction about both
    named = {each.sop_instance_uid for each in question.references}
    assert named == {bench.uid(bench.seg_id), bench.uid(bench.sr_id)}
    (line,) = [it for it in compute(bench.database, bench.settings) if it.name.startswith("commit")]
    assert (line.left, line.right) == (2, 2)
    assert outcomes(bench.database, AuditAction.COMMITMENT_REQUESTED) == ["requested"]


def test_an_answer_to_our_listener_commits_everything(
    bench: CommitmentBench, node: Listener
) -> None:
    with CommitmentPacs(on_a_new_association, node_port=node.port).running() as pacs:
        bench.send_to(pacs.port)
        bench.asker().step()
    assert (pacs.statuses, bench.states()) == ([0x0000], ["committed", "committed"])
    assert not bench.asker().step()


def test_what_a_receiver_does_not_have_is_sent_and_asked_again(bench: CommitmentBench) -> None:
    with CommitmentPacs(on_the_same_association).running() as pacs:
        bench.send_to(pacs.port)
        pacs.lost.add(bench.uid(bench.seg_id))
        bench.asker().step()
        assert bench.states() == ["due", "committed"]
        row = bench.row(bench.seg_id)
        assert row.error == "not committed: 0x0112, no such object instance"
        assert row.next_attempt_at > row.sent_at
        assert not _is_delivered(bench)
        bench.deliver()
        bench.asker().step()
    assert bench.states() == ["committed", "committed"]
    assert pacs.stored.count(bench.uid(bench.seg_id)) == 2
    assert [len(each.references) for each in pacs.asked] == [2, 1]
    assert len({each.transaction_uid for each in pacs.asked}) == 2
    events = outcomes(bench.database, AuditAction.ARTIFACT_COMMITTED)
    assert sorted(events) == ["committed", "committed", "failed"]


def test_a_receiver_that_loses_everything_ends_in_dead(bench: CommitmentBench) -> None:
    def lose(pacs: CommitmentPacs, assoc: Association, asked: Question) -> None:
        names = [each.sop_instance_uid for each in asked.references]
        pacs.statuses.append(send_report(assoc, report_on(asked, *names)))

    with CommitmentPacs(lose).running() as pacs:
        bench.send_to(pacs.port)
        with bench.database.write() as session:
            limit = bench.settings.delivery.max_attempts
            session.execute(update(Delivery).values(attempts=limit))
        bench.asker().step()
    assert bench.states() == ["dead", "dead"]


def test_without_an_answer_it_is_asked_again_and_a_late_answer_counts(
    bench: CommitmentBench, node: Listener
) -> None:
    bench._delivery["commitment_hold_seconds"] = 0
    with CommitmentPacs().running() as pacs:
        bench.send_to(pacs.port)
        asker = bench.asker()
        asker.step()
        assert not asker.step()  # it waits for the answer
        bench.make_due()
        assert asker.step()
        first, second = pacs.asked
        assert first.transaction_uid != second.transaction_uid
        states = [each.state for each in bench.requests()]
        assert states == [CommitmentState.EXPIRED, CommitmentState.REQUESTED]
        assert bench.row(bench.seg_id).commitment_attempts == 2
        with calling_back(node.port) as back:
            assert send_report(back, report_on(first)) == 0x0000
    assert bench.states() == ["committed", "committed"]


def test_the_same_answer_again_is_harmless(bench: CommitmentBench, node: Listener) -> None:
    bench._delivery["commitment_hold_seconds"] = 0
    with CommitmentPacs().running() as pacs:
        bench.send_to(pacs.port)
        bench.asker().step()
        seg = bench.uid(bench.seg_id)
        with calling_back(node.port) as back:
            for _ in range(3):
                assert send_report(back, report_on(pacs.asked[0], seg)) == 0x0000
        assert bench.states() == ["due", "committed"]
        bench.deliver()
        with calling_back(node.port) as back:  # the old answer about what was sent again since
            assert send_report(back, report_on(pacs.asked[0], seg)) == 0x0000
    assert bench.states() == ["sent", "committed"]
    events = outcomes(bench.database, AuditAction.ARTIFACT_COMMITTED)
    assert sorted(events) == ["committed", "failed"]


def test_an_answer_to_no_question_of_ours_is_refused(
    bench: CommitmentBench, node: Listener
) -> None:
    bench._delivery["commitment_hold_seconds"] = 0
    with CommitmentPacs().running() as pacs:
        bench.send_to(pacs.port)
        bench.asker().step()
    report = report_on(pacs.asked[0])
    stranger = Report("2.25.1", report.committed, ())
    with calling_back(node.port) as back:
        assert send_report(back, stranger) == 0x0115
        assert send_report(back, report, event_type=3) == 0x0113
        assert send_report(back, report, instance_uid="1.2.3") == 0x0112
        nameless = encode_report(report)
        del nameless.TransactionUID
        assert send_report(back, report, dataset=nameless) == 0x0115
        assert send_report(back, report, dataset=None) == 0x0115
        assert bench.states() == ["sent", "sent"]
        assert send_report(back, report) == 0x0000
    assert bench.states() == ["committed", "committed"]


def test_a_stranger_s_answer_waits_for_no_writer(bench: CommitmentBench, node: Listener) -> None:
    with calling_back(node.port) as back, bench.database.write() as session:
        session.execute(select(1))  # SQLite has one writer
        started = time.monotonic()
        assert send_report(back, Report("2.25.1", (Reference(SEG, "1.2"),), ())) == 0x0115
    assert time.monotonic() - started < 20


def test_an_answer_may_be_partial(bench: CommitmentBench) -> None:
    def half(pacs: CommitmentPacs, assoc: Association, asked: Question) -> None:
        first = Report(asked.transaction_uid, asked.references[:1], ())
        pacs.statuses.append(send_report(assoc, first))

    with CommitmentPacs(half).running() as pacs:
        bench.send_to(pacs.port)
        bench.asker().step()
        assert sorted(bench.states()) == ["committed", "sent"]
        bench.make_due()
        bench.asker().step()
    assert bench.states() == ["committed", "committed"]


def test_a_transaction_uid_in_use_is_no_reason_to_send_again(bench: CommitmentBench) -> None:
    def duplicate(pacs: CommitmentPacs, assoc: Association, asked: Question) -> None:
        failed = tuple(Failure(each, DUPLICATE_TRANSACTION) for each in asked.references)
        pacs.statuses.append(send_report(assoc, Report(asked.transaction_uid, (), failed)))

    with CommitmentPacs(duplicate).running() as pacs:
        bench.send_to(pacs.port)
        bench.asker().step()
        assert bench.states() == ["sent", "sent"]
        pacs.answer = on_the_same_association
        bench.make_due()
        bench.asker().step()
    assert (bench.states(), len(pacs.stored)) == (["committed", "committed"], 2)


def test_a_receiver_without_the_service_is_told_of_once(
    bench: CommitmentBench, caplog: pytest.LogCaptureFixture
) -> None:
    with CommitmentPacs(offers=False).running() as pacs:
        bench.send_to(pacs.port)
        asker = bench.asker()
        with caplog.at_level(logging.WARNING):
            for _ in range(3):
                bench.make_due()
                assert asker.step()
        with pytest.raises(CommitmentPeerError, match="does not offer Storage Commitment"):
            check_commitment(CStoreSender.of(bench.settings), pacs.receiver)
    (told,) = [record.getMessage() for record in caplog.records if "commit" in record.name]
    assert told.startswith("destination PACS cannot be asked to commit: it does not offer Storage")
    row = bench.row(bench.seg_id)
    assert (bench.states(), row.commitment_attempts) == (["sent", "sent"], 3)
    assert bench.requests() == []
    pacs.offers, pacs.answer = True, on_the_same_association
    with pacs.running():  # its administrator switches the service on
        bench.make_due()
        asker.step()
        assert "offers" in check_commitment(CStoreSender.of(bench.settings), pacs.receiver)
    assert bench.states() == ["committed", "committed"]


@pytest.mark.filterwarnings("ignore:.*unclosed.*:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_receiver_that_is_away_is_asked_later(bench: CommitmentBench) -> None:
    with CommitmentPacs().running() as pacs:
        bench.send_to(pacs.port)
    asker = bench.asker()
    assert asker.step()
    row = bench.row(bench.seg_id)
    assert (row.state.value, row.commitment_attempts) == ("sent", 1)
    pacs.answer = on_the_same_association
    with pacs.running():
        bench.make_due()
        asker.step()
    assert bench.states() == ["committed", "committed"]


def test_the_deliver_role_sends_asks_and_answers(database_url: str, tmp_path: Path) -> None:
    """Threads of one process: a receiver that calls back, and a sender that asks us."""
    with ExitStack() as stack:
        database = stack.enter_context(open_database(database_url))
        bench = CommitmentBench(database, tmp_path / "data", database_url, poll_seconds=0.05)
        pacs = stack.enter_context(CommitmentPacs(on_a_new_association).running())
        modality = stack.enter_context(Modality().running())
        peers = [{"ae_title": "CR1", "host": "127.0.0.1", "port": modality.port}]
        provider = CommitmentProviderSettings.model_validate({"enabled": True, "peers": peers})
        settings = bench.told(pacs.port).model_copy(update={"commitment_provider": provider})
        listener = Listener(settings, database)
        stack.callback(listener.stop)
        pacs.node_port = listener.port or 0
        bench.plan()
        stop = threading.Event()
        role = threading.Thread(target=delivery.run, args=(settings, database, stop))
        role.start()
        stack.callback(role.join)
        stack.callback(stop.set)
        seg = Reference(SEG, bench.uid(bench.seg_id))
        question = encode_question(Question("2.25.9", (seg,)))
        assert modality.ask(pacs.node_port, question) == 0x0000
        wait_for(lambda: bench.states() == ["committed", "committed"], "commitment")
        wait_for(lambda: bool(modality.reports), "the answer to the sender")
    assert [report.committed for report in modality.reports] == [(seg,)]


def test_a_refused_question_is_asked_again_soon(bench: CommitmentBench) -> None:
    with CommitmentPacs(action_status=0x0213).running() as pacs:
        bench.send_to(pacs.port)
        bench.asker().step()
        (request,) = bench.requests()
        assert (request.state, request.status) == (CommitmentState.REFUSED, 0x0213)
        assert bench.row(bench.seg_id).commitment_due_at < utc_now() + timedelta(seconds=5)
        pacs.action_status, pacs.answer = 0x0000, on_the_same_association
        bench.make_due()
        bench.asker().step()
    assert bench.states() == ["committed", "committed"]


def test_nothing_is_stuck_when_the_asking_process_is_killed(
    bench: CommitmentBench, node: Listener, database_url: str
) -> None:
    asking: list[subprocess.Popen[bytes]] = []
    is_there = threading.Event()

    def kill(_pacs: CommitmentPacs, _assoc: Association, _asked: Question) -> None:
        assert is_there.wait(10)
        os.kill(asking[0].pid, signal.SIGKILL)

    with CommitmentPacs(kill).running() as pacs:
        bench.send_to(pacs.port)
        command = [sys.executable, "-c", _ASK, database_url, bench.settings.data_dir, pacs.port]
        asking.append(subprocess.Popen([*map(str, command)]))
        is_there.set()
        assert asking[0].wait(60) == -signal.SIGKILL
        (request,) = bench.requests()
        assert (bench.states(), request.state) == (["sent", "sent"], CommitmentState.REQUESTED)
        pacs.answer = on_the_same_association
        bench.make_due()
        bench.asker().step()  # after a restart, without an answer to the first question
        assert bench.states() == ["committed", "committed"]
        with calling_back(node.port) as back:  # which comes all the same
            assert send_report(back, report_on(pacs.asked[0])) == 0x0000


def test_two_askers_at_once_ask_once(bench: CommitmentBench) -> None:
    with CommitmentPacs(on_the_same_association).running() as pacs:
        bench.send_to(pacs.port)
        threads = [threading.Thread(target=bench.asker().step) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (len(pacs.asked), bench.states()) == (1, ["committed", "committed"])


def test_the_setting_decides_what_is_the_end(bench: CommitmentBench) -> None:
    """Off: sent is the end. Switched off later: what waited is let go. Switched on: not asked."""
    with CommitmentPacs().running() as pacs:
        bench.send_to(pacs.port)
        assert not _is_delivered(bench)
        bench.told(pacs.port, commitment=False)
        assert _is_delivered(bench)
        with bench.database.write() as session:
            session.execute(update(Delivery).values(commitment_due_at=None))
        bench.told(pacs.port)
        assert _is_delivered(bench)
        assert not bench.asker().step()
    assert pacs.asked == []


def test_nothing_is_asked_where_the_setting_is_off(bench: CommitmentBench) -> None:
    with CommitmentPacs().running() as pacs:
        bench.send_to(pacs.port, commitment=False)
        assert bench.row(bench.seg_id).commitment_due_at is None
        assert _is_delivered(bench)
    listener = Listener(bench.settings, bench.database)
    try:
        with pytest.raises(AssertionError), calling_back(listener.port):
            pass  # the context is refused
    finally:
        listener.stop()

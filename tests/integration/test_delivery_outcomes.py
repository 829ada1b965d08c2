"""What storage SCPs answer, and what becomes of objects: partly, late, never, at random."""

import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from delivery_bench import Bench, storing_scp
from pynetdicom import AE, evt
from pynetdicom.events import Event
from rows import SEG, SR, open_database

from dicom_node.status import is_retryable, is_stored
from models.settings import load_settings
from models.states import ArtifactKind, CircuitState, DeliveryState

STUDIES = 5


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """One kind is enough: the rows do the same whatever the answer is."""
    return f"sqlite:///{tmp_path / 'node.db'}"


@pytest.fixture
def bench(database_url: str, tmp_path: Path) -> Iterator[Bench]:
    settings = load_settings(
        None,
        data_dir=tmp_path / "data",
        database_url=database_url,
        delivery={"timeout_seconds": 2, "backoff_seconds": 0.001},
    )
    with open_database(database_url) as database:
        yield Bench(database, settings, STUDIES)


def _by_kind(bench: Bench, kind: ArtifactKind) -> set[DeliveryState]:
    return {row.state for row in bench.all_rows(kind)}


@pytest.mark.parametrize(
    ("taken", "refused"), [(SR, ArtifactKind.SEG), (SEG, ArtifactKind.SR)], ids=["SR", "SEG"]
)
def test_a_receiver_of_one_class_gets_that_one_and_refuses_the_other(
    bench: Bench, taken: str, refused: ArtifactKind
) -> None:
    stored: list[str] = []

    def answer(event: Event) -> int:
        stored.append(str(event.request.AffectedSOPInstanceUID))
        return 0x0000

    with storing_scp(answer, (taken,)) as port:
        bench.deliver(bench.deliverer(port))
    other = ArtifactKind.SR if refused is ArtifactKind.SEG else ArtifactKind.SEG
    assert _by_kind(bench, refused) == {DeliveryState.REJECTED}
    assert _by_kind(bench, other) == {DeliveryState.SENT}
    assert len(stored) == len(set(stored)) == STUDIES
    assert bench.destination().state is CircuitState.CLOSED


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (0x0000, DeliveryState.SENT),
        (0x0111, DeliveryState.SENT),
        (0xB000, DeliveryState.SENT),
        (0xB006, DeliveryState.SENT),
        (0xB007, DeliveryState.SENT),
        (0xBFFF, DeliveryState.SENT),
        (0xA700, DeliveryState.DUE),
        (0xA7FF, DeliveryState.DUE),
        (0x0110, DeliveryState.DUE),
        (0xA800, DeliveryState.REJECTED),
        (0xA900, DeliveryState.REJECTED),
        (0xA9FF, DeliveryState.REJECTED),
        (0xC000, DeliveryState.REJECTED),
        (0xCFFF, DeliveryState.REJECTED),
        (0x0117, DeliveryState.REJECTED),
        (0x0122, DeliveryState.REJECTED),
        (0x0124, DeliveryState.REJECTED),
        (0x0210, DeliveryState.REJECTED),
        (0x0211, DeliveryState.REJECTED),
        (0x0212, DeliveryState.REJECTED),
        (0x0001, DeliveryState.REJECTED),  # of no service of storage
        (0xFE00, DeliveryState.REJECTED),
        (0xFFFF, DeliveryState.REJECTED),
    ],
    ids=lambda it: f"0x{it:04X}" if isinstance(it, int) else str(it),
)
def test_each_status_means_one_thing(bench: Bench, status: int, state: DeliveryState) -> None:
    with storing_scp(lambda _: status) as port:
        bench.deliverer(port).step()
    row = bench.all_rows(ArtifactKind.SEG)[0]
    assert (row.state, row.status, row.attempts) == (state, status, 1)
    assert is_stored(status) == (state is DeliveryState.SENT)
    assert is_retryable(status) == (state is DeliveryState.DUE)
    assert bench.destination().failures == 0


def test_a_receiver_that_is_busy_is_no_reason_to_give_up(bench: Bench) -> None:
    """Rejected transient, local limit exceeded (PS3.8 9.3.4)."""
    ae = AE(ae_title="PACS")
    for sop_class in (SEG, SR):
        ae.add_supported_context(sop_class)
    ae.maximum_associations = 1
    stored: list[str] = []

    def answer(event: Event) -> int:
        stored.append(str(event.request.AffectedSOPInstanceUID))
        return 0x0000

    server = ae.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, answer)]
    )
    other = AE("OTHER")
    other.add_requested_context(SEG)
    try:
        busy = other.associate("127.0.0.1", server.server_address[1])
        deliverer = bench.deliverer(server.server_address[1])
        deliverer.step()
        assert "Rejected Transient: Local limit exceeded" in (bench.destination().problem or "")
        busy.release()
        bench.deliver(deliverer)
    finally:
        ae.shutdown()
    assert len(stored) == len(set(stored)) == 2 * STUDIES


def test_an_abort_in_the_middle_of_a_batch_costs_one_object_one_attempt(bench: Bench) -> None:
    arrived: Counter[str] = Counter()

    def answer(event: Event) -> int:
        arrived[str(event.request.AffectedSOPInstanceUID)] += 1
        if sum(arrived.values()) == 3:
            event.assoc.abort()  # the object is stored, its answer is lost
        return 0x0000

    with storing_scp(answer) as port:
        deliverer = bench.deliverer(port)
        deliverer.step()
        states = [row.state for row in bench.all_rows(ArtifactKind.SEG)]
        assert Counter(states) == {DeliveryState.SENT: 2, DeliveryState.DUE: 3}
        assert sorted(row.attempts for row in bench.all_rows(ArtifactKind.SEG)) == [0, 0, 1, 1, 1]
        bench.deliver(deliverer)
    assert bench.destination().failures == 0
    assert sorted(arrived.values()) == [1] * (2 * STUDIES - 1) + [2]  # that one, with its UID


def test_after_failures_at_random_everything_is_there_and_nothing_was_forgotten(
    bench: Bench,
) -> None:
    luck = random.Random(7)
    stored: set[str] = set()

    def answer(event: Event) -> int:
        fate = luck.randrange(6)
        if fate == 0:
            return luck.choice([0xA700, 0xA7FE, 0x0110])
        stored.add(str(event.request.AffectedSOPInstanceUID))
        if fate == 1:
            event.assoc.abort()
        return luck.choice([0x0000, 0x0111, 0xB000, 0xB007])

    with storing_scp(answer) as port:
        bench.deliver(bench.deliverer(port), rounds=300)
    assert stored == set(bench.files())
    assert bench.states() == {DeliveryState.SENT}
    assert sum(row.attempts for row in bench.all_rows()) > 2 * STUDIES  # there were failures


@contextmanager
def _slowly(port: int, pause: float) -> Iterator[int]:
    """Stand before a server and pass on its bytes one at a time."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threads: list[threading.Thread] = []

        def serve() -> None:
            with suppress(OSError):
                while True:
                    near, _ = listening.accept()
                    far = socket.create_connection(("127.0.0.1", port))
                    for source, sink, wait in ((near, far, 0.0), (far, near, pause)):
                        threads.append(threading.Thread(target=_pass, args=(source, sink, wait)))
                        threads[-1].start()

        accepting = threading.Thread(target=serve)
        accepting.start()
        try:
            yield int(listening.getsockname()[1])
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            accepting.join()
            for thread in threads:
                thread.join(20)


def _pass(source: socket.socket, sink: socket.socket, pause: float) -> None:
    with suppress(OSError), source, sink:
        while data := source.recv(1 if pause else 1 << 16):
            sink.sendall(data)
            time.sleep(pause)


def test_a_receiver_that_answers_byte_by_byte_within_the_time_out_is_waited_for(
    bench: Bench,
) -> None:
    with storing_scp(lambda _: 0x0000) as port, _slowly(port, 0.001) as slow:
        bench.deliverer(slow).step()
    assert _by_kind(bench, ArtifactKind.SEG) == {DeliveryState.SENT}


@pytest.mark.filterwarnings("ignore:.*unclosed.*:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_receiver_that_answers_slower_than_the_time_out_is_left(bench: Bench) -> None:
    """Byte by byte, each within the time-out, the whole not: it ends all the same."""
    with storing_scp(lambda _: 0x0000) as port, _slowly(port, 0.2) as slow:
        deliverer = bench.deliverer(slow, seconds=2.0)
        started = time.monotonic()
        deliverer.step()
        assert time.monotonic() - started < 20
    assert DeliveryState.SENDING not in bench.states()
    assert sum(row.attempts for row in bench.all_rows()) <= 1
    assert bench.destination().failures == 1


def test_what_was_not_offered_is_told_from_what_may_have_arrived(
    bench: Bench,
) -> None:
    release = threading.Event()

    def hang(_event: Event) -> int:
        release.wait(20)
        return 0x0000

    with storing_scp(hang) as port:
        deliverer = bench.deliverer(port, seconds=2.0)
        deliverer.step()
        release.set()
    attempts = sorted(row.attempts for row in bench.all_rows(ArtifactKind.SEG))
    assert attempts == [0] * (STUDIES - 1) + [1]
    assert bench.destination().failures == 1

"""worker.sandbox: a real child that is killed, stopped, starved and fed hostile files."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.queues import Queue
from pathlib import Path

import numpy as np
import psutil
import pytest
from builders import chest_dataset, chest_pixels, write_part10

from models.analysis_sections import DecodeSettings
from models.reasons import Reason
from models.settings import Settings
from worker.errors import AnalysisFailed, NotAnalysable
from worker.pixels import chest_image, decode_pixels
from worker.sandbox import Sandbox


@pytest.fixture
def chest(tmp_path: Path) -> Path:
    return write_part10(tmp_path / "chest.dcm")


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(_settings(timeout_seconds=20)) as started:
        yield started


@pytest.fixture(scope="module")
def shared() -> Iterator[Sandbox]:
    """One sandbox for many files, as in a worker."""
    with Sandbox(_settings()) as started:
        yield started


def _settings(timeout_seconds: float = 20, memory_bytes: int = 1 << 30) -> Settings:
    decode = DecodeSettings(timeout_seconds=timeout_seconds, memory_bytes=memory_bytes)
    return Settings(decode=decode)


def test_what_comes_through_the_pipe_is_what_was_decoded(sandbox: Sandbox, chest: Path) -> None:
    ds = chest_dataset()
    expected = chest_image(ds, decode_pixels(ds))
    image = sandbox.load(chest)
    assert np.array_equal(image.pixels, expected.pixels)
    assert image.header == expected.header
    assert image.spacing == expected.spacing
    assert image.orientation == expected.orientation
    assert image.notes == expected.notes


def test_one_child_serves_many_files(sandbox: Sandbox, chest: Path) -> None:
    sandbox.load(chest)
    pid = sandbox.pid
    assert sandbox.header(chest).PatientID == "P-1"
    sandbox.load(chest)
    assert sandbox.pid == pid


def test_refusals_carry_their_reason(sandbox: Sandbox, tmp_path: Path) -> None:
    lateral = write_part10(tmp_path / "a", chest_dataset(ViewPosition="LL"))
    with pytest.raises(NotAnalysable) as caught:
        sandbox.load(lateral)
    assert caught.value.reason is Reason.LATERAL_VIEW
    flat = chest_dataset(pixels=np.full((256, 256), 9, np.uint16))
    with pytest.raises(NotAnalysable) as caught:
        sandbox.load(write_part10(tmp_path / "b", flat))
    assert caught.value.reason is Reason.FLAT_IMAGE
    assert sandbox.header(lateral).ViewPosition == "LL"


@contextmanager
def _while_waiting(pid: int | None, strike: signal.Signals) -> Iterator[None]:
    """Stop the child, so that the request surely waits, then strike it."""
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)

    def act() -> None:
        time.sleep(0.3)
        os.kill(pid, strike)
        os.kill(pid, signal.SIGCONT)

    thread = threading.Thread(target=act)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def test_a_crash_costs_one_file(sandbox: Sandbox, chest: Path) -> None:
    sandbox.load(chest)
    with _while_waiting(sandbox.pid, signal.SIGSEGV), pytest.raises(AnalysisFailed) as caught:
        sandbox.load(chest)
    assert caught.value.reason is Reason.DECODER_CRASH
    assert sandbox.load(chest).pixels.shape == (256, 240)


def test_somebody_elses_kill_is_tried_again(sandbox: Sandbox, chest: Path) -> None:
    sandbox.load(chest)
    with _while_waiting(sandbox.pid, signal.SIGKILL):
        assert sandbox.load(chest).pixels.shape == (256, 240)


def test_a_child_that_died_while_idle_is_replaced(sandbox: Sandbox, chest: Path) -> None:
    sandbox.load(chest)
    assert sandbox.pid is not None
    os.kill(sandbox.pid, signal.SIGKILL)
    assert sandbox.load(chest).pixels.shape == (256, 240)


def test_a_hang_ends_at_the_limit(chest: Path) -> None:
    with Sandbox(_settings(timeout_seconds=1)) as sandbox:
        sandbox.load(chest)
        assert sandbox.pid is not None
        os.kill(sandbox.pid, signal.SIGSTOP)
        started = time.monotonic()
        with pytest.raises(AnalysisFailed) as caught:
            sandbox.load(chest)
        assert caught.value.reason is Reason.DECODE_TIMEOUT
        assert time.monotonic() - started < 20
        assert sandbox.load(chest).pixels.shape == (256, 240)


def test_memory_is_capped(tmp_path: Path, chest: Path) -> None:
    large = chest_dataset(pixels=chest_pixels(4000, 4000))
    path = write_part10(tmp_path / "large.dcm", large)
    with Sandbox(_settings(memory_bytes=64 << 20)) as sandbox:
        with pytest.raises(AnalysisFailed) as caught:
            sandbox.load(path)
        assert caught.value.reason is Reason.DECODE_MEMORY
        assert sandbox.load(chest).pixels.shape == (256, 240)


def test_an_interruption_never_leaves_half_a_reply(chest: Path) -> None:
    """Celery's soft time limit strikes as an exception anywhere in the parent."""
    with Sandbox(_settings()) as sandbox:
        sandbox.load(chest)
        before = sandbox.pid
        assert before is not None
        os.kill(before, signal.SIGSTOP)

        def strike(_number: int, _frame: object) -> None:
            raise InterruptedError

        previous = signal.signal(signal.SIGALRM, strike)
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        try:
            with pytest.raises(InterruptedError):
                sandbox.load(chest)
        finally:
            signal.signal(signal.SIGALRM, previous)
        assert sandbox.load(chest).pixels.shape == (256, 240)
        assert sandbox.pid != before


def test_closing_ends_the_child(chest: Path) -> None:
    sandbox = Sandbox(_settings())
    sandbox.load(chest)
    pid = sandbox.pid
    assert pid is not None
    sandbox.close()
    assert not psutil.pid_exists(pid)


_ORPHAN = """
import sys, time
from pathlib import Path
from models.settings import Settings
from worker.sandbox import Sandbox
sandbox = Sandbox(Settings())
sandbox.load(Path(sys.argv[1]))
print(sandbox.pid, flush=True)
time.sleep(60)
"""


def test_the_child_dies_with_its_parent(chest: Path) -> None:
    command = [sys.executable, "-c", _ORPHAN, str(chest)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        child = psutil.Process(pid)
        parent.kill()
    psutil.wait_procs([child], timeout=5)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def _load_and_report(path: Path, answers: "Queue[tuple[int, ...]]") -> None:
    with Sandbox(Settings()) as sandbox:
        answers.put(sandbox.load(path).pixels.shape)


def test_works_inside_a_daemonic_process(chest: Path) -> None:
    context = multiprocessing.get_context("spawn")
    answers: Queue[tuple[int, ...]] = context.Queue()
    process = context.Process(target=_load_and_report, args=(chest, answers), daemon=True)
    process.start()
    assert answers.get(timeout=60) == (256, 240)
    process.join()


@pytest.mark.parametrize("folder", ["odd", "other"])
def test_every_hostile_file_gets_a_reason(folder: str, shared: Sandbox, data_root: Path) -> None:
    for path in sorted((data_root / "dicom" / folder).iterdir()):
        with pytest.raises(NotAnalysable):
            shared.load(path)


@pytest.mark.parametrize("seed", range(40))
def test_damaged_bytes_never_escape(seed: int, shared: Sandbox, tmp_path: Path) -> None:
    """Random damage gives an image or a reason, and never a traceback."""
    random = np.random.default_rng(seed)
    data = bytearray(write_part10(tmp_path / "a").read_bytes())
    for place in random.integers(0, 1600, size=12):
        data[place] = random.integers(0, 256)
    path = tmp_path / "damaged"
    path.write_bytes(data[: int(random.integers(100, len(data)))] if seed % 2 else data)
    try:
        assert shared.load(path).pixels.ndim == 2
    except (NotAnalysable, AnalysisFailed) as refusal:
        assert isinstance(refusal.reason, Reason)  # noqa: PT017  either outcome is right

"""A thousand damaged images: a status and a reason for each, and no process worse for it.

A failure names the seed: `mutant(sources, seed)` makes the same bytes again. More of them:
DICOM_NODE_TEST_MUTANTS=20000 pytest tests/integration/test_mutated_files.py --log-cli-level=INFO
"""

import json
import logging
import os
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from analysing import analyse_here
from builders import chest_dataset, chest_pixels
from mutations import CR, Mutant, Sound, mutant, sound
from pydicom import dcmread
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)
from pynetdicom import AE
from pynetdicom.association import Association
from rows import open_database
from senders import store_bytes
from sqlalchemy import select
from watched import ListenerProcess, listening, peak_bytes

from dicom_node.ledger import compute
from dicom_node.mended import MENDED
from dicom_node.status import STORE_STATUS, SUCCESS
from models.audit import AuditAction, AuditEvent
from models.imaging import Instance
from models.reasons import Reason
from models.session import Database
from models.settings import Settings, load_settings
from models.states import InstanceState
from worker.errors import AnalysisFailed, NotAnalysable
from worker.sandbox import Sandbox

log = logging.getLogger(__name__)

pytestmark = pytest.mark.timeout(3000)

_COUNT = int(os.environ.get("DICOM_NODE_TEST_MUTANTS", "1000"))
_STATUSES = {status for status, _ in STORE_STATUS.values()} | {SUCCESS}
_LISTENER_GROWTH_BYTES = 100 << 20
_WORKER_GROWTH_BYTES = 300 << 20
_NATIVE = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)
_ENCAPSULATED = (RLELossless, JPEG2000Lossless, JPEGLSLossless)
# Real files of a few kB each, in encodings and shapes that no builder of ours would think of.
_REAL = (
    "crdx/cr_extremity_fuji_rg3_jpeg_extended12.dcm",
    "crdx/dx_thorax_fuji_169x211_8bit.dcm",
    "odd/cr_cspine_tiny16_a.dcm",
    "odd/pydata_mlut_18.dcm",
    "odd/pydicom_JPEGLSNearLossless_16.dcm",
    "other/mr_small_bigendian.dcm",
    "other/mr_small_expl.dcm",
    "other/mr_small_jpegls.dcm",
    "other/mr_small_rle.dcm",
    "other/sc_cxr_modality_cr_jpeg8_ms.dcm",
    "other/sc_rgb_jpeg.dcm",
)


def _drawn() -> Iterator[Sound]:
    pixels = chest_pixels(150, 140)
    extras = {"WindowCenter": [2000, 900], "WindowWidth": [4000, 10], "PixelAspectRatio": [1, 1]}
    for syntax in _NATIVE:
        yield sound(syntax.name, chest_dataset(pixels=pixels, transfer_syntax=syntax, **extras))
    for syntax in _ENCAPSULATED:
        ds = chest_dataset(pixels=pixels, RescaleSlope=1, RescaleIntercept=0, **extras)
        ds.compress(syntax, generate_instance_uid=False)
        yield sound(syntax.name, ds)


@pytest.fixture(scope="module", params=["drawn", "real"])
def sources(request: pytest.FixtureRequest) -> list[Sound]:
    """The sound images: drawn ones everywhere, real ones where the test data is."""
    if request.param == "drawn":
        return list(_drawn())
    folder: Path = request.getfixturevalue("data_root") / "dicom"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # real files have illegal values
        return [sound(name, dcmread(folder / name)) for name in _REAL]


@pytest.fixture
def mutants(sources: list[Sound]) -> list[Mutant]:
    """Half of the count from each kind of source."""
    return [mutant(sources, seed) for seed in range(_COUNT // 2)]


def test_the_sound_images_are_sound(sources: list[Sound], tmp_path: Path) -> None:
    """Else the mutants would test one check of the header alone."""
    with Sandbox(_settings(tmp_path)) as sandbox:
        good = 0
        for number, source in enumerate(sources):
            path = tmp_path / f"{number}.dcm"
            data = b"".join(raw for _, raw in source.elements)
            path.write_bytes(Mutant(1, "", source.syntax, "1.2", data).as_file())
            try:
                sandbox.load(path)
            except NotAnalysable:
                continue
            good += 1
    assert good >= 4


def test_a_seed_gives_the_same_bytes(sources: list[Sound]) -> None:
    assert [mutant(sources, 7) for _ in range(2)] == [mutant(sources, 7)] * 2
    assert len({mutant(sources, seed).data for seed in range(50)}) == 50


def _settings(folder: Path) -> Settings:
    """Admit small pictures to the decoder: they are quick, and as damaged as large ones."""
    return load_settings(None, data_dir=folder, analysis={"min_side_pixels": 16})


class _Sender:
    """Stores over one association as long as it lives, then over the next one."""

    def __init__(self, port: int, sources: list[Sound]) -> None:
        self._port = port
        self._ae = AE("PACS")
        for syntax in sorted({source.syntax for source in sources}):
            self._ae.add_requested_context(CR, syntax)
        self._assoc: Association | None = None
        self.associations = 0

    def store(self, each: Mutant) -> int | None:
        """Return the status, None when the association ended instead."""
        if self._assoc is None or not self._assoc.is_established:
            self._assoc = self._ae.associate(
                "127.0.0.1", self._port, ae_title="NODE", evt_handlers=[MENDED]
            )
            assert self._assoc.is_established, "the listener refuses associations"
            self.associations += 1
        return store_bytes(
            self._assoc, CR, each.sop_instance_uid, each.data, transfer_syntax=each.syntax
        )

    def close(self) -> None:
        """Release the association."""
        if self._assoc is not None and self._assoc.is_established:
            self._assoc.release()
        self._ae.shutdown()


def _send(node: ListenerProcess, sources: list[Sound], mutants: list[Mutant]) -> Counter[int]:
    sender = _Sender(node.port, sources)
    answers = {each.seed: sender.store(each) for each in mutants}
    sender.close()
    wrong = {seed: code for seed, code in answers.items() if code not in _STATUSES}
    assert wrong == {}, {mutants[seed].name for seed in wrong}
    assert sender.associations == 1, "a damaged data set ended an association"
    return Counter(code for code in answers.values() if code is not None)


def _check_rows(database: Database, settings: Settings, answers: Counter[int]) -> None:
    """What was answered 0x0000 has a row and a state; what was refused, an audit event."""
    with database.read() as session:
        rows = session.scalars(select(Instance)).all()
        refused = select(AuditEvent).where(AuditEvent.action == AuditAction.INSTANCE_REFUSED)
        audited = Counter(event.status for event in session.scalars(refused))
        assert len(rows) == answers[SUCCESS]
        assert audited == {code: n for code, n in answers.items() if code != SUCCESS}
        waiting = {InstanceState.QUEUED, InstanceState.RECEIVED}
        assert all(row.state in waiting or Reason(row.reason) for row in rows)
        assert all(row.detail for row in rows if row.reason)
    assert all(line.balanced for line in compute(database, settings))


def test_the_listener_answers_every_one(
    sources: list[Sound], mutants: list[Mutant], tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'node.db'}"
    settings = load_settings(None, data_dir=tmp_path / "data", database_url=url)
    with open_database(url) as database, listening(settings.data_dir, url) as node:
        before = peak_bytes(node.process)
        answers = _send(node, sources, mutants)
        growth = peak_bytes(node.process) - before
        threads = node.process.num_threads()
        log.info("%s, %d MB more", {hex(code): n for code, n in answers.items()}, growth >> 20)
        _check_rows(database, settings, answers)
    assert len(answers) > 1, "the mutants are all alike"
    assert answers[SUCCESS] > len(mutants) // 3, "the mutants do not get past the identity"
    assert growth < _LISTENER_GROWTH_BYTES
    assert threads < 20
    assert list((settings.spool_dir / "incoming").iterdir()) == []
    assert "Traceback" not in node.log.read_text()


def _outcome(sandbox: Sandbox, path: Path) -> str:
    try:
        sandbox.load(path)
    except (NotAnalysable, AnalysisFailed) as outcome:
        return outcome.reason.value
    return "image"


def test_the_decoder_gives_an_image_or_a_reason(mutants: list[Mutant], tmp_path: Path) -> None:
    process = psutil.Process()
    outcomes: Counter[str] = Counter()
    with Sandbox(_settings(tmp_path)) as sandbox:
        before, crashes = peak_bytes(process), {}
        for each in mutants:
            path = tmp_path / "mutant.dcm"
            path.write_bytes(each.as_file())
            outcome = _outcome(sandbox, path)
            outcomes[outcome] += 1
            if outcome in {Reason.DECODER_CRASH, Reason.DECODE_TIMEOUT}:
                crashes[each.seed] = each.name
    growth = peak_bytes(process) - before
    log.info("%s, crashes %s, %d MB more", dict(outcomes), crashes, growth >> 20)
    assert outcomes["image"] > len(mutants) // 20
    assert len(outcomes) > 5
    assert growth < _WORKER_GROWTH_BYTES


def test_the_file_command_gives_each_a_line(mutants: list[Mutant], tmp_path: Path) -> None:
    files = {f"{each.seed:05d}.dcm": each.as_file() for each in mutants[: _COUNT // 40]}
    (tmp_path / "in").mkdir()
    for name, data in files.items():
        (tmp_path / "in" / name).write_bytes(data)
    done = analyse_here(tmp_path / "in", "--out", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert sorted(Path(row["path"]).name for row in rows) == sorted(files)
    for row in rows:
        assert row["status"] in {"analysed", "not_analysed", "failed"}, row["path"]
        assert (row["reason"] is None) == (row["status"] == "analysed"), row["path"]
        assert row["reason"] is None or (Reason(row["reason"]) and row["detail"])
        assert row["reason"] != Reason.INTERNAL_ERROR, row["path"]
    assert "Traceback" not in done.stderr

"""What a soak calls a failure, and that its traffic is what it says."""

from itertools import islice

import pytest
from soaking.summary import percentiles
from soaking.traffic import Modality
from soaking.watch import Held, Sample, Watch

_MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("last_mib", "last_descriptors", "pids", "said"),
    [
        (104, 12, 1, None),
        (106, 10, 1, "grew by 6.0 %"),
        (100, 16, 1, "16 files open, 10 before"),
        (100, 10, 2, "2 processes one after the other"),
    ],
)
def test_growth_leaks_and_deaths_are_failures(
    last_mib: int, last_descriptors: int, pids: int, said: str | None
) -> None:
    held = Held("listen", 100 * _MIB, last_mib * _MIB, 10, last_descriptors, pids)
    assert held.problem is None if said is None else said in (held.problem or "")


def test_a_process_that_ended_and_never_came_back_is_a_failure() -> None:
    watch = Watch(pid=0)
    for at in range(20):
        watch.samples["up"].append(Sample(at, 1, _MIB, 5))
        if at < 12:
            watch.samples["web"].append(Sample(at, 2, _MIB, 5))
            watch.samples["decoder"].append(Sample(at, 3, _MIB, 5))
        if at == 10:
            watch.samples["worker child 2"].append(Sample(at, 4, _MIB, 5))  # just being started
    problems = [each.problem for each in watch.held(since=5.0) if each.problem]
    assert problems == ["web ended and did not come back: the log says why"]


def test_a_decoder_may_be_replaced() -> None:
    assert Held("decoder", _MIB, _MIB, 5, 5, 3).problem is None


def test_percentiles_are_of_the_values_themselves() -> None:
    assert percentiles([float(each) for each in range(1, 101)]) == {
        "p50": 50.5,
        "p95": 96.0,
        "p99": 100.0,
        "max": 100.0,
    }
    assert percentiles([]) == {}


def test_the_traffic_has_every_kind_and_repeats_itself_by_its_seed() -> None:
    def kinds() -> list[tuple[str, int]]:
        items = islice(Modality(512, seed=1).items(), 300)
        return [(kind, len(objects)) for kind, objects in items]

    first = kinds()
    assert first == kinds()
    assert {kind for kind, _ in first} == {
        "study",
        "again",
        "corrected",
        "document",
        "corrupt",
        "echo",
        "probe",
    }
    assert {number for kind, number in first if kind == "study"} == {1, 2, 3}


def test_a_corrected_study_keeps_its_images_and_changes_its_patient() -> None:
    sent = {}
    for kind, objects in islice(Modality(512, seed=1).items(), 300):
        if kind == "corrected":
            old = sent[objects[0].SOPInstanceUID]
            assert old.PatientID != objects[0].PatientID
            assert old.PixelData == objects[0].PixelData
            return
        sent |= {ds.SOPInstanceUID: ds for ds in objects}
    pytest.fail("no corrected study among 300 items")

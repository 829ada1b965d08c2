"""Secondary Capture: stored always, analysed only where a setting says so."""

from collections.abc import Callable

import pytest
from builders import chest_dataset
from rows import count, instances
from senders import store

from models.job import Job
from models.states import InstanceState
from worker.gate import SECONDARY_CAPTURE

Listen = Callable[..., "RunningListener"]  # noqa: F821  a fixture of conftest.py


@pytest.mark.parametrize(
    ("wanted", "state", "reason", "jobs"),
    [
        ("true", InstanceState.QUEUED, None, 1),
        ("false", InstanceState.NOT_ANALYSED, "sop_class", 0),
    ],
)
def test_the_setting_decides_whether_a_job_is_made(
    listen: Listen,
    monkeypatch: pytest.MonkeyPatch,
    wanted: str,
    state: InstanceState,
    reason: str | None,
    jobs: int,
) -> None:
    monkeypatch.setenv("DICOM_NODE_ANALYSIS__SECONDARY_CAPTURE", wanted)
    node = listen()
    assert store(node.port, chest_dataset(SOPClassUID=SECONDARY_CAPTURE, PatientID="P1")) == 0
    (instance,) = instances(node.database)
    assert (instance.state, instance.reason) == (state, reason)
    assert count(node.database, Job) == jobs

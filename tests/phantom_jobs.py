"""A phantom in spool and rows, with the job that analyses it."""

import hashlib

from builders import chest_dataset, write_part10
from rows import add_instance, add_job

from models.session import Database
from models.settings import Settings
from models.states import InstanceState
from worker.training.phantom import make_phantom


def add_phantom_job(
    settings: Settings,
    database: Database,
    study_instance_uid: str = "1.2.840.1",
    seed: int = 7,
    **header: object,
) -> int:
    """Put a phantom (or what keyword arguments make of it) into spool and rows; give its job."""
    phantom = make_phantom(seed, 512, 20.0)
    key = f"00/{hashlib.sha256(repr((seed, header)).encode()).hexdigest()}.dcm"
    ds = chest_dataset(
        seed=seed,
        PatientID="P1",
        StudyInstanceUID=study_instance_uid,
        pixels=phantom.pixels >> 4,
        **header,
    )
    write_part10(settings.spool_dir / key, ds)
    instance = add_instance(
        database,
        study_instance_uid=study_instance_uid,
        sop_instance_uid=str(ds.SOPInstanceUID),
        state=InstanceState.QUEUED,
        storage_key=key,
    )
    return add_job(database, instance)

"""What is made beside SEG and SR: what breaks in the making is left out, and they stand without."""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from traceback import extract_tb
from typing import TypeVar

from models.audit import AuditAction, record
from models.imaging import Instance, Study
from models.job import Job
from models.session import Database
from models.states import ArtifactKind

log = logging.getLogger(__name__)

_Made = TypeVar("_Made")


def made_or_none(
    what: str, make: Callable[[], _Made], passes: tuple[type[Exception], ...] = ()
) -> _Made | None:
    """Return what `make` returns; None where it breaks, with a line in the log that says where.

    `passes` is not held back: what ends the whole job.
    """
    try:
        return make()
    except passes:
        raise
    except Exception as error:  # noqa: BLE001  the edge of what SEG and SR can do without
        at = extract_tb(error.__traceback__)[-1]
        log.error(  # noqa: TRY400  the text of the error may name a patient
            "%s left out: %s in %s line %s",
            what,
            type(error).__name__,
            Path(at.filename).name,
            at.lineno,
        )
        return None


def audit_left_out(
    database: Database, job: Job, wanted: Iterable[ArtifactKind], made: Iterable[ArtifactKind]
) -> None:
    """Audit each kind that a job was to make and did not."""
    left_out = set(wanted) - set(made)
    if not left_out:
        return
    with database.write() as session:
        study = session.get(Study, job.study_id) if job.study_id else None
        instance = session.get(Instance, job.instance_id) if job.instance_id else None
        for kind in sorted(left_out):
            record(
                session,
                AuditAction.ARTIFACT_LEFT_OUT,
                kind.value,
                study_instance_uid=study.study_instance_uid if study else None,
                sop_instance_uid=instance.sop_instance_uid if instance else None,
                details={"job_id": job.id},
            )

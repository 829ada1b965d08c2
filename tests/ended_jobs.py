"""Messages of jobs that have ended already: a worker only says that it dropped them, in order."""

from rows import add_analysis, add_instance

from dicom_node.queue import JobQueue
from models.job import ROUTINE, SHADOW, STAT, Job
from models.session import Database
from models.states import InstanceState, JobKind, JobState


def add_ended_jobs(database: Database, queue: JobQueue) -> dict[int, str]:
    """Publish two of each kind, the least urgent first; return what each job id is."""
    kinds: dict[int, str] = {}
    instances = [add_instance(database, state=InstanceState.NOT_ANALYSED) for _ in range(4)]
    jobs = [
        Job(
            kind=JobKind.SHADOW,
            analysis_id=add_analysis(database, instance)[0],
            model_selector="unet-next",
            priority=SHADOW,
            state=JobState.DONE,
        )
        for instance in instances[:2]
    ]
    jobs += [
        Job(kind=JobKind.REPORT, study_id=1, revision=revision, state=JobState.DONE)
        for revision in (1, 2)
    ]
    for instance, priority in zip(instances, (ROUTINE, ROUTINE, STAT, STAT), strict=True):
        jobs.append(
            Job(
                kind=JobKind.ANALYSE,
                instance_id=instance,
                model_selector="unet",
                priority=priority,
                state=JobState.DONE,
            )
        )
    with database.write() as session:
        session.add_all(jobs)
    names = [name for name in ("shadow", "report", "routine", "stat") for _ in "ab"]
    for job, name in zip(jobs, names, strict=True):
        kinds[job.id] = name
        queue.publish(job)
    return kinds

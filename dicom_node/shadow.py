"""Which analyses a second model repeats. What it finds is compared, and never sent."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from models.analysis_sections import ShadowSettings
from models.job import SHADOW, Job
from models.result import Analysis
from models.states import JobKind


def add_shadow_jobs(
    session: Session, settings: ShadowSettings, analyses: Sequence[Analysis]
) -> int:
    """Add a job per analysis that is in the share and has none yet; return how many it were.

    An analysis that the second model itself made is left out: there is nothing to compare, and so
    is one whose image was purged. The
    jobs belong to no instance and no study, so neither waits for them or changes with them.
    """
    if settings.model is None:
        return 0
    known = set(
        session.scalars(
            select(Job.analysis_id).where(
                Job.kind == JobKind.SHADOW,
                Job.model_selector == settings.model,
                Job.analysis_id.in_([analysis.id for analysis in analyses]),
            )
        )
    )
    wanted = [
        analysis
        for analysis in analyses
        if analysis.id not in known
        and analysis.instance.purged_at is None
        and analysis.model_version.name != settings.model
        and settings.takes(analysis.instance.sop_instance_uid, analysis.instance.calling_aet)
    ]
    session.add_all(
        Job(
            kind=JobKind.SHADOW,
            analysis_id=analysis.id,
            model_selector=settings.model,
            priority=SHADOW,
        )
        for analysis in wanted
    )
    return len(wanted)

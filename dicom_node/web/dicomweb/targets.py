"""What an address below `/dicom-web` means: the held objects, or why there are none."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from dicom_node.query.held import Holdings
from dicom_node.query.held_rows import HIDDEN, is_held
from dicom_node.query.keys import Level, Selection
from dicom_node.query.retrieve import StoredObject, select_objects
from dicom_node.web.dicomweb.errors import GoneError, NotHereError
from models.imaging import Instance, Series, Study
from models.result import Analysis, Artifact
from models.session import Database
from models.settings import Settings
from models.states import ArtifactKind

_CORRECTED: Final = (
    "the identity of this object was corrected here, and what is stored has the old one: "
    "only what was made of it is held"
)


@dataclass(frozen=True)
class Target:
    """A study, one of its series, or one instance of that."""

    study: str
    series: str | None = None
    instance: str | None = None

    @property
    def selection(self) -> Selection:
        """The same, as a retrieve selects it."""
        uids = {
            "StudyInstanceUID": self.study,
            "SeriesInstanceUID": self.series,
            "SOPInstanceUID": self.instance,
        }
        named = {keyword: (uid,) for keyword, uid in uids.items() if uid is not None}
        return Selection(list(Level)[len(named) - 1], named)

    @property
    def path(self) -> str:
        """The resource, relative to the root (PS3.18 10.1)."""
        series = f"/series/{self.series}" if self.series else ""
        instance = f"/instances/{self.instance}" if self.instance else ""
        return f"studies/{self.study}{series}{instance}"


class Targets:
    """Finds them in the rows of one node."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._limit = settings.query_retrieve.max_results
        self._artifacts = settings.artifact_store
        self._database = database
        self.holdings = Holdings(settings, database)

    def objects(self, target: Target) -> list[StoredObject]:
        """Return the held objects, images in front of results.

        Raises NotHereError, GoneError, and TooManyMatchesError when they are more than
        `query_retrieve.max_results`.
        """
        found = select_objects(self._database, self.holdings, target.selection, self._limit)
        if not found:
            raise self._why_not(target)
        return found

    def picture(self, target: Target) -> Path:
        """Return the PNG that was made of an image, or of the newest one below. Raises the same.

        Of our Secondary Capture it is the overlay that it shows.
        """
        with self._database.read() as session:
            for statement in (_of_image(target), _of_capture(target)):
                newest = statement.order_by(Artifact.id.desc()).limit(1)
                key: str | None = session.scalar(newest)
                if key is not None:
                    return self._artifacts.path(key)
        self.objects(target)
        msg = "there is no picture of this object: the node has one of each image that it analysed"
        raise NotHereError(msg)

    def patients(self, studies: Sequence[str]) -> dict[str, str | None]:
        """Return the PatientID of each study."""
        query = select(Study.study_instance_uid, Study.patient_id)
        with self._database.read() as session:
            rows = session.execute(query.where(Study.study_instance_uid.in_(studies)))
            return {row.study_instance_uid: row.patient_id for row in rows}

    def _why_not(self, target: Target) -> Exception:
        with self._database.read() as session:
            purged, corrected = _set_aside(session, target)
        if purged is not None:
            return GoneError(f"the retention of this node removed it on {purged:%Y-%m-%d}")
        return NotHereError(_CORRECTED if corrected else "nothing of this address is held here")


def _set_aside(session: Session, target: Target) -> tuple[Any, bool]:
    """Return when something of the target was purged, and whether something was corrected."""
    columns: tuple[Any, ...] = (Instance.purged_at, Instance.correction)
    shown = select(*columns).join(Instance.series).join(Study)
    rows = session.execute(_within(shown, target).where(Instance.state.not_in(HIDDEN))).all()
    purged = max((row.purged_at for row in rows if row.purged_at), default=None)
    if purged is None and target.instance is not None:
        result = select(Artifact.purged_at).where(Artifact.sop_instance_uid == target.instance)
        purged = session.scalar(result)
    return purged, any(row.correction is not None for row in rows)


def _within(statement: Select[Any], target: Target) -> Select[Any]:
    """Narrow a query over Study, Series and Instance to the target."""
    statement = statement.where(Study.study_instance_uid == target.study)
    if target.series is not None:
        statement = statement.where(Series.series_instance_uid == target.series)
    if target.instance is not None:
        statement = statement.where(Instance.sop_instance_uid == target.instance)
    return statement


def _pictures(kind: ArtifactKind) -> Select[Any]:
    query = select(Artifact.storage_key).join(Analysis, Artifact.analysis_id == Analysis.id)
    query = query.join(Instance, Analysis.instance_id == Instance.id)
    query = query.join(Instance.series).join(Study)
    return query.where(Artifact.kind == kind, Artifact.purged_at.is_(None), is_held())


def _of_image(target: Target) -> Select[Any]:
    return _within(_pictures(ArtifactKind.DISPLAY), target)


def _of_capture(target: Target) -> Select[Any]:
    """Return the query for the overlay beside the capture that the target is."""
    capture = select(Artifact.analysis_id).where(
        Artifact.kind == ArtifactKind.SC, Artifact.sop_instance_uid == target.instance
    )
    overlays = _within(_pictures(ArtifactKind.OVERLAY), Target(target.study))
    return overlays.where(Analysis.id.in_(capture))

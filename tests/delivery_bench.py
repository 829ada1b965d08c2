"""Deliveries for tests: finished studies with their objects on disk, and receivers of them."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from builders import chest_dataset, write_part10
from pynetdicom import AE, evt
from pynetdicom.events import Event
from rows import SEG, SR, add_analysis, add_destination, add_instance, add_report, random_uid
from sqlalchemy import select, update

from dicom_node.delivery import Deliverer
from dicom_node.senders.cstore import CStoreSender
from models.base import utc_now
from models.delivery import Delivery, Destination
from models.imaging import Instance, Series
from models.result import Artifact
from models.session import Database
from models.settings import Settings
from models.states import ArtifactKind, DeliveryState, InstanceState


class Bench:
    """A database with finished studies, their SEG and SR on disk, and deliveries to make."""

    def __init__(self, database: Database, settings: Settings, studies: int = 1) -> None:
        self.database = database
        self.settings = settings
        pairs = [self._add_study() for _ in range(studies)]
        self.seg_id, self.sr_id = pairs[0]
        with database.read() as session:
            for artifact in session.scalars(select(Artifact)):
                ds = chest_dataset(
                    SOPClassUID=artifact.sop_class_uid,
                    SOPInstanceUID=artifact.sop_instance_uid,
                    StudyInstanceUID=self._study_of(artifact),
                )
                write_part10(settings.artifact_dir / artifact.storage_key, ds)

    def _add_study(self) -> tuple[int, int]:
        instance = add_instance(
            self.database, state=InstanceState.ANALYSED, study_instance_uid=random_uid()
        )
        analysis, segmentation = add_analysis(self.database, instance)
        with self.database.read() as session:
            series = session.get_one(Instance, instance).series_id
            study = session.get_one(Series, series).study_id
        return segmentation, add_report(self.database, [analysis], study_id=study)

    @staticmethod
    def _study_of(artifact: Artifact) -> str:
        of_image = artifact.analysis.instance.series.study if artifact.analysis else None
        study = of_image or artifact.study
        assert study is not None
        return str(study.study_instance_uid)

    def deliverer(self, port: int, name: str = "PACS", seconds: float = 20.0) -> Deliverer:
        """Return the deliverer of a new destination to which everything is due.

        `seconds` is its time-out: short where a test waits for it, long on a busy machine.
        """
        destination = add_destination(self.database, name, port)
        self.plan(destination)
        sender = CStoreSender("NODE", seconds)
        return Deliverer(self.settings, self.database, sender, destination)

    def plan(self, destination: int) -> None:
        """Make every object due, the reports first: the wrong order on purpose."""
        with self.database.write() as session:
            ids = session.scalars(select(Artifact.id).order_by(Artifact.id.desc())).all()
            session.add_all(Delivery(artifact_id=each, destination_id=destination) for each in ids)

    def rows(self) -> dict[str, Delivery]:
        """Return the deliveries by kind (of the only study and destination)."""
        with self.database.read() as session:
            query = select(Delivery, Artifact.kind).join(Artifact)
            return {kind.value: row for row, kind in session.execute(query)}

    def all_rows(self, kind: ArtifactKind | None = None) -> list[Delivery]:
        """Return every delivery, or those of one kind, in the order of their ids."""
        query = select(Delivery).join(Artifact).order_by(Delivery.id)
        with self.database.read() as session:
            return list(session.scalars(query.where(Artifact.kind == kind) if kind else query))

    def states(self) -> set[DeliveryState]:
        """Return the states of all deliveries."""
        return {row.state for row in self.all_rows()}

    def destination(self) -> Destination:
        """Return the only destination."""
        with self.database.read() as session:
            return session.scalars(select(Destination)).one()

    def uid(self, artifact_id: int) -> str:
        """Return the SOP Instance UID of an object."""
        with self.database.read() as session:
            return str(session.get_one(Artifact, artifact_id).sop_instance_uid)

    def make_due(self) -> None:
        """Let every pause and lease be over."""
        past = utc_now() - timedelta(seconds=1)
        with self.database.write() as session:
            session.execute(update(Delivery).values(next_attempt_at=past))
            leased = Delivery.lease_until.is_not(None)
            session.execute(update(Delivery).where(leased).values(lease_until=past))
            paused = Destination.retry_at.is_not(None)
            session.execute(update(Destination).where(paused).values(retry_at=past))

    def deliver(self, deliverer: Deliverer, rounds: int = 100) -> None:
        """Step until everything has ended, whatever the pauses are."""
        open_states = {DeliveryState.DUE, DeliveryState.SENDING}
        for _ in range(rounds):
            if not self.states() & open_states:
                return
            self.make_due()
            deliverer.step()
        assert not self.states() & open_states

    def files(self) -> dict[str, bytes]:
        """Return the bytes of every object by its SOP Instance UID."""
        with self.database.read() as session:
            return {
                str(each.sop_instance_uid): (
                    self.settings.artifact_dir / each.storage_key
                ).read_bytes()
                for each in session.scalars(select(Artifact))
            }


def write_configuration(folder: Path, database_url: str, tree: dict[str, Any]) -> Path:
    """Write a node.toml for a process; values are those that TOML and JSON write alike."""
    lines = [f"data_dir = {json.dumps(str(folder / 'data'))}"]
    lines.append(f"database_url = {json.dumps(database_url)}")
    for section, values in tree.items():
        for table in values if isinstance(values, list) else [values]:
            lines.append(f"[[{section}]]" if isinstance(values, list) else f"[{section}]")
            lines += [f"{key} = {json.dumps(value)}" for key, value in table.items()]
    path = folder / "node.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


@contextmanager
def storing_scp(
    answer: Callable[[Event], int], classes: tuple[str, ...] = (SEG, SR)
) -> Iterator[int]:
    """Run a storage SCP that answers what it is told to; yield its port."""
    ae = AE(ae_title="PACS")
    for sop_class in classes:
        ae.add_supported_context(sop_class)
    server = ae.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, answer)]
    )
    try:
        yield server.server_address[1]
    finally:
        ae.shutdown()

"""Query/Retrieve SCUs for tests, and a node that holds studies and real results."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom.config
from builders import analysed_image, chest_dataset, chest_image, chest_pixels, object_context
from pydicom import dcmread, dcmwrite
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, build_role, evt
from pynetdicom.association import Association
from pynetdicom.dsutils import split_dataset
from pynetdicom.events import Event
from rows import CR, SEG, SR, add_analysis, add_report
from sqlalchemy import select

from dicom_node.mended import MENDED
from models.audit import AuditAction, AuditEvent
from models.files import atomic_write
from models.imaging import Instance
from models.result import Artifact
from models.session import Database
from models.settings import Settings
from models.states import InstanceState
from worker.equipment import to_bytes
from worker.report import build_report
from worker.report_groups import ReportImage
from worker.segmentation import build_segmentation

FIND = "1.2.840.10008.5.1.4.1.2.2.1"
MOVE = "1.2.840.10008.5.1.4.1.2.2.2"
GET = "1.2.840.10008.5.1.4.1.2.2.3"

Contexts = tuple[tuple[str, str], ...]


def identifier(**values: Any) -> Dataset:
    """Return an identifier with these keywords, whatever the values are."""
    ds = Dataset()
    for keyword, value in values.items():
        tag = tag_for_keyword(keyword) or 0
        element = DataElement(tag, dictionary_VR(tag), value, validation_mode=pydicom.config.IGNORE)
        ds.add(element)
    return ds


@dataclass
class Workstation:
    """A Query/Retrieve SCU by the AE title `title`; what it gets by C-GET is in `received`."""

    port: int
    title: str = "VIEWER"
    received: list[Dataset] = field(default_factory=list)
    store_status: int = 0x0000
    cancel_after: int = 0  # C-CANCEL in the answer to this C-STORE; 0: never
    transfer_syntax: str = ExplicitVRLittleEndian

    def find(self, level: str, **keys: Any) -> tuple[int, list[Dataset], list[int]]:
        """C-FIND: final status, identifiers, and the status of each pending response."""
        with self.associate(FIND) as assoc:
            answers = list(assoc.send_c_find(identifier(QueryRetrieveLevel=level, **keys), FIND))
        *pending, (final, _) = answers
        found = [ds for _, ds in pending if ds is not None]
        return int(final.Status), found, [int(status.Status) for status, _ in pending]

    def get(self, contexts: Contexts, level: str, **keys: Any) -> tuple[Dataset, Dataset | None]:
        """C-GET: the final response, and the identifier that came with it."""
        with self.associate(GET, *contexts, stores=True) as assoc:
            request = identifier(QueryRetrieveLevel=level, **keys)
            *_, last = assoc.send_c_get(request, GET, msg_id=7)
        return last

    def move(self, to: str, level: str, **keys: Any) -> tuple[Dataset, Dataset | None]:
        """C-MOVE to the AE title `to`: the final response, and its identifier."""
        with self.associate(MOVE) as assoc:
            request = identifier(QueryRetrieveLevel=level, **keys)
            *_, last = assoc.send_c_move(request, to, MOVE, msg_id=7)
        return last

    @contextmanager
    def associate(
        self, model: str, *contexts: tuple[str, str], stores: bool = False
    ) -> Iterator[Association]:
        """Yield an association with `model`, and as SCP of the storage contexts given."""
        ae = AE(ae_title=self.title)
        ae.add_requested_context(model, [self.transfer_syntax, ImplicitVRLittleEndian])
        for context in contexts:
            ae.add_requested_context(*context)
        classes = sorted({sop_class for sop_class, _ in contexts})
        assoc = ae.associate(
            "127.0.0.1",
            self.port,
            ae_title="NODE",
            ext_neg=[build_role(uid, scp_role=True) for uid in classes] if stores else [],
            evt_handlers=[MENDED, (evt.EVT_C_STORE, self._on_store)],
        )
        if not assoc.is_established:
            msg = "the node refused the association"
            raise ConnectionError(msg)
        try:
            yield assoc
        finally:
            if assoc.is_established:
                assoc.release()
            ae.shutdown()

    def _on_store(self, event: Event) -> int:
        ds = event.dataset
        ds.file_meta = event.file_meta
        self.received.append(ds)
        if len(self.received) == self.cancel_after:
            event.assoc.send_c_cancel(7, query_model=GET)
        return self.store_status


def send(port: int, *datasets: FileDataset) -> None:
    """C-STORE data sets to the node, each in its own transfer syntax."""
    ae = AE(ae_title="MODALITY")
    pairs = sorted({(str(ds.SOPClassUID), str(ds.file_meta.TransferSyntaxUID)) for ds in datasets})
    for pair in pairs:
        ae.add_requested_context(*pair)
    assoc = ae.associate("127.0.0.1", port, ae_title="NODE", evt_handlers=[MENDED])
    statuses = [assoc.send_c_store(_encoded(ds)).Status for ds in datasets]
    assoc.release()
    assert set(statuses) == {0x0000}


def _encoded(ds: FileDataset) -> FileDataset:
    """Return the data set as read from a file: pynetdicom then sends it in that encoding."""
    buffer = BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    buffer.seek(0)
    return dcmread(buffer)


def add_results(
    settings: Settings,
    database: Database,
    source: FileDataset,
    shown_as: FileDataset | None = None,
) -> tuple[str, str]:
    """Store a real SEG and SR of an image that the node holds; return their SOP Instance UIDs.

    `shown_as` is the image under the identity that they get.
    """
    with database.write() as session:
        uid = str(source.SOPInstanceUID)
        instance = session.scalars(select(Instance).where(Instance.sop_instance_uid == uid)).one()
        instance.state = InstanceState.ANALYSED
        instance_id, study_id = instance.id, instance.series.study_id
    analysis_id, seg_id = add_analysis(database, instance_id)
    sr_id = add_report(database, [analysis_id], study_id=study_id)
    analysed = analysed_image(chest_image(ds=shown_as or source))
    seg = build_segmentation(analysed, object_context())
    report = build_report([ReportImage.of(analysed, seg)], object_context(), 1)
    for artifact_id, ds in ((seg_id, seg), (sr_id, report)):
        with database.write() as session:
            artifact = session.get_one(Artifact, artifact_id)
            artifact.sop_instance_uid = str(ds.SOPInstanceUID)
            artifact.sop_class_uid = str(ds.SOPClassUID)
            atomic_write(settings.artifact_dir / artifact.storage_key, to_bytes(ds))
    return str(seg.SOPInstanceUID), str(report.SOPInstanceUID)


def stored_files(root: Path) -> dict[str, bytes]:
    """Return the bytes behind the header of every file below a folder, by SOP Instance UID."""
    found = {}
    for path in filter(Path.is_file, root.rglob("*")):
        meta, offset = split_dataset(path)
        found[str(meta.MediaStorageSOPInstanceUID)] = path.read_bytes()[offset:]
    return found


def two_images() -> tuple[FileDataset, FileDataset]:
    """Return two images of one study, in two series."""
    first = chest_dataset(seed="1")
    second = chest_dataset(
        seed="2",
        StudyInstanceUID=first.StudyInstanceUID,
        PatientID=first.PatientID,
        AccessionNumber=first.AccessionNumber,
        SeriesNumber=2,
    )
    return first, second


class Receiver:
    """A storage SCP of CR, SEG and SR as a Move Destination: what came, byte for byte."""

    def __init__(
        self, title: str, syntaxes: Sequence[str], answer: Callable[[Event], int] = lambda _: 0
    ) -> None:
        self.title = title
        self.objects: dict[str, bytes] = {}  # data sets by SOP Instance UID
        self.requests: list[tuple[Any, str, str]] = []  # command, transfer syntax, calling title
        self._answer = answer
        self._ae = AE(ae_title=title)
        for sop_class in (CR, SEG, SR):
            self._ae.add_supported_context(sop_class, list(syntaxes))
        server = self._ae.start_server(
            ("127.0.0.1", 0),
            block=False,
            evt_handlers=[MENDED, (evt.EVT_C_STORE, self._on_store)],
        )
        self.port = int(server.server_address[1]) if server else 0

    @property
    def place(self) -> dict[str, Any]:
        """The entry of `query_retrieve.move_destinations`."""
        return {"ae_title": self.title, "host": "127.0.0.1", "port": self.port}

    def close(self) -> None:
        """Stop listening."""
        self._ae.shutdown()

    def _on_store(self, event: Event) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        self.objects[uid] = event.encoded_dataset(include_meta=False)
        title = str(event.assoc.requestor.ae_title)
        self.requests.append((event.request, str(event.context.transfer_syntax), title))
        return self._answer(event)


@contextmanager
def receiver(
    *syntaxes: str, title: str = "DESK2", answer: Callable[[Event], int] = lambda _: 0
) -> Iterator[Receiver]:
    """Run a storage SCP; by default it takes Explicit VR Little Endian alone."""
    scp = Receiver(title, syntaxes or (ExplicitVRLittleEndian,), answer)
    try:
        yield scp
    finally:
        scp.close()


@dataclass
class Desk:
    """A node that answers VIEWER, and VIEWER."""

    node: Any  # a RunningListener
    viewer: Workstation

    @property
    def database(self) -> Database:
        """The node's."""
        database: Database = self.node.database
        return database

    def events(self, action: AuditAction) -> list[AuditEvent]:
        """Return the audit events of one kind, in order."""
        with self.database.read() as session:
            query = select(AuditEvent).where(AuditEvent.action == action)
            return list(session.scalars(query.order_by(AuditEvent.id)))


def make_desk(listen: Callable[..., Any], *places: Receiver, **settings: Any) -> Desk:
    """Start a node that VIEWER may query, and whose C-MOVE knows `places`."""
    section = {
        "enabled": True,
        "calling_aets": ["VIEWER"],
        "move_destinations": [each.place for each in places],
    }
    node = listen(sections={"query_retrieve": section | settings})
    return Desk(node, Workstation(node.port))


def small_image(seed: str, **overrides: Any) -> FileDataset:
    """Return a legal CR of a few pixels."""
    return chest_dataset(seed=seed, pixels=chest_pixels(16, 16), **overrides)

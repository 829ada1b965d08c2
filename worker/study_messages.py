"""The report of a study revision as messages: HL7 v2 and FHIR, where a destination wants them.

Beside the SR they are extras: what cannot be made is left out, and audited. Without any analysed
image there is no SR, and a message may still be due: that there is no figure, or no more.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from billiard.exceptions import SoftTimeLimitExceeded
from pydicom.dataset import Dataset
from sqlalchemy import select
from sqlalchemy.orm import Session

from models.imaging import SET_ASIDE, Instance, Series, Study
from models.job import Job
from models.reasons import Reason
from models.result import Artifact, newest_analyses, of_the_patient, unanalysed_instances
from models.session import Database
from models.settings import Settings
from models.states import ArtifactKind
from worker import fhir_bundle, oru
from worker.correction import corrected_header
from worker.equipment import ObjectContext
from worker.errors import AnalysisFailed, NotAnalysable
from worker.extras import audit_left_out, made_or_none
from worker.header import normalised_header
from worker.message_content import MessageContent
from worker.results import Product, ResultStore
from worker.sandbox import Sandbox
from worker.types import UnanalysedImage

log = logging.getLogger(__name__)

_MOST_HEADERS: Final = 8  # that are tried for a name of the patient


@dataclass(frozen=True)
class _Syntax:
    """How a kind of message is made, and what can be told of one that was made."""

    suffix: str
    build: Callable[[MessageContent, bytes | None], bytes]
    essence: Callable[[bytes], object]
    has_figures: Callable[[bytes], bool]


_SYNTAXES: Final[dict[ArtifactKind, _Syntax]] = {
    ArtifactKind.HL7: _Syntax(".hl7", oru.build_oru, oru.essence, oru.has_figures),
    ArtifactKind.FHIR: _Syntax(
        ".json", fhir_bundle.build_bundle, fhir_bundle.essence, fhir_bundle.has_figures
    ),
}

Earlier = Mapping[ArtifactKind, bytes | None]


def wanted_messages(settings: Settings) -> list[ArtifactKind]:
    """Return which kinds of message some destination wants."""
    wanted = {ArtifactKind.HL7: settings.makes_hl7, ArtifactKind.FHIR: settings.makes_fhir}
    return [kind for kind, is_wanted in wanted.items() if is_wanted]


def earlier_messages(session: Session, settings: Settings, job: Job) -> Earlier:
    """Return the newest message of each wanted kind of earlier revisions of the study.

    A kind whose message is lost is not there: without it nothing can be said of what it stated.
    Raises OSError when one cannot be read.
    """
    found: dict[ArtifactKind, bytes | None] = {}
    for kind in wanted_messages(settings):
        key = session.scalar(
            select(Artifact.storage_key)
            .where(
                Artifact.study_id == job.study_id,
                Artifact.kind == kind,
                Artifact.revision < job.revision,
            )
            .order_by(Artifact.revision.desc())
            .limit(1)
        )
        try:
            found[kind] = settings.artifact_store.path(key).read_bytes() if key else None
        except FileNotFoundError:
            log.error("%s left out: the file of the message before is lost", kind.value)  # noqa: TRY400  its name says nothing more
    return found


def known_issuer(session: Session, study: Study) -> str | None:
    """Return who assigned the PatientID of a study, as far as the rows know.

    Where the first image did not say: the first one that did, also if it was withdrawn since. An
    operator has the last word, also by taking the issuer away: then it is empty.
    """
    if study.issuer_of_patient_id:
        return study.issuer_of_patient_id
    of_study = select(Instance).join(Series).join(Study).where(Series.study_id == study.id)
    of_study = of_study.where(Instance.state.not_in(SET_ASIDE), of_the_patient())
    rows = session.scalars(of_study.order_by(Instance.id)).all()
    if any((row.correction or {}).get("IssuerOfPatientID") == "" for row in rows):
        return ""
    return next((row.issuer_of_patient_id for row in rows if row.issuer_of_patient_id), None)


def message_products(content: MessageContent, earlier: Earlier) -> list[Product]:
    """Return the messages of a study revision, without those that cannot be made."""
    products = []
    for kind, before in earlier.items():
        syntax = _SYNTAXES[kind]
        make = partial(syntax.build, content, before)
        data = made_or_none(kind.value, make, (SoftTimeLimitExceeded,))
        if data is not None:
            products.append(Product(kind, data, syntax.suffix))
    return products


def store_without_figures(
    job: Job,
    store: ResultStore,
    database: Database,
    settings: Settings,
    sandbox: Sandbox,
    context: ObjectContext,
) -> bool:
    """Store what is to be told of a study revision without any figure, and end its job.

    Say whether there was anything: a figure that was told before and stands no more, or, where a
    destination wants that, why there is none; and not what was told already.
    Raises LeaseLostError.
    """
    if not wanted_messages(settings):
        return False
    with database.read() as session:
        study = session.get_one(Study, job.study_id)
        if study.revision > (job.revision or 0) or newest_analyses(session, study.id):
            return False
        rest = _listed(unanalysed_instances(session, study.id))
        earlier = earlier_messages(session, settings, job)
        header = _header_of(study, rest, settings, sandbox)
        issuer = known_issuer(session, study)
    images = tuple(image for image, _ in rest)
    content = MessageContent(header, (), images, context, settings.messages, None, issuer)
    tells = bool(rest) and settings.tells_not_analysed
    made = message_products(content, earlier)
    due = _to_be_told(settings, earlier, tells=tells)
    audit_left_out(database, job, due, [each.kind for each in made])
    products = [each for each in made if _says_something(each, earlier[each.kind], tells=tells)]
    if not products:
        return False
    store.store_report(job.id, [], products)
    return True


def _to_be_told(settings: Settings, earlier: Earlier, *, tells: bool) -> list[ArtifactKind]:
    """Return the kinds of which receivers may have a message, or are to get their first one."""
    has_none = {kind for kind, before in earlier.items() if before is None}
    return [kind for kind in wanted_messages(settings) if tells or kind not in has_none]


def _says_something(product: Product, before: bytes | None, *, tells: bool) -> bool:
    syntax = _SYNTAXES[product.kind]
    if before is None:
        return tells
    is_new = syntax.essence(before) != syntax.essence(product.data)
    return is_new and (tells or syntax.has_figures(before))


def _listed(rows: Sequence[Instance]) -> list[tuple[UnanalysedImage, Instance]]:
    images = [
        (UnanalysedImage(row.sop_instance_uid, row.sop_class_uid, Reason(row.reason or "")), row)
        for row in rows
    ]
    return sorted((it for it in images if it[0].is_listed), key=lambda it: it[0])


def _header_of(
    study: Study,
    rest: Sequence[tuple[UnanalysedImage, Instance]],
    settings: Settings,
    sandbox: Sandbox,
) -> Dataset:
    """Return the header of the first image that has one, else what the rows say of the study."""
    for _, row in rest[:_MOST_HEADERS]:
        path = settings.image_store.path_of(row.storage_key, row.purged_at)
        try:
            ds = corrected_header(sandbox.header(path), row.correction)
        except (NotAnalysable, AnalysisFailed):
            continue
        ds.StudyInstanceUID = study.study_instance_uid
        return ds
    ds = Dataset()
    ds.StudyInstanceUID = study.study_instance_uid
    ds.PatientID, ds.IssuerOfPatientID = study.patient_id or "", study.issuer_of_patient_id or ""
    ds.AccessionNumber, ds.StudyDate = study.accession_number or "", study.study_date or ""
    return normalised_header(ds)

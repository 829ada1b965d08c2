"""What each transaction of UPS-RS does: the acts of `worklist.ups`, by an account."""

from collections.abc import Callable
from http import HTTPStatus
from itertools import islice
from typing import Final
from urllib.parse import quote

from fastapi import Request
from fastapi.responses import Response
from pydicom.dataset import Dataset
from sqlalchemy.orm import Session

from dicom_node.errors import AlreadyEndedError, WrongTransactionError
from dicom_node.web.auth import Principal
from dicom_node.web.dicomweb.answers import warned
from dicom_node.web.dicomweb.events import Events
from dicom_node.web.dicomweb.json_model import dataset_text
from dicom_node.web.dicomweb.media_types import json_form
from dicom_node.web.dicomweb.requests import MORE, ranges_of
from dicom_node.web.reads import record_read
from dicom_node.web.workitems.answers import REMARKS
from dicom_node.web.workitems.search import Search, read_search
from dicom_node.worklist.readings import Reader
from dicom_node.worklist.ups import acts
from dicom_node.worklist.ups.described import Describer
from dicom_node.worklist.ups.search import find
from models.audit import AuditAction, record
from models.session import Database
from models.settings import Settings

ROOT: Final = "/ups-rs"
SERVICE: Final = "UPS-RS"

Act = Callable[[Session, str, Reader, Dataset], int]
_Found = tuple[Search, list[Dataset]]


class Service:
    """UPS-RS of one node."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings, self._database = settings, database
        self._ups = settings.worklist.ups

    def root_of(self, request: Request) -> str:
        """Return what the addresses in answers begin with."""
        site = self._settings.web.url or str(request.base_url)
        return f"{site.rstrip('/')}{ROOT}"

    def channel_of(self, request: Request, ae_title: str) -> str:
        """Return where a subscriber hears of events, as the address of a WebSocket."""
        return f"ws{self.root_of(request).removeprefix('http')}/subscribers/{quote(ae_title)}"

    def search(self, request: Request, who: Principal) -> Response:
        """Answer Search: workitems that match, the most urgent first."""
        form = json_form(ranges_of(request))
        search, found = self._find(request, who)
        remarks = [*search.remarks, *([MORE] if len(found) > search.limit else [])]
        if not found[: search.limit]:
            return Response(status_code=HTTPStatus.NO_CONTENT, headers=warned(remarks))
        body = ",\n".join(map(dataset_text, found[: search.limit]))
        return Response(f"[{body}]", headers=warned(remarks), media_type=form)

    def _find(self, request: Request, who: Principal) -> _Found:
        """Return the matches that are wanted and one more, and write the event of it."""
        outcome, found, sent = "success", list[Dataset](), 0
        try:
            parameters = request.query_params.multi_items()
            search = read_search(parameters, self._ups.max_results)
            with self._database.read() as session:
                matches = find(session, self._settings, search.request, skipped=search.offset)
                found = list(islice(matches, search.limit + 1))
            sent = min(len(found), search.limit)
        except Exception as error:
            outcome = type(error).__name__[:40]
            raise
        finally:
            self._record_query(Events(self._database, who, request), outcome, sent)
        return search, found

    def _record_query(self, events: Events, outcome: str, matches: int) -> None:
        details = events.details(SERVICE, model="UPS", matches=matches)
        with self._database.write() as session:
            record(session, AuditAction.QUERY, outcome, details=details, **events.actor)

    def retrieve(self, request: Request, who: Principal, uid: str) -> Response:
        """Answer Retrieve."""
        form = json_form(ranges_of(request))
        with self._database.read() as session:
            workitem = acts.workitem_of(session, uid)
            study, patient_id = workitem.study.study_instance_uid, workitem.study.patient_id
            ds = Describer(self._settings, session).describe(workitem)
        record_read(
            self._database,
            who,
            request,
            "workitem",
            study_instance_uid=study,
            patient={"patient_id": patient_id},
            service=SERVICE,
            workitem=uid,
        )
        return Response(f"[{dataset_text(ds)}]", media_type=form)

    def update(
        self, request: Request, who: Principal, uid: str, lock: str | None, ds: Dataset
    ) -> Response:
        """Answer Update: what the performer says of its progress and of what it did."""
        if lock is not None:
            ds.TransactionUID = lock
        try:
            return self.act(request, who, uid, acts.set_attributes, ds, HTTPStatus.OK)
        except AlreadyEndedError as error:  # Table 11.6.3-1 has 400 for it, Table 11.7.3-1 has 409
            raise WrongTransactionError(str(error)) from error

    def act(
        self, request: Request, who: Principal, uid: str, act: Act, ds: Dataset, code: HTTPStatus
    ) -> Response:
        """Answer what changes a workitem or a subscription."""
        with self._database.write() as session:
            status = act(session, uid, Reader(who.name), ds)
        return self._done(request, uid, status, code)

    def _done(self, request: Request, uid: str, status: int, code: HTTPStatus) -> Response:
        where = {"Content-Location": f"{self.root_of(request)}/workitems/{uid}"}
        remarks = [REMARKS[status]] if status in REMARKS else []
        return Response(status_code=code, headers=where | warned(remarks))

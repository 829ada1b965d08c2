"""How listings answer: a page as JSON, or everything as a stream; that it is read is recorded."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from fastapi import Request, Response
from pydantic import TypeAdapter
from sqlalchemy.orm import Session

from dicom_node.paging import Page
from dicom_node.web.api.filters import Filter
from dicom_node.web.api.node import Node
from dicom_node.web.api.parameters import Form
from dicom_node.web.api.schemas import PageOf, problems
from dicom_node.web.api.streaming import forms, wanted_form
from dicom_node.web.auth import Principal
from dicom_node.web.reads import record_read

Query = TypeVar("Query", bound=Filter)
Row = TypeVar("Row")


@dataclass(frozen=True)
class Listed(Generic[Query, Row]):
    """One listing: its answer, the kind of its rows, one page of them, and all of them.

    `is_about_patients`: reading it is an event of the audit.
    """

    name: str
    answers: type[PageOf[Row]]
    kind: "TypeAdapter[Row]"
    page: Callable[[Session, Query], Page[Any]]
    every: Callable[[Session, Query], Iterable[Any]]
    is_about_patients: bool = True

    @property
    def told(self) -> dict[str, Any]:
        """What the schema says of its routes."""
        return {"response_model": self.answers, "responses": forms(self.answers) | problems(426)}

    def answer(
        self, node: Node, request: Request, who: Principal, query: Query
    ) -> PageOf[Row] | Response:
        """Return what was asked for. Raises CursorError, and HTTPException for a wrong form."""
        form = wanted_form(request, query)
        if form is not Form.JSON:
            self._record(node, request, who, query, form=form.value)
            return node.streams.answer(
                form, self.name, self.kind, lambda session: self.every(session, query)
            )
        with node.database.read() as session:
            page = self.page(session, query)
        self._record(node, request, who, query, rows=len(page.rows))
        return self.answers.of(page)

    def _record(
        self, node: Node, request: Request, who: Principal, query: Query, **said: str | int
    ) -> None:
        if not self.is_about_patients:
            return
        details: dict[str, Any] = {"filter": query.described(), **said}
        record_read(
            node.database,
            who,
            request,
            self.name,
            study_instance_uid=query.chosen().get("study_instance_uid"),
            patient=query.of_patient(),
            **details,
        )

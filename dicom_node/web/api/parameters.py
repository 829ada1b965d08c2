"""What a request may say: filters as models, pages, and no parameter that the route does not know.

Filters by patient or accession number come in the body of a search: an address ends in the logs of
proxies.
"""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from fastapi import Depends, HTTPException, Path, Request, status
from fastapi.dependencies.models import Dependant
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field
from pydantic import StringConstraints as Constraints

from dicom_node.paging import MAX_LIMIT
from dicom_node.web.auth import Principal, Requires, Scope
from models.account import Role

_SHOWN: Final = 64  # characters of an unknown name
_YEARS: Final = range(1900, 3000)
UID_PATTERN: Final = r"^[0-9.]+$"  # as intake takes them: PS3.5 9.1 is not kept by all senders
_NO_CONTROL: Final = r"^[^\x00-\x1f\x7f]+$"

Viewer = Annotated[Principal, Depends(Requires(Role.VIEWER, Scope.RESULTS))]
READING: Final = Requires(Role.VIEWER, Scope.WORKLIST)
Reader = Annotated[Principal, Depends(READING)]
Auditor = Annotated[Principal, Depends(Requires(Role.OPERATOR, Scope.AUDIT))]
Sender = Annotated[Principal, Depends(Requires(Role.OPERATOR, Scope.DELIVERIES))]
Operator = Annotated[Principal, Depends(Requires(Role.OPERATOR, Scope.SYSTEM))]
Counts = Annotated[Principal, Depends(Requires(Role.OPERATOR, Scope.SYSTEM, are_counts=True))]


def _in_the_calendar(moment: datetime) -> datetime:
    """Refuse years in which a zone's offset could leave the calendar."""
    if moment.year not in _YEARS:
        msg = f"the year must be from {_YEARS.start} to {_YEARS.stop - 1}"
        raise ValueError(msg)
    return moment


Moment = Annotated[AwareDatetime, AfterValidator(_in_the_calendar)]
Text = Annotated[str, Constraints(max_length=64, pattern=_NO_CONTROL)]
ShortText = Annotated[str, Constraints(max_length=16, pattern=_NO_CONTROL)]  # AE titles, CS
Uid = Annotated[str, Constraints(max_length=64, pattern=UID_PATTERN)]
Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
Severity = Literal["none", "mild", "moderate", "severe"]
RowIdInPath = Annotated[int, Path(ge=1, le=(1 << 31) - 1)]
StudyUid = Annotated[
    str, Path(description="Study Instance UID", max_length=64, pattern=UID_PATTERN)
]
InstanceUid = Annotated[
    str, Path(description="SOP Instance UID", max_length=64, pattern=UID_PATTERN)
]


class Direction(StrEnum):
    """Which end of the order comes first."""

    ASCENDING = "asc"
    DESCENDING = "desc"


class Form(StrEnum):
    """What an answer is written as. `csv` and `ndjson` are everything that matches, as a stream."""

    JSON = "json"
    CSV = "csv"
    NDJSON = "ndjson"


class Parameters(BaseModel):
    """Base of what a request says: an unknown name is an error, not a filter that does nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Paging(Parameters):
    """Which page of a listing, and as what."""

    cursor: Annotated[str, Field(max_length=512)] | None = Field(
        None, description="`next` of the page before; it is bound to the sort."
    )
    limit: int | None = Field(
        None, ge=1, le=MAX_LIMIT, description="Rows of a page; 50 if not said."
    )
    format: Form | None = Field(
        None, description="Instead of the header Accept. A stream has no pages."
    )

    @property
    def rows(self) -> int:
        """How many rows a page has."""
        return self.limit or 50


async def only_known_parameters(request: Request) -> None:
    """End the request with 400 where the address has a parameter that its route does not know."""
    unknown = sorted({*request.query_params} - _names_in(request.scope["route"].dependant))
    if unknown:
        raise HTTPException(
            status.HTTP_400_BAD_REQUEST, f"there is no parameter {_printable(unknown[0])}"
        )


Known = Depends(only_known_parameters)


def _names_in(dependant: Dependant) -> set[str]:
    """Return the names that a route and what it depends on take from the address."""
    names: set[str] = set()
    for each in dependant.query_params:
        kind: Any = each.field_info.annotation
        is_model = isinstance(kind, type) and issubclass(kind, BaseModel)
        names |= {*kind.model_fields} if is_model else {each.alias}
    return names.union(*map(_names_in, dependant.dependencies))


def _printable(name: str) -> str:
    shown = "".join(each if each.isprintable() else "?" for each in name[:_SHOWN])
    return f"'{shown}'"

"""Which studies come before and after one in the reading order."""

from dataclasses import dataclass
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.paging import after
from models.imaging import Study
from models.states import ReadingState


@dataclass(frozen=True)
class Neighbours:
    """Study Instance UIDs of the unread studies beside one; None at either end."""

    previous: str | None
    next: str | None


_COLUMNS: Final = (Study.reading_order, Study.id)


def neighbours(session: Session, study_instance_uid: str) -> Neighbours:
    """Return the unread studies beside this one, which itself may be read by now."""
    own = select(*_COLUMNS).where(Study.study_instance_uid == study_instance_uid)
    key = session.execute(own).one_or_none()
    if key is None:
        return Neighbours(None, None)

    def beside(*, descends: bool) -> str | None:
        columns = [(column, descends) for column in _COLUMNS]
        order = [column.desc() if descends else column.asc() for column in _COLUMNS]
        query = select(Study.study_instance_uid).where(
            Study.reading_state == ReadingState.UNREAD, after(columns, tuple(key))
        )
        return session.scalar(query.order_by(*order).limit(1))

    return Neighbours(beside(descends=True), beside(descends=False))

"""What is made beside SEG and SR: what breaks in the making is left out, and they stand without."""

import logging
from collections.abc import Callable
from pathlib import Path
from traceback import extract_tb
from typing import TypeVar

log = logging.getLogger(__name__)

_Made = TypeVar("_Made")


def made_or_none(
    what: str, make: Callable[[], _Made], passes: tuple[type[Exception], ...] = ()
) -> _Made | None:
    """Return what `make` returns; None where it breaks, with a line in the log that says where.

    `passes` is not held back: what ends the whole job.
    """
    try:
        return make()
    except passes:
        raise
    except Exception as error:  # noqa: BLE001  the edge of what SEG and SR can do without
        at = extract_tb(error.__traceback__)[-1]
        log.error(  # noqa: TRY400  the text of the error may name a patient
            "%s left out: %s in %s line %s",
            what,
            type(error).__name__,
            Path(at.filename).name,
            at.lineno,
        )
        return None

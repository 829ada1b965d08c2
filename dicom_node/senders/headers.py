"""HTTP headers that a destination wants, credentials among them: read anew for every batch.

Their values stand in no setting, no error and no log.
"""

import os
import re
from typing import Final

from dicom_node.errors import StartError
from models.sections import DestinationSettings

_LINE: Final = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x21-\x7e](?:[\x20-\x7e\t]*))")
_OURS: Final = frozenset(
    {"accept", "connection", "content-length", "content-type", "host", "transfer-encoding"}
)


def headers_of(destination: DestinationSettings) -> dict[str, str]:
    """Return the headers of a destination's file and variable, the variable's over the file's.

    Raises StartError naming what is wrong and the line, never its text.
    """
    found: dict[str, str] = {}
    if destination.headers_file is not None:
        try:
            text = destination.headers_file.read_text("ascii")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not ASCII"
            msg = f"headers_file {destination.headers_file} cannot be read: {why}"
            raise StartError(msg) from None
        found |= _parse(text, f"headers_file {destination.headers_file}")
    if destination.headers_variable is not None:
        variable = os.environ.get(destination.headers_variable)
        if variable is None:
            msg = f"the environment has no {destination.headers_variable} (headers_variable)"
            raise StartError(msg)
        found |= _parse(variable, f"the variable {destination.headers_variable}")
    return found


def _parse(text: str, where: str) -> dict[str, str]:
    found = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line.rstrip())
        if match is None:
            msg = f"{where}, line {number}: write it as `Name: value`"
            raise StartError(msg)
        if match[1].lower() in _OURS:
            msg = f"{where}, line {number}: the node sets {match[1]} itself"
            raise StartError(msg)
        found[match[1]] = match[2]
    return found

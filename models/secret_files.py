"""Settings that are secrets, from files: `DICOM_NODE_DATABASE_URL_FILE` names the file of one.

Containers and service managers hand secrets over as files; an environment variable would show in
the inspection of a container and be inherited by every child.
"""

import os
from pathlib import Path
from typing import Any, Final

from pydantic.fields import FieldInfo
from pydantic_settings import PydanticBaseSettingsSource
from typing_extensions import override

# Addresses with a password in them. Other settings name files of their own (`headers_file`).
SECRETS: Final = ("database_url", "broker_url")
_PREFIX: Final = "DICOM_NODE_"


class SecretFilesSource(PydanticBaseSettingsSource):
    """The values of those `DICOM_NODE_…_FILE` that are set: the text of the file, trimmed.

    Raises ValueError that says what is wrong with one.
    """

    @override
    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        variable = f"{_PREFIX}{field_name.upper()}"
        name = os.environ.get(f"{variable}_FILE") if field_name in SECRETS else None
        if not name:
            return None, field_name, False
        if os.environ.get(variable):
            msg = f"{variable} and {variable}_FILE are both set: leave one out"
            raise ValueError(msg)
        return _read(Path(name), f"{variable}_FILE"), field_name, False

    @override
    def __call__(self) -> dict[str, Any]:
        found = {
            name: self.get_field_value(field, name)[0]
            for name, field in self.settings_cls.model_fields.items()
        }
        return {name: value for name, value in found.items() if value is not None}


def _read(path: Path, variable: str) -> str:
    try:
        text = path.read_text("utf-8").strip()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        msg = f"{variable}: {path} cannot be read: {why}"
        raise ValueError(msg) from error
    if not text or "\n" in text:
        msg = f"{variable}: {path} must have one line, the address"
        raise ValueError(msg)
    return text

"""JSON files of labels, read into models: what is not of the format is refused by name."""

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

Model = TypeVar("Model", bound=BaseModel)


def read_document(path: Path, model: type[Model]) -> Model:
    """Parse a JSON file; raises ValueError with one sentence that says where it is wrong."""
    try:
        return model.model_validate_json(path.read_bytes())
    except OSError as error:
        msg = f"it cannot be read ({error.strerror})"
        raise ValueError(msg) from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        msg = f"{place}: {first['msg']}" if place else first["msg"]
        raise ValueError(msg) from error

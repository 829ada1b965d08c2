"""The data set of a request, in the DICOM JSON Model (PS3.18 F)."""

import json
from typing import Final

from fastapi import Request
from pydicom.dataset import Dataset

from dicom_node.errors import AttributeValueError
from dicom_node.web.dicomweb.errors import MediaTypeError
from dicom_node.web.dicomweb.media_types import DICOM_JSON, JSON, MediaType

_MAX_BYTES: Final = 1 << 18  # as of a data set that comes by DIMSE


async def data_set(request: Request) -> Dataset:
    """Return what the body of a request holds; an empty body is an empty data set.

    One object, alone or in an array. Values behind an address are not fetched.
    Raises MediaTypeError, AttributeValueError.
    """
    raw = await request.body()
    if not raw.strip():
        return Dataset()
    kind = MediaType.parse(request.headers.get("content-type", "")).kind
    if kind not in {DICOM_JSON, JSON}:
        msg = f"the body must be {DICOM_JSON}"
        raise MediaTypeError(msg)
    if len(raw) > _MAX_BYTES:
        msg = f"the data set has more than {_MAX_BYTES} bytes"
        raise AttributeValueError(msg)
    return _parsed(raw)


def _parsed(raw: bytes) -> Dataset:
    try:
        model = json.loads(raw)
        if isinstance(model, list):
            (model,) = model
        ds = Dataset.from_json(model, lambda *_: None)
        for _ in ds.iterall():  # every value is read here, or none
            pass
    except Exception as error:
        msg = "the body is no data set in the DICOM JSON Model"
        raise AttributeValueError(msg) from error
    return ds

"""Whose an image is, as an operator corrected it, and what of a header makes other results."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from pydicom.dataset import Dataset

from worker.types import AnalysedImage

_ISSUER: Final = "IssuerOfPatientID"
# What may change with the encoding alone, and says nothing of patient, study or geometry.
_OF_THE_ENCODING: Final = (
    "ImageType",
    "LossyImageCompression",
    "LossyImageCompressionMethod",
    "LossyImageCompressionRatio",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
)


def corrected_header(header: Dataset, correction: Mapping[str, str] | None) -> Dataset:
    """Return a normalised header with an operator's correction put over it.

    The keys are keywords of the standard. An empty text empties the attribute; an empty Issuer of
    Patient ID is absent (PS3.3 C.7.1.1: type 3).
    """
    if not correction:
        return header
    out = Dataset()
    out.update(header)
    for keyword, text in correction.items():
        if keyword in out:
            delattr(out, keyword)  # setting it would change the element that both share
        if text or keyword != _ISSUER:
            setattr(out, keyword, text)
    return out


def corrected_image(
    result: AnalysedImage, correction: Mapping[str, str] | None, revision: int
) -> AnalysedImage:
    """Return the result under the corrected identity; `revision` 0 is the one of the file.

    The correction becomes part of the configuration hash: rows and UIDs derive from it, and an
    object of another patient is another object (PS3.3 C.12.1.1.1).
    """
    if not revision:
        return result
    decisive = json.dumps([result.configuration_hash, revision, correction], sort_keys=True)
    return replace(
        result,
        image=replace(result.image, header=corrected_header(result.image.header, correction)),
        configuration_hash=hashlib.sha256(decisive.encode()).hexdigest(),
    )


def header_sha256(header: Dataset) -> str:
    """Return a digest of what results carry or derive from a normalised header.

    Two files with the same pixels and the same digest give the same results.
    """
    model = Dataset()
    model.update(header)
    for keyword in _OF_THE_ENCODING:
        if keyword in model:
            delattr(model, keyword)
    return hashlib.sha256(json.dumps(model.to_json_dict(), sort_keys=True).encode()).hexdigest()

"""Why something was not analysed, failed, or was set aside: stable codes, one table.

A code is part of the public contract: it stands in the database, in `--json` output and in metrics.
Codes are added, never renamed.
"""

from enum import StrEnum
from typing import Final


class Reason(StrEnum):
    """One reason per member; the sentence for people is in `SENTENCES`."""

    # the file
    NOT_DICOM = "not_dicom"
    UNREADABLE = "unreadable"
    OWN_RESULT = "own_result"
    SOP_CLASS = "sop_class"
    MODALITY = "modality"
    NO_PIXEL_DATA = "no_pixel_data"
    MULTI_FRAME = "multi_frame"
    NOT_GRAYSCALE = "not_grayscale"
    TOO_SMALL = "too_small"
    TOO_LARGE = "too_large"
    # what the header says was imaged
    LATERAL_VIEW = "lateral_view"
    NOT_FRONTAL = "not_frontal"
    BODY_PART = "body_part"
    NOT_HUMAN = "not_human"
    PAEDIATRIC = "paediatric"
    FOR_PROCESSING_SIBLING = "for_processing_sibling"
    # decoding
    NO_DECODER = "no_decoder"
    CORRUPT_PIXELS = "corrupt_pixels"
    DECODER_CRASH = "decoder_crash"
    DECODE_TIMEOUT = "decode_timeout"
    DECODE_MEMORY = "decode_memory"
    FLAT_IMAGE = "flat_image"
    # what the picture shows
    SATURATED = "saturated"
    ROTATED = "rotated"
    INVERTED = "inverted"
    NOT_CHEST = "not_chest"
    NO_LUNGS = "no_lungs"
    # quarantine
    NO_PATIENT_ID = "no_patient_id"
    PATIENT_MISMATCH = "patient_mismatch"
    UID_CONFLICT = "uid_conflict"
    REJECTED_BY_OPERATOR = "rejected_by_operator"
    # what took its place
    UPDATED = "updated"
    SAME_IMAGE = "same_image"
    # a rejection note of the sender
    REJECTED_QUALITY = "rejected_quality"
    REJECTED_SAFETY = "rejected_safety"
    REJECTED_WORKLIST = "rejected_worklist"
    REJECTED_RETENTION = "rejected_retention"
    # retention
    PURGED = "purged"
    # the node itself
    MODEL_UNAVAILABLE = "model_unavailable"
    WORKER_LOST = "worker_lost"
    TIME_LIMIT = "time_limit"
    INTERNAL_ERROR = "internal_error"


SENTENCES: Final[dict[Reason, str]] = {
    Reason.NOT_DICOM: "The file is not DICOM.",
    Reason.UNREADABLE: "The data set cannot be read to its end.",
    Reason.OWN_RESULT: "The object was made by this node and is never analysed again.",
    Reason.SOP_CLASS: "The SOP Class is not CR Image Storage or Digital X-Ray Image Storage.",
    Reason.MODALITY: "Modality is neither CR nor DX.",
    Reason.NO_PIXEL_DATA: "The object has no pixel data.",
    Reason.MULTI_FRAME: "The image has more than one frame.",
    Reason.NOT_GRAYSCALE: "The image is not MONOCHROME1 or MONOCHROME2.",
    Reason.TOO_SMALL: "The image has too few rows or columns to be a chest radiograph.",
    Reason.TOO_LARGE: "The declared image size is above the configured limit.",
    Reason.LATERAL_VIEW: "The image is a lateral view.",
    Reason.NOT_FRONTAL: "The view is neither PA nor AP.",
    Reason.BODY_PART: "The body part is not the chest.",
    Reason.NOT_HUMAN: "The patient is an animal.",
    Reason.PAEDIATRIC: "The patient is younger than the configured age; no child was trained on.",
    Reason.FOR_PROCESSING_SIBLING: "A For Presentation image of the same study is used instead.",
    Reason.NO_DECODER: "No decoder is installed for this transfer syntax.",
    Reason.CORRUPT_PIXELS: "The pixel data cannot be decoded.",
    Reason.DECODER_CRASH: "The decoder crashed on this file.",
    Reason.DECODE_TIMEOUT: "Decoding took longer than the configured limit.",
    Reason.DECODE_MEMORY: "Decoding needed more memory than the configured limit.",
    Reason.FLAT_IMAGE: "The decoded image has no contrast.",
    Reason.SATURATED: "Most of the picture is pure white or pure black.",
    Reason.ROTATED: "The picture is rotated or upside down.",
    Reason.INVERTED: "The grey scale is inverted.",
    Reason.NOT_CHEST: "The picture does not look like a frontal chest radiograph.",
    Reason.NO_LUNGS: "No plausible lung fields were found.",
    Reason.NO_PATIENT_ID: "PatientID is missing or empty.",
    Reason.PATIENT_MISMATCH: "Another patient already has this Study Instance UID.",
    Reason.UID_CONFLICT: "Another object already has this SOP Instance UID.",
    Reason.REJECTED_BY_OPERATOR: "An operator decided that this object is not to be analysed.",
    Reason.UPDATED: "The same image was sent again under a corrected header, which counts now.",
    Reason.SAME_IMAGE: "The image is here already; only its encoding or unused attributes differ.",
    Reason.REJECTED_QUALITY: "The image was rejected for quality reasons.",
    Reason.REJECTED_SAFETY: "The image was rejected for patient safety reasons.",
    Reason.REJECTED_WORKLIST: "The image was rejected: it was taken under a wrong worklist entry.",
    Reason.REJECTED_RETENTION: "The image was deleted at its source before it could be analysed.",
    Reason.PURGED: "The image was purged by retention: have it sent again by its source.",
    Reason.MODEL_UNAVAILABLE: "The model is not installed on the worker, or cannot be loaded.",
    Reason.WORKER_LOST: "The worker died on this job in every attempt.",
    Reason.TIME_LIMIT: "The job ran longer than the configured limit.",
    Reason.INTERNAL_ERROR: "The software failed; the log has the traceback.",
}

# IHE RAD TF-3 4.66: the document titles (CID 7010, scheme DCM) that make a Key Object Selection
# Document a rejection note.
REJECTION_TITLES: Final[dict[str, Reason]] = {
    "113001": Reason.REJECTED_QUALITY,
    "113037": Reason.REJECTED_SAFETY,
    "113038": Reason.REJECTED_WORKLIST,
    "113039": Reason.REJECTED_RETENTION,
}

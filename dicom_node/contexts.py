"""SOP Classes and transfer syntaxes that the listener accepts: one table.

Every transfer syntax that a worker can decode is accepted, and also those that can only be stored:
refusing bytes loses them, storing them loses nothing and is reported (`no_decoder`).
"""

from typing import Final

from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    ComputedRadiographyImageStorage,
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    EncapsulatedPDFStorage,
    EnhancedSRStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    GrayscaleSoftcopyPresentationStateStorage,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    KeyObjectSelectionDocumentStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made at import

# What workers analyse.
IMAGE_CLASSES: Final = (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
)

CAPTURES: Final = (SecondaryCaptureImageStorage,)  # analysed where a setting says so

KEY_OBJECTS: Final = (KeyObjectSelectionDocumentStorage,)  # read: one may be a rejection note

# What a PACS sends along when it routes whole studies, our own results among it.
COMPANION_CLASSES: Final = (
    *CAPTURES,
    SegmentationStorage,
    EnhancedSRStorage,
    ComprehensiveSRStorage,
    Comprehensive3DSRStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    EncapsulatedPDFStorage,
    *KEY_OBJECTS,
)

STORAGE_CLASSES: Final = IMAGE_CLASSES + COMPANION_CLASSES

NATIVE: Final = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
)

COMPRESSED: Final = (
    JPEGLosslessSV1,
    JPEGLossless,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000,
    JPEGLSNearLossless,
    HTJ2K,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
)

# Stored, not decoded: no maintained decoder exists, or it is no still image.
STORE_ONLY: Final = (
    UID("1.2.840.10008.1.2.4.52"),  # JPEG Extended (Processes 3 & 5), retired
    UID("1.2.840.10008.1.2.4.53"),  # JPEG Spectral Selection, Non-Hierarchical (6 & 8), retired
    UID("1.2.840.10008.1.2.4.55"),  # JPEG Full Progression, Non-Hierarchical (10 & 12), retired
    UID("1.2.840.10008.1.2.4.92"),  # JPEG 2000 Part 2 Multi-component, lossless only
    UID("1.2.840.10008.1.2.4.93"),  # JPEG 2000 Part 2 Multi-component
    UID("1.2.840.10008.1.2.4.110"),  # JPEG XL Lossless
    UID("1.2.840.10008.1.2.4.111"),  # JPEG XL JPEG Recompression
    UID("1.2.840.10008.1.2.4.112"),  # JPEG XL
    UID("1.2.840.10008.1.2.8.1"),  # Deflated Image Frame Compression
)

STORAGE_SYNTAXES: Final = NATIVE + COMPRESSED + STORE_ONLY

# Study Root Query/Retrieve Information Model: FIND, MOVE, GET (PS3.4 C.6.2)
STUDY_ROOT_FIND: Final = UID("1.2.840.10008.5.1.4.1.2.2.1")
STUDY_ROOT_MOVE: Final = UID("1.2.840.10008.5.1.4.1.2.2.2")
STUDY_ROOT_GET: Final = UID("1.2.840.10008.5.1.4.1.2.2.3")

# Accepted only where `query_retrieve.enabled` is on.
QUERY_RETRIEVE: Final[dict[UID, tuple[UID, ...]]] = dict.fromkeys(
    (STUDY_ROOT_FIND, STUDY_ROOT_MOVE, STUDY_ROOT_GET),
    (ExplicitVRLittleEndian, ImplicitVRLittleEndian),
)

ACCEPTED: Final[dict[UID, tuple[UID, ...]]] = {
    Verification: (ExplicitVRLittleEndian, ImplicitVRLittleEndian),
    **dict.fromkeys(STORAGE_CLASSES, STORAGE_SYNTAXES),
}

"""Secondary Capture of one image: the overlay as an object of its own (PS3.3 A.8).

For receivers that cannot show a SEG. It holds no measurement that SEG and SR do not hold.
"""

import warnings
from typing import Final

import highdicom as hd
from PIL import Image
from pydicom.dataset import Dataset

from worker import codes
from worker.capture import statement_pixels
from worker.equipment import ObjectContext, content_arguments, finish, object_arguments
from worker.segmentation import key_of
from worker.types import AnalysedImage

# The picture is turned upright: rows run to the patient's left, columns to the feet (C.7.6.1.1.1).
_UPRIGHT: Final = ("L", "F")
_LOSSY: Final = (
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
)


def build_secondary_capture(
    analysed: AnalysedImage, context: ObjectContext, picture: Image.Image | None = None
) -> hd.sc.SCImage:
    """Return the picture of one analysed image; the same input gives the same bytes.

    `picture` is what `capture.overlay` made of the image, where that is at hand.

    Modality OT, so that no viewer or algorithm takes it for the radiograph, and no pixel spacing,
    so that nobody measures in it.
    """
    header = analysed.image.header
    context = context.beside(header)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # illegal UIDs of the source are referenced as they are
        capture = hd.sc.SCImage.from_ref_dataset(
            ref_dataset=header,
            pixel_array=statement_pixels(analysed, picture),
            photometric_interpretation=hd.PhotometricInterpretationValues.RGB,
            bits_allocated=8,
            coordinate_system=hd.CoordinateSystemNames.PATIENT,
            patient_orientation=_UPRIGHT,
            series_instance_uid=context.uid("sc-series", *key_of(analysed)),
            sop_instance_uid=context.uid("sc", *key_of(analysed)),
            series_number=context.objects.sc_series_number,
            instance_number=1,
            series_description=context.objects.sc_series_description,
            **object_arguments([analysed.model], context),
            **content_arguments(context),
        )
        capture.copy_patient_and_study_information(header)
        _amend(capture, analysed, context)
    return capture


def _amend(capture: Dataset, analysed: AnalysedImage, context: ObjectContext) -> None:
    """Say what highdicom says otherwise or not at all (General Image, C.7.6.1; SC Image, C.8.6)."""
    header = analysed.image.header
    capture.ConversionType = "WSD"  # made by a workstation, not from film or paper
    capture.DateOfSecondaryCapture = f"{context.created:%Y%m%d}"
    capture.TimeOfSecondaryCapture = f"{context.created:%H%M%S}"
    capture.ImageType = ["DERIVED", "SECONDARY"]
    if analysed.image.orientation.assumed:
        capture.PatientOrientation = None  # type 2C
    capture.BodyPartExamined = "CHEST"  # the gate let nothing else pass
    # It is about text that identifies the patient (C.7.6.1). Ours does not; the radiograph's own
    # pixels may, unless their maker says that they do not.
    capture.BurnedInAnnotation = "NO" if header.get("BurnedInAnnotation") == "NO" else "YES"
    capture.DerivationDescription = (
        "Radiograph turned upright and resampled to 8 bits, with AI lung outlines, AI lung opacity "
        "and figures drawn into the pixels. Research use only, not for diagnosis."
    )
    capture.SourceImageSequence = [_source(header)]
    capture.LossyImageCompression = "00"
    for keyword in _LOSSY:  # what was lost once is lost in everything derived (C.7.6.1.1.5)
        if header.get(keyword):
            capture[keyword] = header[keyword]
    finish(capture, header, context)


def _source(header: Dataset) -> Dataset:
    """Return the reference to the radiograph, with its purpose (C.12.4, CID 7202)."""
    item = Dataset()
    item.ReferencedSOPClassUID = header.SOPClassUID
    item.ReferencedSOPInstanceUID = header.SOPInstanceUID
    item.PurposeOfReferenceCodeSequence = [hd.sr.CodedConcept.from_code(codes.SOURCE_IMAGE)]
    return item

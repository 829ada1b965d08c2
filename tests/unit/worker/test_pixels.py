"""worker.pixels: stored values to bright = dense, 0..65535, and the geometry."""

from typing import Any

import imagecodecs
import numpy as np
import pytest
from builders import DX, DX_FOR_PROCESSING, chest_dataset, chest_pixels
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    JPEG2000Lossless,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from models.reasons import Reason
from worker import pixels
from worker.codestream import check_stream
from worker.errors import NotAnalysable
from worker.types import ChestImage, SpacingBasis

CHEST = chest_pixels()


def _image(**overrides: Any) -> ChestImage:
    ds = chest_dataset(**overrides)
    return pixels.chest_image(ds, pixels.decode_pixels(ds))


def _correlation(one: NDArray[Any], other: NDArray[Any]) -> float:
    return float(np.corrcoef(one.ravel().astype(float), other.ravel().astype(float))[0, 1])


def _lut(first: int, data: NDArray[np.uint16], bits: int) -> Sequence:
    item = Dataset()
    item.LUTDescriptor = [data.size, first, bits]
    item["LUTDescriptor"].VR = "US"
    item.LUTData = data.tolist()
    item["LUTData"].VR = "US"
    item.ModalityLUTType = "US"
    return Sequence([item])


RAMP = np.arange(4096, dtype=np.uint16)


@pytest.mark.parametrize(
    ("stored", "attributes"),
    [
        (CHEST, {}),
        (4095 - CHEST, {"PhotometricInterpretation": "MONOCHROME1"}),
        (
            4095 - CHEST,
            {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"},
        ),
        (4095 - CHEST, {"PresentationLUTShape": "INVERSE"}),
        (CHEST, {"PresentationLUTShape": "IDENTITY"}),
        (CHEST, {"RescaleSlope": 2, "RescaleIntercept": -100}),
        (4095 - CHEST, {"RescaleSlope": -1, "RescaleIntercept": 4095}),
        (CHEST.astype(np.int16) - 2048, {"bits": 12}),
        (CHEST, {"WindowCenter": 2048, "WindowWidth": 4096}),
        (CHEST, {"WindowCenter": [2048, 9], "WindowWidth": [4096, 1]}),
        (CHEST, {"WindowCenter": 2048, "WindowWidth": 4096, "VOILUTFunction": "LINEAR_EXACT"}),
        (CHEST, {"WindowCenter": 2048, "WindowWidth": 2500, "VOILUTFunction": "SIGMOID"}),
        (CHEST, {"VOILUTSequence": _lut(0, RAMP, 12)}),
        (4095 - CHEST, {"ModalityLUTSequence": _lut(0, RAMP[::-1].copy(), 12)}),
        (CHEST, {"WindowCenter": -600, "WindowWidth": 1600}),
        (CHEST, {"WindowCenter": 2048, "WindowWidth": 0}),
        (CHEST, {"VOILUTSequence": _lut(0, np.zeros(4096, np.uint16), 12)}),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_dense_is_bright_whatever_the_encoding(
    stored: NDArray[Any], attributes: dict[str, Any]
) -> None:
    image = _image(pixels=stored, **attributes)
    assert image.pixels.dtype == np.uint16
    assert _correlation(image.pixels, CHEST) > 0.98
    assert np.ptp(image.pixels) > 45000


def test_the_linear_window_follows_the_standard() -> None:
    ds = chest_dataset(WindowCenter=2048, WindowWidth=1024)
    image, _ = pixels.display_scale(ds, CHEST)
    exact = np.clip((CHEST - (2048 - 0.5)) / 1023 + 0.5, 0, 1)  # PS3.3 C.11.2.1.2.1
    np.testing.assert_allclose(image, exact * 65535, atol=1)


@pytest.mark.parametrize(
    "attributes",
    [
        {"WindowCenter": -600, "WindowWidth": 1600},
        {"WindowCenter": 60000, "WindowWidth": 100},
        {},
    ],
)
def test_a_window_that_shows_nothing_is_replaced_and_noted(attributes: dict[str, Any]) -> None:
    assert pixels.NOTE_PERCENTILES in _image(**attributes).notes


@pytest.mark.parametrize(
    "attributes",
    [
        {"ModalityLUTSequence": _lut(0, np.zeros(4096, np.uint16), 12)},
        {"RescaleSlope": 0, "RescaleIntercept": 5},
    ],
)
def test_an_unusable_modality_lut_is_noted(attributes: dict[str, Any]) -> None:
    image = _image(**attributes)
    assert pixels.NOTE_MODALITY in image.notes
    assert _correlation(image.pixels, CHEST) > 0.98


@pytest.mark.parametrize("bits", [8, 16])
def test_lut_data_may_be_words_of_bytes(bits: int) -> None:
    sequence = _lut(0, RAMP, bits)
    ramp = RAMP // 16 if bits == 8 else RAMP
    del sequence[0].LUTData
    sequence[0].add_new("LUTData", "OW", ramp.astype(f"<u{bits // 8}").tobytes())
    image = _image(VOILUTSequence=sequence)
    assert image.notes == ()
    assert _correlation(image.pixels, CHEST) > 0.98


@pytest.mark.filterwarnings("ignore:Invalid value")  # pydicom's, of 3000000 entries
@pytest.mark.parametrize("keyword", ["ModalityLUTSequence", "VOILUTSequence"])
@pytest.mark.parametrize(
    ("vr", "descriptor"),
    [("UL", [3_000_000, 0, 16]), ("UL", [4096, 70000, 12]), ("SL", [4096, -40000, 16])],
)
def test_a_lut_that_no_descriptor_can_state_is_unusable(
    keyword: str, vr: str, descriptor: list[int]
) -> None:
    """PS3.3 C.11.1.1: 65536 entries at most, the first value US or SS."""
    item = Dataset()
    item.add_new("LUTDescriptor", vr, descriptor)
    ramp = np.arange(descriptor[0]) % 65536
    item.add_new("LUTData", "OW", ramp.astype("<u2").tobytes())
    image = _image(**{keyword: Sequence([item])})
    note = pixels.NOTE_MODALITY if keyword == "ModalityLUTSequence" else pixels.NOTE_PERCENTILES
    assert note in image.notes
    assert image.grey_scale.modality is None
    assert np.array_equal(image.pixels, _image().pixels)


@pytest.mark.parametrize("keyword", ["Rows", "Columns"])
@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEGExtended12Bit, JPEGLosslessSV1])
def test_a_stream_of_another_size_than_declared_reaches_no_codec(keyword: str, syntax: str) -> None:
    """Over some of them gdcm ends the whole process."""
    ds = _compressed(syntax)
    setattr(ds, keyword, 32767)
    with pytest.raises(NotAnalysable) as raised:
        check_stream(ds)
    assert raised.value.reason is Reason.CORRUPT_PIXELS


def test_a_good_window_needs_no_note() -> None:
    assert _image(WindowCenter=2048, WindowWidth=4096).notes == ()


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_does_not_set_the_scale(photometric: str) -> None:
    stored = CHEST // 2
    stored[:40] = 4095
    image = _image(pixels=stored, PhotometricInterpretation=photometric, PixelPaddingValue=4095)
    assert image.pixels[:40].max() == 0
    assert np.ptp(image.pixels[40:]) > 60000


def test_a_padding_value_that_covers_everything_is_ignored() -> None:
    image = _image(PixelPaddingValue=0, PixelPaddingRangeLimit=4095)
    assert pixels.NOTE_PADDING in image.notes
    assert _correlation(image.pixels, CHEST) > 0.98


def test_bits_outside_bits_stored_are_removed() -> None:
    overlay = CHEST | np.uint16(0xA000)
    assert np.array_equal(pixels.decode_pixels(chest_dataset(pixels=overlay)), CHEST)


def _jpeg_extended(ds: FileDataset) -> FileDataset:
    frame = imagecodecs.jpeg8_encode(CHEST, level=98, bitspersample=12)
    return _encapsulated(ds, frame, JPEGExtended12Bit)


def _encapsulated(ds: FileDataset, frame: bytes, syntax: str) -> FileDataset:
    ds.PixelData = encapsulate([frame])
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    ds.file_meta.TransferSyntaxUID = syntax
    return ds


def _compressed(syntax: str) -> FileDataset:
    ds = chest_dataset()
    if syntax == JPEGExtended12Bit:
        return _jpeg_extended(ds)
    if syntax == JPEGLosslessSV1:
        return _encapsulated(ds, imagecodecs.ljpeg_encode(CHEST, bitspersample=12), syntax)
    ds.compress(syntax, generate_instance_uid=False)
    return ds


SYNTAXES = [JPEG2000Lossless, JPEGLSLossless, RLELossless, JPEGExtended12Bit, JPEGLosslessSV1]


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda uid: uid.name)
def test_compressed_images_decode(syntax: str) -> None:
    decoded = pixels.decode_pixels(_compressed(syntax))
    tolerance = 40 if syntax == JPEGExtended12Bit else 0
    assert np.abs(decoded.astype(int) - CHEST).max() <= tolerance


@pytest.mark.parametrize("kept", [0.2, 0.6, 0.95])
@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda uid: uid.name)
def test_a_cut_stream_gets_no_number(syntax: str, kept: float) -> None:
    ds = _compressed(syntax)
    frame = ds.PixelData[: int(len(ds.PixelData) * kept) // 2 * 2]
    ds.PixelData = frame
    with pytest.raises(NotAnalysable) as caught:
        pixels.decode_pixels(ds)
    assert caught.value.reason is Reason.CORRUPT_PIXELS


def test_native_pixels_that_are_too_few_are_corrupt() -> None:
    ds = chest_dataset()
    ds.PixelData = ds.PixelData[: len(ds.PixelData) // 2]
    with pytest.raises(NotAnalysable) as caught:
        pixels.decode_pixels(ds)
    assert caught.value.reason is Reason.CORRUPT_PIXELS


def test_an_unknown_transfer_syntax_has_no_decoder() -> None:
    ds = _compressed(RLELossless)
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.100"  # MPEG2
    with pytest.raises(NotAnalysable) as caught:
        pixels.decode_pixels(ds)
    assert caught.value.reason is Reason.NO_DECODER


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"ImagerPixelSpacing": [0.2, 0.1]}, (0.2, 0.1, SpacingBasis.DETECTOR_PLANE)),
        (
            {"ImagerPixelSpacing": [0.2, 0.2], "PixelSpacing": [0.2, 0.2]},
            (0.2, 0.2, SpacingBasis.DETECTOR_PLANE),
        ),
        ({"ImagerPixelSpacing": None, "PixelSpacing": [0.2, 0.2]}, (0.2, 0.2, "detector_plane")),
        (
            {"ImagerPixelSpacing": [0.2, 0.2], "PixelSpacing": [0.18, 0.18]},
            (0.18, 0.18, SpacingBasis.CALIBRATED),
        ),
        (
            {"PixelSpacing": [0.2, 0.2], "PixelSpacingCalibrationType": "FIDUCIAL"},
            (0.2, 0.2, SpacingBasis.CALIBRATED),
        ),
        (
            {"ImagerPixelSpacing": [0.22, 0.22], "EstimatedRadiographicMagnificationFactor": 1.1},
            (0.2, 0.2, SpacingBasis.MAGNIFICATION_CORRECTED),
        ),
        (
            {"ImagerPixelSpacing": None, "NominalScannedPixelSpacing": [0.2, 0.2]},
            (0.2, 0.2, SpacingBasis.FILM_SCAN),
        ),
        ({"ImagerPixelSpacing": None}, None),
        ({"ImagerPixelSpacing": [0, 0]}, None),
    ],
)
def test_spacing_says_what_it_means(
    attributes: dict[str, Any], expected: tuple[float, float, str] | None
) -> None:
    spacing = pixels.spacing_of(chest_dataset(**attributes))
    if expected is None:
        assert spacing is None
    else:
        assert spacing is not None
        assert (spacing.row_mm, spacing.column_mm) == pytest.approx(expected[:2])
        assert spacing.basis == expected[2]


@pytest.mark.parametrize("value", [["L", "F"], ["R", "F"], ["L", "H"], ["F", "R"], ["H", "L"]])
def test_orientation_turns_the_patient_upright(value: list[str]) -> None:
    # Letter each pixel by its patient directions, then read them back after turning.
    along_row, along_column = value
    grid = np.array([["", ""], ["", ""]], dtype="<U2")
    opposite = {"L": "R", "R": "L", "H": "F", "F": "H"}
    for row, column in np.ndindex(2, 2):
        end_of_row = along_row if column else opposite[along_row]
        end_of_column = along_column if row else opposite[along_column]
        grid[row, column] = "".join(sorted(end_of_row + end_of_column, key="HFRL".index))
    orientation = pixels.orientation_of(chest_dataset(PatientOrientation=value))
    upright = orientation.to_upright(grid)
    assert upright.tolist() == [["HR", "HL"], ["FR", "FL"]]
    assert np.array_equal(orientation.to_source(upright), grid)
    assert not orientation.assumed


@pytest.mark.parametrize("value", [None, ["L"], ["X", "Y"], ["L", "R"]])
def test_an_absent_orientation_is_assumed(value: list[str] | None) -> None:
    orientation = pixels.orientation_of(chest_dataset(PatientOrientation=value))
    assert orientation == pixels.Orientation(assumed=True)


@pytest.mark.parametrize(
    ("attributes", "ratio", "noted"),
    [
        ({"ImagerPixelSpacing": [0.2, 0.1]}, 2.0, False),
        ({"ImagerPixelSpacing": None, "PixelAspectRatio": [3, 2]}, 1.5, False),
        ({"ImagerPixelSpacing": None, "PixelAspectRatio": "01"}, 1.0, True),
        ({"ImagerPixelSpacing": None, "PixelAspectRatio": [1, 100]}, 1.0, True),
        ({"ImagerPixelSpacing": None}, 1.0, False),
    ],
)
def test_aspect_ratio(attributes: dict[str, Any], ratio: float, noted: bool) -> None:  # noqa: FBT001  a table
    image = _image(**attributes)
    assert image.row_height_over_width == pytest.approx(ratio)
    assert (pixels.NOTE_ASPECT in image.notes) is noted


def test_an_implausible_spacing_is_noted_and_kept() -> None:
    image = _image(ImagerPixelSpacing=[0.01, 0.01])
    assert pixels.NOTE_SPACING in image.notes
    assert image.spacing is not None


def test_a_for_processing_image_is_noted() -> None:
    assert pixels.NOTE_FOR_PROCESSING in _image(SOPClassUID=DX_FOR_PROCESSING, Modality="DX").notes
    assert pixels.NOTE_FOR_PROCESSING not in _image(SOPClassUID=DX, Modality="DX").notes

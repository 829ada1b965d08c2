"""JPEG Lossless, first-order prediction (1.2.840.10008.1.2.4.70): pydicom decodes it only."""

import tempfile
from pathlib import Path

import gdcm
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filewriter import dcmwrite
from pydicom.uid import ExplicitVRLittleEndian


def encode_sv1(ds: Dataset, stored: NDArray[np.uint16]) -> None:
    """Set the pixel data of `ds`, whose pixel attributes are set, to `stored` in one fragment.

    Raises ValueError when the encoder refuses the image.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plain.dcm"
        _write_plain(path, ds, stored)
        stream = _encode(path)
    ds.PixelData = encapsulate([stream])
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True


def _write_plain(path: Path, ds: Dataset, stored: NDArray[np.uint16]) -> None:
    plain = Dataset()
    plain.update(ds)
    plain.PixelData = stored.tobytes()
    plain["PixelData"].VR = "OW"
    plain.file_meta = FileMetaDataset()
    plain.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dcmwrite(path, plain, enforce_file_format=True)


def _encode(path: Path) -> bytes:
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    if not reader.Read():
        msg = "the image to encode cannot be read back"
        raise ValueError(msg)
    change.SetInput(reader.GetImage())
    if not change.Change():
        msg = "the image cannot be encoded as JPEG Lossless"
        raise ValueError(msg)
    fragments = change.GetOutput().GetDataElement().GetSequenceOfFragments()
    buffer: str = fragments.GetFragment(0).GetByteValue().GetBuffer()
    return buffer.encode("utf-8", errors="surrogateescape")

"""Attributes of stored files: the elements in front of the pixels, as text."""

from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pynetdicom.dsutils import split_dataset

from dicom_node.header import read_head


def read_stored(path: Path, last_tag: int) -> Dataset:
    """Return the elements up to `last_tag`; none when the file is gone or damaged."""
    try:
        meta, offset = split_dataset(path)
        return read_head(path, offset, str(meta.TransferSyntaxUID), last_tag)
    except Exception:  # noqa: BLE001  no file, or none of ours: its rows still say something
        return Dataset()


def texts_of(head: Dataset, keyword: str) -> tuple[str, ...]:
    """Return the values of an element, stripped; none when it is absent, empty or broken."""
    try:
        value = head.get(keyword)
    except Exception:  # noqa: BLE001  a broken element says as little as a missing one
        return ()
    values = value if isinstance(value, MultiValue) else [value]
    texts = (str(each).replace("\0", "").strip() for each in values if each is not None)
    return tuple(text for text in texts if text)

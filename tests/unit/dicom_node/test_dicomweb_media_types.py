"""Which form of an object is sent, by what a client accepts."""

import pytest
from pydicom.uid import JPEGLSLossless

from dicom_node.web.dicomweb.errors import NotAcceptableError
from dicom_node.web.dicomweb.media_types import (
    DICOM,
    OCTETS,
    MediaType,
    Representation,
    accepted,
    choose,
    json_form,
)

NATIVE = "1.2.840.10008.1.2.1"
JLS = str(JPEGLSLossless)
OBJECT = [Representation(DICOM, JLS, is_multipart=True), Representation(DICOM, JLS)]
PLAIN = [Representation(OCTETS, NATIVE, NATIVE, True), Representation(OCTETS, NATIVE, NATIVE)]
FRAME = [
    Representation("image/jls", JLS, None, True),
    Representation("image/jls", JLS),
    Representation(OCTETS, JLS, NATIVE, True),
    Representation(OCTETS, JLS, NATIVE),
]
MULTIPART = "multipart/related; type="


@pytest.mark.parametrize(
    ("accept", "offers", "wanted"),
    [
        ("", OBJECT, (DICOM, True)),
        ("*/*", OBJECT, (DICOM, True)),
        ("application/dicom", OBJECT, (DICOM, False)),
        (f'{MULTIPART}"application/dicom"', OBJECT, (DICOM, True)),
        (f"{MULTIPART}application/dicom; transfer-syntax=*", OBJECT, (DICOM, True)),
        (f'{MULTIPART}"application/dicom"; transfer-syntax={JLS}', OBJECT, (DICOM, True)),
        (f'{MULTIPART}"application/dicom"; transfer-syntax={NATIVE}', OBJECT, None),
        (f"application/dicom;transfer-syntax={NATIVE}, application/dicom", OBJECT, (DICOM, False)),
        ("MULTIPART/Related", OBJECT, (DICOM, True)),
        (f'{MULTIPART}"application/octet-stream"', OBJECT, None),
        ("text/html, application/dicom;q=0", OBJECT, None),
        ("application/dicom;q=0.3, multipart/*;q=0.4", OBJECT, (DICOM, True)),
        ("application/dicom;q=nonsense", OBJECT, None),
        (f"{MULTIPART}application/octet-stream", PLAIN, (OCTETS, True)),
        (f"{MULTIPART}application/octet-stream; transfer-syntax=*", PLAIN, (OCTETS, True)),
        ("application/octet-stream", PLAIN, (OCTETS, False)),
        (f"{MULTIPART}image/jls", PLAIN, None),
        ("*/*", FRAME, ("image/jls", True)),
        (f"{MULTIPART}image/jls", FRAME, ("image/jls", True)),
        ("image/*", FRAME, ("image/jls", False)),
        (f"{MULTIPART}application/octet-stream; transfer-syntax=*", FRAME, (OCTETS, True)),
        (f"{MULTIPART}application/octet-stream", FRAME, None),
        (f"{MULTIPART}application/octet-stream; transfer-syntax={NATIVE}", FRAME, None),
        (f"{MULTIPART}image/jpeg, */*;q=0.1", FRAME, ("image/jls", True)),
    ],
)
def test_form(accept: str, offers: list[Representation], wanted: tuple[str, bool] | None) -> None:
    found = choose(accepted([accept] if accept else []), offers)
    assert (None if found is None else (found.kind, found.is_multipart)) == wanted


def test_the_parameter_stands_in_for_the_header() -> None:
    found = choose(accepted(["text/html"], "application/dicom"), OBJECT)
    assert found is not None
    assert found.content_type == f"application/dicom; transfer-syntax={JLS}"


def test_what_stands_in_quotes_is_not_split() -> None:
    found = MediaType.parse('multipart/related; boundary="a;b,c"; type="application/dicom"')
    assert found.parameters == {"boundary": "a;b,c", "type": "application/dicom"}
    assert len(accepted(['a/b; x="1,2", c/d'])) == 2


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("", "application/dicom+json"),
        ("application/json", "application/json"),
        ("application/json, application/dicom+json", "application/json"),
        ("application/*", "application/dicom+json"),
    ],
)
def test_json(accept: str, wanted: str) -> None:
    assert json_form(accepted([accept] if accept else [])) == wanted


def test_xml_is_not_offered() -> None:
    with pytest.raises(NotAcceptableError):
        json_form(accepted(['multipart/related; type="application/dicom+xml"']))

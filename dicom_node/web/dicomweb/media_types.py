"""What a client accepts (PS3.18 8.7, RFC 9110 12.5.1), and what we have in it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
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
    RLELossless,
)

from dicom_node.web.dicomweb.errors import NotAcceptableError

DICOM: Final = "application/dicom"
DICOM_JSON: Final = "application/dicom+json"
JSON: Final = "application/json"
OCTETS: Final = "application/octet-stream"
MULTIPART: Final = "multipart/related"
PNG: Final = "image/png"
TRANSFER_SYNTAX: Final = "transfer-syntax"
_ANY: Final = "*"

# What pixels are in these goes out as plain little-endian bytes.
NATIVE: Final = frozenset(
    {
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        DeflatedExplicitVRLittleEndian,
        ExplicitVRBigEndian,
    }
)

# PS3.18 Table 8.7.3-5: the media type of one frame by the transfer syntax that it is stored in.
FRAME_TYPES: Final[Mapping[str, str]] = {
    **dict.fromkeys(NATIVE, OCTETS),
    **dict.fromkeys((JPEGBaseline8Bit, JPEGExtended12Bit), "image/jpeg"),
    **dict.fromkeys((JPEGLossless, JPEGLosslessSV1), "image/jpeg"),
    **dict.fromkeys((JPEGLSLossless, JPEGLSNearLossless), "image/jls"),
    **dict.fromkeys((JPEG2000Lossless, JPEG2000), "image/jp2"),
    **dict.fromkeys((HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K), "image/jphc"),
    RLELossless: "image/dicom-rle",
    UID("1.2.840.10008.1.2.4.52"): "image/jpeg",
    UID("1.2.840.10008.1.2.4.53"): "image/jpeg",
    UID("1.2.840.10008.1.2.4.55"): "image/jpeg",
    UID("1.2.840.10008.1.2.4.92"): "image/jpx",
    UID("1.2.840.10008.1.2.4.93"): "image/jpx",
    UID("1.2.840.10008.1.2.4.110"): "image/jxl",
    UID("1.2.840.10008.1.2.4.111"): "image/jxl",
    UID("1.2.840.10008.1.2.4.112"): "image/jxl",
    UID("1.2.840.10008.1.2.8.1"): OCTETS,
}


@dataclass(frozen=True)
class MediaType:
    """One media type or range, with its parameters; names in lower case."""

    kind: str
    parameters: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> "MediaType":
        """Read it; what cannot be read is left out."""
        kind, *rest = _split(text, ";")
        parameters = {}
        for each in rest:
            name, is_given, value = each.partition("=")
            if is_given:
                parameters[name.strip().lower()] = value.strip().strip('"')
        return cls(kind.strip().lower(), parameters)

    @property
    def quality(self) -> float:
        """How much a range is wanted; 0: not at all."""
        try:
            return min(1.0, max(0.0, float(self.parameters.get("q", "1"))))
        except ValueError:
            return 0.0

    def covers(self, kind: str) -> bool:
        """Say whether the range takes this kind in."""
        return _covers(self.kind, kind)

    def wraps(self, kind: str) -> bool:
        """Say whether it wants parts of this kind in a multipart body."""
        return self.covers(MULTIPART) and _covers(self.parameters.get("type", "*/*").lower(), kind)

    def takes_syntax(self, syntax: str, default: str | None) -> bool:
        """Say whether it takes this transfer syntax; `default` is meant where it names none."""
        wanted = self.parameters.get(TRANSFER_SYNTAX, default or _ANY)
        return wanted in {_ANY, syntax}


@dataclass(frozen=True)
class Representation:
    """A form in which something can be sent."""

    kind: str
    syntax: str | None = None  # None: the kind has no transfer syntax
    default_syntax: str | None = None  # which a range means that names none; None: any
    is_multipart: bool = False

    @property
    def content_type(self) -> str:
        """The Content-Type of the part, or of the whole where there are no parts."""
        named = "" if self.syntax is None else f"; {TRANSFER_SYNTAX}={self.syntax}"
        return f"{self.kind}{named}"


def accepted(headers: Sequence[str], parameter: str | None = None) -> list[MediaType]:
    """Return what is accepted, best first; without any word on it, everything.

    The query parameter `accept` stands in for the header (PS3.18 8.3.3.1).
    """
    texts = [parameter] if parameter else headers
    ranges = [MediaType.parse(each) for text in texts for each in _split(text, ",") if each.strip()]
    wanted = [each for each in ranges or [MediaType("*/*")] if each.quality > 0]
    return sorted(wanted, key=lambda each: -each.quality)


def choose(ranges: Iterable[MediaType], offers: Sequence[Representation]) -> Representation | None:
    """Return the offer that is wanted most, the first of equals; None when none is accepted."""
    for wanted in ranges:
        for offer in offers:
            if _fits(wanted, offer):
                return offer
    return None


def json_form(ranges: Iterable[MediaType]) -> str:
    """Return the media type for JSON that is wanted. Raises NotAcceptableError without one."""
    form = choose(ranges, [Representation(DICOM_JSON), Representation(JSON)])
    if form is None:
        msg = f"the answer is sent as {DICOM_JSON}"
        raise NotAcceptableError(msg)
    return form.kind


def _fits(wanted: MediaType, offer: Representation) -> bool:
    is_kind = wanted.wraps(offer.kind) if offer.is_multipart else wanted.covers(offer.kind)
    if not is_kind:
        return False
    return offer.syntax is None or wanted.takes_syntax(offer.syntax, offer.default_syntax)


def _covers(wanted: str, kind: str) -> bool:
    if wanted in {"*/*", _ANY, kind}:
        return True
    group, _, name = wanted.partition("/")
    return name == _ANY and group == kind.partition("/")[0]


def _split(text: str, at: str) -> list[str]:
    """Split at a character that stands in no quoted string."""
    parts, is_quoted = [""], False
    for character in text:
        is_quoted ^= character == '"'
        if character == at and not is_quoted:
            parts.append("")
        else:
            parts[-1] += character
    return parts

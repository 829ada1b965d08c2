"""How stored values become display values (PS3.4 N.2): the steps as values that can be handed on.

What puts the pixels on the display scale is also what a presentation state tells a viewer to do.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LINEAR: Final = "LINEAR"
LINEAR_EXACT: Final = "LINEAR_EXACT"
SIGMOID: Final = "SIGMOID"

_VALUES_OF_16_BITS: Final = 1 << 16
_CACHED_PIXELS: Final = 1 << 15  # as int64 they fit into the cache of a core


@dataclass(frozen=True)
class Rescale:
    """Rescale Slope and Intercept (PS3.3 C.11.1)."""

    slope: float
    intercept: float

    def apply(self, values: Floats) -> Floats:
        """Return the values after this step."""
        return np.asarray(values * self.slope + self.intercept)


@dataclass(frozen=True)
class LookupTable:
    """A Modality or VOI LUT (PS3.3 C.11.1.1, C.11.2.1.1); `entries` are 0..65535.

    `first` is the value that the first entry stands for; values beyond the ends get the end's.
    """

    first: int
    entries: tuple[int, ...]

    def apply(self, values: Floats) -> Floats:
        """Return the values after this step."""
        index = np.clip(np.rint(values) - self.first, 0, len(self.entries) - 1).astype(np.int64)
        looked_up: Floats = np.asarray(self.entries, np.float64)[index]
        return looked_up


@dataclass(frozen=True)
class Window:
    """Window Center, Window Width and VOI LUT Function (PS3.3 C.11.2.1.2, C.11.2.1.3)."""

    center: float
    width: float
    function: str = LINEAR

    def apply(self, values: Floats) -> Floats:
        """Return the values after this step, 0..1."""
        if self.function == SIGMOID:
            return np.asarray(
                1.0 / (1.0 + np.exp(np.clip(-4.0 * (values - self.center) / self.width, -50, 50)))
            )
        if self.function == LINEAR_EXACT:
            return np.asarray(np.clip((values - self.center) / self.width + 0.5, 0.0, 1.0))
        start = self.center - 0.5
        return np.asarray(np.clip((values - start) / (self.width - 1.0) + 0.5, 0.0, 1.0))

    @property
    def linear(self) -> Self:
        """The same window for readers that know no other function than LINEAR."""
        if self.function != LINEAR_EXACT:
            return self
        return type(self)(self.center + 0.5, self.width + 1.0)


@dataclass(frozen=True)
class Percentiles:
    """From black at `low` to white `width` above: what an image without a usable window gets.

    As a Window the same would be rounded another way: pixels would differ by the last bit.
    """

    low: float
    width: float

    def apply(self, values: Floats) -> Floats:
        """Return the values after this step, 0..1."""
        return np.asarray(np.clip((values - self.low) / self.width, 0.0, 1.0))

    @property
    def linear(self) -> Window:
        """The same as a LINEAR window, as near as its numbers can say it."""
        return Window(self.low + self.width / 2, self.width, LINEAR_EXACT).linear


@dataclass(frozen=True)
class VoiTable:
    """A VOI LUT, and the value of its entries that is shown white."""

    table: LookupTable
    white: float

    def apply(self, values: Floats) -> Floats:
        """Return the values after this step, 0..1."""
        return self.table.apply(values) / self.white


@dataclass(frozen=True)
class GreyScale:
    """The steps from stored to display values of one image; None: that step changes nothing."""

    modality: Rescale | LookupTable | None = None
    voi: Window | Percentiles | VoiTable | None = None
    is_inverse: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return plain values, which `of_json` reads back."""
        steps = {"modality": self.modality, "voi": self.voi}
        named = {name: None if it is None else _plain(it) for name, it in steps.items()}
        return {**named, "is_inverse": self.is_inverse}

    @classmethod
    def of_json(cls, plain: dict[str, Any]) -> Self:
        """Return what `as_json` was made of. Raises LookupError, TypeError or ValueError else."""
        modality, voi = plain["modality"], plain["voi"]
        return cls(
            modality=None if modality is None else _modality(modality),
            voi=None if voi is None else _voi(voi),
            is_inverse=bool(plain["is_inverse"]),
        )


AS_STORED: Final = GreyScale()


def _plain(step: Rescale | LookupTable | Window | Percentiles | VoiTable) -> dict[str, Any]:
    if isinstance(step, VoiTable):
        return {"white": step.white, **_plain(step.table)}
    return {name: getattr(step, name) for name in step.__dataclass_fields__}


def _modality(plain: dict[str, Any]) -> Rescale | LookupTable:
    if "entries" in plain:
        return _table(plain)
    return Rescale(float(plain["slope"]), float(plain["intercept"]))


def _voi(plain: dict[str, Any]) -> Window | Percentiles | VoiTable:
    if "entries" in plain:
        return VoiTable(_table(plain), float(plain["white"]))
    if "low" in plain:
        return Percentiles(float(plain["low"]), float(plain["width"]))
    return Window(float(plain["center"]), float(plain["width"]), str(plain["function"]))


def _table(plain: dict[str, Any]) -> LookupTable:
    return LookupTable(int(plain["first"]), tuple(int(entry) for entry in plain["entries"]))


def places(stored: NDArray[np.integer[Any]], lowest: int) -> NDArray[np.unsignedinteger[Any]]:
    """Return the place of each stored value among the possible ones, which begin at `lowest`.

    Without a copy where stored values are their own places.
    """
    if lowest == 0:
        return stored.astype(f"u{stored.dtype.itemsize}", copy=False)
    return stored.astype(np.uint16) - np.uint16(lowest % _VALUES_OF_16_BITS)  # both modulo 2^16


def histogram(index: NDArray[np.unsignedinteger[Any]], size: int) -> NDArray[np.int64]:
    """Count each place, some rows at a time: whole images do not fit into the cache as int64."""
    counts = np.zeros(size, np.int64)
    for rows in _rows_at_once(index.shape):
        counts += np.bincount(index[rows].ravel(), minlength=size)
    return counts


def looked_up(
    table: NDArray[np.uint16], index: NDArray[np.unsignedinteger[Any]]
) -> NDArray[np.uint16]:
    """Return `table[index]`, some rows at a time for the same reason."""
    found = np.empty(index.shape, np.uint16)
    for rows in _rows_at_once(index.shape):
        # Every place is in the table; `clip` only spares the check, which takes a copy.
        np.take(table, index[rows], out=found[rows], mode="clip")
    return found


def _rows_at_once(shape: tuple[int, ...]) -> Iterator[slice]:
    step = max(1, _CACHED_PIXELS // shape[1])
    return (slice(first, first + step) for first in range(0, shape[0], step))

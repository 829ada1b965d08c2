"""What the comparison of a source with its reference means, in figures and in a sentence."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from sqlalchemy.orm import Session

from dicom_node.drift.images import ANALYSED, OPACITY_EDGES, Pair, Side, pairs_by_source
from dicom_node.drift.statistics import (
    Distance,
    ks_of_bins,
    new_kinds,
    psi_of_bins,
    psi_of_kinds,
)
from models.monitoring_sections import DriftSettings, MonitoringSettings

Subject = Literal["opacity", "reasons"]
_NEW_SHARE: Final = 0.01  # of the images: a rarer new reason is a curiosity, not a drift
_NONE: Final = Distance(0.0, 0.0)


@dataclass(frozen=True)
class Drift:
    """The figures or the reasons of one source against its reference.

    `is_known` is false where one side has too few images; then nothing else counts. Distances are
    those of `statistics`; the reasons have no Kolmogorov-Smirnov distance, having no order.
    """

    source: str
    of: Subject
    reference: int
    current: int
    is_known: bool
    is_alarm: bool
    psi: Distance
    ks: Distance
    new_reasons: tuple[str, ...]
    sentence: str

    def as_row(self) -> dict[str, Any]:
        """Return plain values for a listing."""
        row = asdict(self)
        for name in ("psi", "ks"):
            row[name], row[f"{name}_limit"] = getattr(self, name)
        return row | {"new_reasons": list(self.new_reasons)}


def drifts(session: Session, settings: MonitoringSettings) -> list[Drift]:
    """Return what is known of each source and of all together: opacity first, then reasons."""
    named: Iterable[str] | None = settings.sources or None
    pairs = pairs_by_source(session, settings.drift, named, settings.max_sources)
    return [
        each
        for source, pair in pairs.items()
        for each in (_opacity(source, pair, settings.drift), _reasons(source, pair, settings.drift))
    ]


def _opacity(source: str, pair: Pair, settings: DriftSettings) -> Drift:
    one, other = pair.reference.bins, pair.current.bins
    is_known = min(sum(one), sum(other)) >= settings.min_images
    psi = psi_of_bins(one, other, settings.significance) if is_known else _NONE
    ks = ks_of_bins(one, other, settings.significance) if is_known else _NONE
    by_psi = psi.is_significant and psi.value >= settings.min_psi
    by_ks = ks.is_significant and ks.value >= settings.min_ks
    is_alarm = by_psi or by_ks
    sizes = sum(one), sum(other)
    return Drift(
        source,
        "opacity",
        *sizes,
        is_known=is_known,
        is_alarm=is_alarm,
        psi=psi,
        ks=ks,
        new_reasons=(),
        sentence=_of_opacity(source, pair, is_alarm=is_alarm)
        if is_known
        else _too_few(source, "figures", sizes, settings),
    )


def _reasons(source: str, pair: Pair, settings: DriftSettings) -> Drift:
    one, other = pair.reference.kinds, pair.current.kinds
    sizes = one.total(), other.total()
    is_known = min(sizes) >= settings.min_images
    psi = psi_of_kinds(one, other, settings.significance) if is_known else _NONE
    found = new_kinds(one, other, settings.significance) if is_known else ()
    new = tuple(it for it in found if it != ANALYSED and other[it] >= _NEW_SHARE * sizes[1])
    is_alarm = bool(new) or (psi.is_significant and psi.value >= settings.min_psi)
    return Drift(
        source,
        "reasons",
        *sizes,
        is_known=is_known,
        is_alarm=is_alarm,
        psi=psi,
        ks=_NONE,
        new_reasons=new,
        sentence=_of_reasons(source, pair, new, is_alarm=is_alarm)
        if is_known
        else _too_few(source, "images", sizes, settings),
    )


def _too_few(source: str, what: str, sizes: tuple[int, int], settings: DriftSettings) -> str:
    return (
        f"{source}: too few {what} to compare: {sizes[1]} now, {sizes[0]} in the reference, "
        f"{settings.min_images} are needed on each side."
    )


def _of_opacity(source: str, pair: Pair, *, is_alarm: bool) -> str:
    was, now = _median(pair.reference), _median(pair.current)
    if not is_alarm:
        return f"{source}: the opacity is as in the reference (median {_about(now)})."
    how = "more" if now > was else "less" if now < was else "another spread of"
    return (
        f"{source}: the images show {how} opacity than those of the reference: the median was "
        f"{_about(was)} and is {_about(now)}."
    )


def _median(side: Side) -> int:
    """Return the bin of the middle image."""
    seen, half = 0, sum(side.bins) / 2
    for place, count in enumerate(side.bins):
        seen += count
        if seen >= half:
            return place
    return 0


def _about(place: int) -> str:
    if place == 0:
        return "0 %"
    upper = OPACITY_EDGES[min(place, len(OPACITY_EDGES) - 1)]
    return f"{OPACITY_EDGES[place - 1]:g} to {upper:g} %"


def _of_reasons(source: str, pair: Pair, new: tuple[str, ...], *, is_alarm: bool) -> str:
    one, other = pair.reference.kinds, pair.current.kinds
    if not is_alarm:
        share = other[ANALYSED] / other.total()
        return (
            f"{source}: images are analysed or refused as in the reference ({share:.0%} analysed)."
        )
    if new:
        told = ", ".join(f"{it} ({other[it]} of {other.total()})" for it in new)
        return f"{source}: images are not analysed for a reason that the reference lacks: {told}."

    def change(kind: str) -> float:
        return other[kind] / other.total() - one[kind] / one.total()

    kind = max({*one, *other}, key=lambda each: abs(change(each)))
    was, now = one[kind] / one.total(), other[kind] / other.total()
    return f"{source}: {kind} was {was:.0%} of the images and is {now:.0%}."

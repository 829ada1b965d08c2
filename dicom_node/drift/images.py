"""The images of each source as rows tell them: those of now, and those of its reference."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import Final, NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dicom_node.sorting import AnyQuery
from models.base import utc_now
from models.imaging import Instance
from models.monitoring_sections import DriftSettings
from models.reasons import Reason
from models.result import Analysis, ModelVersion
from models.states import InstanceState

# Percent: the upper edges of the bins; fine where most radiographs are.
OPACITY_EDGES: Final = (
    *(0.0, 0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.5, 10.0, 12.5, 15.0, 20.0),
    *(25.0, 30.0, 35.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 100.0),
)
ALL: Final = "all"
ANALYSED: Final = InstanceState.ANALYSED.value
_ENDED: Final = (InstanceState.ANALYSED, InstanceState.NOT_ANALYSED, InstanceState.FAILED)
_MOST: Final = 50_000  # images that one look reads


class Image(NamedTuple):
    """One received object that ended. `percent` is that of its analysis, where there is one."""

    source: str
    received_at: datetime
    kind: str  # analysed, or the reason why not
    model: int | None
    percent: float | None


@dataclass
class Side:
    """One side of a comparison: how many of each kind, and how many in each bin of opacity."""

    kinds: Counter[str] = field(default_factory=Counter)
    bins: list[int] = field(default_factory=lambda: [0] * (len(OPACITY_EDGES) + 1))

    def add(self, image: Image, model: int | None) -> None:
        """Count an image, and its figure if it is by this model."""
        self.kinds[image.kind] += 1
        if image.percent is not None and image.model == model:
            self.bins[_bin(image.percent)] += 1


@dataclass
class Pair:
    """What is compared of one source. `model` is the one that analysed its newest image."""

    model: int | None = None
    reference: Side = field(default_factory=Side)
    current: Side = field(default_factory=Side)
    reference_ends: datetime | None = None


def _bin(percent: float) -> int:
    return next(
        (at for at, edge in enumerate(OPACITY_EDGES) if percent <= edge), len(OPACITY_EDGES)
    )


def pairs_by_source(
    session: Session, settings: DriftSettings, wanted: Iterable[str] | None, most: int
) -> dict[str, Pair]:
    """Return both sides of each source, and of all together.

    Of the sources that are `wanted`; else of those with the most images now, `most` of them.
    """
    now = _newest(session, utc_now() - timedelta(days=settings.window_days))
    number = Counter(image.source for image in now if image.source != ALL)
    sources = list(wanted) if wanted else [name for name, _ in number.most_common(most)]
    pairs = {source: Pair() for source in (*sources, ALL)}
    for image in now:  # newest first
        for pair in _of(pairs, image):
            pair.model = image.model if pair.model is None else pair.model
    for pair in pairs.values():
        pair.model = pairs[ALL].model if pair.model is None else pair.model
    for model in {pair.model for pair in pairs.values()}:
        _add_reference(session, settings, pairs, model)
    for image in now:
        for pair in _of(pairs, image):
            if pair.reference_ends is None or image.received_at > pair.reference_ends:
                pair.current.add(image, pair.model)
    return pairs


def _of(pairs: Mapping[str, Pair], image: Image) -> Iterator[Pair]:
    if image.source in pairs and image.source != ALL:
        yield pairs[image.source]
    yield pairs[ALL]


def _add_reference(
    session: Session, settings: DriftSettings, pairs: Mapping[str, Pair], model: int | None
) -> None:
    """Give every pair with this model the images of its reference."""
    chosen = {name for name, pair in pairs.items() if pair.model == model}
    images = _reference(session, settings, model)
    for image in images:
        for name in {image.source, ALL} & chosen:
            pair = pairs[name]
            if settings.reference_from or pair.reference.kinds.total() < settings.reference_images:
                pair.reference.add(image, model)
                pair.reference_ends = image.received_at


def _images() -> AnyQuery:
    """Select the images that ended, each with the analysis that counts."""
    return (
        select(
            Instance.calling_aet,
            Instance.received_at,
            Instance.state,
            Instance.reason,
            Analysis.model_version_id,
            Analysis.opacity_percent_total,
        )
        .outerjoin(
            Analysis, (Analysis.instance_id == Instance.id) & Analysis.is_replaced.is_(False)
        )
        .where(
            Instance.state.in_(_ENDED),
            func.coalesce(Instance.reason, "") != Reason.OWN_RESULT.value,
        )
        .limit(_MOST)
    )


def _newest(session: Session, since: datetime) -> list[Image]:
    query = _images().where(Instance.received_at >= since)
    return _read(session, query.order_by(Instance.received_at.desc()))


def _reference(session: Session, settings: DriftSettings, model: int | None) -> list[Image]:
    """Return the first images of each source, and of all, since a model version began.

    Or those of the days that are set.
    """
    query = _images().order_by(Instance.received_at)
    if settings.reference_from is not None and settings.reference_until is not None:
        first, last = _begin(settings.reference_from), _begin(settings.reference_until)
        within = (Instance.received_at >= first) & (Instance.received_at < last)
        return _read(session, query.where(within))
    began = session.scalar(select(ModelVersion.created_at).where(ModelVersion.id == model))
    if began is None:
        return []
    rows = query.where(Instance.received_at >= began).subquery()
    order = rows.c.received_at
    of_source = func.row_number().over(partition_by=rows.c.calling_aet, order_by=order)
    of_all = func.row_number().over(order_by=order)
    counted = select(rows, of_source.label("of_source"), of_all.label("of_all")).subquery()
    wanted = settings.reference_images
    columns = [column for column in counted.c if column.name not in {"of_source", "of_all"}]
    return _read(
        session,
        select(*columns)
        .where((counted.c.of_source <= wanted) | (counted.c.of_all <= wanted))
        .order_by(counted.c.received_at),
    )


def _begin(day: date) -> datetime:
    """Return the begin of a day as people here mean it."""
    return datetime.combine(day, time.min).astimezone(UTC)


def _read(session: Session, query: AnyQuery) -> list[Image]:
    return [
        Image(
            source,
            received_at,
            ANALYSED if state is InstanceState.ANALYSED else reason or "",
            model,
            percent,
        )
        for source, received_at, state, reason, model, percent in session.execute(query)
    ]

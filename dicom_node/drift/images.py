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

    id: int
    source: str
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
    """What is compared of one source. `model` is the one that analysed its newest image.

    `last` is the newest image of the reference: what came before it counts not as one of now.
    """

    model: int | None = None
    reference: Side = field(default_factory=Side)
    current: Side = field(default_factory=Side)
    last: int = 0


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
            if image.id > pair.last:
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
    for name, pair in pairs.items():
        if pair.model != model:
            continue
        for image in _reference(session, settings, model, name):
            pair.reference.add(image, model)
            pair.last = image.id  # they come in this order


def _images() -> AnyQuery:
    """Select the images that ended, each with the analysis that counts; not too many of them."""
    return (
        select(
            Instance.id,
            Instance.calling_aet,
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


def _reference(
    session: Session, settings: DriftSettings, model: int | None, source: str
) -> list[Image]:
    """Return the first images of a source, or of all, since a model version began.

    Or those of the days that are set. Each source is asked for by itself: one that begins late must
    not be cut off by the many images of another. Ids follow the arrival, and the index of a source
    has them.
    """
    query = _images().order_by(Instance.id)
    if source != ALL:
        query = query.where(Instance.calling_aet == source)
    if settings.reference_from is not None and settings.reference_until is not None:
        first, last = _begin(settings.reference_from), _begin(settings.reference_until)
        within = (Instance.received_at >= first) & (Instance.received_at < last)
        return _read(session, query.where(within))
    began = session.scalar(select(ModelVersion.created_at).where(ModelVersion.id == model))
    if began is None:
        return []
    since = Instance.received_at >= began
    oldest = select(func.min(Instance.id)).where(since).scalar_subquery()
    wanted = query.where(Instance.id >= oldest, since).limit(settings.reference_images)
    return _read(session, wanted)


def _begin(day: date) -> datetime:
    """Return the begin of a day as people here mean it."""
    return datetime.combine(day, time.min).astimezone(UTC)


def _read(session: Session, query: AnyQuery) -> list[Image]:
    return [
        Image(
            key,
            source,
            ANALYSED if state is InstanceState.ANALYSED else reason or "",
            model,
            percent,
        )
        for key, source, state, reason, model, percent in session.execute(query)
    ]

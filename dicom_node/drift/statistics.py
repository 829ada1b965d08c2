"""Whether two histograms are of one distribution. Own code, for the node has no scipy."""

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Final, NamedTuple

_LEAST_SHARE: Final = 0.05  # of both sides together, in a bin of the index
_LEAST_EXPECTED: Final = 5.0  # images of the smaller side in a bin: the rule of Cochran (1954)
_HALF: Final = 0.5  # added to each count, so that an empty bin has a logarithm

Counts = Mapping[str, int]


class Distance(NamedTuple):
    """How far apart two histograms are, and what chance alone may give with so many images."""

    value: float
    limit: float

    @property
    def is_significant(self) -> bool:
        """Whether it is more than chance gives."""
        return self.value > self.limit


def psi_of_bins(reference: Sequence[int], current: Sequence[int], significance: float) -> Distance:
    """Return the population stability index of ordered bins; neighbours are put together.

    Until each has a twentieth of all images, and five of the smaller side.
    """
    smaller = min(sum(reference), sum(current))
    both = sum(reference) + sum(current)
    least = max(_LEAST_SHARE, _LEAST_EXPECTED / smaller if smaller else 1.0) * both
    pairs: list[tuple[int, int]] = []
    here, there = 0, 0
    for one, other in zip(reference, current, strict=True):
        here, there = here + one, there + other
        if here + there >= least:
            pairs.append((here, there))
            here, there = 0, 0
    if pairs and (here or there):  # what is left goes to the last
        last_here, last_there = pairs.pop()
        pairs.append((last_here + here, last_there + there))
    return _psi(pairs, significance)


def psi_of_kinds(reference: Counts, current: Counts, significance: float) -> Distance:
    """Return the population stability index of named kinds; rare ones are put together."""
    smaller = min(sum(reference.values()), sum(current.values()))
    both = sum(reference.values()) + sum(current.values())
    least = _LEAST_EXPECTED / smaller * both if smaller else math.inf
    pairs, rest = [], [0, 0]
    for kind in sorted({*reference, *current}):
        pair = reference.get(kind, 0), current.get(kind, 0)
        if sum(pair) >= least:
            pairs.append(pair)
        else:
            rest = [rest[0] + pair[0], rest[1] + pair[1]]
    return _psi([*pairs, (rest[0], rest[1])] if any(rest) else pairs, significance)


def _psi(pairs: Sequence[tuple[int, int]], significance: float) -> Distance:
    """Return the index and its limit.

    PSI = sum of (p - q) ln(p / q), which is Kullback's divergence J. For two samples of one
    distribution, of sizes n and m, nm / (n + m) times J is about chi-squared with one degree of
    freedom less than there are bins (Kullback, Information Theory and Statistics, 1959, chapter 6;
    Yurdakul, Statistical Properties of Population Stability Index, 2018).
    """
    n, m = (sum(side) for side in zip(*pairs, strict=True)) if pairs else (0, 0)
    if len(pairs) < 2 or not n or not m:  # noqa: PLR2004  one bin cannot differ
        return Distance(0.0, 0.0)
    bins = len(pairs)
    total = 0.0
    for one, other in pairs:
        p, q = ((count + _HALF) / (size + _HALF * bins) for count, size in ((one, n), (other, m)))
        total += (p - q) * math.log(p / q)
    return Distance(total, chi_squared(bins - 1, significance) * (1 / n + 1 / m))


def chi_squared(degrees: int, significance: float) -> float:
    """Return what a chi-squared variable exceeds with this probability.

    Wilson and Hilferty (1931): its cube root is nearly normal.
    """
    z = NormalDist().inv_cdf(1.0 - significance)
    part = 2.0 / (9.0 * degrees)
    return float(degrees * (1.0 - part + z * math.sqrt(part)) ** 3)


def ks_of_bins(reference: Sequence[int], current: Sequence[int], significance: float) -> Distance:
    """Return the two-sample Kolmogorov-Smirnov distance of ordered bins.

    Its limit is that of Smirnov (1948) for values without bins: with bins the distance is never
    larger, so there are fewer false alarms, not more.
    """
    n, m = sum(reference), sum(current)
    if not n or not m:
        return Distance(0.0, 0.0)
    here, there, largest = 0, 0, 0.0
    for one, other in zip(reference, current, strict=True):
        here, there = here + one, there + other
        largest = max(largest, abs(here / n - there / m))
    limit = math.sqrt(-math.log(significance / 2) / 2 * (n + m) / (n * m))
    return Distance(largest, limit)


def new_kinds(reference: Counts, current: Counts, significance: float) -> tuple[str, ...]:
    """Return the kinds that the reference has none of, and the current images too many by chance.

    Fisher's exact test: were the images of both sides one lot, how likely is it that all of a kind
    are on this side?
    """
    n, m = sum(reference.values()), sum(current.values())
    found = []
    for kind, count in sorted(current.items()):
        if count and not reference.get(kind) and _all_on_one_side(count, m, n) < significance:
            found.append(kind)
    return tuple(found)


def _all_on_one_side(count: int, size: int, other: int) -> float:
    """Return C(size, count) / C(size + other, count)."""
    return math.exp(sum(math.log((size - step) / (size + other - step)) for step in range(count)))

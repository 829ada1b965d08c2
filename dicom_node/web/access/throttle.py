"""How often one address may do something: counted in memory, for a bounded number of addresses."""

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address

_MANY = 10_000


@dataclass
class Throttle:
    """At most `times` in so many seconds per address. Safe for several threads.

    The address that was quiet for longest is forgotten when there are too many.
    """

    times: int
    seconds: float
    most: int = _MANY
    monotonic: Callable[[], float] = time.monotonic
    _seen: OrderedDict[str, deque[float]] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def note(self, address: str) -> bool:
        """Count one; say whether it was still within the bound."""
        key = _network(address)
        with self._lock:
            recent = self._recent(key)
            is_within = len(recent) < self.times
            if is_within:
                recent.append(self.monotonic())
                self._seen[key] = recent
                self._seen.move_to_end(key)
                while len(self._seen) > self.most:
                    self._seen.popitem(last=False)
            return is_within

    def take_back(self, address: str) -> None:
        """Do not count the last one of an address."""
        with self._lock:
            if recent := self._seen.get(_network(address)):
                recent.pop()

    def _recent(self, key: str) -> deque[float]:
        recent = self._seen.get(key)
        if recent is None:
            return deque()
        oldest = self.monotonic() - self.seconds
        while recent and recent[0] <= oldest:
            recent.popleft()
        return recent


def _network(address: str) -> str:
    """Return what counts as one address: of IPv6 the half that a site is given (RFC 6177)."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, IPv6Address):
        mapped = found.ipv4_mapped
        return str(mapped) if mapped else found.exploded[:19]
    return str(found)

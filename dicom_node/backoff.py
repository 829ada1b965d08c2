"""How long to wait before the next attempt."""

import random

from models.sections import DeliverySettings


def backoff(settings: DeliverySettings, attempts: int) -> float:
    """Return seconds to wait after `attempts` failures: doubling, capped, with ±50 % jitter.

    Jitter is for senders that failed together: they must not come back together.
    """
    doubled = settings.backoff_seconds * 2.0 ** min(attempts - 1, 30)
    return min(settings.backoff_cap_seconds, doubled) * random.uniform(0.5, 1.5)

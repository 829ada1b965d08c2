"""Imports at the start of a process, without a look for garbage at every few hundred objects.

Importing makes some hundred thousand objects, and nearly all of them stay. Looking through them
again and again took a fifth of the time in which a process of the node starts.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Collect no garbage while the block runs; afterwards it is as before."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()

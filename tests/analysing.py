"""`dicom-worker analyse` in this process, which has imported already what the command needs.

A process of its own takes five seconds of a processor before it reads the first file. The tests of
the command start one where the process matters, and take this where only its words and files do.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from click.testing import CliRunner

from worker.cli import main


@dataclass(frozen=True)
class Said:
    """How the command ended and what it wrote to its two streams."""

    returncode: int
    stdout: str
    stderr: str


def analyse_here(*arguments: Path | str) -> Said:
    """Run the command on the processor. Raises what it does not handle."""
    line = ["analyse", *map(str, arguments), "--device", "cpu"]
    with _logging_kept():
        done = CliRunner().invoke(main, line)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Said(done.exit_code, done.stdout, done.stderr)


@contextmanager
def _logging_kept() -> Iterator[None]:
    """Put back what the command sets for its process, which is the test's here."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()  # or setting up would close them
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.captureWarnings(capture=False)

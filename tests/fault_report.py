"""Plug-in of pytest: what the fault tests found, one line each and the totals at the end.

Each test appends a JSON line to one file, so that several processes (pytest-xdist) and several
rounds (`make faults ROUNDS=10`) add up. FAULTS_REPORT names the file; with it, ledgers are printed.
"""

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import pytest

_VARIABLE: Final = "FAULTS_REPORT"
_CHOSEN: Final = "FAULTS_REPORT_OF_THIS_RUN"  # for the processes of pytest-xdist
_EARLIER: Final = pytest.StashKey[int]()


@dataclass(frozen=True)
class Report:
    """The file with one JSON object per finished account."""

    path: Path

    @classmethod
    def of(cls, _config: pytest.Config) -> Self:
        """Return the report that every process of this run shares."""
        return cls(Path(os.environ[_CHOSEN]))

    def add(self, test: str, lost: int, doubled: int, ledger: list[dict[str, Any]]) -> None:
        """Append one account."""
        line = json.dumps({"test": test, "lost": lost, "doubled": doubled, "ledger": ledger})
        with self.path.open("a") as file:
            file.write(line + "\n")

    def accounts(self) -> list[dict[str, Any]]:
        """Return every account so far, those of earlier rounds included."""
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_text().splitlines()]


def pytest_configure(config: pytest.Config) -> None:
    """Choose the file, unless the process that started this one did."""
    if _CHOSEN not in os.environ:
        folder = Path(tempfile.gettempdir())
        chosen = os.environ.get(_VARIABLE) or str(folder / f"faults-{os.getpid()}.jsonl")
        os.environ[_CHOSEN] = chosen
    config.stash[_EARLIER] = len(Report.of(config).accounts())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print one line per account and the totals."""
    accounts = Report.of(terminalreporter.config).accounts()
    of_this_run = accounts[terminalreporter.config.stash[_EARLIER] :]
    if not of_this_run:
        return
    terminalreporter.section("faults")
    for each in of_this_run:
        if os.environ.get(_VARIABLE):
            for line in each["ledger"]:
                terminalreporter.write_line(json.dumps(line))
        terminalreporter.write_line(f"{each['test']} lost={each['lost']} doubled={each['doubled']}")
    lost, doubled = (sum(each[key] for each in accounts) for key in ("lost", "doubled"))
    terminalreporter.write_line(f"{len(accounts)} accounts: lost={lost} doubled={doubled}")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the file that nobody asked for, at the end of the process that chose it."""
    if not hasattr(config, "workerinput") and not os.environ.get(_VARIABLE):
        Path(os.environ[_CHOSEN]).unlink(missing_ok=True)

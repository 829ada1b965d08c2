"""`dicom-node demo`: start a PACS and a node, send studies, wait, check, show."""

import contextlib
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from dicom_node.demo.known import Known, mean_distance, read_known
from dicom_node.demo.node import NodeProcess, NodeProcessError, Result, running
from dicom_node.demo.pacs import Pacs, StoredObject, free_ports, running_pacs
from dicom_node.demo.send import Sample, Sent, read_samples, send_samples
from dicom_node.demo.table import results_table
from dicom_node.errors import NodeError

_MARKER = ".dicom-node-demo"
_AE_TITLE = "NODE"
_POLL_SECONDS = 1.0
SEG = "1.2.840.10008.5.1.4.1.1.66.4"
COMPREHENSIVE_3D_SR = "1.2.840.10008.5.1.4.1.1.88.34"
_KIND_OF = {SEG: "seg", COMPREHENSIVE_3D_SR: "sr"}


class DemoError(NodeError):
    """The demo cannot run as asked."""


@dataclass(frozen=True)
class Outcome:
    """Everything the demo learned, before it is judged."""

    sent: list[Sent]
    results: list[Result]
    stored: list[StoredObject]
    ledger_balances: bool
    node_exit: int


def run_demo(
    source: Path | None,
    out: Path,
    *,
    console: Console | None = None,
    use_orthanc: bool = True,
    timeout: float = 1200.0,
) -> int:
    """Run the demo in `out` and return the exit status of the command.

    0 only when the node took every sample, everything came to an end, the ledger balances, phantoms
    came out as their manifest says, and the PACS holds exactly the SEG and SR objects expected.
    `source` is a folder with DICOM files; without one, phantoms are made.
    """
    console = console or Console()
    try:
        _prepare(out)
        samples, known = _samples(source, out, console)
        with running_pacs(out / "pacs", use_orthanc=use_orthanc) as pacs:
            console.print(f"PACS: {pacs.name}, {pacs.address}")
            outcome = _send_and_wait(samples, pacs, out, console, timeout)
            _fetch(pacs, outcome.stored, out / "results")
    except (NodeError, TimeoutError) as error:
        console.print(f"[red]Demo failed:[/red] {error}")
        return 1
    overlays = _copy_overlays(samples, outcome.results, out)
    console.print(results_table(outcome.sent, outcome.results, known, pacs.name))
    if (distance := mean_distance(outcome.results, known)) is not None:
        console.print(f"Mean distance from the known total: {distance:.1f} percentage points.")
    console.print(f"Pictures: {overlays} overlays in {out / 'overlays'}", soft_wrap=True)
    console.print(
        f"Objects: {len(outcome.stored)} SEG and SR, fetched back from {pacs.name} {pacs.address}, "
        f"in {out / 'results'}",
        soft_wrap=True,
    )
    console.print("Research use only. Not a medical device.")
    problems = find_problems(outcome, known)
    for problem in problems:
        console.print(f"[red]Not as expected:[/red] {problem}")
    if not problems:
        console.print("[green]The PACS holds exactly the expected objects.[/green]")
    return 1 if problems else 0


def _prepare(out: Path) -> None:
    """Make `out` empty. Raises DemoError rather than remove what no demo wrote."""
    if out.exists():
        if any(out.iterdir()) and not (out / _MARKER).exists():
            msg = f"{out} exists and was not made by a demo: choose another folder"
            raise DemoError(msg)
        shutil.rmtree(out)
    out.mkdir(parents=True)
    (out / _MARKER).touch()


def _samples(
    source: Path | None, out: Path, console: Console
) -> tuple[list[Sample], dict[str, Known]]:
    """Find the samples and what is known of them. Raises DemoError when there are none."""
    known: dict[str, Known] = {}
    if source is None:
        source = out / "samples"
        console.print("Making synthetic chest phantoms (no patient data) ...")
        _make_phantoms(source, out / "phantom.log")
        known = read_known(source / "manifest.json")
    elif not source.is_dir():
        msg = f"{source} is not a folder"
        raise DemoError(msg)
    samples, others = read_samples(source)
    if others and not known:
        console.print(f"{len(others)} files are no DICOM files with a header; they are left out.")
    if not samples:
        msg = f"no DICOM file with a Part 10 header in {source}"
        raise DemoError(msg)
    return samples, known


def _make_phantoms(folder: Path, log: Path) -> None:
    program = Path(sys.executable).with_name("dicom-worker")
    with log.open("wb") as file:
        made = subprocess.run(  # noqa: S603  our own command
            [program, "phantom", "--out", folder], stdout=file, stderr=file, check=False
        )
    if made.returncode != 0:
        msg = f"dicom-worker phantom ended with {made.returncode}, see {log}"
        raise DemoError(msg)


def _send_and_wait(
    samples: list[Sample], pacs: Pacs, out: Path, console: Console, timeout: float
) -> Outcome:
    """Run the node, send, wait for the end, stop it, and ask both sides what they hold."""
    dicom_port, web_port = free_ports(2)
    node = NodeProcess(
        out / "node",
        dicom_port=dicom_port,
        web_port=web_port,
        pacs=(pacs.address,),
        settings={"DICOM_NODE_DISPATCH__SETTLE_SECONDS": "2"},
    )
    console.print("Starting the node (the first start loads the network) ...")
    with running(node):
        console.print(f"Node: {_AE_TITLE}@127.0.0.1:{dicom_port}, log {node.stderr}")
        with _progress(console) as progress:
            sent = _send(samples, dicom_port, progress)
            results = _wait(node, sent, progress, timeout)
        balances = node.run("ledger").returncode == 0
        node_exit = node.stop()
    return Outcome(sent, results, pacs.objects(), balances, node_exit)


@contextlib.contextmanager
def _progress(console: Console) -> Iterator[Progress]:
    columns = (TextColumn("{task.description:<10}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        yield progress


def _send(samples: list[Sample], port: int, progress: Progress) -> list[Sent]:
    task = progress.add_task("sent", total=len(samples))
    return send_samples(samples, port, _AE_TITLE, lambda _: progress.advance(task))


def _wait(node: NodeProcess, sent: list[Sent], progress: Progress, timeout: float) -> list[Result]:
    """Wait until every accepted image has ended and its results left. Raises TimeoutError."""
    wanted = {
        each.sample.sop_instance_uid
        for each in sent
        if each.accepted and each.sample.sop_class_uid not in _KIND_OF  # results are not analysed
    }
    task = progress.add_task("finished", total=len(wanted))
    deadline = time.monotonic() + timeout
    while True:
        results = node.results()
        ended = {each.sop_instance_uid for each in results if each.ended} & wanted
        progress.update(task, completed=len(ended))
        if ended == wanted and all(each.ended for each in results):
            return results
        if not node.is_running():
            msg = f"the node ended by itself, see {node.stderr}"
            raise NodeProcessError(msg)
        if time.monotonic() > deadline:
            msg = f"{len(wanted - ended)} images did not come to an end within {timeout:g} s"
            raise TimeoutError(msg)
        time.sleep(_POLL_SECONDS)


def _fetch(pacs: Pacs, stored: list[StoredObject], folder: Path) -> None:
    """Fetch SEG and SR from the PACS, so that the user can open what it holds."""
    folder.mkdir()
    for each in stored:
        kind = _KIND_OF.get(each.sop_class_uid, "other")
        (folder / f"{each.sop_instance_uid}.{kind}.dcm").write_bytes(pacs.fetch(each.key))


def _copy_overlays(samples: list[Sample], results: list[Result], out: Path) -> int:
    """Copy overlay pictures under the names of the files they show; return how many."""
    folder = out / "overlays"
    folder.mkdir()
    name_of = {each.sop_instance_uid: each.path.stem for each in samples}
    taken: Counter[str] = Counter()
    for result in results:
        overlay = result.product("overlay")
        if overlay is None:
            continue
        name = name_of.get(result.sop_instance_uid, "image")
        taken[name] += 1
        suffix = f"-{taken[name]}" if taken[name] > 1 else ""
        shutil.copyfile(overlay.path, folder / f"{name}{suffix}.png")
    return taken.total()


def find_problems(outcome: Outcome, known: dict[str, Known]) -> list[str]:
    """Compare what the PACS holds with what must be there; an empty list is success."""
    problems = []
    analysed = [each for each in outcome.results if each.status == "analysed"]
    studies = {each.study_instance_uid for each in analysed}
    counts = Counter(_KIND_OF.get(each.sop_class_uid, "other") for each in outcome.stored)
    expected = Counter({"seg": len(analysed), "sr": len(studies)})
    if +counts != +expected:
        problems.append(f"the PACS holds {dict(counts)}, expected {dict(expected)}")
    products = [each.product(kind) for each in analysed for kind in ("seg", "sr")]
    wanted = {each.sop_instance_uid for each in products if each is not None}
    if {each.sop_instance_uid for each in outcome.stored} != wanted:
        problems.append("the objects in the PACS are not those of the node's results")
    refused = [each for each in outcome.sent if not each.accepted]
    if known and refused:
        problems.append(f"{len(refused)} phantoms were not taken")
    if not outcome.ledger_balances:
        problems.append("the ledger does not balance")
    if outcome.node_exit != 0:
        problems.append(f"the node ended with {outcome.node_exit}")
    by_uid = {each.sop_instance_uid: each for each in outcome.results}
    problems += [text for uid, one in known.items() if (text := one.problem(by_uid.get(uid)))]
    return problems

"""Lost and doubled, counted from outside the node: senders' notebooks against rows and PACS."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fault_nodes import Node
from fault_pacs import SEG, SR, Held, Holder, data_set_sha256
from fault_senders import Notebook
from servers import wait_until

CloseAccount = Callable[..., None]

_INSTANCES = """
    SELECT instance.sop_instance_uid AS uid, data_set_sha256 AS digest, storage_key AS storage_key,
           study.study_instance_uid AS study
    FROM instance JOIN series ON series.id = instance.series_id
    JOIN study ON study.id = series.study_id
"""
_ARTIFACTS = "SELECT sop_instance_uid, storage_key FROM artifact WHERE kind IN ('seg', 'sr')"


@dataclass
class Balance:
    """What is missing and what is there twice, one sentence each."""

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"lost={len(self.lost)} doubled={len(self.doubled)}"

    def __add__(self, other: "Balance") -> "Balance":
        return Balance(self.lost + other.lost, self.doubled + other.doubled)


def received(node: Node, notebook: Notebook) -> Balance:
    """Compare what was answered 0x0000 with rows and files; read by SQL and as bytes."""
    balance = Balance()
    rows = node.query(_INSTANCES)
    number = Counter(row.uid for row in rows)
    by_uid = {row.uid: row for row in rows}
    for uid, sent in notebook.answered.items():
        row = by_uid.get(uid)
        if row is None:
            balance.lost.append(f"{uid} was answered 0x0000 and has no row")
        elif row.digest != sent.data_set_sha256 or row.study != sent.study_instance_uid:
            balance.lost.append(f"{uid} has a row about other bytes or another study")
        elif _spooled(node, row.storage_key) != sent.data_set_sha256:
            balance.lost.append(f"{uid} has no file with the bytes that were sent")
    balance.doubled += [f"{uid} has {count} rows" for uid, count in number.items() if count > 1]
    offered = {each.sop_instance_uid for each in notebook.offers}
    balance.doubled += [f"{uid} was never sent" for uid in sorted(number.keys() - offered)]
    return balance


def _spooled(node: Node, key: str) -> str | None:
    stored = node.stored("spool", key)
    return None if stored is None else data_set_sha256(stored)


def kept_once(node: Node) -> Balance:
    """Compare the files of the spool with the rows: every file has one, none is half."""
    keys = {row.storage_key for row in node.query(_INSTANCES)}
    files = node.spool_keys()
    return Balance(
        lost=[f"no file {key}" for key in sorted(keys - files)],
        doubled=[f"no row for {name}" for name in sorted(files - keys)]
        + [f"half a file: {path.name}" for path in node.incoming],
    )


def sweep(node: Node) -> None:
    """Start the dispatcher anew, impatient, until files without a row and half files are gone."""
    if node.is_running("dispatch"):
        assert node.role("dispatch").terminate() == 0
    node.start("dispatch", DICOM_NODE_DISPATCH__ORPHAN_SECONDS="1")
    wait_until(lambda: not kept_once(node).doubled, 60, "the sweep", every=0.5)


def delivered(
    node: Node,
    pacs: Holder,
    images: Iterable[str],
    revisions: Mapping[str, int] | None = None,
) -> Balance:
    """Compare what a PACS holds with what must be there.

    One SEG of each of `images` (SOP Instance UIDs); of each of their studies as many SRs as it has
    `revisions` (default 1), one of them newest, which names exactly these images; no object in two
    versions; and the bytes that the node keeps.
    """
    held, wanted = pacs.held(), set(images)
    row_of = {row.uid: row for row in node.query(_INSTANCES)}
    balance = _segmentations(held, wanted)
    studies = {row_of[uid].study for uid in wanted if uid in row_of}
    strange = {each.study_instance_uid for each in held if each.sop_class_uid == SR} - studies
    balance.doubled += [f"an SR of {uid}, which nobody expects" for uid in sorted(strange)]
    for study in sorted(studies):
        named = {uid for uid in wanted if uid in row_of and row_of[uid].study == study}
        of_study = [each for each in held if each.study_instance_uid == study]
        balance += _reports(study, of_study, named, (revisions or {}).get(study, 1))
    return balance + _same_bytes(node, held)


def _segmentations(held: list[Held], wanted: set[str]) -> Balance:
    found = Counter(uid for each in held if each.sop_class_uid == SEG for uid in each.images)
    return Balance(
        lost=[f"no SEG of {uid}" for uid in sorted(wanted - found.keys())],
        doubled=[f"{number} SEGs of {uid}" for uid, number in found.items() if number > 1]
        + [f"a SEG of {uid}, which nobody expects" for uid in sorted(found.keys() - wanted)],
    )


def _reports(study: str, held: list[Held], named: set[str], revisions: int) -> Balance:
    reports = [each for each in held if each.sop_class_uid == SR]
    replaced = {uid for each in reports for uid in each.replaces}
    newest = [each for each in reports if each.sop_instance_uid not in replaced]
    balance = Balance()
    if len(reports) < revisions or not newest:
        balance.lost.append(f"{len(reports)} SRs of {study}, {revisions} must be there")
    if len(reports) > revisions or len(newest) > 1:
        balance.doubled.append(f"{len(reports)} SRs of {study}, {len(newest)} of them newest")
    if newest and not named <= newest[0].images:
        balance.lost.append(f"the newest SR of {study} does not name every image")
    return balance


def _same_bytes(node: Node, held: list[Held]) -> Balance:
    keys = dict(map(tuple, node.query(_ARTIFACTS)))
    contents: dict[str, set[str]] = {}
    for each in held:
        contents.setdefault(each.sop_instance_uid, set()).add(each.sha256)
    balance = Balance()
    for uid, digests in contents.items():
        if uid not in keys:
            balance.doubled.append(f"{uid} is at the PACS and the node does not know it")
            continue
        stored = node.stored("artifacts", keys[uid])
        if stored is None or digests != {data_set_sha256(stored)}:
            balance.doubled.append(f"{uid} is at the PACS with other bytes than at the node")
    return balance


def ledger(node: Node) -> tuple[list[dict[str, Any]], bool]:
    """Return the node's own ledger and whether the command says that it balances."""
    printed = node.run("ledger", "--json")
    assert printed.returncode in {0, 1}, printed.stderr
    return [json.loads(line) for line in printed.stdout.splitlines()], printed.returncode == 0

"""The demo's verdict must be able to fail: every way the PACS can be wrong is named."""

from dataclasses import replace
from pathlib import Path

import pytest

from dicom_node.demo.known import Known, mean_distance
from dicom_node.demo.node import Product, Result
from dicom_node.demo.pacs import StoredObject
from dicom_node.demo.run import COMPREHENSIVE_3D_SR, SEG, Outcome, find_problems
from dicom_node.demo.send import Sample, Sent

_STUDY = "1.2.3"
_SAMPLE = Sample(Path("a.dcm"), "1.2", "1.2.3.4", _STUDY, "1.2.840.10008.1.2.1", "CR", "PA")
_KNOWN = {"1.2.3.4": Known("a.dcm", "PA", "analysed", None, {"total": 20.0})}


def _product(kind: str, uid: str, state: str = "sent") -> Product:
    return Product(kind, Path("x"), uid, {"PACS": state})


_RESULT = Result(
    sop_instance_uid="1.2.3.4",
    study_instance_uid=_STUDY,
    status="analysed",
    reason=None,
    detail=None,
    percent={"total": 23.0, "left": 20.0, "right": 26.0},
    severity="mild",
    products=(_product("seg", "2.1"), _product("overlay", "2.9"), _product("sr", "2.2")),
)
_STORED = [
    StoredObject(SEG, "2.1", _STUDY, "k1"),
    StoredObject(COMPREHENSIVE_3D_SR, "2.2", _STUDY, "k2"),
]
_GOOD = Outcome([Sent(_SAMPLE, 0x0000)], [_RESULT], _STORED, ledger_balances=True, node_exit=0)


def test_everything_in_its_place_is_no_problem() -> None:
    assert find_problems(_GOOD, _KNOWN) == []


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (replace(_GOOD, stored=_STORED[:1]), "the PACS holds"),
        (replace(_GOOD, stored=[]), "the PACS holds"),
        (
            replace(_GOOD, stored=[*_STORED, StoredObject(SEG, "2.3", _STUDY, "k3")]),
            "the PACS holds",
        ),
        (
            replace(_GOOD, stored=[*_STORED, StoredObject("1.2.840.1", "2.3", _STUDY, "k3")]),
            "the PACS holds",
        ),
        (
            replace(_GOOD, stored=[replace(_STORED[0], sop_instance_uid="9.9"), _STORED[1]]),
            "not those",
        ),
        (replace(_GOOD, ledger_balances=False), "ledger"),
        (replace(_GOOD, node_exit=1), "ended with 1"),
        (replace(_GOOD, sent=[Sent(_SAMPLE, 0xA700)]), "not taken"),
        (replace(_GOOD, results=[], stored=[]), "no result"),
        (
            replace(
                _GOOD, results=[replace(_RESULT, status="failed", reason="time_limit")], stored=[]
            ),
            "failed (time_limit), expected analysed (None)",
        ),
    ],
)
def test_every_fault_is_named(broken: Outcome, said: str) -> None:
    assert any(said in each for each in find_problems(broken, _KNOWN))


@pytest.mark.parametrize("state", ["due", "sending"])
def test_an_image_has_not_ended_while_its_report_is_under_way(state: str) -> None:
    waiting = replace(_RESULT, products=(_product("seg", "2.1"), _product("sr", "2.2", state)))
    assert _RESULT.ended
    assert not waiting.ended
    assert not replace(_RESULT, products=_RESULT.products[:1]).ended


def test_mean_distance_is_of_pairs_only() -> None:
    assert mean_distance([_RESULT], _KNOWN) == pytest.approx(3.0)
    assert mean_distance([_RESULT], {}) is None

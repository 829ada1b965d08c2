"""A whole node with a model per sender and a second model in the shadow, asked by its commands."""

import json
from pathlib import Path
from typing import Any

import pytest
from bundles import copy_bundle
from nodes import make_chest, make_node, store, wait_for_results
from servers import wait_until

from dicom_node.demo.node import NodeProcess, running
from dicom_node.demo.pacs import StoragePacs
from dicom_node.demo.run import COMPREHENSIVE_3D_SR, SEG

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

RULES = json.dumps([{"calling_aet": "TESTSCU", "model": "bedside"}])


def _compared(node: NodeProcess) -> list[dict[str, Any]]:
    return [json.loads(line) for line in node.run("compare", "--json").stdout.splitlines()]


def _wait_for_comparison(node: NodeProcess) -> dict[str, Any]:
    def ended() -> bool:
        rows = _compared(node)
        return bool(rows) and all(row["status"] != "pending" for row in rows)

    wait_until(ended, 240, "the shadow analysis", every=1.0)
    [row] = _compared(node)
    return row


def _rehearsed(node: NodeProcess) -> dict[str, Any]:
    """Ask what the default model would have said of what another one saw."""
    line = ("--dry-run", "--model", "unet", "--seen-by", "bedside", "--json")
    done = node.run("replay", *line)
    assert done.returncode == 0, done.stderr
    [row] = [json.loads(each) for each in done.stdout.splitlines()]
    return row


@pytest.mark.parametrize(
    "shadow",
    [
        "unet-next",
        pytest.param("nowhere", marks=[pytest.mark.faults, pytest.mark.slow_faults]),
    ],
)
def test_the_second_model_is_compared_and_the_pacs_never_hears_of_it(
    shadow: str, tmp_path: Path, storage_scp: StoragePacs
) -> None:
    models = tmp_path / "models"
    copy_bundle(models, "bedside")
    copy_bundle(models, "unet-next", version="9", threshold={"lung": 0.5, "opacity": 0.05})
    image = make_chest(tmp_path / "chest.dcm")
    node = make_node(
        tmp_path / "node",
        storage_scp.address,
        DICOM_NODE_RULES=RULES,
        DICOM_NODE_SHADOW__MODEL=shadow,
        DICOM_NODE_WORKER__BUNDLE_DIRS=json.dumps([str(models)]),
    )
    with running(node):
        assert store(node.dicom_port, image) == [0x0000]
        [result] = wait_for_results(node, 1)
        assert result.status == "analysed"
        row = _wait_for_comparison(node)
        other = _rehearsed(node) if shadow == "unet-next" else None
        examined = node.run("check")
        assert node.run("ledger").returncode == 0
        assert node.stop() == 0
    said = " ".join(examined.stdout.split())
    assert row["production"]["model"] == "bedside"
    assert row["production"]["opacity_percent"] == result.percent["total"]
    if shadow == "nowhere":
        assert (row["status"], row["reason"]) == ("failed", "model_unavailable")
        assert examined.returncode == 1
        assert "lacks nowhere" in said
    else:
        assert row["status"] == "compared"
        assert row["difference"] > 0
        assert examined.returncode == 0
        assert "models: unet, bedside, shadow unet-next: installed" in said
    if other is not None:  # a third model was asked, beside
        assert (other["status"], other["shadow"]["model"]) == ("compared", "unet")
        assert other["production"] == row["production"]
    classes = sorted(each.sop_class_uid for each in storage_scp.objects())
    assert classes == sorted([SEG, COMPREHENSIVE_3D_SR])
    assert storage_scp.received == 2

"""Every real CR and DX file by dcmsend into the node, results out to a real Orthanc.

The expected outcome of each file stands here by name. Three files share one SOP Instance UID and
have no PatientID, and one dog has none either: they are quarantined as they are, and also sent as
copies with an identity of their own.
"""

import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from nodes import make_node, read_any, wait_for_results, with_identity
from pydicom import dcmread
from servers import wait_until

from dicom_node.demo.node import NodeProcess, Result, running
from dicom_node.demo.pacs import OrthancPacs
from dicom_node.demo.run import COMPREHENSIVE_3D_SR, SEG

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore:Invalid value for VR"),  # real files have illegal UIDs
]

_QUARANTINED = ("quarantined", "no_patient_id")
_ANALYSED = ("analysed", None)


def _not(reason: str) -> tuple[str, str | None]:
    return ("not_analysed", reason)


_HIP = dict.fromkeys(
    (
        f"cr_hip_fuji_rg2_{encoding}.dcm"
        for encoding in (
            *("j2k_lossless", "j2k_lossy", "jpeg_extended12", "jpeg_lossless_sv1"),
            *("jpegls_lossless", "jpegls_near", "rle", "uncompressed"),
        )
    ),
    _not("body_part"),
)
_EXTREMITY = {name.replace("hip_fuji_rg2", "extremity_fuji_rg3"): why for name, why in _HIP.items()}

EXPECTED: dict[str, tuple[str, str | None]] = {
    **_HIP,
    **_EXTREMITY,
    "cr_chest_ms_4248x3480_j2k_8bit.dcm": _ANALYSED,
    "cr_chest_pa_fuji9000_expl.dcm": _QUARANTINED,
    "cr_chest_pa_fuji9000_impl.dcm": _QUARANTINED,
    "cr_chest_pa_fuji9000_nopreamble.dcm": _QUARANTINED,
    "cr_fuji_abdomen_enema_a_j2k_lossless.dcm": _not("body_part"),
    "cr_fuji_abdomen_enema_b_j2k_lossless.dcm": _not("body_part"),
    "cr_fuji_skeletal_chest_a_j2k_lossless.dcm": _not("body_part"),  # a shoulder
    "cr_fuji_skeletal_chest_b_j2k_lossless.dcm": _not("body_part"),  # a shoulder
    "cr_fuji_skeletal_chest_c_j2k_lossless.dcm": _not("body_part"),  # thoracic spine, AP
    "cr_fuji_skeletal_chest_d_j2k_lossless.dcm": _not("lateral_view"),  # thoracic spine
    "cr_fuji_skeletal_head_j2k_lossless.dcm": _not("lateral_view"),
    "cr_fuji_skeletal_lowext_a_j2k_lossless.dcm": _not("body_part"),
    "cr_fuji_skeletal_neck_j2k_lossless.dcm": _not("lateral_view"),
    "cr_fuji_skeletal_pelvis_a_j2k_lossless.dcm": _not("lateral_view"),
    "cr_fuji_skeletal_pelvis_b_j2k_lossless.dcm": _not("body_part"),
    "cr_head_fuji_jpegll_un_sequence.dcm": _QUARANTINED,
    "cr_teeth_modality_lut_seq_jpegll.dcm": _not("body_part"),
    "dx_chest_lidc0005_ge_j2k_lossless.dcm": _not("lateral_view"),
    "dx_class_modality_px_panoramic_jpeg8.dcm": _not("modality"),
    "dx_elbow_jpegll_un_vr.dcm": _not("body_part"),
    "dx_hand_ge_352x370_14bit.dcm": _not("body_part"),
    "dx_ms_1840x1360_8bit_expl.dcm": _not("body_part"),  # a skull
    "dx_thorax_fuji_169x211_8bit.dcm": _not("not_human"),  # a dog, lateral
}

_FUJI = "cr_chest_pa_fuji9000"
# Copies: source, whether it gets UIDs of its own, outcome.
COPIES: dict[str, tuple[str, bool, tuple[str, str | None]]] = {
    "own_expl.dcm": (f"{_FUJI}_expl.dcm", True, _ANALYSED),
    "own_impl.dcm": (f"{_FUJI}_impl.dcm", True, _ANALYSED),
    "own_nopreamble.dcm": (f"{_FUJI}_nopreamble.dcm", True, _ANALYSED),
    "own_dog.dcm": ("cr_head_fuji_jpegll_un_sequence.dcm", True, _not("not_human")),
    "same_uid_first.dcm": (f"{_FUJI}_expl.dcm", False, _ANALYSED),
    "same_uid_second.dcm": (f"{_FUJI}_nopreamble.dcm", False, ("superseded", "same_image")),
}


@dataclass(frozen=True)
class _Case:
    """One file to send and what must come of it."""

    path: Path
    sop_instance_uid: str
    outcome: tuple[str, str | None]


def _cases(crdx: Path, copies: Path) -> list[_Case]:
    """Write the copies and return every file in the order of sending."""
    copies.mkdir()
    cases = [
        _Case(crdx / name, str(read_any(crdx / name).SOPInstanceUID), outcome)
        for name, outcome in sorted(EXPECTED.items())
    ]
    for name, (source, new_uids, outcome) in COPIES.items():
        patient_id = name if new_uids else "ONE-PATIENT"
        ds = with_identity(read_any(crdx / source), patient_id, new_uids=new_uids)
        ds.save_as(copies / name, enforce_file_format=True)
        cases.append(_Case(copies / name, str(ds.SOPInstanceUID), outcome))
    return cases


def _send(dcmsend: Path, port: int, cases: list[_Case]) -> None:
    """One call per file: files that share a UID must not be merged by the sender."""
    for case in cases:
        command = [dcmsend, "-aet", "CRDX", "-aec", "NODE", "+f", "-nuc", "-dn"]
        command += ["127.0.0.1", str(port), str(case.path)]
        sent = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert sent.returncode == 0, (case.path.name, sent.stdout, sent.stderr)


def _outcomes(results: list[Result]) -> Counter[tuple[str, str, str | None]]:
    return Counter((each.sop_instance_uid, each.status, each.reason) for each in results)


def _check_pacs(orthanc: OrthancPacs, results: list[Result], folder: Path) -> None:
    """One SEG per analysed image, one SR per study with one, each equal to what we made."""
    analysed = [each for each in results if each.status == "analysed"]
    made = {
        product.sop_instance_uid: product
        for result in analysed
        for kind in ("seg", "sr")
        if (product := result.product(kind)) is not None
    }
    stored = orthanc.objects()
    assert Counter(each.sop_class_uid for each in stored) == {
        SEG: len(analysed),
        COMPREHENSIVE_3D_SR: len({each.study_instance_uid for each in analysed}),
    }
    assert {each.sop_instance_uid for each in stored} == set(made)
    for each in stored:
        copy = folder / "from-pacs.dcm"
        copy.write_bytes(orthanc.fetch(each.key))
        assert dcmread(copy) == dcmread(made[each.sop_instance_uid].path)


def test_table_names_every_file(data_root: Path) -> None:
    assert {path.name for path in (data_root / "dicom" / "crdx").iterdir()} == set(EXPECTED)


def test_every_real_file_through_the_node_into_orthanc(
    data_root: Path, orthanc: OrthancPacs, dcmtk: Callable[[str], Path], tmp_path: Path
) -> None:
    cases = _cases(data_root / "dicom" / "crdx", tmp_path / "copies")
    expected = Counter((each.sop_instance_uid, *each.outcome) for each in cases)
    with running(make_node(tmp_path / "node", orthanc.address)) as node:
        _send(dcmtk("dcmsend"), node.dicom_port, cases)
        wait_for_results(node, len(cases), 600)
        # The second of two encodings is set aside until a worker compared it with the first.
        wait_until(lambda: "uid_conflict" not in _reasons(node), 120, "the comparison", every=1.0)
        first = wait_for_results(node, len(cases), 600)
        assert _outcomes(first) == expected
        _check_pacs(orthanc, first, tmp_path)
        _check_ledger(node)

        _send(dcmtk("dcmsend"), node.dicom_port, cases)
        time.sleep(5)  # what a resend might start by mistake has time to start
        again = wait_for_results(node, len(cases), 600)
        assert again == first
        _check_pacs(orthanc, again, tmp_path)
        _check_ledger(node)
        assert node.stop() == 0


def _reasons(node: NodeProcess) -> set[str | None]:
    return {each.reason for each in node.results()}


def _check_ledger(node: NodeProcess) -> None:
    ledger = node.run("ledger")
    assert ledger.returncode == 0, ledger.stdout + ledger.stderr

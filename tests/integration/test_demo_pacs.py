"""The demo's own PACS and its sender, against each other over a real association."""

import os
from pathlib import Path

from builders import chest_dataset, write_part10
from pydicom import dcmread
from pynetdicom import AE
from pynetdicom.sop_class import Verification

from dicom_node.demo.pacs import StoragePacs
from dicom_node.demo.send import read_samples, send_samples


def test_what_is_sent_is_stored_once_and_comes_back_equal(
    storage_scp: StoragePacs, tmp_path: Path
) -> None:
    for number in range(3):
        write_part10(tmp_path / "in" / f"{number}.dcm", chest_dataset(seed=str(number)))
    samples, others = read_samples(tmp_path / "in")
    assert (len(samples), others) == (3, [])
    for _ in range(2):
        sent = send_samples(samples, storage_scp.port, storage_scp.ae_title, lambda _: None)
        assert [each.status for each in sent] == [0x0000] * 3
    stored = storage_scp.objects()
    assert {each.sop_instance_uid for each in stored} == {each.sop_instance_uid for each in samples}
    assert (len(stored), storage_scp.received) == (3, 6)
    copy = tmp_path / "copy.dcm"
    copy.write_bytes(storage_scp.fetch(stored[0].key))
    [original] = [
        each.path for each in samples if each.sop_instance_uid == stored[0].sop_instance_uid
    ]
    assert dcmread(copy) == dcmread(original)


def test_it_answers_verification(storage_scp: StoragePacs) -> None:
    ae = AE("TESTSCU")
    ae.add_requested_context(Verification)
    assoc = ae.associate("127.0.0.1", storage_scp.port, ae_title=storage_scp.ae_title)
    assert assoc.is_established
    assert assoc.send_c_echo().Status == 0x0000
    assoc.release()


def test_files_that_are_no_dicom_are_set_apart(tmp_path: Path) -> None:
    write_part10(tmp_path / "good.dcm")
    (tmp_path / "empty").touch()
    (tmp_path / "noise.dcm").write_bytes(os.urandom(4096))
    samples, others = read_samples(tmp_path)
    assert [each.path.name for each in samples] == ["good.dcm"]
    assert sorted(each.name for each in others) == ["empty", "noise.dcm"]

"""A rejection note is read while the images that it names arrive: none may slip through."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from rejection_bench import image
from rejection_notes import rejection_note
from rows import instances, outcomes
from senders import store

from dicom_node.ledger import compute
from dicom_node.rejection import read_key_objects
from dicom_node.spool import Spool
from models.audit import AuditAction
from models.states import InstanceState

Listen = Callable[..., "RunningListener"]  # noqa: F821  a fixture of conftest.py

IMAGES = 12


def test_note_and_images_at_once(listen: Listen) -> None:
    node = listen()
    images = [image(number) for number in range(IMAGES)]
    spool = Spool(node.settings.image_store, 0)
    assert store(node.port, rejection_note(images)) == 0
    with ThreadPoolExecutor(5) as pool:
        answers = [pool.submit(store, node.port, ds) for ds in images]
        readers = [pool.submit(read_key_objects, node.database, spool) for _ in range(2)]
        assert [answer.result() for answer in answers] == [0] * IMAGES
        assert sum(reader.result() for reader in readers) == 1
    states = [row.state for row in instances(node.database)]
    assert states == [InstanceState.NOT_ANALYSED] + [InstanceState.WITHDRAWN] * IMAGES
    withdrawn = outcomes(node.database, AuditAction.INSTANCE_WITHDRAWN)
    assert withdrawn == ["rejected_quality"] * IMAGES
    assert all(line.balanced for line in compute(node.database, node.settings))

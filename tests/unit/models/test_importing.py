"""Garbage is left alone while modules are imported, and only then."""

import gc
import subprocess
import sys
from contextlib import suppress

import pytest

from models.importing import importing


@pytest.mark.parametrize("is_enabled", [True, False])
def test_garbage_is_collected_again_afterwards_as_before(*, is_enabled: bool) -> None:
    was = gc.isenabled()
    (gc.enable if is_enabled else gc.disable)()
    try:
        with importing():
            assert not gc.isenabled()
        assert gc.isenabled() is is_enabled
        with suppress(ImportError), importing():
            raise ImportError
        assert gc.isenabled() is is_enabled
    finally:
        (gc.enable if was else gc.disable)()


def test_the_command_is_imported_without_looks_for_garbage() -> None:
    program = """
import gc, runpy, sys
looks = []
gc.callbacks.append(lambda phase, _: looks.append(phase))
sys.argv = ["dicom-node", "--version"]
try:
    runpy.run_module("dicom_node", run_name="__main__")
finally:
    print(looks.count("start"))
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout.splitlines()[-1]) < 50  # some hundred otherwise

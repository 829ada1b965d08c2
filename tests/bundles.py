"""Models for tests: the shipped one under another name."""

import json
import shutil
from pathlib import Path
from typing import Any

from worker.registry import BUNDLES, METADATA


def copy_bundle(folder: Path, name: str, **metadata: Any) -> Path:
    """Install the shipped model in `folder` as `name`, with these keys of its metadata changed."""
    bundle = folder / name
    shutil.copytree(BUNDLES / "unet", bundle)
    content = json.loads((bundle / METADATA).read_text())
    (bundle / METADATA).write_text(json.dumps(content | {"name": name} | metadata))
    return bundle

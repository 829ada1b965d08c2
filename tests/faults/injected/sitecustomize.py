"""Python imports this first, where this folder is on PYTHONPATH: see `crashing`."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

import crashing

crashing.install()

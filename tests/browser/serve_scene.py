"""Run the node of the tests' scene until Enter is pressed: for looking at pages by hand."""

import sys
import tempfile
from pathlib import Path

from scene import PASSWORD, PEOPLE, running_scene

if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp())
    with running_scene(folder) as scene:
        who = ", ".join(f"{name} ({role})" for name, role in PEOPLE.items())
        sys.stdout.write(f"{scene.url}  {who}  password: {PASSWORD}\n")
        sys.stdout.flush()
        sys.stdin.readline()

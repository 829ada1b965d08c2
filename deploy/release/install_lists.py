"""Requirements with hashes for a host of one part: what pip checks each download against."""

from packaging.utils import NormalizedName

from release.closure import Closure
from release.errors import ReleaseError
from release.project import WITHOUT_HASHES, Pin

Hashes = dict[NormalizedName, tuple[str, tuple[str, ...]]]

_HEAD = "# dicom-node {version} on a host with {part}: pip install --require-hashes -r FILE\n"
_TORCH = (
    "# torch is not here: its CPU and CUDA builds are different files. Install {pin} first,\n"
    "# from the index that has the build of your host.\n"
)


def requirements(
    part: str, version: str, closure: Closure, lock: dict[NormalizedName, Pin], hashes: Hashes
) -> str:
    """Return the lines of the requirements file of a part.

    Raises ReleaseError where the two locks differ.
    """
    lines = [_HEAD.format(part=f"the part {part}", version=version)]
    if WITHOUT_HASHES in closure:
        lines.append(_TORCH.format(pin=lock[WITHOUT_HASHES].line))
    for name in sorted(set(closure) - {WITHOUT_HASHES}):
        check_pin(lock[name], hashes)
        listed = "".join(f" \\\n    --hash={each}" for each in hashes[name][1])
        lines.append(f"{lock[name].line}{listed}\n")
    return "".join(lines)


def check_pin(pin: Pin, hashes: Hashes) -> None:
    """Raise ReleaseError unless the lock with hashes has this pin, in this version."""
    version, listed = hashes.get(pin.name, ("none", ()))
    if version != pin.version or not listed:
        msg = (
            f"{pin.name}: requirements.lock says {pin.version}, requirements.hashes.lock"
            f" {version}. Write the hashes anew: make hashes."
        )
        raise ReleaseError(msg)

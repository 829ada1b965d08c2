"""`python -m worker`: the same as `dicom-worker`."""

from models.importing import importing

with importing():
    from worker.cli import main

if __name__ == "__main__":
    main()

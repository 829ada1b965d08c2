"""Training of the view network (`worker.view`): `python -m worker.training.views --help`."""

"""Values of data sets that peers send: taken as they are, in the processes that receive them."""

import pydicom.config


def take_as_they_are() -> None:
    """Switch off pydicom's checks of values in this process.

    They would refuse, or quote in a log, what a peer sent; what the node needs of it is checked by
    its own rules (`header.read_identity`, `query.match`).
    """
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE

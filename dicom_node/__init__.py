"""DICOM network, intake, dispatch, delivery and web: the node without its neural network."""

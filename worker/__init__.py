"""Pixels, network, measurements and DICOM objects of one chest radiograph."""

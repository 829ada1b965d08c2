"""The DICOM Conformance Statement, made from the tables that the node works by (PS3.2)."""

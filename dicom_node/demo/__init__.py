"""The whole path on one machine: sample studies in by DICOM, results back in a PACS, a table."""

from dicom_node.demo.run import run_demo

__all__ = ["run_demo"]

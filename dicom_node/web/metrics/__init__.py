"""`/metrics`: what an alarm needs, in the text format of Prometheus; no patient data.

`table` has every metric and what it says, `page` puts them together.
"""

from dicom_node.web.metrics.page import CONTENT_TYPE, Metrics, NodeCollector
from dicom_node.web.metrics.table import HELP

__all__ = ["CONTENT_TYPE", "HELP", "Metrics", "NodeCollector"]

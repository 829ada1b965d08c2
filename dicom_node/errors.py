"""Errors of the node; the type is the outcome.

NodeError
├── StoreError             a C-STORE is answered with a failure status (status.py)
│   ├── SpoolFullError         no room: the sender may try again
│   ├── DataSetMismatchError   the data set is not what the command said
│   ├── NotUnderstoodError     the data set cannot be read or has no usable identity
│   └── NotAuthorisedError     this AE may not store
├── BrokerError            the queue cannot be reached; jobs stay in the database
└── StartError             the node cannot start; the message says what to do
"""


class NodeError(Exception):
    """Base of everything the node raises on purpose."""


class StoreError(NodeError):
    """Base of the reasons to refuse a data set."""


class SpoolFullError(StoreError):
    """The spool has no room below its free-space floor, or the disk filled while receiving."""


class DataSetMismatchError(StoreError):
    """SOP Class or SOP Instance UID of the data set differ from the command."""


class NotUnderstoodError(StoreError):
    """The data set cannot be parsed, or lacks a Study, Series or SOP Instance UID."""


class NotAuthorisedError(StoreError):
    """The calling AE may associate but not store."""


class BrokerError(NodeError):
    """The broker does not answer."""


class StartError(NodeError):
    """A part of the node cannot start."""

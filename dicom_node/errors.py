"""Errors of the node; the type is the outcome.

NodeError
├── StoreError             a C-STORE is answered with a failure status (status.py)
│   ├── SpoolFullError         no room: the sender may try again
│   ├── DataSetMismatchError   context, command and data set name different objects
│   ├── ClassNotStorableError  the context is none of the Storage Service Class
│   ├── NotUnderstoodError     no data set, or one that cannot be read or has no usable identity
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
    """The command differs from its presentation context, or the data set from the command."""


class ClassNotStorableError(StoreError):
    """The SOP Class was accepted for another service than storage."""


class NotUnderstoodError(StoreError):
    """There is no data set, it cannot be parsed, or it lacks a UID of the four levels."""


class NotAuthorisedError(StoreError):
    """The calling AE may associate but not store."""


class BrokerError(NodeError):
    """The broker does not answer."""


class StartError(NodeError):
    """A part of the node cannot start."""

"""Why there is no release. The message is for the releaser: what, where, what to do."""


class ReleaseError(Exception):
    """The release cannot go on; nothing of it is left half done."""


class NotAuditedError(ReleaseError):
    """The advisory service gave no answer: nothing is known, neither good nor bad."""

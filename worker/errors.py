"""Errors of the worker; the type is the outcome.

WorkerError
├── NotAnalysable   final: the image is sound or not, but must not get a number
├── AnalysisFailed  final: the file broke the analysis (decoder crash, time, memory)
├── BundleError     the installed model is unusable
├── ManifestError   a data set to train on is described wrongly
├── RecipeError     a recipe of a training cannot be followed
├── WeightsFileError  a file of weights to convert does not hold what the network needs
├── ImageWithdrawnError  an image was rejected or corrected while its report was made: retryable
└── DecoderStartError  the decoder process does not start; no fault of the file
Anything else is retryable: the job goes back to the queue until its attempts are used up.
"""

from models.reasons import SENTENCES, Reason


class WorkerError(Exception):
    """Base of everything the worker raises on purpose."""


class _OutcomeError(WorkerError):
    """An outcome with a stable code and one sentence."""

    def __init__(self, reason: Reason, detail: str | None = None) -> None:
        self.reason = reason
        self.detail = detail or SENTENCES[reason]
        super().__init__(f"{reason.value}: {self.detail}")


class NotAnalysable(_OutcomeError):
    """The image must not be analysed: wrong view, wrong body part, no lungs, unusable pixels."""


class AnalysisFailed(_OutcomeError):
    """The analysis broke on this file and would break again."""


class BundleError(WorkerError):
    """A model bundle is missing, incomplete, or does not match its recorded hash."""


class ManifestError(WorkerError):
    """A manifest of radiographs, or what it names, is missing or wrong; says where."""


class RecipeError(WorkerError):
    """A recipe is unreadable, or names what the data does not have; says where."""


class WeightsFileError(WorkerError):
    """A file of weights to convert is unreadable or of another network; names layer and shapes."""


class DecoderStartError(WorkerError):
    """The decoder process does not start (memory, environment): retryable."""


class ImageWithdrawnError(WorkerError):
    """An image of the report was rejected or corrected: the next attempt tells how it is now."""

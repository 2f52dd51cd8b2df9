"""What is wrong with a checkpoint, in one line that begins with the file.

CheckpointError      the checkpoint is missing, damaged or contradicts itself
└─ UnsupportedModel  it is sound, but needs something Lengthwise does not implement
"""


class CheckpointError(Exception):
    """A checkpoint cannot be served as it lies on disk."""


class UnsupportedModel(CheckpointError):
    """A sound checkpoint needs an architecture or option that is not implemented."""

"""Errors that a user can mend. The command line prints them without a traceback and exits with 2."""

from __future__ import annotations


class PaddleSFTError(Exception):
    """Something the user gave can't work. The message says what was given, what is allowed, and what to do."""


class Terminated(Exception):
    """The run was asked to stop (SIGTERM) and has saved where it was: no fault, but not the end either."""


class ArgumentError(PaddleSFTError):
    """A key, a value or a pair of values in the argument file or on the command line."""


class DataError(PaddleSFTError):
    """A data file, a line of it, or a sample."""


class ModelError(PaddleSFTError):
    """A model or adapter folder."""


class CheckpointError(PaddleSFTError):
    """Saving or resuming a run."""

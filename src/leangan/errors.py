"""One family of exceptions. Each is a sentence for people: what is wrong, where, what to do."""

from __future__ import annotations


class LeanganError(Exception):
    """Something failed; the message says what, with which file or layer, and what to do."""

    exit_code = 1


class UsageError(LeanganError):
    """The request itself makes no sense: an unknown name, options that exclude each other."""

    exit_code = 2


class QualityNotReached(LeanganError):
    """No candidate met the quality, speed or size that was asked for."""

    exit_code = 3


class BackendMissing(LeanganError):
    """An optional package is not installed; the message carries the pip command."""

    exit_code = 4


class UnsafeFile(LeanganError):
    """The file can run code when it is opened, and nobody said that it may."""


class UnknownNetwork(LeanganError):
    """Weights of a network that nobody here knows."""


class UnknownValue(UsageError):
    """A fact that only the user can know (a value range, a kind, a task) was not given."""

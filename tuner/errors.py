"""Every error that Tuner raises on purpose: one root, leaves that subclass the built-in a caller would catch.

A message says what was expected, what was found, where, and what to do. `exit_code` is what the
command line ends with; anything that is not a `TunerError` is a bug in Tuner.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar


class TunerError(Exception):
    """Root of all errors raised on purpose."""

    exit_code: ClassVar[int] = 1


class InputError(TunerError, ValueError):
    """Something a person wrote or named is wrong: a study file, a data file, an argument.

    `problems` holds one printable line (`file:line:column: path: what`) per mistake, all found at once.
    """

    exit_code = 2

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


class SpecError(InputError):
    """The study file does not describe a study."""


class DataError(InputError):
    """The data are missing, unreadable, or do not fit what the study file says of them."""


class StudyMissing(InputError, LookupError):
    """No study of that name in this home."""


class StudyChanged(InputError):
    """A study of that name exists with another spec; the message carries the difference."""


class StudyLocked(TunerError, RuntimeError):
    """Another living process drives this study."""


class LedgerError(TunerError, OSError):
    """The ledger cannot be read or written, or its content breaks its own rules."""


class CheckpointCorrupt(TunerError, OSError):
    """A checkpoint's content does not match its checksum."""

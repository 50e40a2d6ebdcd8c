"""Every error that Tuner raises on purpose: one root, leaves that subclass the built-in a caller would catch.

A message says what was expected, what was found, where, and what to do. `exit_code` is what the
command line ends with; anything that is not a `TunerError` is a bug in Tuner.
"""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

_LONGEST = 400  # characters of another program's words
_LONGEST_TRACE = 100_000  # characters of a traceback: an error may carry all of its data in its text


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


class LedgerDamaged(LedgerError):
    """The ledger is there, but not as it was stored: no ledger at all, cut off, changed, or of a newer format."""

    exit_code = 2


class TrialError(Exception):
    """A trial of a person's own training has failed: what to tell them, and the whole traceback where there is one."""

    def __init__(self, message: str, trace: str = "", *, memory: bool = False) -> None:
        super().__init__(message)
        self.trace, self.memory = trace, memory


class MachineError(Exception):
    """Something of this machine is at fault, and no trial: a file that cannot be written, code that has changed."""


class CheckpointCorrupt(TunerError, OSError):
    """A checkpoint's content does not match its checksum."""


def first_line(error: BaseException) -> str:
    """What an error of somebody else's code says, in one printable line."""
    try:
        said = str(error)
    except Exception:  # noqa: BLE001 - a person's own class of errors, whose text fails as well
        said = ""
    text = next((line.strip() for line in said.splitlines() if line.strip()), "") or type(error).__name__
    text = "".join(c if c.isprintable() else " " for c in text.encode("utf-8", "replace").decode())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def out_of_memory(error: BaseException) -> bool:
    """Whether Python, torch's CPU allocator or a GPU had too little memory."""
    names = {base.__name__ for base in type(error).__mro__}
    return bool({"MemoryError", "OutOfMemoryError"} & names) or "can't allocate memory" in str(error)


LEAVES = "; it ends the program: keep argparse and sys.exit behind if __name__ == '__main__'"


def told(error: BaseException) -> str:
    """`RuntimeError: what it says (mynet.py:14)`: the last place that is neither ours, Python's nor a package's.

    With a remedy where a person's file ends the program.
    """
    ours, pythons = Path(__file__).parent, sysconfig.get_path("stdlib")
    places = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "site-packages" not in frame.filename
        and not frame.filename.startswith("<")
        and not Path(frame.filename).is_relative_to(pythons)
        and not Path(frame.filename).is_relative_to(ours)
    ]
    where = f" ({Path(places[-1].filename).name}:{places[-1].lineno})" if places else ""
    said = first_line(error)
    text = f"{type(error).__name__}: {said}{where}" if said != type(error).__name__ else f"{said}{where}"
    return text + LEAVES if isinstance(error, SystemExit) else text


def trace(error: BaseException) -> str:
    """The whole traceback, as Python prints it: of all frames, with no variable's value.

    What could move a terminal's cursor is left out; of a text that is longer than any person reads, the middle.
    """
    text = "".join(traceback.format_exception(error)).encode("utf-8", "replace").decode()
    text = "".join(c if c.isprintable() or c in "\n\t" else " " for c in text).strip()
    half = _LONGEST_TRACE // 2
    cut = f"{text[:half]}\n… ({len(text) - 2 * half:,} characters left out) …\n{text[-half:]}"
    return text if len(text) <= _LONGEST_TRACE else cut

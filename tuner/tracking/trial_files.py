"""What trials of a person's own training wrote into their folders, and printed, as far as MLflow gets it.

Knows files and logs; never MLflow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from tuner.ledger import Ledger
from tuner.logs import Logs, Section

_OURS = {"trial.json", "report.jsonl"}  # beside a command's own files
_FOLDERS = {".tuner", "restored"}  # checkpoints, and what was gone on from
_SMALL = 10_000_000  # bytes of one that goes to MLflow though nobody named it


def of_trial(folder: Path, number: int, patterns: Sequence[str]) -> Iterator[tuple[Path, str | None]]:
    """Each file of a trial in the study's `folder`, and the folder that it lies in; all small ones unless named."""
    place = folder / "trials" / f"{number:06d}"
    for path in sorted(place.rglob("*")) if place.is_dir() else ():
        inside = path.relative_to(place)
        if not path.is_file() or path.is_symlink() or inside.name in _OURS or inside.parts[0] in _FOLDERS:
            continue
        if any(map(inside.match, patterns)) if patterns else path.stat().st_size <= _SMALL:
            yield path, str(inside.parent) if len(inside.parts) > 1 else None


class Printed:
    """What trials have printed, as `tuner logs` shows it, but for whose each line is."""

    def __init__(self, ledger: Ledger) -> None:
        self._logs = Logs(ledger)
        self._sections: dict[int, list[Section]] = {}

    def of(self, numbers: Sequence[int]) -> dict[int, str]:
        """The text of each of these trials that has printed anything; of a long one the end."""
        for section in self._logs.new() if numbers else ():
            for number in section.trials:
                self._sections.setdefault(number, []).append(section)
        texts = {number: "".join(self._lines(number)) for number in numbers}
        return {number: text[-_SMALL:] for number, text in texts.items() if text}

    def _lines(self, number: int) -> Iterator[str]:
        for section in self._sections.get(number, ()):
            for line in section.lines():
                yield line.removeprefix(f"{section.source} |").removeprefix(" ") + "\n"

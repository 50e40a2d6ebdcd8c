"""What trials of a person's own training wrote into their folders, as far as MLflow gets it. Knows files alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

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

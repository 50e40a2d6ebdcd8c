"""Pictures in folders: one sub-folder per class, every picture brought to one size.

Knows picture files and Pillow. Must never know splits or normalisation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tuner.data import streams
from tuner.data.raw import Raw
from tuner.data.tables import first
from tuner.data.targets import Targets
from tuner.errors import DataError
from tuner.models.interface import CLASSIFICATION, IMAGE

SIZE = 32  # pixels of a side unless the study says
ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
_GREY = {"1", "L", "LA", "I", "I;16", "I;16B", "F"}  # Pillow's modes without a colour


def read_folder(folder: Path, size: int | None, room: float) -> Raw:
    """The pictures of every sub-folder of `folder`, whose names are the classes; beyond `room` bytes mapped.

    Raises DataError for fewer than two classes, a class without pictures, and files that are no picture.
    """
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    found = {name: _files(folder / name) for name in classes}
    problems = []
    if len(classes) < 2:
        got = f"one, {classes[0]}" if classes else "none"
        problems.append(
            f"{folder}: expected a sub-folder of pictures for each of two classes or more, got {got}; "
            "put each class's pictures into a folder of its own"
        )
    problems += [
        f"{folder / name}: expected pictures ({', '.join(ENDINGS)}), got none; add some or remove the folder"
        for name in classes
        if not found[name]
    ]
    if problems:
        raise DataError(first(problems, 10))
    files = [path for name in classes for path in found[name]]
    labels = np.repeat(np.arange(len(classes)), [len(found[name]) for name in classes])
    side = size or SIZE
    shape = (side, side) if _all_grey(files) else (side, side, 3)
    if len(files) * math.prod(shape) <= room:
        pixels = read_files(files, shape)
    else:
        key = streams.identity(files, shape)
        pixels = streams.mapped(key, (len(files), *shape), np.uint8, lambda out: _read_into(out, files, shape))
    return Raw(folder.name, IMAGE, pixels, Targets(CLASSIFICATION, labels, tuple(classes), ("class",)))


def read_new(path: Path, shape: Sequence[int]) -> np.ndarray:
    """One picture, or all in a folder and its sub-folders in the order of their paths: uint8 [N, *shape]."""
    files = _files(path) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path}: expected pictures ({', '.join(ENDINGS)}), got none")
    return read_files(files, shape)


def read_files(files: Sequence[Path], shape: Sequence[int]) -> np.ndarray:
    """These pictures as uint8 [N, *shape], where `shape` is (H, W) for grey or (H, W, 3) for colour.

    The middle of a picture is taken in the wanted proportions, as large as fits, and scaled. A camera's
    note of which side is up is obeyed, transparency is dropped. Raises DataError naming every file that
    cannot be read.
    """
    pixels = np.empty((len(files), *shape), np.uint8)
    _read_into(pixels, files, shape)
    return pixels


def _read_into(pixels: np.ndarray, files: Sequence[Path], shape: Sequence[int]) -> None:
    problems = []
    for row, path in enumerate(files):
        try:
            pixels[row] = _pixels(path, shape)
        except (OSError, ValueError, SyntaxError) as error:  # Pillow raises all three for broken files
            problems.append(_broken(path, error))
    if problems:
        raise DataError(first(problems, 10, str(files[0].parent)))


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file())


def _all_grey(files: Sequence[Path]) -> bool:
    """Whether no picture has colours; reads the files' first bytes alone."""
    return all(mode in _GREY for mode in _modes(files))


def _modes(files: Sequence[Path]) -> Iterator[str]:
    from PIL import Image

    for path in files:
        try:
            with Image.open(path) as image:
                yield image.mode
        except (OSError, ValueError, SyntaxError):
            continue  # named when its pixels are read


def _pixels(path: Path, shape: Sequence[int]) -> np.ndarray:
    from PIL import Image, ImageOps

    with Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened)
        if image.mode in ("I;16", "I;16B", "I"):  # Pillow would cut 16 bits off at 255
            image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
        image = image.convert("RGB" if len(shape) == 3 else "L")
        height, width = shape[:2]
        return np.asarray(ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR))


def _broken(path: Path, error: Exception) -> str:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is damaged or of another kind"
    return f"{path}: expected a picture, got a file that cannot be read ({reason}); replace or remove it"

"""Pictures in folders: one sub-folder per class, every picture brought to one size.

Knows picture files and Pillow. Must never know splits or normalisation.
"""

from __future__ import annotations

import contextlib
import math
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tuner.data import streams
from tuner.data.raw import Raw
from tuner.data.tables import first
from tuner.data.targets import Targets
from tuner.errors import DataError
from tuner.models.interface import CLASSIFICATION, IMAGE

SIZE = 32  # pixels of a side unless the study says
ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
_UNREAD = {".heic", ".heif", ".avif", ".jfif", ".jp2", ".dng", ".cr2", ".nef", ".arw"}
_GREY = {"1", "L", "LA", "I", "I;16", "I;16B", "F"}  # Pillow's modes without a colour
_LARGEST = 89_478_485  # pixels that are decoded at once: a quarter of a GiB in grey, as Pillow's own first limit says
_MOST_OF_16_BITS = 65_535
_MODES: dict[tuple[int, ...], str] = {(): "L", (1,): "L", (3,): "RGB", (4,): "RGBA"}  # Pillow's, by the channels
_BAND = 256  # lines of a picture of 16 bits that are turned into 8 at once
# Folders that macOS, Synology and Windows make beside pictures.
_MACHINES = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information"}
_SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}
_TRAIN = re.compile(r"(?<![a-z])train(ing)?(set)?(?![a-z])")  # in a name: train_set, seg_train
_SCORED = re.compile(r"(?<![a-z])(val(id(ation)?)?|dev|test(ing)?|eval(uation)?|hold[-_]?out)(set)?(?![a-z])")


def read_folder(folder: Path, size: int | None, room: float) -> Raw:
    """The pictures of every sub-folder of `folder`, whose names are the classes; beyond `room` bytes mapped.

    Raises DataError for fewer than two classes, a class without pictures, and files that are no picture.
    """
    folders = {path.name: path for path in sorted(folder.iterdir()) if not _hidden(path.name) and path.is_dir()}
    classes = list(folders)
    found = {name: _files(path) for name, path in folders.items()}
    if problems := _split_problems(folder, folders):
        raise DataError(problems)
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
    targets = Targets(CLASSIFICATION, labels, tuple(classes), ("class",))
    return Raw(folder.name, IMAGE, pixels, targets, notes=_left_out(folder))


def read_new(path: Path, shape: Sequence[int]) -> np.ndarray:
    """One picture, or all in a folder and its sub-folders in the order of their paths: uint8 [N, *shape]."""
    if tuple(shape[2:]) not in _MODES:
        raise DataError(f"{path}: expected an npz with x of {list(shape)}, as in training, got pictures")
    files = _files(path) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path}: expected pictures ({', '.join(ENDINGS)}), got none")
    unread = [f for f in _seen(path) if f.suffix.lower() in _UNREAD and not _hidden(f.name)] if path.is_dir() else []
    if unread:  # without them nobody could tell which answer is whose
        problems = [f"{f}: expected a picture that ends in {', '.join(ENDINGS)}; convert or move it" for f in unread]
        raise DataError(first(sorted(problems), 5, str(path)))
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
    problems: list[str] = []
    for row, path in enumerate(files):
        try:
            pixels[row] = _pixels(path, shape)
        except DataError as error:
            problems += error.problems
        except (OSError, ValueError, SyntaxError) as error:  # Pillow raises all three for broken files
            problems.append(_broken(path, error))
    if problems:
        raise DataError(first(problems, 10, str(files[0].parent)))


def _files(folder: Path) -> list[Path]:
    """The pictures in a folder and its sub-folders; hidden ones, such as editors' copies, are none of the data."""
    return sorted(path for path in _seen(folder) if path.suffix.lower() in ENDINGS and path.is_file())


def _seen(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if not any(map(_hidden, path.relative_to(folder).parts)):
            yield path


def _hidden(name: str) -> bool:
    return name.startswith(".") or name in _MACHINES


def _split_problems(folder: Path, folders: dict[str, Path]) -> list[str]:
    """A complaint where the sub-folders are splits, each with the classes in it, and not classes."""
    inside = {
        name: {below.name for below in path.iterdir() if not _hidden(below.name) and below.is_dir()}
        for name, path in folders.items()
    }
    trained = [name for name in folders if _TRAIN.search(name.lower())]
    scored = [name for name in folders if _SCORED.search(name.lower()) and name not in trained]
    splits = [*trained, *scored]  # by a part of their names, if they hold the same
    if not (trained and scored and set.intersection(*(inside[name] for name in splits))):
        splits = [name for name in folders if name.lower() in _SPLITS]
    nested = [name for name in splits if len(inside[name]) > 1]
    alike = len(splits) > 1 and bool(set.intersection(*(inside[name] for name in splits)))
    alone = len(splits) == len(folders) and bool(nested or len(splits) > 1)
    if not (alike or alone):
        return []
    whole = max(nested or splits, key=lambda name: (len(inside[name]), name in trained))
    return [
        f"{folder}: expected a sub-folder for each class, got those of a split, {', '.join(splits)}; "
        + (f"name the one to learn from, such as {folder / whole}: " if nested else "sort the pictures by class: ")
        + "rows for validation and test are taken from it by data.validation and data.test"
    ]


def _left_out(folder: Path) -> tuple[str, ...]:
    """A line for all that lies among the pictures and is not read."""
    others: Counter[str] = Counter()
    links: list[Path] = []
    for path in _seen(folder):
        if path.parent == folder and not path.is_dir():
            continue  # beside the classes: labels, a licence
        if path.is_symlink() and (path.is_dir() or not path.exists()):
            links.append(path)
        elif path.suffix.lower() not in ENDINGS and path.is_file():
            others[path.suffix.lower() or "no ending"] += 1
    notes = []
    if others:
        kinds = ", ".join(f"{ending} ({count:,})" for ending, count in others.most_common(5))
        notes.append(
            f"{folder}: {others.total():,} files are left out, for they end in none of {', '.join(ENDINGS)}: {kinds}; "
            "convert those that are pictures"
        )
    if links:
        notes.append(
            f"{folder}: {len(links):,} links to folders, or to nothing, are left out, such as {min(links)}; "
            "copy what they lead to"
        )
    return tuple(notes)


def _all_grey(files: Sequence[Path]) -> bool:
    """Whether no picture has colours; reads the files' first bytes alone."""
    return all(mode in _GREY for mode in _modes(files))


def _modes(files: Sequence[Path]) -> Iterator[str]:
    for path in files:
        try:
            with _opened(path) as image:
                yield image.mode
        except (OSError, ValueError, SyntaxError):
            continue  # named when its pixels are read


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The picture, nothing decoded yet: how large a picture may be is told by `_pixels`, which knows its size."""
    from PIL import Image

    most = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd notes in a file, about which nobody can do anything
        Image.MAX_IMAGE_PIXELS = None
        try:
            image = Image.open(path)
        finally:
            Image.MAX_IMAGE_PIXELS = most
    with image:
        yield image


def _pixels(path: Path, shape: Sequence[int]) -> np.ndarray:
    """Raises DataError for a picture too large to be decoded; a large JPEG is scaled while it is."""
    from PIL import Image, ImageOps

    height, width = shape[:2]
    with _opened(path) as opened:
        size = opened.size
        if math.prod(size) > _LARGEST:
            opened.draft(None, (2 * max(shape[:2]),) * 2)
        if math.prod(opened.size) > _LARGEST:
            raise DataError(
                f"{path}: expected a picture of at most {_LARGEST // 10**6} million pixels, "
                f"got {size[0]:,}×{size[1]:,}; scale it down (it is brought to {width}×{height}), or remove it"
            )
        image = ImageOps.exif_transpose(opened)
        if image.mode.startswith("I;16"):  # Pillow would cut 16 bits off at 255
            image = Image.fromarray(_eight_bits(np.asarray(image)))
        elif image.mode in ("I", "F"):
            image = _from_wide(path, image)
        image = image.convert(_MODES[tuple(shape[2:])])
        return np.asarray(ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)).reshape(shape)


def _from_wide(path: Path, image: Any) -> Any:
    """A picture of 32 bits as one of eight where it holds 16 bits, as PNGs of 16 bits do in Pillow."""
    from PIL import Image

    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > _MOST_OF_16_BITS:
        raise DataError(
            f"{path}: expected 8 or 16 bits a channel, got numbers from {values.min():g} to {values.max():g}; "
            "save the pictures as the array x of an npz, or as PNGs"
        )
    return Image.fromarray(_eight_bits(values))


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """The upper eight of 16 bits [H, W], some lines at a time."""
    out = np.empty(values.shape, np.uint8)
    for start in range(0, len(values), _BAND):
        part = slice(start, start + _BAND)
        out[part] = (values[part].astype(np.int64) >> 8).clip(0, 255)
    return out


def _broken(path: Path, error: Exception) -> str:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is damaged or of another kind"
    return f"{path}: expected a picture, got a file that cannot be read ({reason}); replace or remove it"

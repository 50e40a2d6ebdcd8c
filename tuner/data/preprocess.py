"""From raw inputs to what a network eats: numbers standardised, categories one-hot, texts as tokens.

Fitted on the training rows alone and written to JSON, so that a champion years later treats a new
file as its training data were treated. Knows columns, images, sequences and texts. Must never know
splits or networks.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tuner.data import dates
from tuner.data import texts as texts_of
from tuner.data.column_kinds import LARGEST, typed
from tuner.data.moments import channel_moments, moments_of
from tuner.data.tables import Table
from tuner.data.text_columns import TEXT_DTYPE
from tuner.errors import DataError
from tuner.models.interface import CATEGORY, DATE, IMAGE, NUMBER, NUMBERS, SEQUENCE, TEXT, UNKNOWN

if TYPE_CHECKING:
    import pandas as pd

_CHUNK = 4_096  # rows standardised at once in float64; keeps a large source from doubling in memory
_NESTED = ("categories", "cycles", "marks")  # texts of each column


@dataclass(frozen=True)
class Preprocess:
    """How raw inputs become float32 [N, *inputs], or int64 tokens [N, T] of texts.

    `shape` is one raw example as the source writes it: (columns,), (H, W), (H, W, channels),
    (T, features) or (T,) characters. `columns` names a table's or a vector's columns, or a text's one;
    `categories` the values of the columns that are no numbers, the empty text among them where cells
    were empty, and `empty` the columns of numbers with empty cells, each with a second input that is 1
    where a cell was empty. `cycles` are the columns of dates, each with the periods whose sine and cosine
    are inputs beside the time that has passed; `notations` say how numbers and dates are written where it
    is not plainly, `marks` which texts stand for a missing one, `missing` which do in every column. `mean` and
    `scale` belong to the columns of numbers and dates in order, to the channels or to the features; a scale of 0
    marks a constant, which becomes 0. `characters` are those of the training texts in order: the first is token 2.
    `masked` sequences differ in length. `classes` are the names of the outputs (None in a regression), `targets` the
    names of the target columns, which a new file need not have.
    """

    modality: str
    shape: tuple[int, ...]
    columns: tuple[str, ...] = ()
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    empty: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    characters: str = ""
    masked: bool = False
    classes: tuple[str, ...] | None = None
    targets: tuple[str, ...] = ()
    cycles: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notations: Mapping[str, str] = field(default_factory=dict)
    marks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    missing: tuple[str, ...] = ()

    @classmethod
    def fit(
        cls,
        raw: Table | np.ndarray,
        rows: np.ndarray | None = None,
        *,
        modality: str,
        columns: Sequence[str] = (),
        masked: bool = False,
        length: int | None = None,
        classes: Sequence[str] | None = None,
        targets: Sequence[str] = (),
        missing: Sequence[str] = (),
    ) -> Preprocess:
        """Learn categories, means, scales and characters from the training `rows` of `raw`, or from all.

        No more than a column, or a few thousand rows, is held at once: `raw` may be mapped from a file.
        `columns` name an array's columns. `length` is the most characters of a text that are read, of
        the longest training text unless given.
        """
        rows = np.arange(len(raw)) if rows is None else rows
        learnt: dict[str, Any] = {}
        if isinstance(raw, Table):
            columns = tuple(raw.columns)
            categories = {
                name: tuple(raw.texts(name)[rows].sorted()) for name in columns if raw.kinds[name] == CATEGORY
            }
            numbers = [name for name in columns if name not in categories]
            empty = tuple(name for name in numbers if np.isnan(raw.numbers(name)[rows]).any())
            learnt = {"shape": (len(columns),), "categories": categories, "empty": empty}
            learnt["cycles"] = {n: dates.cycles(raw.numbers(n)[rows]) for n, kind in raw.kinds.items() if kind == DATE}
            learnt |= {"notations": dict(raw.notations), "marks": dict(raw.marks)}
            moments = [moments_of(cells[~np.isnan(cells)]) for cells in (raw.numbers(n)[rows] for n in numbers)]
        elif modality == TEXT:
            longest = int(np.strings.str_len(raw[rows]).max())
            codes = texts_of.codes(raw[rows].tolist())
            learnt = {"shape": (length or longest,), "characters": "".join(map(chr, np.unique(codes)))}
            moments = []
        elif modality == NUMBERS:
            learnt = {"shape": (int(np.prod(raw.shape[1:])),)}
            moments = [moments_of(values) for values in raw[rows].reshape(len(rows), -1).T]
        else:
            learnt = {"shape": tuple(raw.shape[1:])}
            moments = channel_moments(raw, rows, flat=raw.ndim == 3 and modality == IMAGE, masked=masked)
        return cls(
            modality=modality,
            columns=tuple(columns),
            mean=tuple(mean for mean, _ in moments),
            scale=tuple(scale for _, scale in moments),
            masked=masked,
            classes=None if classes is None else tuple(classes),
            targets=tuple(targets),
            missing=tuple(missing),
            **learnt,
        )

    @property
    def inputs(self) -> tuple[int, ...]:
        """The shape of one example as the network gets it: (features,), (channels, H, W), (T, features) or (T,)."""
        if self.modality == IMAGE:
            return (len(self.mean), *self.shape[:2])
        if self.modality == SEQUENCE:
            return (self.shape[0], self.shape[1] + self.masked)
        if self.modality == TEXT:
            return self.shape
        waves = 2 * sum(map(len, self.cycles.values()))
        return (len(self.mean) + len(self.empty) + waves + sum(map(len, self.categories.values())),)

    @property
    def sources(self) -> tuple[str, ...]:
        """Of numbers, the column that each input comes from: several inputs may come from one."""
        if not self.columns:
            return tuple(map(str, range(len(self.mean))))
        inputs = {
            name: len(self.categories.get(name, (name,))) + (name in self.empty) + 2 * len(self.cycles.get(name, ()))
            for name in self.columns
        }
        return tuple(name for name, count in inputs.items() for _ in range(count))

    @property
    def vocabulary(self) -> int | None:
        """How many tokens a text may hold, padding and the unknown character among them; None without texts."""
        return len(self.characters) + UNKNOWN + 1 if self.modality == TEXT else None

    def apply(self, raw: Table | pd.DataFrame | np.ndarray | Sequence[str], *, end: bool = False) -> np.ndarray:
        """Raw inputs → float32 [N, *inputs], or of texts int64 [N, T]; with `end` the last T characters, not the first.

        A table or a DataFrame gives its columns by name, in any order; others are left alone. An array
        is [N, *shape], or [N, anything of equal size]; sequences of unequal length are padded with NaN
        behind their ends, and may be shorter or longer than those of training: what is longer is cut, as
        a longer text is. A category never seen in training is none of the known ones: zeros in all its
        columns; a number missing where none was missing in training is the mean. Raises DataError for a
        missing column, text among numbers, and an array of another shape.
        """
        if self.modality == TEXT:
            return self._tokens(self._texts(raw), end)
        if isinstance(raw, list | tuple):
            raise DataError(f"expected {self._wanted()}, got a list; give an array or a DataFrame")
        if isinstance(raw, np.ndarray):
            if self._named():
                raise DataError(f"expected {self._wanted()}, got an array; give a DataFrame")
            return self._standardise(self._shaped(raw))
        table = raw if isinstance(raw, Table) else Table.of_frame(raw)  # type: ignore[arg-type]
        if self.modality != NUMBERS:
            return self._standardise(self._shaped(typed(table, dict.fromkeys(table.columns, NUMBER)).matrix()))
        return self._encoded(self._typed(table, minority=False))

    def read(self, path: str | Path) -> pd.DataFrame | np.ndarray:
        """The raw inputs of a new file of the training data's kind, which may lack the target; `apply` takes them.

        A CSV, Parquet or npz file, pictures (a file or a folder), or a text with an example on each line.
        Raises DataError naming file, row and column for what `apply` could not take.
        """
        from tuner.data import arrays, images, sources

        path = Path(path)
        if self.modality == IMAGE and (path.is_dir() or path.suffix.lower() in images.ENDINGS):
            return images.read_new(path, self.shape)
        raw = sources.read_inputs(path, self.columns if self.modality == TEXT else self.categories)
        if self.modality == TEXT:
            found = arrays.decoded(str(path), "x", raw["x"]) if isinstance(raw, dict) else raw
            return self._frame(self._texts(found, str(path)))
        if isinstance(raw, list):
            raise DataError(f"{path}: expected {self._wanted()}, got a text")
        if isinstance(raw, dict):
            if self._named():
                raise DataError(f"{path}: expected {self._wanted()}, got an array")
            x = raw["x"]
            if self.modality == SEQUENCE:
                x = arrays.of_steps(str(path), x, raw.get("lengths"))
            return self._shaped(x, str(path))
        if self.modality != NUMBERS:
            inputs = raw.drop(self.targets)
            return self._shaped(typed(inputs, dict.fromkeys(inputs.columns, NUMBER)).matrix(), str(path))
        table = self._typed(raw, minority=True)
        frame = table.frame()
        frame.attrs["notes"] = table.notes  # which cells were taken as empty: see `strangers`
        return frame

    def raw(self, inputs: np.ndarray) -> pd.DataFrame | np.ndarray:
        """Preprocessed inputs back in the source's form, up to float32's rounding: a DataFrame for named columns."""
        if self.modality == TEXT:
            known = np.array([0, 0xFFFD, *map(ord, self.characters)], "<u4")
            codes = [known[row[row > 0]].astype("<u4") for row in inputs]
            return self._frame(np.array([c.tobytes().decode("utf-32-le") for c in codes], TEXT_DTYPE))
        if self.modality == NUMBERS and self.columns:
            return self._decoded(inputs)
        if self.modality == IMAGE:
            inputs = inputs.transpose(0, 2, 3, 1)
        real = inputs[..., -1:] > 0 if self.masked else np.True_
        features = inputs[..., :-1] if self.masked else inputs
        array = np.where(real, features * np.array(self.scale) + np.array(self.mean), np.nan).astype(np.float32)
        return array.reshape(len(inputs), *self.shape)

    def strangers(self, raw: pd.DataFrame | np.ndarray) -> list[str]:
        """A line for each column of new inputs that holds what training never saw, or cells that could not be read."""
        if isinstance(raw, np.ndarray):
            return []
        lines: list[str] = list(raw.attrs.get("notes", ()))
        for name, known in self.categories.items():
            cells = raw[name].fillna("").astype("str")
            new = cells[~cells.isin(known)]
            if len(new):
                seen = ", ".join(map(repr, known[:5])) + (", …" if len(known) > 5 else "")
                lines.append(
                    f"column '{name}': {len(new)} of {len(cells)} rows hold what training never saw, such as "
                    f"{new.iloc[0]!r}; they are taken for none of {seen}"
                )
        return lines

    # --- tables -----------------------------------------------------------------------------------

    def _kinds(self) -> dict[str, str]:
        other = dict.fromkeys(self.categories, CATEGORY) | dict.fromkeys(self.cycles, DATE)
        return {name: other.get(name, NUMBER) for name in self.columns}

    def _typed(self, table: Table, minority: bool) -> Table:
        """The columns of a new table, read as those of training were."""
        bare = [name for name, known in self.categories.items() if all(text == text.strip() for text in known)]
        table = table.select(self.columns).without(self.missing).stripped(bare)
        how = {"notations": self.notations, "marks": self.marks}
        return typed(table, self._kinds(), empty=True, minority=minority, **how)  # type: ignore[arg-type]

    def _encoded(self, table: Table) -> np.ndarray:
        """A typed table's columns side by side: float32 [N, features]."""
        numbers = [name for name in self.columns if name not in self.categories]
        standardised = iter(self._standardise(table.select(numbers).matrix()).T) if numbers else iter(())
        parts: list[np.ndarray] = []
        for name in self.columns:
            known = self.categories.get(name)
            if known is not None:
                parts.append(table.texts(name).places_in(known)[:, None] == np.arange(len(known)))
                continue
            parts.append(np.nan_to_num(next(standardised))[:, None])  # no number is the mean
            if name in self.empty:
                parts.append(table.empty(name)[:, None])
            parts += [wave[:, None] for wave in dates.places(table.numbers(name), self.cycles.get(name, ()))]
        return np.concatenate(parts, axis=1).astype(np.float32)

    def _decoded(self, inputs: np.ndarray) -> pd.DataFrame:
        """What `_encoded` made, as a table again."""
        import pandas as pd

        columns: dict[str, Any] = {}
        at = numbers = 0
        for name in self.columns:
            known = self.categories.get(name)
            if known is not None:
                hot = inputs[:, at : at + len(known)]
                columns[name] = [known[row.argmax()] if row.any() else "" for row in hot]
                at += len(known)
                continue
            exact = inputs[:, at].astype(np.float64) * self.scale[numbers] + self.mean[numbers]
            values = exact if name in self.cycles else np.array([float(f"{x:.6g}") for x in exact])
            values = np.where(inputs[:, at + 1] > 0, np.nan, values) if name in self.empty else values
            columns[name] = pd.Series(dates.written(values), dtype="object") if name in self.cycles else values
            at += 1 + (name in self.empty) + 2 * len(self.cycles.get(name, ()))
            numbers += 1
        return pd.DataFrame(columns)

    # --- texts ------------------------------------------------------------------------------------

    def _texts(self, raw: Table | pd.DataFrame | np.ndarray | Sequence[str], file: str = "the inputs") -> np.ndarray:
        """The texts of a table's column, a DataFrame's, an array or a list. Raises DataError for anything else."""
        if isinstance(raw, np.ndarray) and raw.dtype.kind in "UT":
            return raw.reshape(-1).astype(TEXT_DTYPE)
        if isinstance(raw, list | tuple) and all(isinstance(text, str) for text in raw):
            return np.array(raw, TEXT_DTYPE)
        if isinstance(raw, np.ndarray | list | tuple):
            raise DataError(f"{file}: expected texts, got {getattr(raw, 'dtype', 'a list of something else')}")
        table = raw if isinstance(raw, Table) else Table.of_frame(raw)  # type: ignore[arg-type]
        (column,) = self.columns
        return typed(table.select([column]), {column: CATEGORY}).texts(column).array()

    def _tokens(self, texts: np.ndarray, end: bool) -> np.ndarray:
        """Texts → int64 [N, T]: the first T characters each, or those at the `end`; padding behind shorter ones."""
        return texts_of.tokens(texts, self.characters, self.shape[0], end=end)

    def _frame(self, texts: np.ndarray) -> pd.DataFrame:
        import pandas as pd

        return pd.DataFrame({self.columns[0]: texts.tolist()})

    # --- arrays -----------------------------------------------------------------------------------

    def _named(self) -> bool:
        """Whether inputs are told apart by their names alone."""
        return bool(self.categories or self.empty or self.cycles)

    def _wanted(self) -> str:
        """What is to be given, in words."""
        if self._named():
            return f"a table with the columns {', '.join(self.columns)}"
        return f"[N, {', '.join(map(str, self.shape))}] ({' × '.join(map(str, self.shape))} numbers per example)"

    def _shaped(self, raw: np.ndarray, file: str = "the inputs") -> np.ndarray:
        """`raw` as [N, *shape], checked to be numbers."""
        if raw.dtype.kind not in "biuf":
            raise DataError(f"{file}: expected an array of numbers, got {raw.dtype}")
        if self.masked and raw.ndim in (2, 3) and math.prod(raw.shape[2:]) == self.shape[1]:
            return self._stretched(raw.reshape(*raw.shape[:2], self.shape[1]), file)
        turned = raw.ndim == len(self.shape) + 1 and raw.shape[1:] != self.shape  # of equal size, but other axes
        if raw.ndim < 2 or turned or raw[0:1].size != int(np.prod(self.shape)) * min(len(raw), 1):
            lengths = " of any T" if self.masked else ""
            raise DataError(f"{file}: expected {self._wanted()}{lengths}, got an array of shape {list(raw.shape)}")
        if not self.masked:
            self._check_finite(raw, file)
        return raw.reshape(len(raw), *self.shape)

    @staticmethod
    def _check_finite(raw: np.ndarray, file: str) -> None:
        """Raises DataError for numbers that are none: an answer to them would look like any other."""
        from tuner.data.arrays import finite_problems

        parts = (raw[start : start + _CHUNK] for start in range(0, len(raw), _CHUNK))  # which may be mapped
        if any(finite_problems(file, "x", part, None) for part in parts):
            raise DataError(finite_problems(file, "x", raw, None))

    def _stretched(self, raw: np.ndarray, file: str) -> np.ndarray:
        """Sequences of any length [N, T', features], cut or padded with NaN to those of training."""
        gone = np.isnan(raw).all(axis=2)
        behind = np.logical_and.accumulate(gone[:, ::-1], axis=1)[:, ::-1]
        torn = np.argwhere(np.isnan(raw).any(axis=2) & ~behind).tolist()
        if torn:
            row, step = torn[0]
            raise DataError(f"{file}: x[{row}, {step}] (row {row + 1}): expected numbers in every step, got NaN")
        out = np.full((len(raw), *self.shape), np.nan, np.result_type(raw.dtype, np.float32))
        steps = min(raw.shape[1], self.shape[0])
        out[:, :steps] = raw[:, :steps]
        return out

    def _standardise(self, raw: np.ndarray) -> np.ndarray:
        """[N, features] in order, [N, H, W(, C)] → [N, C, H, W], [N, T, features] → [N, T, features(+1)]; float32."""
        scale = np.array(self.scale)
        mean, factor = np.array(self.mean), np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 0)
        image = self.modality == IMAGE
        if image and raw.ndim == 3:
            raw = raw[..., None]
        out = np.empty(raw.shape, np.float32)
        for start in range(0, len(raw), _CHUNK):
            part = slice(start, start + _CHUNK)
            out[part] = np.clip((raw[part].astype(np.float64) - mean) * factor, -LARGEST, LARGEST)
        if self.masked:
            real = ~np.isnan(raw[..., :1])
            return np.concatenate([np.where(real, out, np.float32(0)), real.astype(np.float32)], axis=2)
        return np.ascontiguousarray(out.transpose(0, 3, 1, 2)) if image else out

    # --- JSON -------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """JSON; `from_dict` gives an equal value back."""
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in dataclasses.asdict(self).items()
        } | {key: {name: list(values) for name, values in getattr(self, key).items()} for key in _NESTED}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Preprocess:
        """What `to_dict` gave; a file of an older Tuner lacks what it did not know."""
        tuples: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in value.items()}
        nested: dict[str, Any] = {
            key: {name: tuple(one) for name, one in value.get(key, {}).items()} for key in _NESTED
        }
        return cls(**tuples | nested)

"""From raw inputs to what a network eats: chosen columns, one-hot categories, standardised numbers.

Fitted on the training rows alone and written to JSON, so that a champion years later treats a new
file as its training data were treated. Knows columns and images. Must never know targets' values,
splits or networks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.interface import IMAGE, NUMBERS
from tuner.data.tables import CATEGORY, LARGEST, NUMBER, Table, typed
from tuner.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

_SMALLEST = float(np.finfo(np.float32).tiny)  # a column that spreads less is a constant to float32
_CHUNK = 4_096  # rows standardised at once in float64; keeps a large source from doubling in memory


@dataclass(frozen=True)
class Preprocess:
    """How raw inputs become float32 [N, *inputs].

    `shape` is one raw example as the source writes it: (columns,), (H, W) or (H, W, channels).
    `columns` names a table's or a vector's columns, `categories` the values of the columns that are
    no numbers. `mean` and `scale` belong to the number columns in order, or to the channels; a scale
    of 0 marks a constant, which becomes 0. `classes` are the names of the outputs (None in a
    regression), `targets` the names of the target columns, which a new file need not have.
    """

    modality: str
    shape: tuple[int, ...]
    columns: tuple[str, ...] = ()
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    mean: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    classes: tuple[str, ...] | None = None
    targets: tuple[str, ...] = ()

    @classmethod
    def fit(
        cls,
        raw: Table | np.ndarray,
        *,
        modality: str,
        columns: Sequence[str] = (),
        classes: Sequence[str] | None = None,
        targets: Sequence[str] = (),
    ) -> Preprocess:
        """Learn categories, means and scales from the training rows in `raw`; `columns` name an array's columns."""
        categories: dict[str, tuple[str, ...]] = {}
        if isinstance(raw, Table):
            columns = tuple(raw.columns)
            shape: tuple[int, ...] = (len(columns),)
            categories = {
                name: tuple(map(str, np.unique(raw.columns[name]))) for name in columns if raw.kinds[name] == CATEGORY
            }
            groups = [raw.columns[name] for name in columns if name not in categories]
        elif modality == NUMBERS:
            shape = (int(np.prod(raw.shape[1:])),)
            groups = list(raw.reshape(len(raw), -1).T)
        else:
            shape = tuple(raw.shape[1:])
            groups = [raw[..., c] for c in range(shape[2])] if len(shape) == 3 else [raw]
        moments = [_moments(group) for group in groups]
        return cls(
            modality=modality,
            shape=shape,
            columns=tuple(columns),
            categories=categories,
            mean=tuple(mean for mean, _ in moments),
            scale=tuple(scale for _, scale in moments),
            classes=None if classes is None else tuple(classes),
            targets=tuple(targets),
        )

    @property
    def inputs(self) -> tuple[int, ...]:
        """The shape of one example as the network gets it: (features,) or (channels, H, W)."""
        if self.modality == IMAGE:
            return (len(self.mean), *self.shape[:2])
        return (len(self.mean) + sum(map(len, self.categories.values())),)

    def apply(self, raw: Table | pd.DataFrame | np.ndarray) -> np.ndarray:
        """Raw inputs → float32 [N, *inputs].

        A table or a DataFrame gives its columns by name, in any order; others are left alone. An array
        is [N, *shape], or [N, anything of equal size]. A category never seen in training is none of the
        known ones: zeros in all its columns. Raises DataError for a missing column, a missing value,
        text among numbers, and an array of another shape.
        """
        if isinstance(raw, np.ndarray) and self.categories:
            names = ", ".join(self.columns)
            raise DataError(f"expected a table with the columns {names}, got an array; give a DataFrame")
        if isinstance(raw, np.ndarray):
            return self._standardise(self._shaped(raw))
        table = raw if isinstance(raw, Table) else Table.of_frame(raw)
        if self.modality == IMAGE:
            return self._standardise(self._shaped(typed(table, dict.fromkeys(table.columns, NUMBER)).matrix()))
        table = typed(table.select(self.columns), self._kinds())
        numbers = [name for name in self.columns if name not in self.categories]
        standardised = iter(self._standardise(table.select(numbers).matrix()).T) if numbers else iter(())
        parts: list[np.ndarray] = []
        for name in self.columns:
            known = self.categories.get(name)
            if known is None:
                parts.append(next(standardised)[:, None])
            else:
                parts.append(table.columns[name][:, None] == np.array(known, dtype=table.columns[name].dtype)[None])
        return np.concatenate(parts, axis=1).astype(np.float32)

    def read(self, path: str | Path) -> pd.DataFrame | np.ndarray:
        """The raw inputs of a new CSV, Parquet or npz file, which may lack the target; `apply` takes them.

        Raises DataError naming file, row and column for what `apply` could not take.
        """
        from tuner.data import sources

        raw = sources.read_inputs(Path(path))
        if isinstance(raw, np.ndarray):
            if not self.categories:
                return self._shaped(raw, str(path))
            raise DataError(f"{path}: expected a table with the columns {', '.join(self.columns)}, got an array")
        if self.modality == IMAGE:
            inputs = raw.drop(self.targets)
            return self._shaped(typed(inputs, dict.fromkeys(inputs.columns, NUMBER)).matrix(), str(path))
        return typed(raw.select(self.columns), self._kinds()).frame()

    def _kinds(self) -> dict[str, str]:
        return {name: CATEGORY if name in self.categories else NUMBER for name in self.columns}

    def _shaped(self, raw: np.ndarray, file: str = "the inputs") -> np.ndarray:
        """`raw` as [N, *shape], checked to be numbers."""
        wanted = " × ".join(map(str, self.shape))
        if raw.dtype.kind not in "biuf":
            raise DataError(f"{file}: expected an array of numbers, got {raw.dtype}")
        if raw.ndim < 2 or raw[0:1].size != int(np.prod(self.shape)) * min(len(raw), 1):
            raise DataError(
                f"{file}: expected [N, {wanted.replace(' × ', ', ')}] ({wanted} numbers per example), "
                f"got an array of shape {list(raw.shape)}"
            )
        return raw.reshape(len(raw), *self.shape)

    def _standardise(self, raw: np.ndarray) -> np.ndarray:
        """[N, features] in order, or [N, H, W(, C)] → [N, C, H, W]; float32."""
        scale = np.array(self.scale)
        mean, factor = np.array(self.mean), np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 0)
        image = self.modality == IMAGE
        if image and raw.ndim == 3:
            raw = raw[..., None]
        out = np.empty(raw.shape, np.float32)
        for start in range(0, len(raw), _CHUNK):
            part = slice(start, start + _CHUNK)
            out[part] = np.clip((raw[part].astype(np.float64) - mean) * factor, -LARGEST, LARGEST)
        return np.ascontiguousarray(out.transpose(0, 3, 1, 2)) if image else out

    def to_dict(self) -> dict[str, Any]:
        """JSON; `from_dict` gives an equal value back."""
        return {
            "modality": self.modality,
            "shape": list(self.shape),
            "columns": list(self.columns),
            "categories": {name: list(values) for name, values in self.categories.items()},
            "mean": list(self.mean),
            "scale": list(self.scale),
            "classes": None if self.classes is None else list(self.classes),
            "targets": list(self.targets),
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Preprocess:
        return cls(
            modality=value["modality"],
            shape=tuple(value["shape"]),
            columns=tuple(value["columns"]),
            categories={name: tuple(values) for name, values in value["categories"].items()},
            mean=tuple(value["mean"]),
            scale=tuple(value["scale"]),
            classes=None if value["classes"] is None else tuple(value["classes"]),
            targets=tuple(value["targets"]),
        )


def _moments(values: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation in float64; the deviation of a constant is exactly 0."""
    low, high = float(values.min()), float(values.max())
    spread = high - low
    if spread < _SMALLEST:
        return low, 0.0
    parts = [slice(start, start + _CHUNK) for start in range(0, len(values), _CHUNK)]
    size = values.size
    mean = sum(float(_relative(values[part], low, spread).sum()) for part in parts) / size
    variance = sum(float(np.square(_relative(values[part], low, spread) - mean).sum()) for part in parts) / size
    return low + spread * mean, spread * variance**0.5


def _relative(values: np.ndarray, low: float, spread: float) -> np.ndarray:
    """Within 0 … 1, so that no square leaves float64."""
    return (values.astype(np.float64) - low) / spread

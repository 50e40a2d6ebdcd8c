"""A source as read: inputs and targets, nothing fitted and nothing split.

Knows arrays and tables. Must never know files, splits or normalisation.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace

import numpy as np

from tuner.data.columns import Role
from tuner.data.tables import Cells, Table
from tuner.data.targets import Targets
from tuner.data.text_columns import Texts

_CHUNK = 4_096  # rows hashed at once


@dataclass(frozen=True)
class Raw:
    """A source as read, nothing fitted and nothing split.

    `inputs` are one of: a typed table; vectors [N, features] with `columns` as their names; images
    [N, H, W(, channels)] of any number type; sequences [N, T, features], the steps behind the end of a
    shorter one NaN throughout where they are `masked`; texts, numpy's variable-length text [N], with
    their column's name in `columns`. `groups` [N] are numbers of rows that must not be parted by the
    split, `times` [N] put them in order, `parts_of` [N] say who is in which; `numbers` [N] are the rows'
    own in the source where some of it are left out, `origin` is the digest of a program that made the data,
    `notes` are for a person to read. Of a table `roles` tell of the columns that are no inputs, `order` names
    all of its columns, `missing` the texts that stand for nothing.
    """

    name: str
    modality: str
    inputs: Table | np.ndarray
    targets: Targets
    columns: tuple[str, ...] = ()
    masked: bool = False
    groups: np.ndarray | None = None
    times: np.ndarray | None = None
    parts_of: np.ndarray | None = None
    origin: str = ""
    notes: tuple[str, ...] = ()
    roles: tuple[Role, ...] = ()
    order: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    numbers: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.targets.values)

    def only(self, rows: np.ndarray) -> Raw:
        """These rows alone, copied out of the whole."""
        targets = replace(self.targets, values=self.targets.values[rows])
        return replace(
            self, inputs=self.take(rows), targets=targets, groups=None, times=None, parts_of=None, numbers=None
        )

    def take(self, rows: np.ndarray) -> Table | np.ndarray:
        """The inputs of these rows."""
        return self.inputs.take(rows) if isinstance(self.inputs, Table) else self.inputs[rows]

    def numbered(self, rows: np.ndarray) -> np.ndarray:
        """The numbers of these rows in the source."""
        return rows if self.numbers is None else self.numbers[rows]

    @property
    def digest(self) -> str:
        """sha256 over the content and what it means; the file's name, place and format do not matter."""
        whole = hashlib.sha256()
        meaning = [self.modality, self.targets.task, self.targets.classes, self.targets.names, self.columns]
        whole.update(json.dumps([*meaning, self.origin] if self.origin else meaning).encode())
        tables = isinstance(self.inputs, Table)
        parts: dict[str, Cells] = self.inputs.columns if isinstance(self.inputs, Table) else {"": self.inputs}
        for name, values in (*parts.items(), ("target", self.targets.values)):
            if isinstance(values, Texts) or values.dtype.kind == "T":
                shape = [len(values)] if isinstance(values, Texts) else values.shape
                whole.update(json.dumps([name, tables, shape, "text"]).encode())
                whole.update(json.dumps(values.tolist()).encode())
                continue
            whole.update(json.dumps([name, tables, values.shape, values.dtype.str]).encode())
            for start in range(0, len(values), _CHUNK):  # what is mapped may not fit into memory
                whole.update(np.ascontiguousarray(values[start : start + _CHUNK]).tobytes())
        return whole.hexdigest()

"""Data: from what a study file names to normalised arrays, split once, the test rows put away.

Knows sources, tables, splits and normalisation. Must never know trials, search or training. The
names below are imported on first use: `tuner.data.batches` and `tuner.data.augmentation` run on a
machine with torch and numpy alone.
"""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["Dataset", "Preprocess", "Split", "load"]

_HOME = {
    "Dataset": "tuner.data.dataset",
    "Preprocess": "tuner.data.preprocess",
    "Split": "tuner.data.dataset",
    "load": "tuner.data.dataset",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'tuner.data' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)

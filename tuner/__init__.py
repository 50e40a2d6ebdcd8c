"""Tuner: hyperparameter tuning and experiment tracking for PyTorch.

`launch` runs a study; `StudySpec` describes one. Both are imported on first use, so that
`tuner.training` runs on a machine with torch and numpy alone and the command line starts at once.
"""

from __future__ import annotations

import importlib
from typing import Any

from tuner import cpu, top_level

__version__ = "0.1.0"
__all__ = ["StudySpec", "TrialContext", "TrialStopped", "current_trial", "launch"]

cpu.tell()
top_level.install()

_OWN = dict.fromkeys(("TrialContext", "TrialStopped", "current_trial"), "tuner.workloads.context")
_HOME = {"launch": "tuner.study.launch", "StudySpec": "tuner.spec", **_OWN}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'tuner' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""What is trained: families of networks, by name. What needs torch is imported on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tuner.models.families import FAMILIES, build, changed, digest, family, only_torch
    from tuner.models.interface import Hyperparameter, Setting, Signature, hyperparameters

__all__ = [
    "FAMILIES",
    "Hyperparameter",
    "Setting",
    "Signature",
    "build",
    "changed",
    "digest",
    "family",
    "hyperparameters",
    "only_torch",
]

_HERE = dict.fromkeys(("Hyperparameter", "Setting", "Signature", "hyperparameters"), "tuner.models.interface")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'tuner.models' has no attribute {name!r}")
    return getattr(importlib.import_module(_HERE.get(name, "tuner.models.families")), name)

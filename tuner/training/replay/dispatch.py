"""torch's private interfaces beneath autograd: a mode that sees every operation, and weak references to storages.

Where this torch lacks one, nothing is recorded, and training calls its functions step by step. Knows torch alone.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch

DispatchMode: Any
StorageWeakRef: Any
try:
    from torch.multiprocessing import reductions
    from torch.utils import _python_dispatch

    DispatchMode, StorageWeakRef = _python_dispatch.TorchDispatchMode, reductions.StorageWeakRef
    FOUND = hasattr(torch.UntypedStorage, "_cdata") and hasattr(torch.ops.aten.add.Tensor, "_schema")
except (ImportError, AttributeError):
    DispatchMode, StorageWeakRef, FOUND = contextlib.nullcontext, None, False

"""Where a study's trials are trained. Knows the spec and what torch sees of this machine.

torch is imported only where there may be a GPU: a person's own training need not wait for it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tuner.spec import StudySpec

_DRIVERS = (Path("/dev/nvidiactl"), Path("/dev/kfd"), Path("/dev/dxg"))  # NVIDIA's, AMD's, and Windows' under Linux


def device_of(spec: StudySpec) -> str:
    """The kind of device that a study trains on: "cpu" or "cuda"."""
    if spec.run.executor != "local":  # which this machine need not have
        taken = spec.run.gpus_per_worker or spec.run.gpus_per_trial
        return "cuda" if spec.run.device == "cuda" or taken else "cpu"
    if spec.run.device == "auto":
        return "cuda" if gpus() else "cpu"
    return spec.run.device


def gpus() -> int:
    """How many GPUs torch sees here."""
    if "torch" not in sys.modules and sys.platform == "linux" and not any(map(Path.exists, _DRIVERS)):
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0

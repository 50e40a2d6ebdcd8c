"""Where a study's networks are trained. Knows the spec and what torch sees of this machine."""

from __future__ import annotations

import torch

from tuner.spec import StudySpec


def device_of(spec: StudySpec) -> str:
    """The kind of device that a study trains on: "cpu" or "cuda"."""
    if spec.run.executor != "local":  # which this machine need not have
        return "cuda" if spec.run.device == "cuda" or spec.run.gpus_per_worker else "cpu"
    if spec.run.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return spec.run.device

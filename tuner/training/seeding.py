"""torch's, numpy's and Python's own random generators, which a person's network may draw from, set by a key.

The networks of `models` never draw from a stream; where somebody else's does, the streams begin anew at every
constructor and every step, so that what they give depends on the trial and the step alone (law 1).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed(value: int, device: torch.device, *, only_torch: bool = False) -> None:
    """All generators of this process, or torch's alone, begin at `value` (31 bits).

    torch.manual_seed itself walks the call stack.
    """
    torch.default_generator.manual_seed(value)
    if device.type == "cuda":
        torch.cuda.manual_seed(value)
    if only_torch:
        return
    np.random.seed(value)  # noqa: NPY002 - the global generator is the one that such networks draw from
    random.seed(value)


@contextmanager
def seeded(value: int) -> Iterator[None]:
    """Inside, the CPU's generators begin at `value`; afterwards they stand where they stood."""
    numpys, pythons = np.random.get_state(), random.getstate()  # noqa: NPY002 - as above
    try:
        with torch.random.fork_rng(devices=[]):
            seed(value, torch.device("cpu"))
            yield
    finally:
        np.random.set_state(numpys)  # noqa: NPY002 - as above
        random.setstate(pythons)

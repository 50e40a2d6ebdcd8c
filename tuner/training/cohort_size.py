"""Who trains in company, and how many together: static rules on a network's shape and the kind of device.

Whether a structure trains alone changes its bits (torch picks other kernels for one row), so that is
decided here from what is known before the first step, and recorded in the ledger; how many rows share a
cohort changes nothing but the time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tuner.models.interface import IMAGE

# Rows on a CPU; more gained nothing on two cores, and lose more training when a worker dies. Where every step of a
# sequence or every pixel has numbers of its own, more than 8 rows leave the caches (benchmarks/steps.py); a recurrence
# takes many short calls over little memory, whose own time 16 rows share.
_ROWS = {"mlp": 32, "rnn": 16}
_ROWS_OF_OTHERS = 8
_POSITIONS = 128  # of all rows of a transformer: 4 rows of 32 steps made 325 steps a second, 8 rows 297, one alone 315
_CACHE = 6e6  # bytes of parameters, gradients and two moments; of wide networks fewer rows are faster on a CPU
_GPU = 2e9  # bytes of the same on a GPU: far below its memory, which also holds activations
_ROWS_ON_A_GPU = 1024
_NARROW_CNN = 8  # channels of the first block: wider convolutions ran 0.6 to 0.9 times as fast in company on a CPU


def company(family: str, network: Mapping[str, Any], device: str, modality: str = IMAGE) -> bool:
    """Whether a structure that fuses trains in company: not where it convolves wide images on a CPU."""
    wide = family == "cnn" and modality == IMAGE and network["width"] > _NARROW_CNN
    return not (wide and device == "cpu")


def largest(family: str, parameters: int, device: str, inputs: Sequence[int]) -> int:
    """Rows per cohort at most, for networks of that family with so many parameters, on examples of that shape."""
    if device == "cpu":
        rows, room = _ROWS.get(family, _ROWS_OF_OTHERS), _CACHE
        if family == "transformer":
            rows = min(rows, _POSITIONS // inputs[0])
    else:
        rows, room = _ROWS_ON_A_GPU, _GPU
    return max(2, min(rows, int(room / (16 * parameters))))

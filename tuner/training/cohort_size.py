"""Who trains in company, and how many together: static rules on a network's shape and the kind of device.

Whether a structure trains alone changes its bits (torch picks other kernels for one row), so that is
decided here from what is known before the first step, and recorded in the ledger; how many rows share a
cohort changes nothing but the time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tuner.models import FAMILIES
from tuner.models.interface import IMAGE

# Rows on a CPU; more gained nothing on two cores, and lose more training when a worker dies. Where every step of a
# sequence or every pixel has numbers of its own, more than 8 rows leave the caches (benchmarks/steps.py); a recurrence
# takes many short calls over little memory, whose own time 16 rows share.
# A network's class says how many it takes (`rows_together`); of a transformer, how many positions of all rows
# (`positions_together`): 4 rows of 32 steps made 325 steps a second, 8 rows 297, one alone 315; of a CNN, how wide it
# may be (`widest_images_together`): wider convolutions ran 0.6 to 0.9 times as fast in company on a CPU.
_ROWS = 8  # of others
_CACHE = 6e6  # bytes of parameters, gradients and two moments; of wide networks fewer rows are faster on a CPU
_GPU = 2e9  # bytes of the same on a GPU: far below its memory, which also holds activations
_ROWS_ON_A_GPU = 1024


def company(family: str, network: Mapping[str, Any], device: str, modality: str = IMAGE) -> bool:
    """Whether a structure that fuses trains in company: not where it convolves wide images on a CPU."""
    widest = getattr(FAMILIES.get(family), "widest_images_together", None)
    return not (widest is not None and modality == IMAGE and network["width"] > widest and device == "cpu")


def largest(family: str, parameters: int, device: str, inputs: Sequence[int]) -> int:
    """Rows per cohort at most, for networks of that family with so many parameters, on examples of that shape."""
    if device == "cpu":
        network = FAMILIES.get(family)
        rows, room = getattr(network, "rows_together", _ROWS), _CACHE
        if (positions := getattr(network, "positions_together", None)) is not None:
            rows = min(rows, positions // inputs[0])
    else:
        rows, room = _ROWS_ON_A_GPU, _GPU
    return max(2, min(rows, int(room / (16 * parameters))))

"""What counting letters is worth: bits per character of n-gram models on the rows that a study trains and validates on.

The yardstick for networks that continue text. A model of n characters predicts each from the n - 1 before it, as far
as a window shows them, smoothed by Witten and Bell's rule down to equal chances for all tokens. It is fitted on the
training windows of a study file and measured on its validation windows, every character once, as a network is.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import harness
import numpy as np

from tuner.data import Dataset, Split
from tuner.errors import TunerError
from tuner.models.interface import LANGUAGE, PADDING
from tuner.spec import StudySpec
from tuner.workloads.network.plan import load

MODELS = ("unigram", "bigram", "trigram")
MOST_TOKENS = 400  # the trigram's table holds tokens³ float64
STUDY = Path(__file__).parents[1] / "examples" / "docs-text.yaml"


def bits_per_character(dataset: Dataset) -> dict[str, float]:
    """Bits per character on the validation windows, by the model's name.

    Raises ValueError for data that are no text to continue, and for more than `MOST_TOKENS` tokens.
    """
    signature = dataset.signature
    if signature.task != LANGUAGE or signature.outputs > MOST_TOKENS:
        raise ValueError(
            f"expected text to continue, of at most {MOST_TOKENS} tokens, got {signature.task} with {signature.outputs}"
        )
    tokens = np.arange(signature.outputs) != PADDING
    chances = tokens / tokens.sum()  # of every token after none, then one, then two others: float64 [tokens, …]
    found = {}
    for order, name in enumerate(MODELS):
        counts = np.zeros((signature.outputs,) * (order + 1))
        np.add.at(counts, tuple(_grams(dataset.train, order)), 1)
        counts[PADDING] = 0  # where a window shows less, the shorter context predicts
        chances = _smoothed(counts, chances)
        found[name] = float(-np.log2(chances[tuple(_grams(dataset.validation, order))]).mean())
    return found


def _grams(split: Split, order: int) -> np.ndarray:
    """Every target after the `order` tokens before it, padding before a window: int64 [order + 1, targets]."""
    before = np.full((len(split), max(order - 1, 0)), PADDING)
    windows = np.concatenate((before, split.inputs[:, :1], split.targets), 1)
    targets = split.targets.shape[1]
    starts = range(windows.shape[1] - targets - order, windows.shape[1] - targets + 1)
    return np.stack([windows[:, start : start + targets].ravel() for start in starts])


def _smoothed(counts: np.ndarray, shorter: np.ndarray) -> np.ndarray:
    """Witten and Bell 1991, interpolated: (count + kinds · shorter) / (total + kinds) of the last axis.

    `kinds` are the different tokens that followed; after a context that was never seen `shorter` predicts alone.
    """
    total, kinds = counts.sum(-1, keepdims=True), (counts > 0).sum(-1, keepdims=True)
    return np.where(total > 0, (counts + kinds * shorter) / np.maximum(total + kinds, 1), shorter)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", nargs="?", type=Path, default=STUDY, help="a study file; examples/docs-text.yaml")
    given = parser.parse_args()
    try:
        found = bits_per_character(load(StudySpec.read(given.study)))
    except (TunerError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    print(harness.table(("model", "val/bits_per_character"), [[name, f"{bits:.3f}"] for name, bits in found.items()]))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Text continued character by character by a network that answers every position of a window.

Knows one window of tokens and what a network answers to it. Must never know where the network comes from.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from tuner.data.preprocess import Preprocess
from tuner.errors import InputError, TunerError
from tuner.models.interface import PADDING, UNKNOWN
from tuner.seeds import derive

FIRST = UNKNOWN + 1  # the token of the first known character


def continued(
    answer: Callable[[Tensor], Tensor],
    preprocess: Preprocess,
    prompt: str,
    length: int,
    temperature: float = 1.0,
    seed: int = 0,
) -> str:
    """The `length` characters that follow `prompt`, without it.

    `answer` takes tokens [1, T] and answers [1, T, vocabulary], every position from itself and those before it. A
    prompt shorter than the window stands at its beginning, and of what is longer the last T characters are read.
    Each character is drawn from softmax(answer / `temperature`) over the characters known from training; at 0 it is
    the likeliest one. The draw depends on `seed` and the character's place alone, so a shorter text is the beginning
    of a longer one. Characters of the prompt that training never saw (`strangers`) are read as unknown.
    Raises InputError for an empty prompt, a negative length or temperature; TunerError for answers that are no numbers.
    """
    problems = []
    if not prompt:
        problems.append("prompt: expected at least one character to go on from, got none")
    if length < 0:
        problems.append(f"length: expected a number of characters, 0 or more, got {length}")
    if not 0 <= temperature < math.inf:
        problems.append(f"temperature: expected a number, 0 or more, got {temperature}")
    if problems:
        raise InputError(problems)
    window = preprocess.shape[0]
    places = {character: FIRST + i for i, character in enumerate(preprocess.characters)}
    tokens = [places.get(character, UNKNOWN) for character in prompt]
    begun = len(tokens)
    for step in range(length):
        seen = tokens[-window:]
        with torch.inference_mode():
            answers = answer(torch.tensor([seen + [PADDING] * (window - len(seen))]))[0, len(seen) - 1, FIRST:]
        place = derive(seed, "character", step)
        tokens.append(FIRST + _chosen(answers.double().cpu().numpy(), temperature, (place + 0.5) / 2**31))
    return "".join(preprocess.characters[token - FIRST] for token in tokens[begun:])


def strangers(preprocess: Preprocess, text: str) -> str:
    """The characters of `text` that training never saw, each once, in the order of their appearance."""
    return "".join(character for character in dict.fromkeys(text) if character not in preprocess.characters)


def _chosen(answers: np.ndarray, temperature: float, place: float) -> int:
    """Which of the answers, float64 [known characters], by a `place` between 0 and 1 in their joint chance."""
    best = int(answers.argmax())
    if not np.isfinite(answers[best]):
        raise TunerError(f"the network answers {answers[best]} where a number was expected; its training diverged")
    if temperature == 0:
        return best
    with np.errstate(over="ignore"):  # far below the best, at a tiny temperature: a chance of 0
        reached = np.exp((answers - answers[best]) / temperature).cumsum()
    return min(int(np.searchsorted(reached, place * reached[-1], side="right")), len(answers) - 1)

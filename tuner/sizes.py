"""How large a trial's network is: a metric that is known before any training.

Knows the spec, the data's signature and how networks are built; trains nothing and stores nothing.
"""

from __future__ import annotations

from models.interface import Signature
from tuner import plan
from tuner.spec import StudySpec
from tuner.spec.checks import PARAMETERS
from tuner.trial import Params, Value


class Sizes:
    """`{"parameters": trainable numbers}` of a trial, where the study has it as an objective, else nothing."""

    def __init__(self, spec: StudySpec, signature: Signature) -> None:
        self._spec, self._signature = spec, signature
        self._wanted = any(metric == PARAMETERS for metric, _ in spec.objectives)
        self._known: dict[tuple[tuple[str, Value | None], ...], int] = {}  # by structure

    def __call__(self, params: Params) -> dict[str, float]:
        if not self._wanted:
            return {}
        keywords = self._spec.network(params)
        structure = tuple((name, value) for name, value in keywords.items() if self._spec.is_structural(name))
        if structure not in self._known:
            self._known[structure] = plan.size_of(self._spec, self._signature, params)
        return {PARAMETERS: self._known[structure]}

"""Trials that train one by one: the plainest of the policies that put trials into cohorts."""

from __future__ import annotations

from collections.abc import Sequence

from tuner.events import Cohort, Params, Trial
from tuner.spec import StudySpec


class OneByOne:
    """Every trial is a cohort of one."""

    def __init__(self, spec: StudySpec) -> None:
        self._spec = spec

    def group(self, trials: Sequence[Trial], first: int) -> list[Cohort]:
        """The trials in their order, in cohorts numbered from `first`."""
        return [
            Cohort(number, (trial,), self._spec.structure(trial.params), company=False)
            for number, trial in enumerate(trials, first)
        ]

    def separate(self, _structure: Params) -> bool:
        """They are alone already."""
        return False

"""The keys of `trial`: a person's own training, a function or a command, instead of data, model and train.

Knows pydantic and each key by itself; whether the code is there and fits is looked at in `tuner.workloads`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, WrapValidator
from pydantic_core import PydanticCustomError

from tuner.search_spaces.document import describe
from tuner.spec.search_section import Section

_UNITS = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd])")


def seconds(duration: float | str | None) -> float | None:
    """`90`, `"90s"`, `"15m"`, `"2h"` or `"1d"` in seconds."""
    if isinstance(duration, str):
        number, unit = _DURATION.fullmatch(duration.strip()).groups()  # type: ignore[union-attr] # checked when it was read
        return float(number) * _UNITS[unit]
    return duration


def _duration(value: Any, handler: Any) -> Any:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e9
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if value is None or number or (match is not None and float(match[1]) > 0):
        return handler(value)
    message = f"expected seconds above 0, or a duration such as 90s, 15m or 2h, got {describe(value)}"
    raise PydanticCustomError("told", "{message}", {"message": message})


Duration = Annotated[float | str | None, WrapValidator(_duration)]
Scalar = bool | int | float | str


class TrialSection(Section):
    """A person's own training: what is run for every trial, and how long it may take."""

    function: Annotated[str | None, Field(min_length=1)] = None
    """file.py:function or package.module:function; it takes the trial, and reports to it"""
    command: Annotated[list[str] | None, Field(min_length=1)] = None
    """the program and its words, each with {parameters} filled in; no shell reads them"""
    params: dict[str, Scalar] = Field(default={})
    """parameters that are not searched"""
    epochs: Annotated[int | None, Field(ge=1, le=1_000_000)] = None
    """how many reports a trial makes, which pruners count; may be left out where nobody prunes"""
    metrics: Literal["file", "stdout"] = "file"
    """where a command reports: in the file that TUNER_REPORT names, or as name=value in what it prints"""
    timeout: Duration = None
    """longest time that a trial may take"""
    silence: Duration = None
    """longest time without a report; then the trial is ended and tried again"""
    retries: Annotated[int, Field(ge=0, le=100)] = 2
    """how often a trial is tried again that fell silent or whose process was killed"""
    grace: Duration = 10.0
    """time that a pruned trial has to end in: after its stop, or SIGTERM, comes SIGKILL"""
    environment: dict[str, Scalar | None] = Field(default={})
    """variables of a trial's process; of null the value is the launch's own, so that no secret stands in a file"""
    mlflow: bool | None = None
    """whether MLFLOW_RUN_ID names the trial's run, made beforehand; unless named, where its code speaks of mlflow"""
    artifacts: list[str] = Field(default=[])
    """patterns of files in the trial's folder that MLflow gets; all small ones unless named"""

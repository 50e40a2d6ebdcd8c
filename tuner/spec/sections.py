"""The study file section by section: which keys there are, and what each may hold.

Knows pydantic and each key by itself. What needs two sections, a search space, a network or the data
is checked in `tuner.spec` and `tuner.workloads`; files and their lines are not known here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationInfo, WrapValidator
from pydantic_core import PydanticCustomError

from tuner.events import STUDY_NAME
from tuner.models.interface import COLUMN_TYPES, MODALITIES, TASKS
from tuner.search_spaces.document import describe, suggest
from tuner.spec.rules import remedy, storage_problem
from tuner.spec.search_section import SearchSection, Section
from tuner.spec.trial_section import TrialSection
from tuner.training.config import FURTHER_METRICS

_ADDRESS = re.compile(r"(?:[\w.-]+|\[[\da-fA-F:]+\]):\d{1,5}")
MOST_WORKERS = 1_024
FURTHER = tuple(name for names in FURTHER_METRICS.values() for name in names)
MOST_COHORT = 4_096


def _only(expected: str, fits: Callable[[Any], bool], hint: Callable[[Any], str] = lambda _: "") -> WrapValidator:
    """A rule told in words: `expected`, whether a value fits, and what to do where it does not."""

    def check(value: Any, handler: Callable[[Any], Any], _info: ValidationInfo) -> Any:
        try:
            right = not isinstance(value, bool) and fits(value)
        except TypeError:
            right = False
        if right:
            return handler(value)
        message = f"expected {expected}, got {describe(value)}{hint(value)}"
        raise PydanticCustomError("told", "{message}", {"message": message})

    return WrapValidator(check)


def _is_whole(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and low <= value <= high


def _study_hint(value: Any) -> str:
    if not isinstance(value, str):
        return remedy(value, str)
    mended = re.sub(r"[^a-z0-9._-]+", "-", value.lower()).strip("-._")[:64]
    return f"; write {mended}" if STUDY_NAME.fullmatch(mended) else "; write a name such as my-study"


def _quoted(names: Any) -> str:
    """What to do about the first of a list's names that is none."""
    wrong = [(n, one) for n, one in enumerate(names, 1) if not (isinstance(one, str) and one)] if names else []
    if not isinstance(names, list) or not wrong:
        return ""
    number, one = wrong[0]
    return f", its element {number} {describe(one)}{remedy(one, str)}"


def _is_store(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    if value in ("embedded", "off"):
        return True
    try:
        parts = urlsplit(value)
        secret = "@" in parts.netloc or bool(parts.query) or bool(parts.fragment)
    except ValueError:
        return False
    if parts.scheme == "sqlite":
        return value.startswith("sqlite:///") and len(value) > len("sqlite:///") and not secret
    return parts.scheme in ("http", "https") and bool(parts.hostname) and not secret


def store_problem(value: Any) -> str | None:
    """What is wrong with MLflow's address, None where nothing is."""
    if _is_store(value):
        return None
    got, hint = describe(value), ""
    if isinstance(value, str):
        hint = suggest(value, ("embedded", "off"))
        if "@" in value or "?" in value or "#" in value:  # never show what may be a password or a token
            got = "an address with a user, a password or options in it"
            hint = (
                "; remove them, and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
                "MLFLOW_TRACKING_TOKEN, in the environment"
            )
    elif value is False:
        hint = "; write off"
    elif value is True:
        hint = "; write embedded"
    return f"expected embedded, off, an http(s):// address or sqlite:///path, got {got}{hint}"


def _told(problem: Callable[[Any], str | None]) -> WrapValidator:
    """A rule that says itself what is wrong."""

    def check(value: Any, handler: Callable[[Any], Any]) -> Any:
        if (message := problem(value)) is not None:
            raise PydanticCustomError("told", "{message}", {"message": message})
        return handler(value)

    return WrapValidator(check)


class SplitFiles(Section):
    """Files of the same columns as the source; what has none is shared out of the source's rows."""

    validation: Annotated[str | None, Field(min_length=1)] = None
    """the file whose rows trials are compared on"""
    test: Annotated[str | None, Field(min_length=1)] = None
    """the file whose rows are scored once"""


def _split_problem(value: Any) -> str | None:
    ways = ("group", "time", "column", "files")
    if value is None or not isinstance(value, dict) or value.keys() - set(ways):
        return None  # told by the section itself
    told = [way for way in ways if value.get(way) is not None]
    return None if len(told) == 1 else f"expected one of {', '.join(ways)}, got {' and '.join(told) or 'none'}"


class SplitSection(Section):
    """Who is in training, validation and test of a table, where it is not chance."""

    group: Annotated[str | None, Field(min_length=1)] = None
    """a column whose rows of one value stay together in one split"""
    time: Annotated[str | None, Field(min_length=1)] = None
    """a column of dates or numbers: the newest rows are the test, those before them validation"""
    column: Annotated[str | None, Field(min_length=1)] = None
    """a column that says train, validation or test"""
    files: SplitFiles | None = None
    """files of validation and test rows, or of one of them"""


class DataSection(Section):
    """Which data, and how they are split. `source` is a name or a path relative to the study file."""

    source: Annotated[str, Field(min_length=1)]
    """a set by name (mnist, digits, wine, …), or relative to the study file a .csv, .parquet, .xlsx, .jsonl, .npz or
    .txt file, several tables such as data/*.csv, a folder of pictures, or file.py:function"""
    target: Annotated[
        str | list[str] | None,
        _only(
            "a column's name or a list of names",
            lambda v: v is None or (v and (isinstance(v, str) or all(isinstance(name, str) and name for name in v))),
            lambda v: remedy(v, str) if not isinstance(v, list) else _quoted(v),
        ),
    ] = None
    """the column to predict, several for a regression; in an npz the array (y unless named)"""
    columns: Annotated[
        list[str] | None,
        _only(
            "a list of columns' names",
            lambda v: v is None or (isinstance(v, list) and v and all(isinstance(name, str) and name for name in v)),
            lambda v: f"; write [{v}]" if isinstance(v, str) else _quoted(v),
        ),
    ] = None
    """of a table, the columns to predict from; all but the target unless named"""
    drop: list[str] | None = None
    """of a table, columns that are no inputs"""
    types: dict[str, Literal[COLUMN_TYPES]] | None = None  # type: ignore[valid-type]
    """of a table, what columns are, where their cells do not tell: number, category, date, or id, which is left out"""
    missing: list[str] | None = None
    """texts that stand for an empty cell of a table, in every column"""
    strict: bool = False
    """whether a minority of cells that cannot be read stops the study, instead of counting as empty"""
    modality: Literal[MODALITIES] | None = None  # type: ignore[valid-type] # a tuple of names, spelt once
    """how a network sees an example; told from the data unless named"""
    task: Literal[TASKS] | None = None  # type: ignore[valid-type]
    """classes or numbers to predict, or text to continue; told from the target unless named"""
    length: Annotated[int | None, Field(ge=1, le=1_000_000)] = None
    """characters of a text that are read at once: 64 of a text to continue, else those of the longest training text"""
    size: Annotated[int | None, Field(ge=1, le=4_096)] = None
    """side in pixels that pictures in folders are brought to, 32 unless named"""
    memory: Annotated[float | None, Field(ge=0)] = None
    """GiB that inputs from Parquet or pictures may take in memory, a quarter of it unless named; more is mapped"""
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """share of the rows that trials are compared on"""
    test: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """held-out test share, scored once for the best trial; 0 skips it"""
    split: Annotated[SplitSection | None, _told(_split_problem)] = None
    """of a table, another way than chance of telling who is in which split: by group, time, column or files"""


class RunSection(Section):
    """On what the study runs. `cohort` is the largest number of trials trained as one; 1 is every trial alone."""

    executor: Literal["local", "ray", "ray-tune"] = "local"
    """local: worker processes on this machine; ray: actors on a Ray cluster; ray-tune: Ray Tune drives, one by one"""
    scheduler: Literal["fifo", "asha", "hyperband", "median", "pbt"] | None = None
    """of Ray Tune, executor ray-tune: who stops trials early, or changes them while they train; fifo unless named"""
    address: Annotated[
        str | None,
        _only(
            "auto or host:port, the address of a Ray cluster",
            lambda v: v is None or v == "auto" or (isinstance(v, str) and _ADDRESS.fullmatch(v) is not None),
            lambda v: "; its own port, 6379 as a rule" if isinstance(v, str) and v.startswith("ray://") else "",
        ),
    ] = None
    """the Ray cluster: host:port, or auto for the one that this machine is part of; Ray is started here unless named"""
    workers: Annotated[
        Literal["auto"] | int,
        _only(f"auto or an integer from 1 to {MOST_WORKERS}", lambda v: v == "auto" or _is_whole(v, 1, MOST_WORKERS)),
    ] = "auto"
    """processes that train; auto is one per `threads` cores or per GPU share, or as many as a cluster has room for"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU where there is one"""
    cohort: Annotated[
        Literal["auto"] | int,
        _only(f"auto or an integer from 1 to {MOST_COHORT}", lambda v: v == "auto" or _is_whole(v, 1, MOST_COHORT)),
    ] = "auto"
    """the largest number of trials trained as one network; 1 trains every trial alone"""
    threads: Annotated[int, Field(ge=1, le=1_024)] = 1
    """cores per worker; part of the spec, because another number rounds sums otherwise"""
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """part of a GPU that each worker has; executor local"""
    cpus_per_worker: Annotated[
        float | None,
        Field(gt=0, le=1_024),
        _only(
            "a whole number of cores, or a share of one, up to 1024",
            lambda v: v is None or 0 < v <= 1 or (v <= 1_024 and v == int(v)),
        ),
    ] = None
    """cores that Ray keeps for a worker; `threads` unless named"""
    gpus_per_worker: Annotated[float | None, Field(ge=0, le=1)] = None
    """GPU, or share of one, that Ray gives to a worker; 1 on device cuda unless named"""
    gpus_per_trial: Annotated[int | None, Field(ge=1, le=1_024)] = None
    """whole GPUs of one machine that a trial of a person's own training has, which torchrun shares out"""
    memory: Annotated[float | None, Field(gt=0)] = None
    """GiB of memory that Ray keeps for a worker"""
    storage: Annotated[str | None, _told(storage_problem)] = None
    """where Ray's workers keep checkpoints: a folder that every node sees, or s3://bucket/folder and the like"""


class TrackingSection(Section):
    """Where MLflow is: embedded in TUNER_HOME, a server's address, or off."""

    mlflow: Annotated[str, _told(store_problem)] = "embedded"
    """embedded in the home, off, a server's address, or sqlite:///path"""


class StudyFile(Section):
    """A whole study file, each key checked by itself."""

    version: Literal[1] = 1
    """of this format"""
    study: Annotated[
        str,
        Field(pattern=f"^{STUDY_NAME.pattern}$"),
        _only(
            "a name of 1 to 64 small letters, digits, dots, dashes and underscores that begins with a letter or digit",
            lambda v: isinstance(v, str) and STUDY_NAME.fullmatch(v) is not None,
            _study_hint,
        ),
    ]
    """the study's name, its folder's and its MLflow experiment's"""
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    """of everything random: the split, the batches, the sampler, the weights"""
    data: DataSection = Field(default=None)  # type: ignore[assignment] # only a study without networks has none
    """which data, and how they are split"""
    model: dict[str, Any] = Field(default={})
    """the network's family, and its hyperparameters that are not searched"""
    train: dict[str, Any] = Field(default={})
    """how it is trained: the hyperparameters of training that are not searched"""
    metrics: Annotated[list[Literal[FURTHER]] | None, Field(max_length=64)] = None  # type: ignore[valid-type]
    """what is measured at every epoch beside what always is; an objective's metric need not be named"""
    trial: TrialSection | None = None
    """a person's own training, instead of data, model and train"""
    search: SearchSection
    """what is searched, for what, how, and how often"""
    run: RunSection = RunSection()
    """on what the study runs"""
    tracking: TrackingSection = TrackingSection()
    """where its trials are shown"""


class NetworkStudy(StudyFile):
    """A study of networks: what its file must have."""

    data: DataSection
    """which data, and how they are split"""
    model: dict[str, Any]
    """the network's family, and its hyperparameters that are not searched"""


class ProgramStudy(StudyFile):
    """A study of a person's own training."""

    trial: TrialSection
    """a person's own training, instead of data, model and train"""

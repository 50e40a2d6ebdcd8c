"""The study file: every kind of bad input is told by place, rule and remedy, and a good one means one thing."""
# ruff: noqa: E501 - a message stands on one line of this table, as a person reads it

from __future__ import annotations

import copy
import json
import pickle
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tuner.errors import SpecError, TunerError
from tuner.search_spaces import SearchSpace
from tuner.search_spaces.document import parse
from tuner.spec import StudySpec, schema
from tuner.spec.sections import DataSection
from tuner.training.config import TrainConfig

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))

SPACE = """\
  space:
    learning_rate: {type: float, low: 1e-4, high: 0.1, log: true}
    width: {type: choice, values: [16, 32]}
    optimizer: {type: choice, values: [sgd, adam]}
    momentum: {type: float, low: 0, high: 0.99, when: {optimizer: sgd}}
"""
STUDY = f"""\
study: digits
seed: 7
data: {{source: digits}}
model: {{family: mlp}}
train: {{epochs: 9}}
search:
{SPACE}\
  objective: {{metric: val/accuracy, goal: maximize}}
  trials: 8
"""
WIDTH = "width: {type: choice, values: [16, 32]}"


def written(folder: Path, *changes: tuple[str, str]) -> Path:
    """A study file like `STUDY` with some text exchanged."""
    text = STUDY
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new, 1)
    path = folder / "study.yaml"
    path.write_text(text)
    return path


def study(folder: Path, *changes: tuple[str, str], **options: Any) -> StudySpec:
    return StudySpec.read(written(folder, *changes), **options)


def problems(path: Path, **options: Any) -> list[str]:
    """What is wrong with a file, each line without the file's name."""
    with pytest.raises(SpecError) as caught:
        StudySpec.read(path, **options)
    return [problem.removeprefix(f"{path}:") for problem in caught.value.problems]


BAD: dict[str, tuple[list[tuple[str, str]], list[str]]] = {
    "empty": (
        [(STUDY, "")],
        ["1:1: expected lines of `key: value`, got an empty file"],
    ),
    "only a comment": (
        [(STUDY, "# nothing\n")],
        ["1:1: expected lines of `key: value`, got an empty file"],
    ),
    "a list at the top": (
        [(STUDY, "- a\n")],
        ["1:1: expected lines of `key: value`, got a list at the top"],
    ),
    "tab indentation": (
        [("  space:\n", "\tspace:\n")],
        ["7:1: expected spaces as indentation, got a tab; replace it with spaces"],
    ),
    "duplicate key, both lines named": (
        [("seed: 7\n", "seed: 7\nseed: 8\n")],
        ["3:1: seed: expected each key once, got 'seed' on lines 2 and 3; remove one of them"],
    ),
    "a python tag": (
        [("digits\n", "!!python/name:os.system digits\n")],
        ["1:8: study: expected a plain value, got the tag !!python/name:os.system; remove it"],
    ),
    "unknown key": (
        [("  trials: 8", "  trials: 8\n  smapler: {kind: tpe}")],
        [
            "14:3: search.smapler: expected one of space, objective, sampler, pruner, trials, start_with, got the unknown key 'smapler'; did you mean 'sampler'?"
        ],
    ),
    "version 99": (
        [("study: digits", "version: 99\nstudy: digits")],
        ["1:1: version: expected 1, got the integer 99; this Tuner reads no other, a newer one may"],
    ),
    "an anchor and an alias": (
        [("{source: digits}", "&d {source: digits}\nrun: *d")],
        [
            "3:7: data: expected no anchor, got &d; remove it",
            "4:6: run: expected a value, got the alias *d; write the value again",
        ],
    ),
    "a leading zero": (
        [("trials: 8", "trials: 008")],
        [
            '13:11: search.trials: expected an integer without a leading zero, got 008; write 8 for a number, "008" for text'
        ],
    ),
    "a number in quotes": (
        [("trials: 8", 'trials: "10"')],
        ["13:3: search.trials: expected an integer, got the text '10'; write 10 without quotes"],
    ),
    "yes for a number": (
        [("{family: mlp}", "{family: mlp, dropout: yes}")],
        ["4:22: model.dropout: expected a number of at least 0 and below 1 (dropout probability), got the text 'yes'"],
    ),
    "yes for true": (
        [("{epochs: 9}", "{nesterov: yes}")],
        [
            "5:9: train.nesterov: expected true or false (sgd looks ahead along its momentum), got the text 'yes'; write true"
        ],
    ),
    "null where a value is required": (
        [("trials: 8", "trials:")],
        ["13:3: search.trials: expected an integer, got null (nothing); write `trials: 64`"],
    ),
    "null for an optional value": (
        [("seed: 7", "seed: null")],
        ["2:1: seed: expected an integer, got null (nothing); give a value or remove the line"],
    ),
    "a section without content": (
        [("train: {epochs: 9}", "train:")],
        ["5:1: train: expected a mapping, got null (nothing); write `train: {epochs: 20}`"],
    ),
    "a number for a section": (
        [("  trials: 8", "  trials: 8\n  sampler: 3")],
        ["14:3: search.sampler: expected a mapping, got the integer 3; write `sampler: {kind: tpe}`"],
    ),
    "a kind for a section": (
        [("  trials: 8", "  trials: 8\n  sampler: tpe")],
        ["14:3: search.sampler: expected a mapping, got the text 'tpe'; write `sampler: {kind: tpe}`"],
    ),
    "unknown sampler": (
        [("  trials: 8", "  trials: 8\n  sampler: {kind: tpee}")],
        [
            "14:13: search.sampler.kind: expected tpe, random, grid, qmc, gp, cmaes or nsga2, got the text 'tpee'; did you mean 'tpe'?"
        ],
    ),
    "a sampler without a kind": (
        [("  trials: 8", "  trials: 8\n  sampler: {startup: 3}")],
        [
            "14:3: search.sampler: expected a mapping with a kind (tpe, random, grid, qmc, gp, cmaes or nsga2), got one without; add `kind: tpe`"
        ],
    ),
    "an option of another sampler": (
        [("  trials: 8", "  trials: 8\n  sampler: {kind: random, startup: 3}")],
        [
            "14:27: search.sampler.startup: expected one of kind, got the unknown key 'startup'; 'startup' belongs to kind tpe or gp"
        ],
    ),
    "low above high": (
        [(WIDTH, "width: {type: int, low: 9, high: 3}")],
        ["9:24: search.space.width.low: expected low ≤ high, got"],
    ),
    "log with low 0": (
        [(WIDTH, "dropout: {type: float, low: 0, high: 0.5, log: true}")],
        ["9:28: search.space.dropout.low: expected low above 0 under log: true, got"],
    ),
    "log with step": (
        [(WIDTH, "dropout: {type: float, low: 0.1, high: 0.5, log: true, step: 0.1}")],
        ["9:60: search.space.dropout.step: expected either log or step, got"],
    ),
    "step 0": (
        [(WIDTH, "dropout: {type: float, low: 0.1, high: 0.5, step: 0}")],
        ["9:49: search.space.dropout.step: expected a step above 0, got"],
    ),
    "step above the range": (
        [(WIDTH, "dropout: {type: float, low: 0.1, high: 0.5, step: 3}")],
        ["9:49: search.space.dropout.step: expected a step of at most high − low = 0.4, got"],
    ),
    "NaN bound": (
        [(WIDTH, "dropout: {type: float, low: .nan, high: 0.5}")],
        ["9:28: search.space.dropout.low: expected a finite number, got"],
    ),
    "infinite bound": (
        [(WIDTH, "dropout: {type: float, low: 0, high: .inf}")],
        ["9:36: search.space.dropout.high: expected a finite number, got"],
    ),
    "integer bound 1.5": (
        [(WIDTH, "width: {type: int, low: 1.5, high: 3}")],
        ["9:24: search.space.width.low: expected an integer, got"],
    ),
    "no choices": (
        [(WIDTH, "width: {type: choice, values: []}")],
        ["9:27: search.space.width.values: expected at least one of the values, got"],
    ),
    "a mapping as a choice": (
        [(WIDTH, "width: {type: choice, values: [{a: 1}, 3]}")],
        ["9:36: search.space.width.values[0]: expected a number, text, true or false, got"],
    ),
    "an empty space": (
        [(SPACE, "  space: {}\n")],
        ["7:3: search.space: expected at least one parameter, got"],
    ),
    "no hyperparameter of this family": (
        [(WIDTH, "widht: {type: choice, values: [16, 32]}")],
        [
            "9:5: search.space.widht: expected a hyperparameter of mlp or of training, got 'widht'; did you mean 'width'?"
        ],
    ),
    "condition on an unknown parent": (
        [("when: {optimizer: sgd}", "when: {optimiser: sgd}")],
        ["11:56: search.space.momentum.when.optimiser: expected a parameter of this space, got"],
    ),
    "condition on a value never taken": (
        [("when: {optimizer: sgd}", "when: {optimizer: [sgd, adamw]}")],
        ["11:56: search.space.momentum.when.optimizer: expected a value that optimizer takes (sgd or adam), got"],
    ),
    "a grid of 10^12": (
        [
            (
                SPACE,
                "  space: {width: {type: int, low: 1, high: 1000}, depth: {type: int, low: 1, high: 100}, batch_size: {type: int, low: 1, high: 10000}, warmup: {type: int, low: 1, high: 1000}}\n  sampler: {kind: grid}\n",
            )
        ],
        [
            "8:13: search.sampler.kind: expected a grid of at most 1,000,000 points, got 1,000,000,000,000; use sampler random or tpe, or larger steps"
        ],
    ),
    "a grid over a continuous range": (
        [("  trials: 8", "  trials: 8\n  sampler: {kind: grid}")],
        [
            "8:5: search.space.learning_rate: expected finitely many values under sampler grid, got a continuous range; add a step or use choices",
            "11:5: search.space.momentum: expected finitely many values under sampler grid, got a continuous range; add a step or use choices",
        ],
    ),
    "a step that does not divide the range": (
        [(WIDTH, "dropout: {type: float, low: 0, high: 0.5, step: 0.2}")],
        ["9:47: search.space.dropout.step: expected a step that divides high − low, got"],
    ),
    "trials 0": (
        [("trials: 8", "trials: 0")],
        ["13:3: search.trials: expected an integer from 1 to 1,000,000, got the integer 0"],
    ),
    "trials -1": (
        [("trials: 8", "trials: -1")],
        ["13:3: search.trials: expected an integer from 1 to 1,000,000, got the integer -1"],
    ),
    "trials 10^9": (
        [("trials: 8", "trials: 1000000000")],
        ["13:3: search.trials: expected an integer from 1 to 1,000,000, got the integer 1000000000"],
    ),
    "trials 1e3": (
        [("trials: 8", "trials: 1e3")],
        ["13:3: search.trials: expected an integer, got the number 1000; write 1000"],
    ),
    "minimise": (
        [("maximize", "minimise")],
        [
            "12:37: search.objective.goal: expected maximize or minimize, got the text 'minimise'; did you mean 'minimize'?"
        ],
    ),
    "a misspelt metric": (
        [("val/accuracy", "val/acuracy")],
        [
            "12:15: search.objective.metric: expected one of val/loss, val/accuracy, val/f1, val/rmse, val/mae, val/r2, val/perplexity, val/bits_per_character, train/loss, got the text 'val/acuracy'; did you mean 'val/accuracy'?"
        ],
    ),
    "a metric without its split": (
        [("val/accuracy", "accuracy")],
        [
            "12:15: search.objective.metric: expected one of val/loss, val/accuracy, val/f1, val/rmse, val/mae, val/r2, val/perplexity, val/bits_per_character, train/loss, got the text 'accuracy'; did you mean 'val/accuracy'?"
        ],
    ),
    "a metric that is never reported": (
        [("val/accuracy", "val/auc")],
        [
            "12:15: search.objective.metric: expected one of val/loss, val/accuracy, val/f1, val/rmse, val/mae, val/r2, val/perplexity, val/bits_per_character, train/loss, got the text 'val/auc'"
        ],
    ),
    "two goals in a list": (
        [("goal: maximize", "goal: [maximize, minimize]")],
        ["12:37: search.objective.goal: expected maximize or minimize, got a list; write one value without brackets"],
    ),
    "two goals for one metric": (
        [("goal: maximize", "goal: maximize, goal: minimize")],
        ["12:53: search.objective.goal: expected each key once, got 'goal' twice on line 12; remove one of them"],
    ),
    "no goal": (
        [(", goal: maximize", "")],
        ["12:3: search.objective.goal: expected a value, got nothing; add `goal: maximize`"],
    ),
    "two objectives": (
        [
            (
                "{metric: val/accuracy, goal: maximize}",
                "[{metric: parameters, goal: minimize}, {metric: val/los, goal: minimum}, {metric: val/f1}]",
            )
        ],
        [
            "12:16: search.objective[0].metric: expected a metric that training changes first, got parameters; put val/loss before it",
            "12:54: search.objective[1].metric: expected one of val/loss",
            "12:71: search.objective[1].goal: expected maximize or minimize, got the text 'minimum'",
            "12:87: search.objective[2].goal: expected a value, got nothing; add `goal: maximize`",
        ],
    ),
    "a name with ../": (
        [("study: digits", "study: ../digits")],
        [
            "1:1: study: expected a name of 1 to 64 small letters, digits, dots, dashes and underscores that begins with a letter or digit, got the text '../digits'; write digits"
        ],
    ),
    "an empty name": (
        [("study: digits", 'study: ""')],
        [
            "1:1: study: expected a name of 1 to 64 small letters, digits, dots, dashes and underscores that begins with a letter or digit, got empty text; write a name such as my-study"
        ],
    ),
    "a name with an escaped NUL": (
        [("study: digits", 'study: "a\\0b"')],
        [
            "1:1: study: expected a name of 1 to 64 small letters, digits, dots, dashes and underscores that begins with a letter or digit, got the text 'a\\x00b'; write a-b"
        ],
    ),
    "a name with a NUL": (
        [("study: digits", "study: a\0b")],
        ["1:9: expected text, got the control character '\\x00'; remove it"],
    ),
    "a name of 300 characters": (
        [
            (
                "study: digits",
                "study: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            )
        ],
        [
            "1:1: study: expected a name of 1 to 64 small letters, digits, dots, dashes and underscores that begins with a letter or digit, got the text 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa…'; write aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
        ],
    ),
    "a number as a name": (
        [("study: digits", "study: 2024")],
        [
            '1:1: study: expected a name of 1 to 64 small letters, digits, dots, dashes and underscores that begins with a letter or digit, got the integer 2024; write "2024" in quotes'
        ],
    ),
    "a name with a space and capitals": (
        [("study: digits", "study: My Study")],
        [
            "1:1: study: expected a name of 1 to 64 small letters, digits, dots, dashes and underscores that begins with a letter or digit, got the text 'My Study'; write my-study"
        ],
    ),
    "unknown family": (
        [("family: mlp", "family: mpl")],
        [
            "4:9: model.family: expected one of mlp, cnn, rnn, transformer, or file.py:Class, got the text 'mpl'; did you mean 'mlp'?"
        ],
    ),
    "unknown cell": (
        [("family: mlp", "family: mlp, cell: lstm")],
        [
            "4:22: model.cell: expected one of family, width, depth, activation, norm, dropout, got the unknown key 'cell'"
        ],
    ),
    "unknown optimizer, searched": (
        [("[sgd, adam]", "[sgd, adan]")],
        [
            "10:45: search.space.optimizer.values[1]: expected sgd, adam, adamw or rmsprop (the update rule, as in torch.optim), got the text 'adan'; did you mean 'adam'?"
        ],
    ),
    "unknown optimizer, fixed": (
        [("{epochs: 9}", "{epochs: 9, optimizer: adan}")],
        [
            "5:20: train.optimizer: expected sgd, adam, adamw or rmsprop (the update rule, as in torch.optim), got the text 'adan'; did you mean 'adam'?",
            "10:5: search.space.optimizer: expected 'optimizer' either fixed or searched, got train.optimizer too; remove one of them",
        ],
    ),
    "unknown activation": (
        [("family: mlp", "family: mlp, activation: rleu")],
        [
            "4:22: model.activation: expected relu, sigmoid, tanh, gelu or silu (the nonlinearity), got the text 'rleu'; did you mean 'relu'?"
        ],
    ),
    "unknown activation, searched": (
        [(WIDTH, "activation: {type: choice, values: [relu, gleu]}")],
        [
            "9:47: search.space.activation.values[1]: expected relu, sigmoid, tanh, gelu or silu (the nonlinearity), got the text 'gleu'; did you mean 'gelu'?"
        ],
    ),
    "a key of train under model": (
        [("family: mlp", "family: mlp, epochs: 9")],
        [
            "4:22: model.epochs: expected one of family, width, depth, activation, norm, dropout, got the unknown key 'epochs'; 'epochs' belongs under train"
        ],
    ),
    "a key of model under train": (
        [("{epochs: 9}", "{epochs: 9, width: 3}")],
        [
            "5:20: train.width: expected one of epochs, batch_size, drop_last, loss, huber_delta, class_weights, optimizer, learning_rate, momentum, nesterov, beta1, beta2, alpha, epsilon, weight_decay, l1, gradient_clip, label_smoothing, schedule, warmup, decay_every, decay_factor, early_stopping, shift, flip, noise, rotation, cutout, time_mask, got the unknown key 'width'; 'width' belongs under model",
            "9:5: search.space.width: expected 'width' either fixed or searched, got train.width too; remove one of them",
        ],
    ),
    "a key of train at the top": (
        [("seed: 7", "epochs: 7")],
        [
            "2:1: epochs: expected one of version, study, seed, data, model, train, search, run, tracking, got the unknown key 'epochs'; 'epochs' belongs under train"
        ],
    ),
    "a key of search under run": (
        [("  trials: 8", "run: {trials: 8}")],
        [
            "6:1: search.trials: expected a value, got nothing; add `trials: 64`",
            "13:7: run.trials: expected one of executor, scheduler, address, workers, device, cohort, threads, share, cpus_per_worker, gpus_per_worker, memory, storage, got the unknown key 'trials'; 'trials' belongs under search",
        ],
    ),
    "fixed and searched": (
        [("family: mlp", "family: mlp, width: 16")],
        ["9:5: search.space.width: expected 'width' either fixed or searched, got model.width too; remove one of them"],
    ),
    "a range beyond the rule": (
        [(WIDTH, "dropout: {type: float, low: 0, high: 1}")],
        [
            "9:36: search.space.dropout.high: expected a number of at least 0 and below 1 (dropout probability), got the number 1"
        ],
    ),
    "a float range for an integer": (
        [(WIDTH, "width: {type: float, low: 1, high: 3}")],
        ["9:13: search.space.width.type: expected integers (units per hidden layer), got type float; write type: int"],
    ),
    "a range for text": (
        [(WIDTH, "activation: {type: int, low: 1, high: 3}")],
        [
            "9:18: search.space.activation.type: expected values of text, got type int; use {type: choice, values: [relu, sigmoid, tanh, gelu, silu]}"
        ],
    ),
    "a range for true and false": (
        [(WIDTH, "nesterov: {type: float, low: 0, high: 1}")],
        [
            "9:16: search.space.nesterov.type: expected values of true or false, got type float; use {type: choice, values: [true, false]}"
        ],
    ),
    "nothing left to train on": (
        [("{source: digits}", "{source: digits, validation: 0.5, test: 0.5}")],
        ["3:41: data.test: expected validation + test below 1, got 1; nothing is left to train on"],
    ),
    "no validation rows": (
        [("{source: digits}", "{source: digits, validation: 0}")],
        ["3:24: data.validation: expected a number above 0 and below 1, got the integer 0"],
    ),
    "a number as target": (
        [("{source: digits}", "{source: digits, target: 3}")],
        ['3:24: data.target: expected a column\'s name or a list of names, got the integer 3; write "3" in quotes'],
    ),
    "a misspelt task": (
        [("{source: digits}", "{source: digits, task: clasification}")],
        [
            "3:24: data.task: expected classification, regression or language, got the text 'clasification'; did you mean 'classification'?"
        ],
    ),
    "start_with that does not fit": (
        [
            (
                "  trials: 8",
                "  trials: 8\n  start_with: [{width: 17, learning_rate: 0.01}, {widht: 16}, 3, {momentum: 0.5, optimizer: adam}]",
            )
        ],
        [
            "14:17: search.start_with[0].width: expected 16 or 32, got",
            "14:51: search.start_with[1].widht: expected a parameter of the space (learning_rate, width, optimizer, momentum); did you mean 'width'?",
            "14:63: search.start_with[2]: expected a mapping, got",
            "14:67: search.start_with[3].momentum: expected nothing, because momentum exists only when optimizer is sgd, got",
        ],
    ),
    "everything wrong under run": (
        [("seed: 7", "run: {workers: none, device: gpu, cohort: 0, threads: 0, share: 2, executor: rya}")],
        [
            "2:7: run.workers: expected auto or an integer from 1 to 1024, got the text 'none'",
            "2:22: run.device: expected auto, cpu or cuda, got the text 'gpu'; write cuda",
            "2:35: run.cohort: expected auto or an integer from 1 to 4096, got the integer 0",
            "2:46: run.threads: expected an integer from 1 to 1,024, got the integer 0",
            "2:58: run.share: expected a number above 0 and at most 1, got the integer 2",
            "2:68: run.executor: expected local, ray or ray-tune, got the text 'rya'; did you mean 'ray'?",
        ],
    ),
    "keys of a cluster without one": (
        [("seed: 7", "run: {address: auto, cpus_per_worker: 2, gpus_per_worker: 0.5, memory: 4}")],
        [
            "2:7: run.address: expected none with executor local, got the text 'auto'; write executor: ray, or remove it",
            "2:22: run.cpus_per_worker: expected none with executor local, got the integer 2; write executor: ray, or remove it",
            "2:42: run.gpus_per_worker: expected none with executor local, got the number 0.5; write executor: ray, or remove it",
            "2:64: run.memory: expected none with executor local, got the integer 4; write executor: ray, or remove it",
        ],
    ),
    "everything wrong about a cluster": (
        [
            (
                "seed: 7",
                'run: {executor: ray, address: "ray://head:10001", share: 0.5, gpus_per_worker: 2, memory: 0, device: cpu, cpus_per_worker: 1.5}',
            )
        ],
        [
            "2:22: run.address: expected auto or host:port, the address of a Ray cluster, got the text 'ray://head:10001'; its own port, 6379 as a rule",
            "2:51: run.share: expected none with executor ray, got the number 0.5; write gpus_per_worker instead",
            "2:63: run.gpus_per_worker: expected a number from 0 to 1, got the integer 2",
            "2:63: run.gpus_per_worker: expected none on device cpu, got the integer 2; write device: cuda",
            "2:83: run.memory: expected a number above 0, got the integer 0",
            "2:107: run.cpus_per_worker: expected a whole number of cores, or a share of one, up to 1024, got the number 1.5",
        ],
    ),
    "a GPU of no size": (
        [("seed: 7", "run: {executor: ray, device: cuda, gpus_per_worker: 0}")],
        ["2:36: run.gpus_per_worker: expected more than 0 on device cuda, got 0; write device: cpu"],
    ),
    "a password in an address": (
        [("seed: 7", 'tracking: {mlflow: "https://me:hunter2@example.org"}')],
        [
            "2:12: tracking.mlflow: expected embedded, off, an http(s):// address or sqlite:///path, got an address with a user, a password or options in it; remove them, and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, in the environment"
        ],
    ),
    "a misspelt tracking": (
        [("seed: 7", "tracking: {mlflow: embeded}")],
        [
            "2:12: tracking.mlflow: expected embedded, off, an http(s):// address or sqlite:///path, got the text 'embeded'; did you mean 'embedded'?"
        ],
    ),
    "an address of another kind": (
        [("seed: 7", 'tracking: {mlflow: "ftp://x"}')],
        [
            "2:12: tracking.mlflow: expected embedded, off, an http(s):// address or sqlite:///path, got the text 'ftp://x'"
        ],
    ),
    "false for off": (
        [("seed: 7", "tracking: {mlflow: false}")],
        [
            "2:12: tracking.mlflow: expected embedded, off, an http(s):// address or sqlite:///path, got false; write off"
        ],
    ),
    "a pruner out of bounds": (
        [("seed: 7", "seed: -1"), ("  trials: 8", "  trials: 8\n  pruner: {kind: asha, reduction: 1, min_epoch: 2}")],
        [
            "2:1: seed: expected an integer from 0 to 4,294,967,295, got the integer -1",
            "14:24: search.pruner.reduction: expected an integer from 2 to 100,000, got the integer 1",
            "14:38: search.pruner.min_epoch: expected one of kind, min_epochs, reduction, got the unknown key 'min_epoch'; did you mean 'min_epochs'?",
        ],
    ),
    "training out of bounds": (
        [("{epochs: 9}", '{epochs: 0, learning_rate: "0.1"}')],
        [
            "5:9: train.epochs: expected an integer from 1 to 100,000 (passes over the training rows), got the integer 0",
            "5:20: train.learning_rate: expected a number above 0 and at most 1,000 (step size before the schedule), got the text '0.1'; write 0.1 without quotes",
            "8:5: search.space.learning_rate: expected 'learning_rate' either fixed or searched, got train.learning_rate too; remove one of them",
        ],
    ),
    "unknown space": (
        [(SPACE, "  space: mpl\n")],
        [
            "7:3: search.space: expected cnn, mlp, optimizer, regularization, rnn, transformer or the path of a YAML file, got"
        ],
    ),
    "a list of spaces": (
        [(SPACE, "  space: [mlp]\n")],
        ["7:3: search.space: expected a space's name or a mapping, got a list; write `space: mlp`"],
    ),
    "no space": (
        [(SPACE, "")],
        ["6:1: search.space: expected a value, got nothing; add `space: mlp`"],
    ),
}
"""What a person got wrong → (text exchanged in `STUDY`, how every line of the answer begins)."""


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told_by_line_column_path_rule_and_remedy(case: str, tmp_path: Path) -> None:
    changes, expected = BAD[case]
    path = written(tmp_path, *changes)
    told = problems(path)
    assert len(told) == len(expected), told
    for line, beginning in zip(told, expected, strict=True):
        assert line.startswith(beginning)
        assert re.match(r"\d+:\d+: ([\w.\[\]]+: )?expected .+", line), line
    assert [entry.name for entry in tmp_path.iterdir()] == ["study.yaml"], "bad input must create nothing"


def test_every_mistake_is_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        ("seed: 7", "seed: 007"),
        ("family: mlp", "family: mlp, depht: 3"),
        ("epochs: 9", "epochs: 9, epochs: 8, l1: -1"),
        ("values: [16, 32]", "values: [16, big]"),
        ("low: 0, high: 0.99", "low: 2, high: 1"),
        ("goal: maximize", "goal: maximise"),
        ("trials: 8", 'trials: "8"\n  smapler: {kind: tpe}'),
    )
    places = [line.split(": expected")[0] for line in problems(path)]
    assert places == [
        "2:7: seed",
        "4:22: model.depht",
        "5:20: train.epochs",
        "5:31: train.l1",
        "9:40: search.space.width.values[1]",
        "11:29: search.space.momentum.low",
        "12:37: search.objective.goal",
        "13:3: search.trials",
        "14:3: search.smapler",
    ]


def test_bad_input_ends_the_program_with_2() -> None:
    assert SpecError.exit_code == 2
    assert issubclass(SpecError, (TunerError, ValueError))


def test_a_missing_file_is_answered_with_a_near_name(tmp_path: Path) -> None:
    written(tmp_path)
    (line,) = problems(tmp_path / "stdy.yaml")
    assert line == "1:1: expected the path of a file, found nothing there; did you mean 'study.yaml'?"
    (line,) = problems(tmp_path)
    assert line.startswith("1:1: expected a file, got a directory; name a file in it")


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_bytes(STUDY.replace("digits", "größe").encode("latin-1"))
    assert problems(path) == ["1:10: expected UTF-8 text, got the byte 0xf6; save the file as UTF-8"]
    path.write_bytes(b"#" * 1_000_001)
    (line,) = problems(path)
    assert line.startswith("1:1: expected at most 1 MB")


def test_numbers_may_be_written_with_an_exponent(tmp_path: Path) -> None:
    spec = study(tmp_path, ("epochs: 9", "epochs: 9, l1: 1e-3"))
    assert spec.training({})["l1"] == 0.001
    assert spec.space.parameters["learning_rate"].low_value == 1e-4


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_a_study(path: Path) -> None:
    assert not StudySpec.read(path).warnings


def test_what_is_legal_and_hardly_meant_is_a_warning(tmp_path: Path) -> None:
    spec = study(
        tmp_path,
        (WIDTH, "width: {type: int, low: 16, high: 16}"),
        ("goal: maximize", "goal: minimize"),
        ("trials: 8", "trials: 8\n  pruner: {kind: median, min_epochs: 9}"),
    )
    first, second, third = (line.removeprefix(f"{tmp_path}/study.yaml:") for line in spec.warnings)
    assert first.startswith("9:5: search.space.width: is constant")
    assert (
        second == "12:37: search.objective.goal: minimize looks for the worst val/accuracy; maximize looks for the best"
    )
    assert third.startswith("14:26: search.pruner.min_epochs: nothing is pruned before epoch 9")


@pytest.mark.parametrize(
    ("train", "space", "pruner"),
    [
        ("epochs: 9", "", "kind: median, min_epochs: 10"),
        ("epochs: 9", "", "kind: asha, min_epochs: 10"),
        ("epochs: 9", "", "kind: hyperband, min_epochs: 10"),
        ("optimizer: sgd", "    epochs: {type: int, low: 2, high: 9}\n", "kind: asha, min_epochs: 10"),
        ("optimizer: sgd", "    epochs: {type: choice, values: [9, 3]}\n", "kind: asha, min_epochs: 10"),
        ("epochs: 9", "", "kind: patient, patience: 2, pruner: {kind: median, min_epochs: 10}"),
    ],
)
def test_a_first_epoch_to_prune_at_that_no_trial_has_is_refused(
    train: str, space: str, pruner: str, tmp_path: Path
) -> None:
    changes = [
        ("epochs: 9", train),
        ("  space:\n", f"  space:\n{space}"),
        ("  trials: 8", f"  trials: 8\n  pruner: {{{pruner}}}"),
    ]
    if "epochs" in space:
        changes.append(
            (
                "    optimizer: {type: choice, values: [sgd, adam]}\n    momentum: {type: float, low: 0, high: 0.99, when: {optimizer: sgd}}\n",
                "",
            )
        )
    (line,) = problems(written(tmp_path, *changes))
    assert (
        "min_epochs: expected at most 9, the epochs of the longest trial, got 10: nothing could ever be pruned" in line
    )
    fine = [(old, new.replace("min_epochs: 10", "min_epochs: 3")) for old, new in changes]
    assert study(tmp_path, *fine).warnings == ()


def test_a_password_in_an_address_is_never_shown(tmp_path: Path) -> None:
    path = written(tmp_path, ("seed: 7", "tracking: {mlflow: 'http://me:canary@h'}"))
    assert "canary" not in "".join(problems(path))
    told = problems(written(tmp_path), overrides=["tracking.mlflow=http://me:canary@h"])
    assert "canary" not in "".join(told).partition("expected")[2]


@pytest.mark.parametrize(
    "address", ["embedded", "off", "http://127.0.0.1:5000", "https://mlflow.example.org/x", "sqlite:////tmp/m.db"]
)
def test_tracking_goes_to_a_store_a_server_or_nowhere(address: str, tmp_path: Path) -> None:
    assert study(tmp_path, overrides=[f"tracking.mlflow={address}"]).tracking.mlflow == address


def test_embedded_is_the_server_of_a_service_where_the_environment_names_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNER_MLFLOW", "http://mlflow:5000")
    made = study(tmp_path)
    assert (made.tracking.mlflow, made.store) == ("embedded", "http://mlflow:5000")
    off = study(tmp_path, ("search:", "tracking: {mlflow: off}\nsearch:"))
    assert off.store == "off"
    monkeypatch.delenv("TUNER_MLFLOW")
    again = study(tmp_path)
    assert (again.store, again.digest) == ("embedded", made.digest)


# --- the command line's own settings ---


def test_an_override_is_put_over_the_file_and_kept_with_its_text(tmp_path: Path) -> None:
    spec = study(
        tmp_path,
        overrides=["train.epochs=3", "run={workers: 2}", "search.start_with=[{width: 32}]", "train.gradient_clip=null"],
        name="other",
        trials=5,
    )
    assert (spec.study, spec.search.trials, spec.training({})["epochs"], spec.run.workers) == ("other", 5, 3, 2)
    assert spec.search.start_with == [{"width": 32}]
    assert spec.text.startswith(STUDY)
    assert "# --set train.epochs=3\n" in spec.text
    assert parse(spec.text, "again").data["study"] == "digits", "the text must stay a study file"


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("train.epochs=x", "--set train.epochs=x: expected an integer from 1 to 100,000"),
        ("trian.epochs=3", "--set trian.epochs=3: trian: expected one of version, study"),
        (
            "train.epochs",
            "--set train.epochs: expected path=value, got the text 'train.epochs'; write --set train.epochs=20",
        ),
        ("=3", "--set =3: expected path=value"),
        ("train..epochs=3", "--set train..epochs=3: expected path=value"),
        ("study.name=3", "--set study.name=3: expected a mapping at study, got the text 'digits'"),
        ("train.epochs=[1", "--set train.epochs=[1: expected YAML"),
        (
            "search.space.width.values=[16, x]",
            "--set search.space.width.values=[16, x]: search.space.width.values[1]: expected an integer",
        ),
        ("search.space.widht.low=1", "--set search.space.widht.low=1: search.space.widht"),
        (
            "search.sampler={kind: gird}",
            "--set search.sampler={kind: gird}: search.sampler.kind: expected tpe, random, grid, qmc, gp, cmaes or nsga2",
        ),
    ],
)
def test_a_wrong_override_is_told_by_its_flag(override: str, told: str, tmp_path: Path) -> None:
    assert problems(written(tmp_path), overrides=[override])[0].startswith(told)


def test_wrong_name_and_trials_are_told_by_their_flags(tmp_path: Path) -> None:
    name, trials = problems(written(tmp_path), name="../x", trials=0)
    assert name.startswith("--name ../x: expected a name")
    assert trials.startswith("--trials 0: expected an integer from 1 to 1,000,000")


def test_a_named_space_can_be_changed_in_part(tmp_path: Path) -> None:
    named = (SPACE, "  space: mlp\n")
    whole = study(tmp_path, named).space
    spec = study(tmp_path, named, overrides=["search.space.depth.high=2", "search.space.dropout=null"])
    assert spec.space.parameters["depth"].high_value == 2
    assert spec.space.parameters["depth"].low_value == whole.parameters["depth"].low_value
    assert whole.parameters.keys() - spec.space.parameters.keys() == {"dropout"}


def test_a_mistake_in_an_included_file_is_told_where_it_stands(tmp_path: Path) -> None:
    piece = tmp_path / "piece.yaml"
    piece.write_text("# mine\nwidth: {type: int, low: 9, high: 1}\n")
    path = written(tmp_path, (SPACE, "  space: {include: ./piece.yaml}\n"), ("trials: 8", "trials: 0"))
    here, there = problems(path)
    assert here.startswith("9:3: search.trials: expected")
    assert there.startswith(f"{piece}:2:")


# --- what a spec answers ---


def test_network_and_training_get_every_value_in_its_own_type(tmp_path: Path) -> None:
    spec = study(tmp_path, ("family: mlp", "family: mlp, dropout: 0"), ("epochs: 9", "epochs: 9, gradient_clip: 1"))
    params = {"learning_rate": 0.01, "width": 32, "optimizer": "adam"}
    network = spec.network(params)
    assert network == {"width": 32, "depth": 2, "activation": "relu", "norm": "none", "dropout": 0.0}
    assert isinstance(network["dropout"], float)
    training = spec.training(params)
    assert TrainConfig(**training) == TrainConfig(epochs=9, gradient_clip=1.0, learning_rate=0.01, optimizer="adam")
    assert isinstance(training["gradient_clip"], float)


def test_what_changes_shapes_is_structural_and_the_rest_is_not(tmp_path: Path) -> None:
    spec = study(tmp_path)
    assert [name for name in spec.space.parameters if spec.is_structural(name)] == ["width"]
    assert spec.is_structural("batch_size")
    assert not spec.is_structural("dropout")
    assert spec.structure({"learning_rate": 0.1, "width": 16, "optimizer": "sgd"}) == {"width": 16}


def test_objective_is_read_from_the_file(tmp_path: Path) -> None:
    assert (study(tmp_path).metric, study(tmp_path).maximize) == ("val/accuracy", True)
    spec = study(tmp_path, ("metric: val/accuracy, goal: maximize", "metric: val/loss, goal: minimize"))
    assert (spec.metric, spec.maximize) == ("val/loss", False)


def test_a_spec_cannot_be_changed(tmp_path: Path) -> None:
    spec = study(tmp_path)
    with pytest.raises(ValidationError):
        spec.seed = 8  # type: ignore[misc]


# --- identity ---


def test_the_digest_does_not_see_how_a_study_is_written(tmp_path: Path) -> None:
    plain = study(tmp_path).digest
    assert study(tmp_path, ("seed: 7\n", "# a comment\nseed:   7\n")).digest == plain
    assert study(tmp_path, ("{epochs: 9}", "{epochs: 9, batch_size: 64, l1: 0}")).digest == plain, (
        "a default written out"
    )
    assert study(tmp_path, ("low: 0, high: 0.99", "low: 0.0, high: 99.0e-2")).digest == plain


@pytest.mark.parametrize("override", ["run.workers=2", "run.executor=local", "tracking.mlflow=off"])
def test_the_digest_does_not_see_what_changes_no_number(override: str, tmp_path: Path) -> None:
    assert study(tmp_path, overrides=[override]).digest == study(tmp_path).digest


@pytest.mark.parametrize(
    "override",
    [
        "study=other",
        "seed=8",
        "data.source=mnist",
        "data.test=0.1",
        "model.depth=3",
        "train.epochs=10",
        "search.space.width.values=[16]",
        "search.space.depth={type: int, low: 1, high: 2}",
        "search.objective.metric=val/f1",
        "search.sampler={kind: random}",
        "search.pruner={kind: asha}",
        "search.trials=9",
        "search.start_with=[{width: 16}]",
        "run.cohort=1",
        "run.device=cpu",
        "run.threads=2",
    ],
)
def test_the_digest_sees_whatever_may_change_a_number(override: str, tmp_path: Path) -> None:
    changed = study(tmp_path, overrides=[override])
    plain = study(tmp_path)
    assert changed.digest != plain.digest
    assert changed.difference(plain.canonical()), "a changed digest must have a difference to show"


def test_a_difference_names_what_was_and_what_is(tmp_path: Path) -> None:
    before = study(tmp_path, overrides=["search.pruner={kind: asha}"])
    after = study(tmp_path, ("values: [16, 32]", "values: [16]"), overrides=["search.pruner={kind: median}"])
    assert after.difference(before.canonical()) == [
        "search.space.width.values: was [16, 32], now [16]",
        "search.pruner.kind: was 'asha', now 'median'",
        "search.pruner.startup: was nothing, now 5",
        "search.pruner.reduction: was 3, now nothing",
    ]
    assert after.difference(after.canonical()) == []


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_a_spec_comes_back_from_its_json(path: Path) -> None:
    spec = StudySpec.read(path)
    for body in (spec.canonical(), spec.to_json()):
        back = StudySpec.from_json(json.loads(json.dumps(body, allow_nan=False)), spec.folder, spec.text)
        assert back.digest == spec.digest
        assert back.space == spec.space
        assert back.training({}) == spec.training({})
        assert (back.folder, back.text) == (spec.folder, spec.text)
    assert StudySpec.from_json(spec.to_json(), spec.folder).to_json() == spec.to_json()


def test_a_spec_travels_to_another_process(tmp_path: Path) -> None:
    spec = study(tmp_path)
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert pickle.loads(pickle.dumps(spec)).digest == spec.digest


def test_the_first_versions_spec_opens_for_ever() -> None:
    golden = json.loads((Path(__file__).parent / "golden" / "spec-v1.json").read_text())
    spec = StudySpec.from_json(golden, Path())
    assert spec.study == "mnist-cnn"
    assert spec.search.trials == 64
    # later versions may know more settings; what the file says must not change
    assert all(": was nothing, " in line for line in spec.difference(golden))


def test_more_trials_asked_for_beside_the_file_extend_a_study(tmp_path: Path) -> None:
    spec = study(tmp_path)
    more = spec.extended(20)
    assert (spec.search.trials, spec.extends) == (8, False)
    assert (more.search.trials, more.extends) == (20, True)
    assert study(tmp_path, trials=20).extends
    assert study(tmp_path, trials=20).digest == more.digest
    assert not study(tmp_path, ("trials: 8", "trials: 20")).extends
    assert more.difference(spec.canonical()) == ["search.trials: was 8, now 20"]
    with pytest.raises(SpecError, match=r"^trials=0: expected an integer from 1 to 1,000,000, got the integer 0$"):
        spec.extended(0)


# --- from Python ---


def from_python(**changes: Any) -> StudySpec:
    return StudySpec(**{**parse(STUDY, "study").data, **changes})


def test_python_gives_the_same_study_as_a_file(tmp_path: Path) -> None:
    assert from_python().digest == study(tmp_path).digest
    assert from_python(data=DataSection(source="digits")).digest == study(tmp_path).digest
    search = parse(STUDY, "study").data["search"]
    space = SearchSpace.from_dict(search["space"])
    assert from_python(search={**search, "space": space}).digest == study(tmp_path).digest
    assert from_python(data={"source": Path("digits")}).digest == study(tmp_path).digest


def test_python_is_told_the_same_rules_by_path() -> None:
    with pytest.raises(SpecError) as caught:
        from_python(seed=-1, model={"family": "mpl"}, epochs=3)
    first, second, third = sorted(caught.value.problems)
    assert first.startswith("epochs: expected one of version")
    assert (
        second
        == "model.family: expected one of mlp, cnn, rnn, transformer, or file.py:Class, got the text 'mpl'; did you mean 'mlp'?"
    )
    assert third == "seed: expected an integer from 0 to 4,294,967,295, got the integer -1"


def test_a_spec_keeps_nothing_of_the_mappings_it_was_made_from() -> None:
    search = copy.deepcopy(parse(STUDY, "study").data["search"])
    spec = from_python(search=search)
    before = spec.digest
    search["space"]["width"]["values"].append(64)
    search["trials"] = 99
    assert spec.digest == before


# --- a network of one's own ---

NETWORK = """
import torch
from torch import nn
{top}
class Net(nn.Module):
    def __init__({arguments}) -> None:
        super().__init__()
"""


@pytest.mark.parametrize(
    ("arguments", "top", "told"),
    [
        (
            "self, width: int = 3",
            "",
            "model.family: expected a constructor that begins with signature, got net.py:Net(width: int = 3)",
        ),
        (
            "self, signature, width: list",
            "",
            "model.family: expected a network that imports, got TypeError: Net(width: list) is no hyperparameter",
        ),
        (
            "self, signature, width: int = 3, noise: float = 0.1",
            "",
            "model.family: expected keywords of its own, got net.py:Net with 'noise'",
        ),
        (
            "self, signature, width: int = 3, *, heads: int",
            "",
            "model: expected a value for heads: the network has no default; add `heads: …`",
        ),
        (
            "self, signature, width: int = 3",
            "1 / 0",
            "model.family: expected a network that imports, got ZeroDivisionError: division by zero",
        ),
        (
            "self, signature, width: int = 3",
            "raise SystemExit(3)",
            (
                "model.family: expected a network that imports, got SystemExit: 3 (net.py:4); it ends the program: "
                "keep argparse and sys.exit behind if __name__ == '__main__'"
            ),
        ),
        ("self, signature, width: int = 3", "def", "model.family: expected a network that imports, got SyntaxError"),
        (
            "self, signature, width: int = 3",
            "import no_such_module",
            "model.family: expected a network that imports, got ModuleNotFoundError",
        ),
    ],
)
def test_a_network_of_ones_own_that_does_not_fit_is_told(arguments: str, top: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NETWORK.format(arguments=arguments, top=top))
    (line,) = problems(written(tmp_path, ("family: mlp", "family: net.py:Net")))
    assert line.startswith(f"4:{1 if 'heads' in told else 9}: {told}")


@pytest.mark.parametrize(
    ("family", "told"),
    [
        ("net.py", "; add the class: net.py:Net"),
        ("nets.py:Net", "no file"),
        ("net.py:Nut", "net.py has no network class Nut"),
        ("net.py:os", "net.py has no network class os"),
        ("no.such.module:Net", "ModuleNotFoundError"),
        ("..x:Net", "TypeError"),
        ("json:JSONDecoder", "json has no network class JSONDecoder"),
        ("'net.py:'", "no model family"),
    ],
)
def test_a_network_that_is_not_there_is_told(family: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NETWORK.format(arguments="self, signature, width: int = 3", top="import os"))
    (line,) = problems(written(tmp_path, ("family: mlp", f"family: {family}")))
    assert line.startswith("4:9: model.family: expected")
    assert told in line


def test_a_network_of_ones_own_brings_its_own_hyperparameters(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        NETWORK.format(arguments="self, signature, width: int = 3, rate: float = 0.5, *, heads: int", top="")
    )
    own = ("family: mlp", "family: net.py:Net, heads: 4")
    spec = study(tmp_path, own)
    assert spec.network({"width": 16}) == {"width": 16, "rate": 0.5, "heads": 4}
    assert pickle.loads(pickle.dumps(spec)).network({}) == spec.network({})
    (line,) = problems(written(tmp_path, own, (WIDTH, "depth: {type: int, low: 1, high: 3}")))
    assert line.startswith(
        "9:5: search.space.depth: expected a hyperparameter of net.py:Net or of training, got 'depth'"
    )


# --- the schema for editors ---


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_schema_accepts_every_example(path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    checker = jsonschema.Draft202012Validator(schema())
    checker.check_schema(checker.schema)
    assert [error.message for error in checker.iter_errors(parse(path.read_text(), path.name).data)] == []


@pytest.mark.parametrize(
    "case",
    ["unknown key", "version 99", "a number in quotes", "yes for a number", "a section without content", "unknown sampler",
     "trials 0", "minimise", "no goal", "a name with ../", "unknown family", "unknown cell", "unknown optimizer, fixed",
     "a key of train under model", "no validation rows", "everything wrong under run", "a metric that is never reported"],
)  # fmt: skip
def test_the_schema_refuses_what_one_key_shows_to_be_wrong(case: str, tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    data = parse(written(tmp_path, *BAD[case][0]).read_text(), "study").data
    assert not jsonschema.Draft202012Validator(schema()).is_valid(data)


@pytest.mark.parametrize(
    ("section", "value"),
    [
        ("run", {"workers": 0}),
        ("run", {"cohort": 5_000}),
        ("search", {"sampler": {"startup": 3}}),
        ("search", {"pruner": {}}),
        ("search", {"space": {}}),
        ("search", {"space": ""}),
    ],
)
def test_the_schema_refuses_what_the_checks_refuse(section: str, value: dict[str, Any], tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    whole = parse(STUDY, "study").data
    checker = jsonschema.Draft202012Validator(schema())
    assert checker.is_valid(whole)
    whole[section] = {**whole.get(section, {}), **value}
    assert not checker.is_valid(whole)
    with pytest.raises(SpecError):
        StudySpec(**whole)


def test_the_schema_offers_what_there_is_by_name() -> None:
    made = schema()
    assert "syllables" in made["$defs"]["DataSection"]["properties"]["source"]["anyOf"][0]["enum"]
    space = made["$defs"]["SearchSection"]["properties"]["space"]
    assert {"mlp", "transformer"} <= set(space["anyOf"][0]["enum"])
    helps = space["anyOf"][-1]["properties"]["width"]["description"]
    assert "units per hidden layer" in helps and "channels" in helps


# --- anything at all ---

GOOD = [STUDY, *(path.read_text() for path in EXAMPLES)]
PIECES = [
    "\t",
    "\n",
    "  ",
    ": ",
    "- ",
    "[",
    "]",
    "{",
    "}",
    "&a ",
    "*a",
    "!!t ",
    '"',
    "'",
    "#",
    "0",
    "1e9",
    "\0",
    "é",
    "\\",
    "null",
    "~",
    "|\n",
]


@st.composite
def edited_files(draw: st.DrawFn) -> bytes:
    """A good study file after some accidents."""
    text = bytearray(draw(st.sampled_from(GOOD)).encode())
    for _ in range(draw(st.integers(1, 5))):
        start = draw(st.integers(0, len(text)))
        piece = draw(st.sampled_from(PIECES).map(str.encode) | st.binary(max_size=3))
        text[start : start + draw(st.integers(0, 12))] = piece
    return bytes(text)


ODD_VALUES = st.sampled_from(
    [None, True, False, 0, -1, 3, 1e9, 10**30, 0.5, float("nan"), float("inf"), "", "x", "10", "yes", "../x", "a" * 5000, "\0",
     "\ud800", "mlp", "net.py:X", "os:path", ":", "torch.nn:Linear", [], [1], [[]], [None, "a"], {}, {"a": 1}, {"kind": "tpe"},
     {"kind": 3}, {"type": "int"}, {"type": "int", "low": 0, "high": 2**60}, {"type": "choice", "values": [True, 1, "1"]},
     {"include": "cnn"}, {"include": ["cnn", 3]}, {"": 1}, {1: 2}, (1, 2), b"x", {"type": "float", "low": 1, "high": 1e308, "log": True}]
)  # fmt: skip


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    if isinstance(data, dict | list):
        for key, value in data.items() if isinstance(data, dict) else enumerate(data):
            yield from places(value, (*path, key))


@st.composite
def odd_studies(draw: st.DrawFn) -> dict[str, Any]:
    """A good study with some values exchanged for others of any type."""
    data = parse(draw(st.sampled_from(GOOD)), "good").data
    for _ in range(draw(st.integers(1, 3))):
        *parents, last = draw(st.sampled_from(list(places(data))))
        inner = data
        for key in parents:
            inner = inner[key]
        inner[last] = copy.deepcopy(draw(ODD_VALUES))
    return data


def check_told(error: SpecError) -> None:
    assert error.problems
    assert all("expected" in problem and problem.isprintable() for problem in error.problems)


@settings(max_examples=150, deadline=None)
@given(edited_files())
def test_any_accident_to_a_file_gives_a_study_or_problems(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "study.yaml")
        path.write_bytes(content)
        try:
            spec = StudySpec.read(path)
        except SpecError as error:
            check_told(error)
        else:
            assert StudySpec.from_json(spec.canonical(), spec.folder).digest == spec.digest


@settings(max_examples=250, deadline=None)
@given(odd_studies())
def test_any_value_anywhere_gives_a_study_or_problems(data: dict[str, Any]) -> None:
    try:
        spec = StudySpec(**data)
    except SpecError as error:
        check_told(error)
    else:
        assert StudySpec.from_json(json.loads(json.dumps(spec.canonical())), spec.folder).digest == spec.digest


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from([".".join(map(str, place)) for place in places(parse(STUDY, "study").data)]), st.text(max_size=10)
)
def test_any_override_gives_a_study_or_problems(place: str, value: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "study.yaml")
        path.write_text(STUDY)
        try:
            StudySpec.read(path, overrides=[f"{place}={value}"])
        except SpecError as error:
            check_told(error)


@pytest.mark.parametrize(
    ("train", "space", "told"),
    [
        ("optimizer: adam, momentum: 0.5", "", "train.momentum: momentum does nothing with optimizer adam; it is for"),
        ("optimizer: adam", "decay_factor: {type: float, low: 0.1, high: 0.5}", "decay_factor does nothing with"),
        ("epochs: 3, warmup: 50", "", "train.warmup: the warm-up of 50 epochs never ends: trials end at epoch 3"),
        ("momentum: 0.5", "optimizer: {type: choice, values: [adam, rmsprop]}", None),
        ("schedule: step, decay_factor: 0.5", "", None),
    ],
)
def test_a_setting_that_nothing_reads_is_a_warning(train: str, space: str, told: str | None, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(
        "study: s\ndata: {source: digits}\nmodel: {family: mlp}\n"
        f"train: {{{train}}}\n"
        "search:\n  space:\n    learning_rate: {type: float, low: 0.1, high: 0.2}\n"
        f"    {space}\n  objective: {{metric: val/accuracy, goal: maximize}}\n  trials: 2\n"
    )
    warnings = StudySpec.read(tmp_path / "study.yaml").warnings
    assert [told in line for line in warnings] == [True] if told else warnings == ()

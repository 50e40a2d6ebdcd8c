"""The study file: every kind of bad input is told by place, rule and remedy, and a good one means one thing."""
# ruff: noqa: E501 - a message stands on one line of this table, as a person reads it

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tuner.errors import SpecError
from tuner.spec import StudySpec

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").rglob("*.yaml"))

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
            "12:15: search.objective.metric: expected one of val/loss, val/accuracy, val/f1, val/rmse, val/mae, val/r2, val/perplexity, val/bits_per_character, val/balanced_accuracy, val/precision, val/recall, val/f1_weighted, val/precision_weighted, val/recall_weighted, val/matthews, val/kappa, train/loss, got the text 'val/acuracy'; did you mean 'val/accuracy'?"
        ],
    ),
    "a metric without its split": (
        [("val/accuracy", "accuracy")],
        [
            "12:15: search.objective.metric: expected one of val/loss, val/accuracy, val/f1, val/rmse, val/mae, val/r2, val/perplexity, val/bits_per_character, val/balanced_accuracy, val/precision, val/recall, val/f1_weighted, val/precision_weighted, val/recall_weighted, val/matthews, val/kappa, train/loss, got the text 'accuracy'; did you mean 'val/accuracy'?"
        ],
    ),
    "a metric that is never reported": (
        [("val/accuracy", "val/auc")],
        [
            "12:15: search.objective.metric: expected one of val/loss, val/accuracy, val/f1, val/rmse, val/mae, val/r2, val/perplexity, val/bits_per_character, val/balanced_accuracy, val/precision, val/recall, val/f1_weighted, val/precision_weighted, val/recall_weighted, val/matthews, val/kappa, train/loss, got the text 'val/auc'"
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
            "2:1: epochs: expected one of version, study, seed, data, model, train, metrics, trial, search, run, tracking, got the unknown key 'epochs'; 'epochs' belongs under train"
        ],
    ),
    "a key of search under run": (
        [("  trials: 8", "run: {trials: 8}")],
        [
            "6:1: search.trials: expected a value, got nothing; add `trials: 64`",
            "13:7: run.trials: expected one of executor, scheduler, address, workers, device, cohort, threads, share, cpus_per_worker, gpus_per_worker, gpus_per_trial, memory, storage, got the unknown key 'trials'; 'trials' belongs under search",
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

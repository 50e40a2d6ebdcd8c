"""A study in Ray Tune's hands: its space and trials in Tune's words, and whole studies that Tune drives."""

from __future__ import annotations

import json
import math
import os
import signal
import threading
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import tuner
from tests import studies
from tests.study.test_study import Silent
from tuner.checkpoints.store import weights_path
from tuner.errors import LedgerError, SpecError
from tuner.events import Asked, Grouped, Reported, Started, State
from tuner.history.fold import History, Window
from tuner.ledger import Ledger
from tuner.spec import StudySpec
from tuner.study.launch import Study

ray_tune = pytest.importorskip("tuner.ray_tune")
tune = pytest.importorskip("ray.tune")

from tuner.ray_tune import OptunaBridge, param_space, trainable  # noqa: E402
from tuner.ray_tune.space import settled  # noqa: E402
from tuner.ray_tune.trial import FAILED, FINISHED, NUMBER  # noqa: E402

FLOATS = {"learning_rate": {"type": "float", "low": 1e-3, "high": 0.3, "log": True}}
DIVERGING = {"learning_rate": {"type": "choice", "values": [0.01, 0.1, 1000.0]}}
DECAY = {"weight_decay": 1.0}  # under a learning rate of 1,000: weights grow a thousandfold a step
NETWORK = """
from torch import nn

class Net(nn.Module):
    def __init__(self, signature, width: int = 8):
        super().__init__()
        self.unlucky = width == 13
        self.layers = nn.Sequential(nn.Linear(30, width), nn.ReLU(), nn.Linear(width, 2))

    def forward(self, x):
        if self.unlucky and len(x) > 100:
            raise RuntimeError("thirteen is unlucky")
        return self.layers(x)
"""


pytestmark = [pytest.mark.xdist_group("ray-tune"), pytest.mark.usefixtures("ray")]


def tuned(scheduler: str | None = None, **changes: Any) -> dict[str, Any]:
    """SMALL for Ray Tune."""
    content = studies.study(**changes)
    content["run"] |= {"executor": "ray-tune", "workers": 2}
    if scheduler is not None:
        content["run"]["scheduler"] = scheduler
    return content


def launch(folder: Path, content: dict[str, Any], home: str = "home", **options: Any) -> tuple[Study, str]:
    heard = Silent()
    path = studies.write(folder, content, f"{home}.yaml")
    study = tuner.launch(path, home=folder / home, progress=heard, **options)
    return study, "\n".join(heard.lines)


def states(study: Study) -> Counter[State]:
    return Counter(trial.state for trial in study.history.trials.values())


def spec(**changes: Any) -> StudySpec:
    return StudySpec(**studies.study(**changes))


# --- spaces ---------------------------------------------------------------------------------------

EVERY = {
    "width": {"type": "int", "low": 2, "high": 4},
    "depth": {"type": "int", "low": 1, "high": 3, "log": True},
    "batch_size": {"type": "int", "low": 16, "high": 48, "step": 16},
    "epochs": {"type": "int", "low": 1, "high": 5, "step": 2},
    "dropout": {"type": "float", "low": 0.0, "high": 0.4, "step": 0.1},
    "label_smoothing": {"type": "float", "low": 0.05, "high": 0.25, "step": 0.1},
    "learning_rate": {"type": "float", "low": 1e-4, "high": 1.0, "log": True},
    "optimizer": {"type": "choice", "values": ["sgd", "adam"]},
    "momentum": {"type": "float", "low": 0.0, "high": 0.9, "when": {"optimizer": "sgd"}},
}


def every() -> StudySpec:
    content = studies.study()
    del content["train"]
    content["search"]["space"] = EVERY
    return StudySpec(**content)


@pytest.mark.parametrize("name", EVERY)
def test_tune_draws_what_the_space_allows_up_to_both_bounds(name: str) -> None:
    study = every()
    parameter, domain = study.space.parameters[name], param_space(study)[name]
    drawn = [parameter.fit(domain.sample()) for _ in range(400)]
    assert all(parameter.contains(value) for value in drawn)
    if parameter.count is not None:
        assert set(drawn) == set(parameter.values())
    if name == "learning_rate":
        assert sum(value < 1e-2 for value in drawn) > 100  # by its logarithm


def test_parameters_that_do_not_exist_beside_the_others_are_dropped() -> None:
    study = every()
    config = {name: domain.sample() for name, domain in param_space(study).items()}
    with_sgd = settled(study, {**config, "optimizer": "sgd"})
    with_adam = settled(study, {**config, "optimizer": "adam"})
    assert with_sgd.keys() == EVERY.keys() and with_adam.keys() == EVERY.keys() - {"momentum"}
    assert study.space.validate(with_sgd) == study.space.validate(with_adam) == []


@pytest.mark.parametrize(
    ("changes", "place", "said"),
    [
        (
            {"search": {"pruner": {"kind": "asha"}}, "run": {"executor": "ray-tune", "scheduler": "median"}},
            "search.pruner",
            "expected none beside Ray Tune's scheduler (median), got the text 'asha'; remove it",
        ),
        (
            {"search": {"pruner": {"kind": "asha"}}, "run": {"executor": "ray-tune"}},
            "search.pruner",
            "remove it, and write scheduler: asha under run",
        ),
        ({"run": {"scheduler": "asha"}}, "run.scheduler", "write executor: ray-tune"),
        ({"run": {"executor": "ray-tune", "cohort": 4}}, "run.cohort", "expected 1 with executor ray-tune, got 4"),
        ({"run": {"executor": "ray-tune", "scheduler": "ashe"}}, "run.scheduler", "did you mean 'asha'?"),
        ({"run": {"executor": "ray-tune", "scheduler": "pbt"}}, "search.space.width", "fix it instead"),
        (
            {
                "run": {"executor": "ray-tune", "scheduler": "pbt"},
                "search": {"space": {"optimizer": {"type": "choice", "values": ["sgd", "adam"]}}},
            },
            "search.space",
            "search learning_rate too",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_contradicts_ray_tune_is_told_with_its_line_and_remedy(
    changes: dict[str, Any], place: str, said: str, tmp_path: Path
) -> None:
    path = studies.write(tmp_path, studies.study(**changes))
    with pytest.raises(SpecError) as caught:
        StudySpec.read(path)
    (told,) = [problem for problem in caught.value.problems if f" {place}:" in problem]
    assert said in told and str(path) in told


# --- one trial ------------------------------------------------------------------------------------


def trained(trial: Any) -> list[dict[str, Any]]:
    """All that is left of a trial."""
    results = [trial.train()]
    while not results[-1]["done"]:
        results.append(trial.train())
    return [{name: value for name, value in one.items() if "/" in name} | {"epoch": one["epoch"]} for one in results]


CONFIG = {"learning_rate": 0.05, "width": 16, "batch_size": 32, "dropout": 0.2, "optimizer": "adam", NUMBER: 3}


def test_a_trial_goes_on_from_its_checkpoint_in_an_actor_that_had_another(tmp_path: Path) -> None:
    kind = trainable(spec())
    whole = trained(kind(dict(CONFIG)))
    assert [result["epoch"] for result in whole] == [1, 2, 3, 4, 5, 6]
    one = kind(dict(CONFIG))
    early = [one.train() for _ in range(3)]
    kept = one.save(str(tmp_path))
    other = kind({**CONFIG, "optimizer": "sgd", "width": 8, NUMBER: 4})
    other.train()
    assert other.reset(dict(CONFIG)) is True
    other.restore(kept)
    assert trained(other) == whole[3:]
    assert [result["val/loss"] for result in early] == [result["val/loss"] for result in whole[:3]]
    assert other.reset(dict(CONFIG)) is True
    assert trained(other) == whole


def test_a_trial_that_exploits_another_keeps_its_own_hyperparameters(tmp_path: Path) -> None:
    kind = trainable(spec())
    one, other = kind(dict(CONFIG)), kind({**CONFIG, "dropout": 0.0, "learning_rate": 0.3, NUMBER: 4})
    one.train()
    other.restore(one.save(str(tmp_path)))
    training = other._training
    rates = {name: float(value) for name, value in training.stack.buffers.items() if name.endswith("rate")}
    assert rates and set(rates.values()) == {0.0} and training.rows[0].config.learning_rate == 0.3
    assert training.epoch == 1 and (training.stack.flat_KP == one._training.stack.flat_KP).all()
    assert other.train()["epoch"] == 2


def test_a_trial_that_diverges_ends_with_no_number_and_says_why() -> None:
    search = {"space": {**studies.SMALL["search"]["space"], **DIVERGING}}
    trial = trainable(spec(train=DECAY, search=search))({**CONFIG, "learning_rate": 1000.0, "optimizer": "sgd"})
    last = trial.train()
    assert last["done"] and math.isnan(last["val/accuracy"]) and "diverged" in last[FAILED]


def test_the_bridge_tells_stopped_trials_with_their_epoch_and_failed_ones_as_failed(tmp_path: Path) -> None:
    bridge = OptunaBridge(spec(search={"sampler": {"kind": "tpe"}, "trials": 5}))
    for name in "abcd":
        assert bridge.suggest(name)[NUMBER] == "abcd".index(name)
        bridge.on_trial_result(name, {"epoch": 1, "val/accuracy": 0.5})
    bridge.on_trial_complete("a", {"epoch": 2, "val/accuracy": 0.9, FINISHED: True, "done": True})
    bridge.on_trial_complete("b", {"epoch": 2, "val/accuracy": 0.4, "done": True})
    bridge.on_trial_complete("c", None, error=True)
    bridge.on_trial_complete("d", {"epoch": 2, "val/accuracy": math.nan, FAILED: "diverged", "done": True})
    outcomes = bridge._search._memory.outcomes
    assert outcomes == {0: (0.9,), 1: (0.5,), 2: None, 3: None}
    ranked = [(rank, at) for rank, at, _, number in bridge._search._memory._ranked]
    assert ranked == [(0, 0.0), (1, -2), (2, 0.0), (2, 0.0)]  # stopped after epoch 2; two that failed
    bridge.save(str(tmp_path / "state"))
    again = OptunaBridge(spec(search={"sampler": {"kind": "tpe"}, "trials": 5}))
    again.restore(str(tmp_path / "state"))
    assert again.suggest("e") == bridge.suggest("e")
    assert again.suggest("f") == bridge.suggest("f") == "FINISHED"


# --- studies that Tune drives -----------------------------------------------------------------------


@pytest.mark.usefixtures("copied_workers")
def test_a_study_under_fifo_has_the_numbers_of_the_local_executor_to_the_bit(tmp_path: Path) -> None:
    first = {"learning_rate": 1000.0, "optimizer": "sgd"}
    search = {"trials": 4, "space": {**studies.SMALL["search"]["space"], **DIVERGING}, "start_with": [first]}
    there, _ = launch(tmp_path, tuned(search=search, train=DECAY), "there")
    here, _ = launch(tmp_path, studies.study(search=search, train=DECAY, run={"cohort": 1}), "here")
    assert studies.facts(there.history) == studies.facts(here.history)
    assert there.history.digest == here.history.digest
    assert there.state == "complete" and states(there)[State.FAILED] > 0
    with Ledger.open(there.folder, read_only=True) as ledger:
        kinds = Counter(type(event) for event in ledger.read())
    assert kinds[Asked] == kinds[Grouped] == kinds[Started] == 4
    assert (there.folder / "champion").is_dir() and not (there.folder / "checkpoints").exists()


WIDE = {"type": "float", "low": 1e-5, "high": 0.3, "log": True}
SEARCH = {"trials": 8, "space": {**studies.SMALL["search"]["space"], "learning_rate": WIDE}}
SCHEDULERS = ["asha", "hyperband", "median"]


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_scheduler_ends_a_study_with_its_trials_and_what_it_stops_is_pruned(
    scheduler: str, tmp_path: Path
) -> None:
    study, _ = launch(tmp_path, tuned(scheduler, search=SEARCH, train={"epochs": 9}))
    found = states(study)
    assert study.state == "complete" and found.total() == 8 and found[State.COMPLETE] > 0
    assert found[State.PRUNED] > 0 and found[State.PRUNED] + found[State.COMPLETE] == 8
    for trial in study.history.trials.values():
        epochs = sorted(trial.reports)
        assert epochs == list(range(1, len(epochs) + 1))
        assert (len(epochs) == 9) == (trial.state is State.COMPLETE)
        assert weights_path(study.folder, trial.number).exists() == (trial.state is State.COMPLETE)


POPULATION = {"trials": 4, "space": {**FLOATS, "dropout": {"type": "float", "low": 0.0, "high": 0.4}}}


def test_a_populations_changes_are_told_epoch_by_epoch_and_the_best_weights_are_kept(tmp_path: Path) -> None:
    study, _ = launch(tmp_path, tuned("pbt", search=POPULATION, train={"epochs": 6}))
    assert study.state == "complete" and states(study) == {State.COMPLETE: 4}
    changed = 0
    with Ledger.open(study.folder, read_only=True) as ledger:
        reported = [event for event in ledger.read() if isinstance(event, Reported)]
    for event in reported:
        asked = study.history.trials[event.trial].params
        now = event.params or asked
        assert {f"schedule/{name}": value for name, value in now.items()}.items() <= event.metrics.items()
        assert (event.params is not None) == (now != asked)
        changed += now != asked
    assert changed > 0 and len(reported) == 4 * 6
    assert study.best is not None and not isinstance(study.best, list)
    # Kept weights are those of the best epoch: scoring them gives what was reported then.
    assert scored(study) == pytest.approx(study.history.trials[study.best["number"]].best_value("val/accuracy", True))


def scored(study: Study) -> float:
    """The champion's accuracy on the validation rows."""
    import torch

    from tuner.checkpoints import format as checkpoint
    from tuner.events import Trial
    from tuner.history.results import leader
    from tuner.training.evaluation import TrainedNetwork
    from tuner.workloads.network.plan import load
    from tuner.workloads.network.runner import arrays
    from tuner.workloads.network.tasks import task

    best, told = leader(study.history), StudySpec.from_json(study.history.spec, Path(study.history.folder))
    assert best is not None
    dataset = load(told)
    trial = Trial(best.number, best.params, best.seed)
    data = arrays(dataset, torch.device("cpu"))
    trained = TrainedNetwork(task(told, dataset.signature, [trial], company=False), data)
    weights = checkpoint.load(weights_path(study.folder, best.number))["weights"]
    return trained.score(weights, data.inputs, data.targets)["accuracy"]


@pytest.mark.slow
def test_a_trial_whose_network_raises_fails_alone(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NETWORK)
    space = {"width": {"type": "choice", "values": [8, 13]}}
    content = tuned(search={"trials": 2, "space": space, "sampler": {"kind": "grid"}}, model={"norm": "none"})
    content["model"] = {"family": "net.py:Net"}
    study, _ = launch(tmp_path, content)
    failed = [trial for trial in study.history.trials.values() if trial.state is State.FAILED]
    assert states(study) == {State.FAILED: 1, State.COMPLETE: 1}
    assert [trial.params["width"] for trial in failed] == [13] and "thirteen is unlucky (net.py:" in failed[0].message


def test_a_window_that_a_study_loop_has_left_half_asked_holds_nothing_back_here(tmp_path: Path) -> None:
    """Trials are asked one by one, from all that has ended."""
    from tuner.ray_tune.journal import Journal
    from tuner.study.session import StudySession

    said: list[str] = []
    search: Any = SimpleNamespace(release=lambda: said.append("release"))
    log: Any = SimpleNamespace(history=History(asking=Window(8)))
    rest: Any = None
    Journal(StudySession(rest, rest, log, rest, tmp_path, rest), search, rest, rest, frozenset(), lambda _: {})
    assert said == ["release"]


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", ["fifo", "pbt"])
def test_a_study_that_was_stopped_goes_on_with_the_exact_number_of_trials(
    scheduler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = tuned(scheduler, search=POPULATION, train={"epochs": 6})
    whole = studies.facts(launch(tmp_path, content, "whole")[0].history)
    seen, append = [0], Ledger.append

    def counting(self: Ledger, events: Any) -> Any:
        stored = append(self, events)
        reports = sum(isinstance(event, Reported) for event in events)
        seen[0] += reports
        if reports and seen[0] == 9:
            os.kill(os.getpid(), signal.SIGTERM)
        return stored

    assert threading.current_thread() is threading.main_thread()
    monkeypatch.setattr(Ledger, "append", counting)
    first, _ = launch(tmp_path, content)
    assert first.state == "interrupted" and first.signal == signal.SIGTERM
    monkeypatch.undo()
    second, said = launch(tmp_path, content)
    assert second.state == "complete" and len(second.history.trials) == 4
    assert "resuming" in said
    assert all(sorted(trial.reports) == [1, 2, 3, 4, 5, 6] for trial in second.history.trials.values())
    if scheduler == "fifo":
        assert studies.facts(second.history) == whole


@pytest.mark.slow
def test_a_ledger_that_cannot_be_written_ends_the_study_with_its_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = Ledger.append

    def full(self: Ledger, events: Any) -> Any:
        if any(isinstance(event, Reported) for event in events):
            raise LedgerError("the disk is full")
        return append(self, events)

    monkeypatch.setattr(Ledger, "append", full)
    with pytest.raises(LedgerError, match="the disk is full"):
        launch(tmp_path, tuned(search={"trials": 2}))


@pytest.mark.slow
def test_an_actor_that_dies_is_replaced_and_its_trial_has_the_same_numbers(
    ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tuner.ray_tune import journal

    content = tuned(search={"trials": 2})
    whole = studies.facts(launch(tmp_path, content, "whole")[0].history)
    told, killed = journal.Journal.on_trial_result, []

    def killing(self: Any, *, result: dict[str, Any], **named: Any) -> None:
        told(self, result=result, **named)
        if not killed and result["epoch"] == 2:
            killed.append(result["pid"])
            os.kill(result["pid"], signal.SIGKILL)

    monkeypatch.setattr(journal.Journal, "on_trial_result", killing)
    study, said = launch(tmp_path, content)
    assert killed and "died" in said and study.history.losses
    assert studies.facts(study.history) == whole


# --- a person's own Tune experiment -----------------------------------------------------------------


@pytest.mark.slow
def test_the_documentations_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/how-to/ray-tune.md, with fewer and shorter trials."""
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "ray-tune.md").read_text()
    code = page.split("```python\n")[1].split("```")[0]
    studies.write(tmp_path, studies.study(search={"trials": 4}, train={"epochs": 3}), "study.yaml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    space: dict[str, Any] = {}
    exec(compile(code, "docs/how-to/ray-tune.md", "exec"), space)
    results = space["results"]
    assert len(results) == 4 and results.num_errors == 0
    assert json.dumps(results.get_best_result("val/accuracy", "max").metrics["val/accuracy"])

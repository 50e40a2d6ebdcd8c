"""What a tracker should show follows from the events alone, in whatever order and pieces trials end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.stories import DATA, spec
from tuner.events import (
    Asked,
    Completed,
    Created,
    Event,
    Failed,
    Finished,
    Interrupted,
    Lost,
    Opened,
    Pruned,
    Reported,
    State,
    Tested,
)
from tuner.history.fold import History
from tuner.tracking.projection import Projection


def numbered(events: Iterator[Event]) -> list[Event]:
    """As a ledger would give them, a second apart."""
    return [replace(event, seq=seq, time=1_000.0 + seq) for seq, event in enumerate(events, start=1)]


def created(trials: int, goal: str = "maximize", **data: object) -> Event:
    return Created(spec("s", trials, goal=goal), "d", "", "i", 0, {**DATA, **data})


@st.composite
def studies(draw: st.DrawFn) -> tuple[str, list[Event]]:
    """A study whose trials report and end in any order; some may still run, some never were finite."""
    goal = draw(st.sampled_from(["maximize", "minimize"]))
    count = draw(st.integers(1, 6))
    values = st.one_of(st.none(), st.sampled_from([0.0, 0.25, 0.5, -1.0]))

    def tell() -> Iterator[Event]:
        yield created(count, goal)
        for n in range(count):
            yield Asked(n, params={"learning_rate": 0.1}, seed=n)
        for n in draw(st.permutations(range(count))):
            for epoch in range(1, draw(st.integers(0, 3)) + 1):
                value = draw(values)
                metrics = {"train/loss": 1.0} if value is None else {"val/accuracy": value}
                yield Reported(n, epoch, metrics=metrics, seconds=1.0)
            ends = [None, Finished(n, 1, 1), Finished(n, 1, 1), Pruned(n, 1), Failed(n, "m")]
            if (end := draw(st.sampled_from(ends))) is not None:
                yield end

    return goal, numbered(tell())


def mirror_of(events: list[Event]) -> Projection:
    mirror = Projection()
    for event in events:
        mirror.fold(event)
    return mirror


@given(studies())
def test_the_best_trial_is_the_historys(study: tuple[str, list[Event]]) -> None:
    goal, events = study
    best = History.of(events).best("val/accuracy", goal == "maximize")
    mine = mirror_of(events).best
    assert (mine.number if mine else None) == (best.number if best else None)


@given(studies())
def test_the_curve_is_the_best_of_all_trials_up_to_each_as_far_as_they_have_ended(
    study: tuple[str, list[Event]],
) -> None:
    goal, events = study
    mirror = mirror_of(events)
    trials = mirror.history.trials
    until = next((n for n in range(len(trials)) if not trials[n].ended), len(trials))
    wanted = []
    for last in range(until):
        values = [
            value
            for n in range(last + 1)
            if trials[n].state is State.COMPLETE
            and (value := trials[n].best_value("val/accuracy", goal == "maximize")) is not None
        ]
        if values:
            wanted.append((last, max(values) if goal == "maximize" else min(values)))
    assert [(point.step, point.value) for point in mirror.curve] == wanted
    times = [point.timestamp for point in mirror.curve]
    assert times == sorted(times)


@given(studies(), st.data())
def test_what_was_shown_of_the_curve_and_of_a_trial_never_changes(
    study: tuple[str, list[Event]], data: st.DataObject
) -> None:
    _, events = study
    cut = data.draw(st.integers(1, len(events)))
    early, late = mirror_of(events[:cut]), mirror_of(events)
    assert late.curve[: len(early.curve)] == early.curve
    for number in early.began:
        epochs = early.history.trials[number].reports
        assert late.points(number, epochs) == early.points(number, epochs)
        assert late.began[number] == early.began[number]
        assert late.digests[number] == early.digests[number]
        assert late.params(number) == early.params(number)


def test_text_from_files_stays_text_in_the_note_and_in_the_tags() -> None:
    params = {"family": "a|b`c\nd", "learning_rate": 0.1}
    events = numbered(
        iter(
            [
                created(1, name="![x](http://evil)`|\n# title"),
                Asked(0, params=params, seed=0),
                Reported(0, 1, metrics={"val/accuracy": 0.5}, seconds=1.0),
                Finished(0, epochs=1, best_epoch=1),
            ]
        )
    )
    note = mirror_of(events).note(alive=True)
    assert "`![x](http://evil)'¦ # title`" in note
    assert "| family | `a¦b'c d` |" in note
    failed = [*events[:3], Failed(0, message="first\nsecond " + "x" * 9_000)]
    message = mirror_of(failed).tags(0, alive=True)["tuner.message"]
    assert message.startswith("first second x")
    assert len(message) == 500


def test_a_trial_that_has_ended_tells_its_best_epoch_and_how_it_ended() -> None:
    def trial(*ends: Event) -> str:
        reports = [
            Reported(0, epoch, metrics={"val/accuracy": value}, seconds=1.0)
            for epoch, value in enumerate([0.5, 0.75, 0.25], start=1)
        ]
        asked = Asked(0, params={}, seed=0)
        return (
            mirror_of(numbered(iter([created(1), asked, *reports, *ends])))
            .tags(0, alive=True)
            .get("mlflow.note.content", "")
        )

    best = "Best val/accuracy: **0.75** at epoch 2."
    assert trial() == ""
    assert trial(Pruned(0, epoch=1)) == f"Trial 0 of study **s**: pruned after 3 epochs. {best}"
    failed = Failed(0, message="a `b`\nc")
    assert trial(failed) == f"Trial 0 of study **s**: failed after 3 epochs. {best} `a 'b' c`"
    tested = Tested(0, metrics={"test/accuracy": 0.7})
    assert trial(Finished(0, epochs=1, best_epoch=1), tested) == (
        f"Trial 0 of study **s**: complete after 3 epochs. {best} On the test split: test/accuracy 0.7."
    )


@pytest.mark.parametrize(
    ("last", "under_way"),
    [
        (Opened("h", 1), True),
        (Completed("complete"), False),
        (Interrupted("SIGINT"), False),
        (Lost(0, 1, ""), True),
    ],
)
def test_a_study_is_under_way_until_it_ends_or_is_interrupted(last: Event, under_way: bool) -> None:
    events = [created(1), last]
    assert mirror_of(numbered(iter(events))).under_way is under_way
    again = [*events, Opened(host="h", pid=1)]
    assert mirror_of(numbered(iter(again))).under_way
    tested = [
        *events[:1],
        Asked(0, params={}, seed=0),
        Completed(state="complete"),
        Tested(0, metrics={}),
    ]
    assert not mirror_of(numbered(iter(tested))).under_way


@given(st.permutations(range(6)), st.lists(st.tuples(st.sampled_from([0.1, 0.2]), st.integers(1, 3)), min_size=6))
def test_of_several_objectives_each_has_its_curve_and_the_front_is_tagged_and_told(
    order: list[int], values: list[tuple[float, int]]
) -> None:
    first = created(6)
    objective = [{"metric": "val/accuracy", "goal": "maximize"}, {"metric": "parameters", "goal": "minimize"}]
    events = [replace(first, spec={**first.spec, "search": {**first.spec["search"], "objective": objective}})]
    events += [Asked(n, params={"learning_rate": 0.1}, seed=n) for n in range(6)]
    for n in order:
        metrics = {"val/accuracy": values[n][0], "parameters": values[n][1]}
        events.append(Reported(n, 1, metrics=metrics, seconds=1.0))
        events.append(Finished(n, epochs=1, best_epoch=1))
    mirror = mirror_of(numbered(iter(events)))
    front = mirror.history.front(*mirror.history.objectives)
    assert {n for n in range(6) if mirror.pareto(n) == {"tuner.pareto": "true"}} == {trial.number for trial in front}
    assert mirror.tags(0, alive=False).items() >= mirror.pareto(0).items()
    best = mirror.history.best(*mirror.history.objectives[0], *mirror.history.objectives[1:])
    assert mirror.best is best
    ends = {point.key: point.value for point in mirror.curve}
    first = values[:6]
    assert ends == {"best/val/accuracy": max(a for a, _ in first), "best/parameters": min(size for _, size in first)}
    assert len(mirror.curve) == 12
    note = mirror.note(alive=False)
    assert "Maximize `val/accuracy`, minimize `parameters` of" in note
    assert all(f"\n| {trial.number} | " in note for trial in front)


def test_the_note_has_the_best_trial_in_the_few_lines_that_mlflow_does_not_fold_away() -> None:
    report = Reported(0, 1, metrics={"val/accuracy": 0.5}, seconds=1.0)
    asked = Asked(0, params={"learning_rate": 0.1}, seed=0)
    tested = Tested(0, metrics={"test/accuracy": 0.4})
    events = numbered(iter([created(1), asked, report, Finished(0, epochs=1, best_epoch=1), tested]))
    _, best, test, empty, *_ = mirror_of(events).note(alive=False).splitlines()
    assert best == "Best: **trial 0**, val/accuracy 0.5 at epoch 1."
    assert test == "On the test split: test/accuracy 0.4."
    assert empty == ""


@given(studies(), st.data())
def test_the_last_best_value_of_a_trial_is_that_of_its_best_epoch_at_any_moment(
    study: tuple[str, list[Event]], data: st.DataObject
) -> None:
    goal, events = study
    mirror = mirror_of(events[: data.draw(st.integers(1, len(events)))])
    for number in mirror.began:
        trial = mirror.history.trials[number]
        epoch = trial.best_epoch("val/accuracy", goal == "maximize")
        last = {point.key: (point.step, point.value) for point in mirror.points(number, trial.reports)}
        told = {key: value for key, value in last.items() if key.startswith("best/")}
        if epoch is None:
            assert told == {}
        else:
            value = trial.reports[epoch]["val/accuracy"]
            assert told == {"best/val/accuracy": (epoch, value), "best/epoch": (epoch, float(epoch))}

"""What a person sees while a study runs, from hand-made events and a hand-turned clock."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from tuner.events import Asked, Completed, Created, Event, Failed, Finished, Grouped, Pruned, Reported, Started, Tested
from tuner.history.fold import History
from tuner.terminal.pace import WINDOW, Pace, steps_per_epoch
from tuner.terminal.progress import (
    REDRAW,
    Now,
    PlainProgress,
    Progress,
    TerminalProgress,
    clock_text,
    progress_for,
)

SPEC = {
    "study": "hand-made",
    "train": {"epochs": 4, "batch_size": 32},
    "search": {"trials": 4, "objective": {"metric": "val/accuracy", "goal": "maximize"}},
}


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Lost(Terminal):
    """A terminal whose window was closed."""

    def write(self, text: str) -> int:
        raise OSError(5, "Input/output error")

    def flush(self) -> None:
        raise OSError(5, "Input/output error")


class Story:
    """A study told event by event to a progress."""

    def __init__(self, progress: Progress) -> None:
        self.history, self.progress, self.seq = History(), progress, 0
        data = {"name": "d", "digest": "x", "split": "y", "rows": {"train": 96, "validation": 32}, "signature": {}}
        self.fold([Created(spec=SPEC, digest="d", text="", seed=0, id="i", data=data)])

    def fold(self, events: Sequence[Event]) -> None:
        for event in events:
            self.seq += 1
            self.history.apply(replace(event, seq=self.seq, time=1.0 * self.seq))

    def tell(self, *events: Event, **now: Any) -> None:
        self.fold(events)
        self.progress.update(self.history, events, now)  # type: ignore[arg-type]


def asked(*numbers: int, **params: Any) -> list[Event]:
    return [
        *(Asked(n, params={"learning_rate": 0.1, **params}, seed=n) for n in numbers),
        Grouped(numbers[0], trials=list(numbers), structure={"width": 8}, company=True),
        Started(numbers[0], attempt=1, worker=0, trials=list(numbers), epoch=0),
    ]


def reported(number: int, epoch: int, accuracy: float | None) -> Event:
    metrics = {} if accuracy is None else {"val/accuracy": accuracy}
    return Reported(number, epoch, metrics=metrics, seconds=1.0)


def finished(number: int) -> Event:
    return Finished(number, epochs=1, best_epoch=1)


def plain() -> tuple[Story, io.StringIO, Clock]:
    stream, clock = io.StringIO(), Clock()
    return Story(PlainProgress(stream, clock)), stream, clock


def test_plain_output_is_one_line_per_ended_trial_and_silent_about_reports() -> None:
    story, stream, _ = plain()
    story.tell(*asked(0, 1, 2))
    story.tell(reported(0, 1, 0.5), reported(1, 1, 0.25), reported(2, 1, None))
    assert stream.getvalue() == ""
    story.tell(
        finished(0),
        Pruned(1, epoch=1),
        Failed(2, message="diverged at step 3 (loss=nan)"),
    )
    assert stream.getvalue().splitlines() == [
        "[1/4] trial 0 complete: val/accuracy 0.5 at epoch 1 (best so far)",
        "[2/4] trial 1 pruned after epoch 1: val/accuracy 0.25 at epoch 1",
        "[3/4] trial 2 failed: diverged at step 3 (loss=nan)",
    ]


def test_only_a_better_trial_is_called_the_best_so_far() -> None:
    story, stream, _ = plain()
    story.tell(*asked(0, 1, 2))
    for number, accuracy in ((0, 0.5), (1, 0.5), (2, 0.75)):
        story.tell(reported(number, 1, accuracy))
        story.tell(finished(number))
    assert ["best so far" in line for line in stream.getvalue().splitlines()] == [True, False, True]


def test_a_resumed_study_goes_on_counting_where_it_stood() -> None:
    story, stream, _ = plain()
    story.fold([*asked(0, 1, 2), reported(0, 1, 0.75), finished(0), Pruned(1, epoch=1)])
    story.tell(reported(2, 1, 0.5))
    story.tell(finished(2))
    assert stream.getvalue() == "[3/4] trial 2 complete: val/accuracy 0.5 at epoch 1\n"


def test_events_of_the_study_and_messages_are_told_plainly() -> None:
    story, stream, _ = plain()
    story.progress.start(["first", "second"])
    story.tell(*asked(0), reported(0, 1, 0.5), finished(0))
    story.tell(Tested(0, metrics={"test/accuracy": 0.25}))
    story.tell(Tested(0, metrics={}))  # of a person's own training: nothing to tell
    story.tell(Completed(message="", state="complete"))
    story.progress.message("MLflow has everything")
    story.progress.stop()
    lines = stream.getvalue().splitlines()
    assert lines[:2] == ["first", "second"]
    assert lines[3:] == [
        "[1/4] trial 0 on the test split: test/accuracy 0.25",
        "study complete",
        "MLflow has everything",
    ]


def test_a_long_silence_is_broken_by_a_pulse() -> None:
    story, stream, clock = plain()
    story.tell(*asked(0))
    for epoch in (1, 2, 3):
        clock.now += 25.0
        story.tell(reported(0, epoch, 0.5))
    (line,) = stream.getvalue().splitlines()
    assert line.startswith("[0/4] 1 running, ")
    assert "trial-steps/s" in line
    assert "left" in line


def test_the_time_left_is_told_soon_after_the_first_epochs_and_then_once_a_minute_whatever_else_is() -> None:
    story, stream, clock = plain()
    story.tell(*asked(0, 1))
    for epoch in range(1, 125):
        clock.now += 1.0
        story.tell(reported(0, epoch, 0.5), *([Failed(1, message="m")] if epoch == 30 else []))
    told = [line for line in stream.getvalue().splitlines() if "left" in line]
    assert len(told) == 2
    assert all(line.endswith(" left") for line in told)


def test_a_long_epoch_moves_the_bars_and_gives_a_time_left_before_it_has_ended() -> None:
    stream, clock = Terminal(), Clock()
    progress = TerminalProgress(stream, clock)
    story = Story(progress)
    story.tell(*asked(0))

    def bars() -> tuple[float, float]:
        head, *_, table = progress.view(story.history, now).renderables  # type: ignore[attr-defined]
        return next(iter(head.columns[1].cells)).completed, list(table.columns[2].cells)[1].completed

    now: Now = {"trials": 4}
    assert bars() == (0.0, 0.0)
    clock.now += 10.0
    now = {"trials": 4, "within": {0: 0.5}}
    assert bars() == (0.5 / 4, 0.5)
    # Half an epoch in ten seconds; four trials of four epochs each but for that half.
    assert progress._pace.seconds_left(story.history, 4, {0: 0.5}) == pytest.approx((16 - 0.5) * 20)
    assert progress._pace.seconds_left(story.history, 4) is None


def test_an_mlflow_that_stays_away_is_told_once_a_minute_and_when_it_is_back() -> None:
    story, stream, clock = plain()
    story.tell(tracking={"waiting": 0, "error": None})
    for _ in range(13):
        story.tell(tracking={"waiting": 1234, "error": "refused"})
        clock.now += 30.0
    for _ in range(2):
        story.tell(tracking={"waiting": 0, "error": None})
    for _ in range(10):  # it comes and goes, which is told once a minute too
        clock.now += 1.0
        story.tell(tracking={"waiting": 5, "error": "refused"})
        story.tell(tracking={"waiting": 5, "error": None})
    lines = [line for line in stream.getvalue().splitlines() if "MLflow" in line]
    assert lines == [
        "MLflow unreachable (refused), 1,234 points waiting",
        *(f"MLflow unreachable for {minutes} min, 1,234 points waiting" for minutes in range(1, 7)),
        "MLflow is back",
    ]
    assert sum("running" in line for line in stream.getvalue().splitlines()) == 6, "the pulse goes on beside it"


def test_text_from_data_cannot_move_the_cursor() -> None:
    for progress, stream in ((PlainProgress(s := io.StringIO()), s), (TerminalProgress(t := Terminal()), t)):
        progress.message("a\x1b[2Jb\nc [red]d[/red]")
        assert "\x1b[2J" not in stream.getvalue()
        assert "b c [red]d[/red]" in stream.getvalue()


def test_a_closed_terminal_never_stops_the_study() -> None:
    for progress in (PlainProgress(Lost()), TerminalProgress(Lost())):
        story = Story(progress)
        progress.start(["plan"])
        story.tell(*asked(0))
        story.tell(reported(0, 1, 0.5))
        story.tell(Failed(0, message="x"))
        progress.message("still here")
        progress.stop()


def test_trial_steps_count_every_trial_of_a_cohort() -> None:
    clock = Clock()
    pace = Pace(clock)
    story = Story(PlainProgress(io.StringIO()))
    story.fold(asked(0, 1))
    assert pace.steps_per_second() is None
    clock.now += 2.0
    pace.note(story.history, [reported(0, 1, 0.5), reported(1, 1, 0.5)])
    assert pace.steps_per_second() == pytest.approx(2 * 3 / 2.0)  # 96 rows in batches of 32 are 3 steps


def test_speed_is_the_present_one_and_not_the_one_since_the_start() -> None:
    clock = Clock()
    pace = Pace(clock)
    story = Story(PlainProgress(io.StringIO()))
    story.fold(asked(0))
    clock.now += 1000.0  # a slow start, then an epoch of 3 steps each second
    for epoch in range(1, 101):
        pace.note(story.history, [reported(0, epoch, 0.5)])
        clock.now += 1.0
    assert pace.steps_per_second() == pytest.approx(3.0, rel=2 / WINDOW)


def test_steps_of_an_epoch_agree_with_the_batches_that_are_trained() -> None:
    from tuner.data.batches import steps

    story = Story(PlainProgress(io.StringIO()))
    story.fold([*asked(0, batch_size=40), *asked(1)])
    trials = story.history.trials
    assert steps_per_epoch(story.history, trials[0]) == steps(96, 40)
    assert steps_per_epoch(story.history, trials[1]) == steps(96, 32)


def test_time_left_expects_trials_as_long_as_those_that_ended() -> None:
    clock = Clock()
    pace = Pace(clock)
    story = Story(PlainProgress(io.StringIO()))
    events = [*asked(0, 1), reported(0, 1, 0.5), reported(0, 2, 0.5), reported(1, 1, 0.5), finished(0)]
    story.fold(events)
    assert pace.seconds_left(story.history, 4) is None
    clock.now += 3.0
    pace.note(story.history, events)
    # One trial ended after 2 epochs: 2 trials to come × 2 epochs, 1 epoch left of the running one, 1 epoch a second.
    assert pace.seconds_left(story.history, 4) == pytest.approx(5.0)


def test_the_terminal_shows_bars_counts_best_speed_time_left_and_what_waits() -> None:
    stream, clock = Terminal(), Clock()
    progress = TerminalProgress(stream, clock)
    story = Story(progress)
    progress.start(["plan of the study"])
    story.tell(*asked(0, 1))
    clock.now += 2.0
    story.tell(reported(0, 1, 0.9712), reported(1, 1, 0.5), workers=2)
    clock.now += 2.0
    story.tell(finished(0), Failed(1, message="diverged"), *asked(2), trials=3)
    clock.now += 2.0
    story.tell(reported(2, 1, 0.25), trials=3, workers=2, tracking={"waiting": 1234, "error": "refused"})
    progress.stop()
    shown = stream.getvalue()
    for text in (
        "plan of the study",
        "hand-made",
        "2/3 trials",
        "1 running",
        "1 complete",
        "0 pruned",
        "1 failed",
        "trial 1 failed: diverged",
        "best so far: trial 0, val/accuracy 0.9712 at epoch 1",
        "trial-steps/s",
        "elapsed, about",
        "2 workers",
        "1/4",
        "width=8",
        "MLflow: 1,234 points waiting (refused)",
    ):
        assert text in shown, text


def test_before_a_trial_has_ended_the_best_of_those_in_training_is_shown() -> None:
    stream, clock = Terminal(), Clock()
    progress = TerminalProgress(stream, clock)
    story = Story(progress)
    progress.start([])
    story.tell(*asked(0, 1))
    story.tell(reported(0, 1, 0.5), reported(1, 1, 0.75))
    progress.stop()
    assert "best: none yet" in stream.getvalue()
    assert "best so far: trial 1, val/accuracy 0.75 at epoch 1, still in training" in stream.getvalue()


def test_drawing_is_rationed_however_fast_reports_come() -> None:
    stream, clock = Terminal(), Clock()
    progress = TerminalProgress(stream, clock)
    story = Story(progress)
    story.tell(*asked(0))
    draws = []
    progress._draw = lambda: (draws.append(clock.now), setattr(progress, "_drawn", clock.now))  # type: ignore[method-assign]
    for epoch in range(1, 101):
        clock.now += REDRAW / 10
        story.tell(reported(0, epoch, 0.5))
    assert 8 <= len(draws) <= 11


def test_nothing_is_ever_written_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    for progress in (PlainProgress(), TerminalProgress()):
        story = Story(progress)
        progress.start(["plan"])
        story.tell(*asked(0))
        story.tell(reported(0, 1, 0.5), finished(0))
        progress.message("message")
        progress.stop()
    seen = capsys.readouterr()
    assert seen.out == ""
    assert "message" in seen.err


def test_the_live_table_is_for_terminals_that_can_redraw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(progress_for(Terminal()), TerminalProgress)
    assert isinstance(progress_for(io.StringIO()), PlainProgress)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(progress_for(Terminal()), PlainProgress)


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (83.4, "1:23"), (5000, "1:23:20")])
def test_durations_read_like_a_clock(seconds: float, text: str) -> None:
    assert clock_text(seconds) == text

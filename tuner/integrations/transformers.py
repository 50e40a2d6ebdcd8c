"""A callback that reports to a trial from the Trainer of Hugging Face's transformers.

Knows transformers and the trial; never a study.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuner.integrations.reports import Reports
from tuner.workloads.context import TrialContext, TrialStopped

try:
    from accelerate.utils import broadcast_object_list, wait_for_everyone
    from transformers import TrainerCallback
except ModuleNotFoundError as error:
    if error.name not in ("accelerate", "transformers"):
        raise  # they are there, and something that they need is not
    message = f"tuner.integrations.transformers needs {error.name}, which is not installed"
    raise ImportError(f"{message}: pip install 'transformers[torch]'") from None


class TunerCallback(Reports, TrainerCallback):  # type: ignore[misc]
    """Reports a Trainer's metrics to a trial, stops it where the trial is pruned, and hands over its checkpoints.

        callback = TunerCallback(trial)
        trainer = Trainer(model, arguments, train_dataset=…, eval_dataset=…, callbacks=[callback])
        trainer.train(resume_from_checkpoint=callback.checkpoint)

    Reported are the numbers of each evaluation during training, under their names (`eval_loss` and what
    `compute_metrics` gives), and `loss`, the training loss that was logged last; several evaluation sets are one
    report. Evaluations at the start, and those outside of `train`, are not reported. Of several processes the first
    one reports.

    A pruned trial ends as by `control.should_training_stop`, and `train` then raises tuner.TrialStopped, when the
    callbacks before this one have heard of the end. A checkpoint that the Trainer saves right after an evaluation, as
    with the same `eval_strategy` and `save_strategy`, is what a trial goes on from.

    Raises ValueError for a metric whose name MLflow does not take.
    """

    def __init__(self, trial: TrialContext | None = None) -> None:
        Reports.__init__(self, trial)
        self._step: int | None = None  # of the last report, or where training began; None outside of it
        self._loss: dict[str, float] = {}
        self._metrics: dict[str, Any] = {}  # of an evaluation that is not yet reported

    def on_train_begin(self, _args: Any, state: Any, _control: Any, **_others: Any) -> None:
        self._step = state.global_step

    def on_log(self, _args: Any, _state: Any, _control: Any, logs: Mapping[str, float], **_others: Any) -> None:
        if "loss" in logs:
            self._loss = {"loss": logs["loss"]}

    def on_evaluate(self, _args: Any, state: Any, _control: Any, metrics: Mapping[str, Any], **_others: Any) -> None:
        if self._step is not None and state.global_step > self._step and not self.stopped:
            self._metrics |= metrics

    def on_save(self, args: Any, state: Any, control: Any, **_others: Any) -> None:
        folder = Path(args.output_dir, f"checkpoint-{state.global_step}")
        self._report(state, control, folder if folder.is_dir() else None)

    # Where nothing is saved, the evaluation is over when the Trainer goes on.

    def on_step_begin(self, _args: Any, state: Any, control: Any, **_others: Any) -> None:
        self._report(state, control)

    def on_epoch_begin(self, _args: Any, state: Any, control: Any, **_others: Any) -> None:
        self._report(state, control)

    def on_step_end(self, _args: Any, _state: Any, control: Any, **_others: Any) -> None:
        self._nothing_more(control)

    def on_epoch_end(self, _args: Any, _state: Any, control: Any, **_others: Any) -> None:
        self._nothing_more(control)

    def on_train_end(self, _args: Any, state: Any, control: Any, **_others: Any) -> None:
        self._report(state, control)
        self._step = None
        if self.stopped:
            raise TrialStopped

    def _nothing_more(self, control: Any) -> None:
        """A stopped trial's next evaluation and checkpoint are of no use."""
        if self.stopped:
            control.should_evaluate = control.should_save = False

    def _report(self, state: Any, control: Any, checkpoint: Path | None = None) -> None:
        """Report the evaluation that waits for it; every process hears whether to stop."""
        if not self._metrics:
            return
        metrics = {name: value for name, value in self._metrics.items() if name != "epoch"}
        self._metrics, self._step = {}, state.global_step
        wait_for_everyone()  # each process writes a part of the checkpoint
        if state.is_world_process_zero:
            self.send({**self._loss, **metrics}, checkpoint)
        (self.stopped,) = broadcast_object_list([self.stopped])
        control.should_training_stop = control.should_training_stop or self.stopped

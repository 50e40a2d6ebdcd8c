"""A callback that reports to a trial from Lightning's Trainer.

It belongs to the package that is in use: `lightning.pytorch`, or `pytorch_lightning` where that one alone was imported
before or is installed. Knows that package and the trial; never a study.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from tuner.integrations.reports import Reports
from tuner.workloads.context import OURS, TrialContext, TrialStopped

_PACKAGES = ("lightning.pytorch", "pytorch_lightning")


def _package() -> Any:
    """The one that was imported, else the first that is installed. Raises ImportError where there is none."""
    for name in sorted(_PACKAGES, key=lambda name: name not in sys.modules):
        try:
            return import_module(name)
        except ModuleNotFoundError as error:
            if error.name not in (name, name.partition(".")[0]):
                raise  # the package is there, and something that it needs is not
    raise ImportError("tuner.integrations.lightning needs Lightning, which is not installed: pip install lightning")


_LIGHTNING = _package()
_EarlyStopping: Any = _LIGHTNING.callbacks.EarlyStopping


# Lightning calls callbacks of two classes after the module's own hooks, when everything is logged: EarlyStopping and
# Checkpoint. The second one cannot be used with enable_checkpointing=False.
class TunerCallback(Reports, _EarlyStopping):  # type: ignore[misc]
    """Reports a Trainer's metrics to a trial, stops it where the trial is pruned, and saves checkpoints.

        callback = TunerCallback(trial)
        trainer = Trainer(max_epochs=trial.epochs, callbacks=[callback])
        trainer.fit(model, data, ckpt_path=callback.checkpoint)

    Reported are the values of `trainer.callback_metrics` that were logged since the last report, under their names:
    once for each run of validation, with the training epoch's own metrics where it ends the epoch, or at the end of
    each training epoch where nothing is validated. The sanity check is not reported. Of several processes the first
    one reports.

    A pruned trial ends as with EarlyStopping, and `fit` then raises tuner.TrialStopped, after all teardown hooks. Where
    a checkpoint is due, the Trainer saves one, after all other callbacks had their turn.

    Raises ValueError for a metric whose name MLflow does not take, or an epoch that logged nothing, and TypeError in
    the Trainer of the other package.
    """

    def __init__(self, trial: TrialContext | None = None) -> None:
        Reports.__init__(self, trial)
        _EarlyStopping.__init__(self, monitor=self.trial.metric)
        self._validated = False  # since the last report
        self._reported: Mapping[str, Any] = {}  # the tensors that were reported last

    @property
    def state_key(self) -> str:
        return type(self).__qualname__

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """It keeps none."""

    def setup(self, trainer: Any, _module: Any, stage: str) -> None:  # noqa: ARG002 - passed by its name
        if not isinstance(trainer, _LIGHTNING.Trainer):
            ours, theirs = _LIGHTNING.__name__, type(trainer).__module__.rpartition(".trainer.")[0]
            raise TypeError(
                f"expected a Trainer of {ours}, got one of {theirs}: import {theirs} before {__name__}, or use {ours}"
            )
        trainer.callbacks = [*(one for one in trainer.callbacks if one is not self), self]

    def on_train_epoch_start(self, _trainer: Any, _module: Any) -> None:
        if self.stopped:  # the Trainer went on all the same, as with min_epochs
            raise TrialStopped

    def on_validation_end(self, trainer: Any, _module: Any) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        self._validated = True
        if not trainer.is_last_batch:
            self._report(trainer)

    def on_train_epoch_end(self, trainer: Any, _module: Any) -> None:
        if self._validated or not trainer.enable_validation:
            self._report(trainer)

    def teardown(self, _trainer: Any, module: Any, stage: str) -> None:
        if self.stopped and stage == "fit":
            module.teardown(stage)  # Lightning calls it after the callbacks', and the exception would prevent that
            raise TrialStopped

    def _report(self, trainer: Any) -> None:
        """Report what is new; every process takes part, since all of them save, and all of them stop."""
        if self.stopped:
            return
        self._validated = False
        metrics = dict(trainer.callback_metrics)
        # What was not logged again is still there, in the same memory.
        old = {name: value.data_ptr() for name, value in self._reported.items()}
        fresh = {name: value for name, value in metrics.items() if value.data_ptr() != old.get(name)}
        self._reported = metrics
        broadcast = trainer.strategy.broadcast
        path = self.trial.folder / OURS / "lightning.ckpt"
        saved = False

        def save() -> Path:
            nonlocal saved
            saved = broadcast(True)
            trainer.save_checkpoint(path)
            return path

        if trainer.is_global_zero:
            self.send(fresh, save)
            if not saved:
                broadcast(False)
            elif path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        elif broadcast(False):
            trainer.save_checkpoint(path)
        self.stopped = broadcast(self.stopped)
        trainer.should_stop = trainer.should_stop or self.stopped

"""The only training loop: one cohort, from its first step to the last row's end, as a generator of events.

Knows plain values (`Task`), arrays, networks; never a study, a process or a file. Whoever drives it
answers an epoch with the rows to stop, and may ask for the whole state at any step.

Everything random is keyed, nothing is drawn from a stream: initial weights and dropout by the trial's
seed, batch order and augmentation by the study's. So a trial's numbers do not depend on its neighbours,
its row, its worker or a restart (law 1).

Legend: K rows, B batch, S steps of an epoch, L dropout layers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from typing import Any

import torch
from torch import Tensor, nn

from tuner import models
from tuner.checkpoints import format as checkpoint
from tuner.data import augmentation, batches
from tuner.errors import CheckpointCorrupt, first_line, out_of_memory, told
from tuner.models import layers, stateless
from tuner.models.interface import LANGUAGE
from tuner.seeds import derive
from tuner.training import attributes, losses
from tuner.training.cohort import Stack
from tuner.training.evaluation import Evaluation, network_of, stacked
from tuner.training.losses import of_one
from tuner.training.optimizers import Optimizer, rank
from tuner.training.replay.tape import Programs
from tuner.training.single import Losses, Single, SingleOptimizer
from tuner.training.task import Arrays, Row, Task
from tuner.workloads.base import Answer, Epoch, Finished, Step

_PER_ROW = ("best_value", "best_epoch", "loss_sum", "diverged_at")  # what a state has of every row beside its network


class Training:
    """One cohort in training. `run` drives it; `state` and `restore` carry it over a restart, to the bit."""

    def __init__(
        self,
        task: Task,
        arrays: Arrays,
        dtype: torch.dtype = torch.float32,
        pulse: Callable[[], None] = lambda: None,
        *,
        recorded: bool = True,
    ) -> None:
        """`pulse` is called between the batches of an evaluation, where no event tells that the cohort lives.

        `recorded` plays steps back from a recording, to the same bits; a person's own network is never recorded,
        because its Python may do what a recording does not see.
        """
        self.task = task
        self.arrays = arrays
        self.device = arrays.inputs.device
        self.dtype = dtype
        self._pulse = pulse
        self._foreign = task.family not in models.FAMILIES
        self._recorded = recorded and not self._foreign
        self.rows = sorted(task.rows, key=lambda row: (rank(row.config), row.number))
        config = self.rows[0].config
        self.steps = batches.steps(len(arrays.train_inputs), config.batch_size, drop_last=config.drop_last)
        self.epoch = 0  # epochs done
        self.step = 0  # steps done in the epoch under way
        self._seen = min(self.steps * config.batch_size, len(arrays.train_inputs))  # rows in an epoch
        self._evaluation = Evaluation(task, arrays.train_targets, dtype)
        self._loss, self._standard = self._evaluation.loss, self._evaluation.standard
        networks, self._unbuilt = self._networks()
        self.stack, self._ghost = stacked(task, networks, arrays, dtype)
        self._single = isinstance(self.stack, Single)
        self._start()
        if self._ghost and len(self.rows) == 1:  # beside its ghost
            self._take([0])

    def _networks(self) -> tuple[list[nn.Module], dict[int, str]]:
        """The rows' networks, and what the constructors of others said, whose rows leave; raised where none is left."""
        networks, failed = [], {}
        for row in self.rows:
            try:
                networks.append(network_of(self.task, row))
            except (Exception, SystemExit) as error:
                if len(self.rows) == 1 or out_of_memory(error):
                    raise
                failed[row.number] = told(error)
                if len(failed) == len(self.rows):
                    raise
        self.rows = [row for row in self.rows if row.number not in failed]
        return networks, failed

    def _new_optimizer(self) -> Optimizer | SingleOptimizer:
        if isinstance(self.stack, Single):
            return SingleOptimizer(self.rows[0].config, self.stack.base)
        return Optimizer([row.config for row in self._physical()], self.stack.flat_KP, self.task.named)

    def _start(self) -> None:
        self.optimizer = self._new_optimizer()
        count = len(self.stack)
        self.best = {name: value.detach().clone() for name, value in self.stack.state().items()}
        self.best_value = torch.full((count,), math.nan, dtype=torch.float64)
        self.best_epoch = torch.zeros(count, dtype=torch.int64)
        self.loss_sum = torch.zeros(count, dtype=torch.float64, device=self.device)
        self.diverged_at = torch.full((count,), -1, dtype=torch.int64, device=self.device)
        self._settle()

    def _settle(self) -> None:
        """Everything that follows from which rows stand in the stack."""
        rows = self._physical()
        configs = [row.config for row in rows]
        self._at = torch.zeros(1, dtype=torch.int64, device=self.device)  # the step of the epoch, told to programs
        self._draws = torch.zeros(len(augmentation.PURPOSES), dtype=torch.int32, device=self.device)
        self._losses_KS = torch.zeros(len(rows), self.steps, dtype=self.dtype, device=self.device)
        self._newest = Losses()  # of one network
        self._account = self._evaluation.account(len(self.stack), self.arrays.targets)

        def column(values: list[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float64).to(device=self.device, dtype=self.dtype)

        signature = self.task.signature
        self._terms = losses.terms(self._loss, configs, self.task.named, signature, self.arrays.train_targets, column)
        self._strengths = {
            f"{name}_K": column([getattr(c, name) for c in configs])
            for name in augmentation.OF[self.task.signature.modality]
            if name in self.task.named
        }
        dropouts = [name for name, module in self.stack.base.named_modules() if isinstance(module, layers.Dropout)]
        self._dropouts = [f"{name}.key" if name else "key" for name in dropouts]
        rates = [self.stack.buffers[f"{name}.rate" if name else "rate"] for name in dropouts]
        constant = [*rates, *self._terms.values(), *self._strengths.values()]
        self._programs = Programs(self.device, constant, recorded=self._recorded)
        layer_L = torch.arange(len(dropouts), dtype=torch.int32) + 1
        seed_K = torch.tensor([derive(row.seed, "dropout") for row in rows], dtype=torch.int32)
        self._keys_KL = stateless.mix(stateless.mix(seed_K)[:, None] + layer_L).to(self.device)
        self._keys_SKL = torch.zeros(self.steps, *self._keys_KL.shape, dtype=torch.int32, device=self.device)

    def _physical(self) -> list[Row]:
        """The rows as the stack holds them: a row alone stands there twice where it needs company."""
        return self.rows * (len(self.stack) // len(self.rows))

    def _take(self, keep: list[int]) -> None:
        """Compaction: go on with these rows of the stack, and a ghost where one is left that needs company."""
        self.rows = [self.rows[row] for row in keep]
        if self._ghost and len(keep) == 1:
            keep = keep * 2
        rows = torch.tensor(keep, dtype=torch.int64)
        there = rows.to(self.device)
        assert isinstance(self.stack, Stack) and isinstance(self.optimizer, Optimizer), "one row is all or nothing"
        self.stack.take(there)
        self.optimizer.take(there)
        self.best = {name: value[there] for name, value in self.best.items()}
        self.best_value, self.best_epoch = self.best_value[rows], self.best_epoch[rows]
        self.loss_sum, self.diverged_at = self.loss_sum[there], self.diverged_at[there]
        self._settle()

    # --- the loop ---------------------------------------------------------------------------------

    def run(self) -> Generator[Step | Epoch | Finished, Answer, None]:
        """Train until no row is left. Answer an `Epoch` with those of its `undecided` rows that stop."""
        if self._unbuilt:
            yield Epoch(self.epoch, {}, self._unbuilt, 0.0, frozenset())
        while self.rows:
            yield Step(self.epoch, self.step, self.steps)
            clock = time.perf_counter()
            count = len(self.rows)
            for _ in self._epoch():
                yield Step(self.epoch, self.step, self.steps)
            self.epoch += 1
            metrics, failed = self._measure()
            seconds = (time.perf_counter() - clock) / count
            ended = [row for row in self.rows if row.number in metrics and self._ends(row)]
            undecided = frozenset(metrics) - {row.number for row in ended} if self.epoch in self.task.rungs else ()
            stopped = (yield Epoch(self.epoch, metrics, failed, seconds, frozenset(undecided))) or set()
            for row in ended:
                index = self.rows.index(row)
                weights = self.stack.weights(self.best, index)
                yield Finished(row.number, self.epoch, int(self.best_epoch[index]), {"weights": weights})
            gone = set(failed) | stopped | {row.number for row in ended}
            keep = [index for index, row in enumerate(self.rows) if row.number not in gone]
            self.step = 0
            self.loss_sum.zero_()
            if not keep:
                self.rows = []
            elif len(keep) < len(self.rows):
                self._take(keep)

    def _ends(self, row: Row) -> bool:
        if self.epoch >= row.config.epochs:
            return True
        patience = row.config.early_stopping
        return patience is not None and self.epoch - int(self.best_epoch[self.rows.index(row)]) >= patience

    def _epoch(self) -> Generator[None, None, None]:
        """The steps of one epoch, from `self.step` on."""
        config, data = self.rows[0].config, self.arrays
        order = batches.order(self.task.seed, config.batch_size, self.epoch, len(data.train_inputs)).to(self.device)
        order = order[: self._seen]
        self.optimizer.begin_epoch(self.epoch, self.steps)
        if self._dropouts:
            first = self.epoch * self.steps
            numbers_S = torch.arange(first, first + self.steps, dtype=torch.int32, device=self.device)
            self._keys_SKL.copy_(stateless.mix(self._keys_KL ^ stateless.mix(numbers_S)[:, None, None]))
        self._losses_KS.zero_()
        for batch in batches.visit(data.train_inputs, order, config.batch_size, self.step):
            self._at.fill_(self.step)
            if self._single:  # which may draw from a generator
                number = self.epoch * self.steps + self.step
                self._evaluation.seed(self.rows[0].seed, self.device, "step", number)
            if self._strengths:
                self._draws.copy_(augmentation.keys(self.task.seed, self.epoch, self.step))
            self._programs.play("step", self._step, *batch)
            self.step += 1
            yield
        self._note_divergence()

    def _step(self, rows: Tensor, x: Tensor | None = None) -> None:
        """One update of every row of the stack on these rows of the data, [B]; x are their inputs where mapped."""
        if x is None:
            assert isinstance(self.arrays.train_inputs, Tensor)
            x = self.arrays.train_inputs.index_select(0, rows)
        target = self.arrays.train_targets.index_select(0, rows)
        if self._dropouts:
            keys_KL, buffers = self._keys_SKL.index_select(0, self._at)[0], self.stack.buffers
            for layer, name in enumerate(self._dropouts):
                buffers[name].copy_(keys_KL[:, layer])
        shared = not self._strengths
        if not shared:
            x = augmentation.augment(x, self._draws, masked=self.task.signature.masked, **self._strengths)
        target = self._standard.apply(target)
        if isinstance(self.stack, Single) or isinstance(self.optimizer, SingleOptimizer):
            self._newest.add(len(rows), self._step_alone(x if shared else x[0], target))
            return
        output = self.stack.forward(x, training=True, shared=shared)
        loss_K = self._loss(output, target, **self._terms).mean(1)
        self.optimizer.step(self.stack.flat_KP, self.stack.backward(loss_K), self._at)
        loss_K = loss_K.detach().to(self.dtype)
        self.loss_sum.add_(loss_K, alpha=len(rows))
        self._losses_KS.index_copy_(1, self._at, loss_K[:, None])

    def _step_alone(self, x: Tensor, target: Tensor) -> Tensor:
        """The update of one network, its loss []: nothing but torch's own between its answer and its gradient."""
        assert isinstance(self.stack, Single) and isinstance(self.optimizer, SingleOptimizer)
        output, config = self.stack.answer(x, training=True), self.rows[0].config
        if self.task.signature.task == LANGUAGE or "weight_KC" in self._terms:  # which torch averages otherwise
            loss = self._loss(output[None], target, **self._terms).mean()
        else:
            loss = of_one(self._loss, output, target, config.label_smoothing, config.huber_delta)
        self.stack.backward(loss)
        self.optimizer.step(self.step)
        return loss.detach()

    def _note_divergence(self) -> None:
        """Which rows had a loss that is no number in this epoch for the first time, and when."""
        self._newest.move(self.loss_sum, self._losses_KS[:, : self.step])
        bad_KS = ~torch.isfinite(self._losses_KS)
        fresh_K = bad_KS.any(1) & (self.diverged_at < 0)
        first_K = self.epoch * self.steps + bad_KS.to(torch.uint8).argmax(1)
        self.diverged_at = torch.where(fresh_K, first_K, self.diverged_at)

    def evaluate(self) -> dict[str, Tensor]:
        """Metrics of every row in the stack on the validation rows, [K] each, on the CPU."""
        return self._evaluation.measure(
            self.stack,
            self.arrays.inputs,
            self.arrays.targets,
            into=self._account,
            epoch=self.epoch,
            row_seed=self.rows[0].seed,
            play=self._programs.play,
            pulse=self._pulse,
        )

    def _measure(self) -> tuple[dict[int, dict[str, float]], dict[int, str]]:
        """Evaluate, tell the diverged from the others, and keep the best weights."""
        values = {f"val/{name}": value for name, value in self.evaluate().items()}
        values["train/loss"] = (self.loss_sum / self._seen).cpu()
        diverged_at = self.diverged_at.tolist()
        metrics: dict[int, dict[str, float]] = {}
        failed: dict[int, str] = {}
        better = torch.zeros(len(self.stack), dtype=torch.bool)
        for index, row in enumerate(self.rows):
            own = {name: float(value[index]) for name, value in values.items()}
            bad = [name for name in ("train/loss", "val/loss", self.task.metric) if not math.isfinite(own[name])]
            if bad:
                at = f"step {diverged_at[index]}" if diverged_at[index] >= 0 else f"epoch {self.epoch}"
                failed[row.number] = f"diverged at {at} ({bad[0]}={own[bad[0]]})"
                continue
            metrics[row.number] = {name: value for name, value in own.items() if math.isfinite(value)}
            value, best = own[self.task.metric], float(self.best_value[index])
            if math.isnan(best) or (value > best if self.task.maximize else value < best):
                self.best_value[index], self.best_epoch[index], better[index] = value, self.epoch, True
        self.stack.keep(self.best, better)
        return metrics, failed

    # --- over a restart ---------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """All that a restart needs: tensors and plain values, the rows named by trial number."""
        self._note_divergence()
        return {
            "rows": [row.number for row in self.rows],
            "epoch": self.epoch,
            "step": self.step,
            "stack": self.stack.state(),
            "optimizer": self.optimizer.state(),
            "best": self.best,
            "best_value": self.best_value,
            "best_epoch": self.best_epoch,
            "loss_sum": self.loss_sum,
            "diverged_at": self.diverged_at,
            **({"attributes": attributes.state(self.stack.base)} if self._foreign else {}),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken, with those of its rows that the task still names.

        Raises CheckpointCorrupt for the state of another cohort or network, and is then what it was before.
        """
        wanted = {row.number: row for row in self.task.rows if row.number not in self._unbuilt}
        own = {"stack": self.stack.state(), "best": self.best, "optimizer": self.optimizer.state()}
        own["rows"] = {name: getattr(self, name) for name in _PER_ROW}
        try:
            keep, parts = checkpoint.fitting(state, wanted.keys(), own, ghost=self._ghost, open_ended=self._single)
            epoch, step = int(state["epoch"]), int(state["step"])
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            why = f"{type(error).__name__}: {first_line(error)}"
            raise CheckpointCorrupt(f"it does not fit its trials: {why}") from error
        self.rows = [wanted[state["rows"][index]] for index in keep]
        self.stack.restore(parts["stack"])
        self.optimizer = self._new_optimizer()
        self.optimizer.restore(parts["optimizer"])
        if "attributes" in state:
            attributes.restore(self.stack.base, state["attributes"], self.device)
            if step:  # in the middle of an epoch, in the modes that it had come to
                self.stack.told(training=True)
        self.best = {name: value.to(self.device) for name, value in parts["best"].items()}
        self.best_value, self.best_epoch = parts["rows"]["best_value"], parts["rows"]["best_epoch"]
        self.loss_sum = parts["rows"]["loss_sum"].to(self.device)
        self.diverged_at = parts["rows"]["diverged_at"].to(self.device)
        self.epoch, self.step = epoch, step
        self._settle()

"""Networks of a cohort as they are measured: built from rows, stacked, and scored on examples.

Knows networks and arrays; never a step of training.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from tuner import models
from tuner.checkpoints import format as checkpoint
from tuner.data import batches
from tuner.models.interface import LANGUAGE
from tuner.seeds import derive
from tuner.training.cohort import Stack
from tuner.training.fusibility import singular
from tuner.training.losses import loss_of
from tuner.training.metrics import Account, account
from tuner.training.replay.tape import Programs
from tuner.training.seeding import seed, seeded
from tuner.training.single import Single
from tuner.training.target_scaling import Standard
from tuner.training.task import Arrays, Row, Task

EVALUATION_BATCH = 512  # examples; a constant, because another size would round sums differently
_EVALUATION_TOKENS = 4_096  # the same where every position of a text is answered


def network_of(task: Task, row: Row) -> nn.Module:
    """The network of a row as its training begins with it. Raises what a person's own constructor raises."""
    with seeded(derive(row.seed, "weights")):
        return models.build(task.family, task.signature, row.network, Path(task.folder))


def evaluation_batch(task: Task) -> int:
    """Examples that are looked at together."""
    language = task.signature.task == LANGUAGE
    return max(1, _EVALUATION_TOKENS // task.signature.inputs[0]) if language else EVALUATION_BATCH


def stacked(task: Task, networks: list[nn.Module], arrays: Arrays, dtype: torch.dtype) -> tuple[Stack | Single, bool]:
    """The networks as they train and are measured, and whether one that is left alone needs a ghost beside it."""
    device, own = arrays.inputs.device, task.family not in models.FAMILIES
    if own and not task.company:
        return Single(networks[0], device, None if dtype is torch.float32 else dtype), False
    stack = Stack(networks, device, dtype, company=task.company)
    counts = (len(arrays.train_inputs), task.rows[0].config.batch_size), (len(arrays.inputs), evaluation_batch(task))
    # What is known of MKL says nothing of others, and a person's own network may multiply what it likes.
    known = not own and device.type == "cpu" and torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
    return stack, task.company and not (known and not singular(stack, task.signature, counts))


def _as_it_is(_name: str, look: Callable[..., None], *batch: Tensor) -> None:
    look(*batch)


class Evaluation:
    """What the rows of one cohort are measured by: the loss, the targets' scale, the size of a batch."""

    def __init__(self, task: Task, train_targets: Tensor, dtype: torch.dtype) -> None:
        self._task = task
        self.loss: Callable[..., Tensor] = loss_of(task.rows[0].config.loss, task.signature.task)
        self.standard = Standard.of(train_targets, task.signature.task, dtype)
        self.batch = evaluation_batch(task)
        self._own = task.family not in models.FAMILIES
        self.only_torch = self._own and not task.company and models.only_torch(task.family, Path(task.folder))

    def account(self, rows: int, targets: Tensor) -> Account:
        """Where the metrics of so many rows on these targets are added up."""
        signature = self._task.signature
        return account(signature.task, rows, signature.outputs, targets, self._task.metrics)

    def seed(self, seed_of_row: int, device: torch.device, *purpose: object) -> None:
        """The generators that a network of its own may draw from begin anew, for that purpose."""
        seed(derive(seed_of_row, *purpose), device, only_torch=self.only_torch)

    @torch.no_grad()
    def measure(
        self,
        stack: Stack | Single,
        inputs: Tensor | batches.Mapped,
        targets: Tensor,
        *,
        into: Account | None = None,
        epoch: int = 0,
        row_seed: int = 0,
        play: Callable[..., None] = _as_it_is,
        pulse: Callable[[], None] = lambda: None,
    ) -> dict[str, Tensor]:
        """Metrics of every row in the stack on these examples, [K] each, on the CPU.

        `into` is an account that was used before on the same targets. A network trained alone may draw random numbers,
        keyed by its row's seed and the epoch. `play` runs what is done with a batch, `pulse` is called after each.
        """
        found = self.account(len(stack), targets) if into is None else into
        found.begin()

        def look(x: Tensor, target: Tensor) -> None:
            output = stack.forward(x, training=False, shared=True)
            loss_KB = self.loss(output, self.standard.apply(target))
            found.add(loss_KB, self.standard.undo(output), target)

        for start in range(0, len(inputs), self.batch):
            target = targets[start : start + self.batch]
            x = inputs[start : start + self.batch]
            x = x.clone() if self._own else x  # a person's own network may write into its input
            if isinstance(stack, Single):
                self.seed(row_seed, stack.device, "evaluation", epoch, start)
            play("look", look, x, target)
            pulse()
        return found.result()


class TrainedNetwork:
    """The network of one trial with weights that training has kept, computed as its cohort computed it."""

    def __init__(self, task: Task, arrays: Arrays) -> None:
        """`task` has that one row; `arrays` are those that it was trained on."""
        (self._row,), self._task, self._arrays = task.rows, task, arrays
        self._evaluation = Evaluation(task, arrays.train_targets, torch.float32)
        self._stack, ghost = stacked(task, [network_of(task, self._row)], arrays, torch.float32)
        if ghost and isinstance(self._stack, Stack):
            self._stack.take(torch.zeros(2, dtype=torch.int64, device=arrays.inputs.device))
        self._programs = Programs(arrays.inputs.device, (), recorded=task.family in models.FAMILIES)

    @property
    def names(self) -> set[str]:
        """Of its parameters and buffers."""
        return set(self._stack.weights(self._stack.state(), 0))

    def module(self, weights: dict[str, Tensor]) -> nn.Module:
        """The plain network with these weights, in evaluation, answering in the targets' own unit.

        Raises CheckpointCorrupt where the weights are another network's.
        """
        network = network_of(self._task, self._row)
        checkpoint.fill(network, weights)
        return self._evaluation.standard.wrap(network.cpu()).eval()

    def score(self, weights: dict[str, Tensor], inputs: Tensor | batches.Mapped, targets: Tensor) -> dict[str, float]:
        """Metrics with these weights on these examples; on the validation rows those of training, to the bit."""
        self._stack.put(weights)
        play = self._programs.play if targets is self._arrays.targets else _as_it_is
        found = self._evaluation.measure(self._stack, inputs, targets, row_seed=self._row.seed, play=play)
        return {name: float(value[0]) for name, value in found.items()}

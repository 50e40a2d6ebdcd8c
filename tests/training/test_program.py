"""Kernel calls recorded once and played back: the same numbers, in memory that is shared out, and no guessing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tuner.models.recurrent import Recurrent
from tuner.training.replay import blas, tape
from tuner.training.replay.blas import Multiplied
from tuner.training.replay.tape import CannotRecord, Program, Programs

CPU = torch.device("cpu")


def written(function: Callable[[Tensor], Tensor], like: Tensor) -> tuple[Program, Tensor, Tensor]:
    """A program of `function`, the place of its input and of its answer."""
    place = like.clone()
    answer = torch.zeros_like(function(like).detach())

    def run() -> None:
        answer.copy_(function(place).detach())

    return Program(run, CPU), place, answer


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "views": lambda x: x.T.reshape(2, -1)[:, 1:].contiguous().T,
    "in place": lambda x: x.clone().mul_(2.0).add_(x).sub_(1.0).pow_(2),
    "into a part": lambda x: torch.zeros(5, 6).index_copy_(0, torch.tensor([1, 3]), x[:2]),
    "two answers": lambda x: torch.add(*x.max(1)),
    "a sort": lambda x: x.sort(0).values,
    "lists of tensors": lambda x: torch.cat([x, *x.split(2)]) + torch.stack([x[0], x[1]]).sum(),
    "a broadcast": lambda x: x.expand(3, 4, 6) * torch.arange(3.0)[:, None, None],
    "another dtype": lambda x: x.double().sum(0).float() + x.to(torch.int32).view(torch.int16).sum(),
    "no out variant": lambda x: torch.nn.functional.pad(x, (1, 2), value=3.0).roll(1),
    "zeros that are written to": lambda x: x.new_zeros(6).add_(x[0]),
    "overwritten memory": lambda x: (x.sin() + 1).cos() * (x.cos() + 1).sin() + (x.exp() * 2).tanh(),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_program_answers_what_its_function_answers(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    first, second, third = (torch.randn(4, 6, generator=generator) for _ in range(3))
    program, place, answer = written(FUNCTIONS[name], first)
    assert torch.equal(answer, FUNCTIONS[name](first)), "recording runs it"
    for x in (second, third):
        place.copy_(x)
        program()
        assert torch.equal(answer, FUNCTIONS[name](x))


def test_gradients_beneath_autograd_and_vmap() -> None:
    weight = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(1), requires_grad=True)

    def gradient(x: Tensor) -> Tensor:
        outputs = torch.func.vmap(lambda w: torch.tanh(x @ w.T))(weight)
        return torch.autograd.grad(outputs.square().sum(), weight)[0]

    x = torch.randn(7, 4)
    program, place, answer = written(gradient, x)
    place.copy_(2 * x)
    with torch.no_grad():
        weight.mul_(0.5)
    program()
    with Multiplied():
        assert torch.equal(answer, gradient(2 * x))


def test_what_depends_on_constants_alone_is_computed_once() -> None:
    rate, x = torch.tensor([0.1, 0.2]), torch.ones(2)
    answer = torch.zeros(2)

    def run() -> None:
        answer.copy_(x * (1.0 / (1.0 - rate)))

    assert len(Program(run, CPU, [rate])) == len(Program(run, CPU)) - 3
    program = Program(run, CPU, [rate])
    x.fill_(3.0)
    program()
    assert torch.equal(answer, 3.0 * (1.0 / (1.0 - rate)))


def test_a_constant_that_is_written_to_is_none() -> None:
    count, answer = torch.zeros(1), torch.zeros(1)

    def run() -> None:
        count.add_(1.0)
        answer.copy_(count * 2.0)

    program = Program(run, CPU, [count])
    program()
    program()
    assert answer.item() == 6.0


def test_what_nobody_reads_is_left_out() -> None:
    x, answer = torch.ones(3), torch.zeros(3)

    def run() -> None:
        (x + 1).exp().sum()
        answer.copy_(x)

    assert len(Program(run, CPU)) == 1


@pytest.mark.parametrize(
    ("function", "most"),
    [(lambda y: y.flip(0), 2), (lambda y: y * 1.01, 1), (lambda y: y * y.mT, 2)],
    ids=["another's", "an argument's, number by number", "not an argument's that is read otherwise too"],
)
def test_memory_is_used_again(function: Callable[[Tensor], Tensor], most: int) -> None:
    x, answer = torch.randn(32, 32), torch.zeros(32, 32)

    def run() -> None:
        y = x
        for _ in range(50):
            y = function(y)
        answer.copy_(y)

    program = Program(run, CPU)
    blocks = {storage.data_ptr() for storage in program.storages} - {x.data_ptr(), answer.data_ptr()}
    assert len(blocks) == most
    recorded = answer.clone()
    program()
    assert torch.equal(answer.nan_to_num(), recorded.nan_to_num())


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("a number that Python reads", lambda x: x * x.sum().item()),
        ("torch's own random numbers", lambda x: nn.functional.dropout(x, 0.5)),
    ],
)
def test_what_cannot_be_played_back_is_refused(name: str, function: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(CannotRecord):
        written(function, torch.ones(4, 6))


def test_programs_go_on_without_a_recording_where_there_can_be_none() -> None:
    total = torch.zeros(())
    programs = Programs(CPU, [], recorded=True)
    for value in (1.0, 2.0, 3.0):
        programs.play("sum", lambda x: total.add_(x.sum().item()), torch.full((2,), value))
    assert total.item() == 12.0


def test_programs_tell_sizes_apart() -> None:
    total = torch.zeros(())
    programs = Programs(CPU, [], recorded=True)
    for count in (4, 3, 4, 3, 1):
        programs.play("sum", lambda x: total.add_(x.sum()), torch.ones(count))
    assert total.item() == 15.0


def test_a_recording_is_the_same_where_torch_keeps_its_compiler_away_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    class Skipping(tape._Recorder):
        @classmethod
        def _should_skip_dynamo(cls) -> bool:
            return True  # torch's default

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return super().__torch_dispatch__(func, types, args, kwargs)

    like = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    expected, place, answer = written(FUNCTIONS["overwritten memory"], like)
    monkeypatch.setattr(tape, "_Recorder", Skipping)
    program, other_place, other_answer = written(FUNCTIONS["overwritten memory"], like)
    assert len(program) == len(expected) > 0
    for x in (place, other_place):
        x.copy_(like.flip(0))
    expected()
    program()
    assert torch.equal(answer, other_answer)


@pytest.mark.parametrize("lost", ["torch.utils._python_dispatch", "torch.multiprocessing.reductions"])
def test_without_torchs_private_modules_everything_is_played_step_by_step(lost: str) -> None:
    package, name = lost.rsplit(".", 1)
    code = (
        f"import sys, torch, {package}\n{package}.__dict__.pop({name!r}, None)\nsys.modules[{lost!r}] = None\n"
        "from tuner.training.replay import blas, dispatch\n"
        "from tuner.training.replay.tape import Programs\n"
        "total = torch.zeros(())\n"
        "programs = Programs(torch.device('cpu'), [], recorded=True)\n"
        "for value in (1.0, 2.0):\n"
        "    programs.play('sum', lambda x: total.add_(x.sum()), torch.full((2,), value))\n"
        "print(dispatch.FOUND, total.item(), blas.numpys() == '', programs._known)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["False", "6.0", "True", "{}"]


def calls(cell: str, steps: int) -> int:
    """Kernel calls of a recurrent layer on so many steps, and of its gradients."""
    layer, x = Recurrent(cell, 8, 32), torch.ones(steps, 64, 8)
    parameters = {name: torch.stack([value.detach()] * 3) for name, value in layer.named_parameters()}
    places = [torch.zeros_like(value) for value in parameters.values()]

    def run() -> None:
        given = {name: value.clone().requires_grad_() for name, value in parameters.items()}
        last = torch.func.vmap(lambda one: torch.func.functional_call(layer, one, (x,))[1])(given)
        for place, gradient in zip(places, torch.autograd.grad(last.sum(), list(given.values())), strict=True):
            place.copy_(gradient)

    return len(Program(run, CPU))


@pytest.mark.parametrize(("cell", "most"), [("rnn", 8), ("lstm", 18), ("gru", 26)])
def test_another_step_of_a_recurrence_is_few_kernel_calls(
    cell: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blas, "numpys", lambda: "")  # torch multiplies in one call, on whatever processor
    assert 0 < calls(cell, 5) - calls(cell, 4) <= most

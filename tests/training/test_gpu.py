"""tests/gpu/run, which checks training on a GPU: what it says without one, and its checks themselves, on the CPU."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import zoo
from tests.servers import PATIENCE
from tuner.training.cohort import Stack

torch.set_num_threads(1)
SCRIPT = Path(__file__).parents[1] / "gpu" / "run"
BARE = """
import runpy, sys
for name in ("optuna", "ray", "mlflow", "pydantic", "sklearn", "scipy", "pandas", "psutil", "ruamel", "typer", "rich",
             "pyarrow", "pytest", "threadpoolctl", "sqlalchemy"):
    sys.modules[name] = None  # an import of it fails
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as a module."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    loader = SourceFileLoader("gpu_run", str(SCRIPT))
    spec = spec_from_loader("gpu_run", loader)
    assert spec is not None
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu_run", module)  # dataclasses look their module up
    loader.exec_module(module)
    return module


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to check")
def test_without_cuda_it_says_so_in_a_line_and_ends_well_with_torch_and_numpy_alone() -> None:
    command = [sys.executable, "-c", BARE, str(SCRIPT)]
    said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert (said.returncode, said.stdout.count("\n")) == (0, 1), said.stderr
    assert "needs CUDA" in said.stdout


@pytest.fixture
def few(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """One structure of each family."""
    cases = list({case.family: case for case in reversed(zoo.CASES)}.values())
    monkeypatch.setattr(gpu.zoo, "CASES", cases)
    return gpu


def test_law_one_and_the_reference_hold_here_and_every_family_is_seen(few: Any) -> None:
    count = len(zoo.CASES)
    assert few.neighbours(zoo.CPU) == f"{count} of {count} structures; float32 to the bit in {count}"
    assert few.reference(zoo.CPU).startswith(f"{count} of {count} structures, ")


@pytest.mark.parametrize("check", ["neighbours", "reference"])
def test_a_row_that_reads_its_neighbours_is_found(few: Any, check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backward = Stack.backward
    monkeypatch.setattr(Stack, "backward", lambda self, loss: backward(self, loss + 1e-4 * loss.sum() * loss))
    (line,) = few.perform({check: getattr(few, check)}, zoo.CPU)
    assert line.result == "FAILED" and "differs by" in line.figure


def test_a_cohort_is_halved_where_memory_ends(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is pretended here: as many bytes as a cohort has rows."""
    room, largest = [10**9], [0]
    losses = gpu._losses

    def pretended(trials: Any, device: Any) -> Any:
        largest[0] = len(trials)
        if len(trials) > room[0]:
            raise torch.OutOfMemoryError
        return losses(trials, device)

    @contextlib.contextmanager
    def memory(_device: Any, most: int) -> Iterator[None]:
        room[0] = most
        yield

    monkeypatch.setattr(gpu, "HALVED", "mlp-32x1")
    monkeypatch.setattr(gpu, "ROWS", 8)
    monkeypatch.setattr(gpu, "_losses", pretended)
    monkeypatch.setattr(gpu, "_peak", lambda _device: largest[0])
    monkeypatch.setattr(gpu, "_forget", lambda _device: None)
    monkeypatch.setattr(gpu, "_memory", memory)
    assert gpu.halves(zoo.CPU).startswith("8 rows as 4 + 4 in ")


def test_cohorts_of_the_size_that_the_cost_model_gives_are_trained(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "RACED", ("mlp-32x1",))
    assert gpu.sizes(zoo.CPU) == "mlp-32x1 32"


@pytest.mark.slow
def test_the_race_gives_its_ratios(gpu: Any) -> None:
    figure = gpu.race(zoo.CPU, ["mlp-32x1"], [16], 2)
    assert figure.startswith("times one plain loop, times 2 processes: mlp-32x1 ")


def test_a_check_that_raises_fails_alone_and_the_table_says_so(gpu: Any) -> None:
    def broken(_device: torch.device) -> str:
        raise ZeroDivisionError("of all things")

    lines = list(gpu.perform({"one": broken, "two": lambda _: "2 of 2"}, zoo.CPU))
    first, second = gpu.table(lines).splitlines()[2:]
    assert first == "| one | FAILED | ZeroDivisionError: of all things |"
    assert second == "| two | ok | 2 of 2 |"

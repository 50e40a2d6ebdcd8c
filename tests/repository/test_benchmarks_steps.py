"""The benchmarks of training alone: peers train the same networks, cohorts shrink where memory ends, tables tell."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tests.models.test_networks import twin
from tests.servers import PATIENCE
from tuner import models
from tuner.models.interface import CLASSIFICATION, Signature

FOLDER = Path(__file__).parents[2] / "benchmarks"
torch.set_num_threads(1)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The scripts, by name."""
    monkeypatch.syspath_prepend(FOLDER)
    return import_module


def peer(bench: Any, shape: Any) -> nn.Module:
    plain = bench("peers.plain")
    network: nn.Module = plain.NETWORKS[shape.family](
        shape.inputs, bench("shapes").CLASSES, **plain.settings(shape.network), dropout=0.1
    )
    return network


def ours(bench: Any, shape: Any) -> nn.Module:
    signature = Signature(CLASSIFICATION, shape.modality, shape.inputs, bench("shapes").CLASSES)
    return models.build(shape.family, signature, {**shape.network, "dropout": 0.1})


SHAPES = ["mlp-64x2", "mlp-128x3", "lstm-8", "gru-8", "transformer-16", "cnn-8"]


@pytest.mark.parametrize("name", SHAPES)
def test_peers_train_the_very_networks_that_tuner_trains(bench: Any, name: str) -> None:
    shape = bench("shapes").SHAPES[name]
    mine, theirs = ours(bench, shape).double().eval(), peer(bench, shape).double().eval()
    with torch.no_grad():
        if shape.family == "rnn":
            theirs.layers = twin(mine.layers[0], shape.network["cell"], bidirectional=False)
            theirs.layers.batch_first = True
            theirs.output.load_state_dict(mine.output.state_dict())
        else:
            for one, other in zip(theirs.parameters(), mine.parameters(), strict=True):
                one.copy_(other)
    x = torch.from_numpy(bench("shapes").draw(shape.inputs, 20).inputs[:5]).double()
    torch.testing.assert_close(theirs(x), mine(x), rtol=1e-9, atol=1e-9)


class Unrolled(nn.Module):
    """A recurrent network as the products that it is made of, for the counter to see."""

    def __init__(self, network: nn.Module, cell: str) -> None:
        super().__init__()
        size = network.layers.input_size, network.layers.hidden_size
        self.cell = {"lstm": nn.LSTMCell, "gru": nn.GRUCell}[cell](*size)
        self.output = network.output

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for step in x.unbind(1):
            state = self.cell(step, state)
        return self.output(state[0] if isinstance(state, tuple) else state)


@pytest.mark.parametrize("name", SHAPES)
def test_the_floor_counts_the_multiply_adds_that_torch_counts(bench: Any, name: str) -> None:
    shape = bench("shapes").SHAPES[name]
    network = peer(bench, shape)
    if shape.family == "rnn":
        network = Unrolled(network, shape.network["cell"])
    x = torch.zeros(shape.batch, *shape.inputs)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network(x).sum().backward()
    assert bench("shapes").multiply_adds(shape) == pytest.approx(counter.get_total_flops() / 2, rel=0.04)


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_learns_with_adam_and_with_sgd(bench: Any, name: str) -> None:
    """So that nothing diverges, and a race is one of training."""
    racers, shapes = bench("racers"), bench("shapes")
    torch.manual_seed(0)
    for one in shapes.alike(shapes.SHAPES[name], 2):
        epochs = racers.network(one, torch.device("cpu"), fused=False)
        losses = [next(epochs)["train/loss"] for _ in range(6)]
        assert losses[-1] < losses[0]


# --- memory ---------------------------------------------------------------------------------------


def test_a_cohort_that_does_not_fit_is_halved_and_every_trial_is_trained_once(bench: Any) -> None:
    racers, trained = bench("racers"), []

    def train(rows: Sequence[int]) -> int:
        if len(rows) > 3:
            raise torch.OutOfMemoryError
        trained.append(list(rows))
        return len(rows)

    assert racers.halving([range(10), range(10, 12)], train) == 12
    assert trained == [[0, 1], [2, 3, 4], [5, 6], [7, 8, 9], [10, 11]]


def test_where_not_even_one_trial_fits_the_benchmark_says_so(bench: Any) -> None:
    racers, shapes = bench("racers"), bench("shapes")

    def train(_rows: Sequence[Any]) -> int:
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError, match=r"MLP .*: not even one trial fits"):
        racers.halving([shapes.study(4, 0)], train)


def test_a_race_goes_on_with_half_the_rows_until_it_fits(bench: Any) -> None:
    gpu, harness = bench("gpu"), bench("harness")
    tried = []

    def race(rows: int) -> list[Any]:
        tried.append(rows)
        return [harness.OUT_OF_MEMORY] if rows > 100 else [{"done": rows, "seconds": 1.0}]

    assert gpu.fitting(race, 1_000) == (62, [{"done": 62, "seconds": 1.0}])
    assert tried == [1_000, 500, 250, 125, 62]
    with pytest.raises(harness.RunFailed, match="not even one"):
        gpu.fitting(lambda _rows: [harness.OUT_OF_MEMORY], 4)


MEMBER = """
import json, sys
number = sys.argv[sys.argv.index("--number") + 1]
for line in sys.stdin:
    job = json.loads(line)
    print(json.dumps("out of memory" if job["large"] and number == "1" else "ready"), flush=True)
    if sys.stdin.readline() == "begin\\n":
        print(json.dumps(int(number)), flush=True)
    if job.get("last"):
        sys.exit(3)
"""


def test_a_crew_begins_together_or_not_at_all_and_is_there_for_the_next_job(bench: Any) -> None:
    harness = bench("harness")
    with harness.Crew([sys.executable, "-c", MEMBER], 3, harness.environment()) as crew:
        assert crew.race({"large": False}) == [0, 1, 2]
        assert crew.race({"large": True}) == [harness.OUT_OF_MEMORY]
        assert crew.race({"large": False, "last": True}) == [0, 1, 2]
        with pytest.raises(harness.RunFailed, match="exit code 3"):
            crew.race({"large": False})


# --- what is shown --------------------------------------------------------------------------------


def records(shape: str, **rates: Sequence[float]) -> list[dict[str, Any]]:
    return [
        {"shape": shape, "round": number, "who": who.replace("_", "="), "rate": rate, "busy": 0.0}
        for who, values in rates.items()
        for number, rate in enumerate(values)
    ]


def test_the_best_plain_loop_counts_and_ratios_are_taken_within_a_round(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, shapes = bench("steps"), bench("shapes")
    monkeypatch.setattr(steps, "chosen", lambda _shape: 8)
    name = "mlp-64x2"
    found = steps.Result.of(
        name,
        records(
            name, products=[1e9, 1e9, 1e9], slow=[90, 90, 90], fast=[100, 50, 200], K_1=[300, 150, 600],
            K_8=[400, 200, 800], K_32=[700, 350, 1_400],
        ),
    )  # fmt: skip
    assert (found.peer, found.best, found.chosen) == ("fast", 32, 8)
    assert found.ratio == steps.Spread(7.0, 7.0, 7.0)
    assert found.as_chosen == steps.Spread(4.0, 4.0, 4.0)
    assert found.limit == 1e9 / shapes.multiply_adds(shapes.SHAPES[name])
    assert steps.notes([found]) == []
    assert steps.rows([found], [1, 8, 32])[0][3:] == ["300", "400", "700", "7.00 at K=32", "4.00 at K=8", "6"]


def test_what_falls_short_is_said(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = bench("steps")
    monkeypatch.setattr(steps, "chosen", lambda _shape: 8)
    found = steps.Result.of("cnn-8", records("cnn-8", products=[1e9], fast=[100], K_1=[110], K_8=[99]))
    short, alone = steps.notes([found])
    assert "1.10 times the plain loop, short of 1.2" in short
    assert "8 together at 0.90 times the speed of training it alone" in alone


def run(script: str, out: Path, *words: str) -> tuple[list[list[str]], dict[str, Any], str]:
    """The table's body, the JSON, everything that was said."""
    command = [sys.executable, str(FOLDER / script), "--out", str(out), *words]
    said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert said.returncode == 0, said.stderr
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in said.stdout.splitlines() if "|" in line]
    assert str(FOLDER.parent) not in out.read_text() + said.stdout
    return lines[2:], json.loads(out.read_text()), said.stdout


@pytest.mark.slow
def test_the_smallest_race_of_steps_gives_the_table(tmp_path: Path) -> None:
    words = ["--shapes", "mlp-32x1", "--rows", "2", "--rounds", "1", "--seconds", "0.01", "--cores", "2"]
    body, saved, _ = run("steps.py", tmp_path / "steps.json", *words)
    assert [row[0] for row in body] == ["MLP 32×1, batch 64"]
    who = {one["who"] for one in saved["runs"]}
    assert who >= {"products", "2 processes", "2 processes, fused", "2 threads", "2 threads, fused", "K=1", "K=2"}
    assert all(one["rate"] > 0 for one in saved["runs"])


@pytest.mark.slow
def test_the_gpu_s_script_runs_to_its_table_on_a_cpu(tmp_path: Path) -> None:
    words = ["--device", "cpu", "--shapes", "mlp-32x1", "--rows", "2", "--rounds", "1", "--seconds", "0.01"]
    study = ["--processes", "2", "--trials", "4", "--epochs", "1", "--every", "2"]
    body, saved, _ = run("gpu.py", tmp_path / "gpu.json", *words, *study)
    assert [row[0] for row in body] == ["MLP 32×1, batch 64", "the study"]
    assert [one["who"] for one in saved["runs"] if one["work"] == "study"] == ["tuner", "serial", "many"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to measure")
def test_without_cuda_the_gpu_s_script_says_so_in_a_line_and_ends_well() -> None:
    said = subprocess.run([sys.executable, str(FOLDER / "gpu.py")], capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout.count("\n")) == (0, 1)
    assert "needs CUDA" in said.stdout


BARE = """
import sys
for name in ("optuna", "ray", "mlflow", "pydantic", "sklearn", "scipy", "pandas", "psutil", "ruamel", "typer", "rich"):
    sys.modules[name] = None  # an import of it fails
sys.path.insert(0, sys.argv.pop(1))
import racers, steps, gpu, torch
steps.chosen(steps.SHAPES["mlp-64x2"])
next(racers.tuner({"shape": "mlp-32x1", "rows": 2}, torch.device("cpu")))
next(racers.plain({"shape": "mlp-32x1", "fused": False}, torch.device("cpu")))
steps.harness.machine(steps.PACKAGES)
print(steps.harness.warning([steps.harness.others()]))
"""


def test_steps_and_gpu_need_torch_and_numpy_alone() -> None:
    command = [sys.executable, "-c", BARE, str(FOLDER)]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    assert "psutil is not installed" in said.stdout

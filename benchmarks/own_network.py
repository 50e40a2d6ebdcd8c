"""A person's own network beside the plain PyTorch loop that everybody writes: seconds a step, and memory.

Speed: a small multilayer perceptron in one process, alone, with a ghost, and in cohorts; each round runs all ways in
turns, and a round's ratio is to the plain loop of that round. Memory: the peak of a fresh process that trains and saves
a network of 29 million parameters alone, beside one that only trains it.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import harness
import torch
import torch.nn.functional as F

from tuner.checkpoints import format as checkpoint
from tuner.data import batches
from tuner.models import Signature, build
from tuner.training.config import TrainConfig
from tuner.training.loop import Training
from tuner.training.task import Arrays, Row, Task
from tuner.workloads.base import Epoch, Finished

FAMILY = "own_net.py:Net"
FOLDER = Path(__file__).parent
SIGNATURE = Signature("classification", "numbers", (12,), 3)
ROWS, BATCH = 640, 16
WIDE = 3_800  # 29 million parameters in three hidden layers
COHORTS = (1, 2, 4, 8)


def data() -> Arrays:
    """640 rows to learn from and 64 to validate on, made here."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS + 64, 12, generator=generator)
    y = torch.randint(3, (ROWS + 64,), generator=generator)
    return Arrays(x[:ROWS], y[:ROWS], x[ROWS:], y[ROWS:])


def plain(epochs: int, batch: int, **keywords: int) -> float:
    """Seconds of the loop that everybody writes."""
    arrays = data()
    torch.manual_seed(0)
    net = build(FAMILY, SIGNATURE, keywords, FOLDER)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    began = time.perf_counter()
    for epoch in range(epochs):
        net.train()
        for rows in batches.order(0, batch, epoch, ROWS).split(batch):
            loss = F.cross_entropy(net(arrays.train_inputs[rows]), arrays.train_targets[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        net.eval()
        with torch.no_grad():
            F.cross_entropy(net(arrays.inputs), arrays.targets)
    return time.perf_counter() - began


def ours(
    epochs: int, batch: int, rows: int = 1, folder: Path | None = None, *, company: bool, **keywords: int
) -> float:
    """Seconds of Tuner's loop for that many trials; checkpoints and weights go to the folder."""
    config = TrainConfig(epochs=epochs, batch_size=batch, optimizer="adam", learning_rate=0.01)
    members = tuple(Row(number, number, keywords, config) for number in range(rows))
    task = Task(members, FAMILY, SIGNATURE, company, 0, "val/loss", False, folder=str(FOLDER))
    training = Training(task, data())
    began = time.perf_counter()
    for event in training.run():
        if folder is not None and isinstance(event, Epoch):
            checkpoint.save(folder / "state.pt", training.state())
        elif folder is not None and isinstance(event, Finished):
            checkpoint.save(folder / "weights.pt", event.kept, generations=1)
    return time.perf_counter() - began


def speed(rounds: int, epochs: int) -> list[list[str]]:
    """A row for each way: its time to the plain loop's, and that of one of its trials."""
    ways: dict[str, tuple[int, Callable[[], float]]] = {"alone": (1, lambda: ours(epochs, BATCH, company=False))}
    for rows in COHORTS:
        name = "in company, left alone with its ghost" if rows == 1 else f"cohort of {rows}"
        ways[name] = (rows, lambda rows=rows: ours(epochs, BATCH, rows, company=True))  # type: ignore[misc]
    ratios: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        yardstick = plain(epochs, BATCH)
        for name, (_, way) in ways.items():
            ratios[name].append(way() / yardstick)
    table = []
    for name, (rows, _) in ways.items():
        spread, each = harness.Spread.of(ratios[name]), harness.Spread.of([ratio / rows for ratio in ratios[name]])
        table.append([name, f"{spread.text('.2f')}×", f"{each.text('.2f')}×"])
    return table


def peak(way: str, width: int) -> float:
    """MB that a fresh process takes at most."""
    command = [sys.executable, __file__, "--inside", way, "--width", str(width)]
    ran = subprocess.run(command, capture_output=True, text=True, env=harness.environment(), check=False)
    if ran.returncode:
        raise harness.RunFailed(ran.stderr[-2_000:])
    return float(ran.stdout)


def inside(way: str, width: int) -> None:
    """In that process."""
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        if way == "plain":
            plain(2, 64, width=width, depth=3)
        else:
            ours(2, 64, folder=Path(folder), company=False, width=width, depth=3)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)


def main() -> int:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7, help="rounds of the speed")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--width", type=int, default=WIDE, help="of the network whose memory is measured")
    parser.add_argument("--inside", choices=("plain", "ours"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        inside(given.inside, given.width)
        return 0
    torch.set_num_threads(1)
    print(
        harness.table(
            ("an own network", "time to the plain loop's", "of one trial"), speed(given.repeats, given.epochs)
        )
    )
    print()
    memory = {way: peak(way, given.width) for way in ("plain", "ours")}
    rows = [[way, f"{mb:,.0f}", f"{mb / memory['plain']:.2f}×"] for way, mb in memory.items()]
    print(harness.table(("memory of a wide one", "peak, MB", "to the plain loop's"), rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())

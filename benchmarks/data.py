"""A large CSV file, read and made ready to train: Tuner beside pandas, and polars where it is installed.

A table of a million cells a second and more is made once: numbers, whole numbers, categories, a date, empty cells, and
a number to predict. Each contender reads it in a process of its own, and says its processor seconds and how far its
peak of memory has risen, imports left out. `read` is the file as columns; `ready` the first batch of normalised
float32 inputs, everything fitted on the training rows: pandas by `get_dummies`, standardised columns and a seeded
shuffle, as people write it. The number of rows and the sum of the target are checked.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import harness
import numpy as np

LABELS = {
    "pandas-read": "pandas.read_csv",
    "polars-read": "polars.read_csv",
    "tuner-read": "Tuner's table",
    "pandas-ready": "pandas, to the first batch",
    "tuner-ready": "Tuner, to the first batch",
}
BATCH = 64


def write(path: Path, rows: int) -> None:
    """The table, the same for every machine."""
    import pandas as pd

    draw = np.random.default_rng(0)
    size = draw.normal(50, 12, rows)
    frame = pd.DataFrame(
        {
            "when": pd.Timestamp("2020-01-01") + pd.to_timedelta(draw.integers(0, 1_000, rows), "D"),
            "size": np.where(draw.random(rows) < 0.02, np.nan, size.round(3)),
            **{f"x{i}": draw.normal(0, 1, rows).round(4) for i in range(6)},
            **{f"n{i}": draw.integers(0, 5_000, rows) for i in range(4)},
            "town": draw.choice([f"town {i}" for i in range(60)], rows),
            "kind": draw.choice(["elm", "oak", "ash"], rows),
            "price": (3 * size + draw.normal(0, 1, rows)).round(3),
        }
    )
    frame.to_csv(path, index=False)


# --- contenders: (rows, sum of the target) of the file ---------------------------------------------


def pandas_read(path: Path) -> tuple[int, float]:
    import pandas as pd

    frame = pd.read_csv(path)
    return len(frame), float(frame["price"].sum())


def polars_read(path: Path) -> tuple[int, float]:
    import polars as pl  # type: ignore[import-not-found]

    frame = pl.read_csv(path)
    return len(frame), float(frame["price"].sum())


def tuner_read(path: Path) -> tuple[int, float]:
    from tuner.data.csv_files import read_csv

    table = read_csv(path)
    return len(table), float(table.numbers("price").sum())


def pandas_ready(path: Path) -> tuple[int, float]:
    import pandas as pd
    import torch

    frame = pd.read_csv(path, parse_dates=["when"])
    y = frame.pop("price")
    frame["when"] = (frame["when"] - pd.Timestamp(0)).dt.total_seconds()
    frame["gone"] = frame["size"].isna().astype("float32")
    frame = pd.get_dummies(frame, columns=["town", "kind"]).astype("float32")
    order = np.random.default_rng(1).permutation(len(frame))
    train, validation = order[: int(0.6 * len(order))], order[int(0.6 * len(order)) : int(0.8 * len(order))]
    mean, scale = frame.iloc[train].mean(), frame.iloc[train].std()
    scaled = ((frame - mean) / scale).fillna(0.0)
    x, held = torch.tensor(scaled.iloc[train].values), torch.tensor(scaled.iloc[validation].values)
    assert x[:BATCH].isfinite().all()
    assert held.isfinite().all()
    return len(frame), float(y.sum())


def tuner_ready(path: Path) -> tuple[int, float]:
    import torch

    from tuner.data import load

    dataset = load(str(path), target="price")
    assert torch.from_numpy(dataset.train.inputs)[:BATCH].isfinite().all()
    parts = (dataset.train, dataset.validation, dataset.open_test())
    return sum(map(len, parts)), float(sum(part.targets.astype(np.float64).sum() for part in parts))


CONTENDERS: dict[str, Callable[[Path], tuple[int, float]]] = {
    "pandas-read": pandas_read,
    "polars-read": polars_read,
    "tuner-read": tuner_read,
    "pandas-ready": pandas_ready,
    "tuner-ready": tuner_ready,
}
_IMPORTS = {
    "pandas": ["pandas", "torch"],
    "polars": ["polars"],
    "tuner": ["pyarrow.csv", "pandas", "torch", "tuner.data.dataset"],
}


def contend(who: str, path: Path) -> None:
    """In a process of its own: one line of JSON."""
    for module in _IMPORTS[who.partition("-")[0]]:
        __import__(module)
    before, clock, wall = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time(), time.perf_counter()
    rows, total = CONTENDERS[who](path)
    took = {"cpu": time.process_time() - clock, "wall": time.perf_counter() - wall}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(json.dumps({"rows": rows, "total": total, "mib": peak / 1024, **took}))


def measure(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """All rounds; one record for each process."""
    with tempfile.TemporaryDirectory(prefix="tuner-data-") as place:
        folder = Path(place)
        write(folder / "table.csv", given.rows)
        mib = (folder / "table.csv").stat().st_size / 2**20
        for number, who in harness.turns(given.who, given.repeats):
            busy = harness.others()
            command = [sys.executable, __file__, "--contend", who, str(folder / "table.csv")]
            harness.seconds(command, folder, harness.environment(XDG_CACHE_HOME=place), given.limit)
            told = json.loads((folder / "log.txt").read_text().splitlines()[-1])
            yield {"who": who, "round": number, "busy": busy, "file_mib": mib, **told}


def report(given: argparse.Namespace, records: Sequence[dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    """The text to print, and what goes into the JSON."""
    if len({one["rows"] for one in records}) > 1 or np.ptp([one["total"] for one in records]) > 1e-3 * given.rows:
        raise harness.RunFailed("the contenders have not read the same rows")
    summary: dict[str, Any] = {}
    rows = []
    for who in given.who:
        mine = [one for one in records if one["who"] == who]
        cpu, mib = (harness.Spread.of([one[name] for one in mine]) for name in ("cpu", "mib"))
        peer = summary.get(f"pandas-{who.partition('-')[2]}", {"cpu": cpu.median, "mib": mib.median})
        summary[who] = {"cpu": cpu.median, "mib": mib.median}
        ratios = [f"{cpu.median / peer['cpu']:.1f}", f"{mib.median / peer['mib']:.1f}"]
        rows.append([LABELS[who], cpu.text(".2f"), mib.text(".0f"), *ratios])
    text = [
        f"{given.rows:,} rows, {records[0]['file_mib']:.0f} MiB of CSV, rounds: {given.repeats}; medians (range)",
        harness.introduction(harness.machine(("cohort-tuner", "pandas", "pyarrow"))),
        "",
        harness.table(("who", "processor s", "MiB more", "times pandas': s", "MiB"), rows),
    ]
    if warning := harness.warning([one["busy"] for one in records]):
        text.append(warning)
    return "\n".join(text), {"summary": summary, "runs": list(records)}


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--repeats", type=int, default=5)
    there = [who for who in LABELS if not who.startswith("polars") or importlib.util.find_spec("polars")]
    parser.add_argument("--who", nargs="*", default=there, choices=list(LABELS))
    parser.add_argument("--limit", type=float, default=600, help="seconds that one process may take")
    parser.add_argument("--out", type=Path, default=harness.RESULTS / "data.json", help="the JSON file")
    parser.add_argument("--contend", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args(words)


def main() -> int:
    given = arguments()
    if given.contend:
        contend(given.contend[0], Path(given.contend[1]))
        return 0
    return harness.compare(given, measure, report)


if __name__ == "__main__":
    sys.exit(main())

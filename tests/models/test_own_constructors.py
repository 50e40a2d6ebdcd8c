"""Constructors of people's networks: how their keywords may be written down."""

from __future__ import annotations

from pathlib import Path

import pytest

from tuner import models
from tuner.models.interface import Signature, hyperparameters, keywords

BASE = """
from __future__ import annotations
from typing import NewType, TYPE_CHECKING
from torch import nn
if TYPE_CHECKING:
    from numbers_of_ours import Rate
Width = NewType("Width", int)

class Base(nn.Module):
    def __init__(self, signature, width: Width = 8, rate: Rate = 0.5, act: Missing = None):
        super().__init__()
        self.rate = rate
        self.layers = nn.Sequential(nn.Linear(*signature.inputs, width), nn.Linear(width, signature.outputs))

    def forward(self, x):
        return self.layers(x)
"""
NETS = """
from bases import Base

class Named(Base):
    def __init__(self, signature, extra: int = 1, **rest):
        super().__init__(signature, **rest)

class Whole(Base):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)

class Twice(Named):
    def __init__(self, signature, width: int = 4, **rest):
        super().__init__(signature, width=width, **rest)

class Closed(Base):
    def __init__(self, signature, extra: int = 1):
        super().__init__(signature)
"""


@pytest.mark.parametrize(
    ("name", "types"),
    [
        ("Named", {"extra": int, "width": int, "rate": float}),
        ("Whole", {"width": int, "rate": float}),
        ("Twice", {"width": int, "extra": int, "rate": float}),
        ("Closed", {"extra": int}),
    ],
)
def test_keywords_that_are_passed_on_are_the_base_classs(name: str, types: dict[str, type], tmp_path: Path) -> None:
    (tmp_path / "bases.py").write_text(BASE)
    (tmp_path / "nets.py").write_text(NETS)
    network = models.family(f"nets.py:{name}", tmp_path)
    assert next(iter(keywords(network))) == "signature"
    found = hyperparameters(network)
    assert {one: found[one].type for one in found} == types
    if "rate" in types:
        built = models.build(f"nets.py:{name}", Signature("regression", "numbers", (3,), 1), {"rate": 0.25}, tmp_path)
        assert built.rate == 0.25

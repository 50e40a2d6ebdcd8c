"""Families of networks by name: which there are, and how one is found and built.

`FAMILIES`, `family` and `build` are all that the rest of Tuner uses. A person's own network is named as
`path/to/file.py:Class` or `package.module:Class`.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from tuner.models import code
from tuner.models.cnn import CNN
from tuner.models.interface import Signature
from tuner.models.mlp import MLP
from tuner.models.rnn import RNN
from tuner.models.transformer import Transformer

FAMILIES: dict[str, Any] = {  # classes of networks, each with the `modalities` and `tasks` that it is for
    "mlp": MLP,
    "cnn": CNN,
    "rnn": RNN,
    "transformer": Transformer,
}


def family(name: str, folder: Path | None = None) -> type[nn.Module]:
    """The network class of that name: one of ours, or `file.py:Class` (relative to `folder`), or `module:Class`.

    Raises LookupError with a message for a person where there is none; whatever a person's own file
    raises on import is passed on.
    """
    if name in FAMILIES:
        ours: type[nn.Module] = FAMILIES[name]
        return ours
    place, separator, attribute = name.rpartition(":")
    if not separator or not attribute.isidentifier():
        raise LookupError(f"no model family '{name}'; one of {', '.join(FAMILIES)}, or file.py:Class")
    if place == "__main__":
        raise LookupError(
            f"{name} is in the program that runs, which no worker can import; write the class to a file of its own and "
            f"name it file.py:{attribute}"
        )
    path = code.locate(place, folder or Path.cwd())
    if path is not None and not path.is_file():
        raise LookupError(f"no file {path} to take the network {attribute} from")
    found = getattr(importlib.import_module(place) if path is None else code.load(path), attribute, None)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise LookupError(  # noqa: TRY004 - a name that leads nowhere, whatever stands there instead
            f"{place} has no network class {attribute} (a subclass of torch.nn.Module)"
        )
    return found


def digest(name: str, folder: Path | None = None, *, whole: bool = True) -> str | None:
    """SHA-256 of the files that a person's own network comes from; None where it is ours or an installed package's.

    Not of the `whole`: of the Python files alone, which travel to other machines.
    """
    path = None if name in FAMILIES else code.locate(name.rpartition(":")[0], folder or Path.cwd())
    return None if path is None else code.digest(path, whole=whole)


def only_torch(name: str, folder: Path | None = None) -> bool:
    """Whether a network can draw random numbers from torch's generators alone, as far as its files' imports tell."""
    path = None if name in FAMILIES else code.locate(name.rpartition(":")[0], folder or Path.cwd())
    return name in FAMILIES or (path is not None and code.only_torch(path))


def changed(recorded: str | None, name: str, folder: Path | None = None) -> bool:
    """Whether the network comes from other files than those that `digest` was `recorded` of, in any version of it."""
    if recorded == digest(name, folder):
        return False
    place = (folder or Path.cwd()) / name.rpartition(":")[0]
    # Tuner once recorded the file alone, whatever it imports.
    return not (place.suffix == ".py" and recorded == hashlib.sha256(place.read_bytes()).hexdigest())


def build(name: str, signature: Signature, values: Mapping[str, Any], folder: Path | None = None) -> nn.Module:
    """The network of that family for data of that signature; `values` are its constructor's keywords.

    Lazy modules learn their sizes from two examples, in evaluation, so that no statistics are taken from them.
    """
    network = family(name, folder)(signature, **values)
    if any(map(is_lazy, (*network.parameters(), *network.buffers()))):
        network.eval()
        with torch.no_grad():
            network(signature.example(2))
        network.train()
    return network

"""What is trained: families of networks, by name.

`FAMILIES`, `family` and `build` are all that the rest of Tuner uses. A person's own network is named as
`path/to/file.py:Class` or `package.module:Class`.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from tuner.models.cnn import CNN
from tuner.models.interface import (
    CLASSIFICATION,
    IMAGE,
    NUMBERS,
    REGRESSION,
    SEQUENCE,
    TASKS,
    TEXT,
    Hyperparameter,
    Setting,
    Signature,
    hyperparameters,
)
from tuner.models.mlp import MLP
from tuner.models.rnn import RNN
from tuner.models.transformer import Transformer

__all__ = [
    "FAMILIES",
    "MODALITIES_OF",
    "TASKS_OF",
    "Hyperparameter",
    "Setting",
    "Signature",
    "build",
    "family",
    "hyperparameters",
]

FAMILIES: dict[str, type[nn.Module]] = {
    "mlp": MLP,
    "cnn": CNN,
    "rnn": RNN,
    "transformer": Transformer,
}
MODALITIES_OF: dict[str, tuple[str, ...]] = {
    "mlp": (NUMBERS, IMAGE, SEQUENCE),
    "cnn": (IMAGE, SEQUENCE, TEXT),
    "rnn": (SEQUENCE, TEXT),
    "transformer": (IMAGE, SEQUENCE, TEXT),
}
TASKS_OF: dict[str, tuple[str, ...]] = {
    "mlp": (CLASSIFICATION, REGRESSION),
    "cnn": (CLASSIFICATION, REGRESSION),
    "rnn": TASKS,
    "transformer": TASKS,
}


def family(name: str, folder: Path | None = None) -> type[nn.Module]:
    """The network class of that name: one of ours, or `file.py:Class` (relative to `folder`), or `module:Class`.

    Raises LookupError with a message for a person where there is none; whatever a person's own file
    raises on import is passed on.
    """
    if name in FAMILIES:
        return FAMILIES[name]
    place, separator, attribute = name.rpartition(":")
    if not separator or not attribute.isidentifier():
        raise LookupError(f"no model family '{name}'; one of {', '.join(FAMILIES)}, or file.py:Class")
    if place.endswith(".py"):
        path = ((folder or Path.cwd()) / place).resolve()
        if not path.is_file():
            raise LookupError(f"no file {path} to take the network {attribute} from")
        module = _import_file(path)
    else:
        module = importlib.import_module(place)
    found = getattr(module, attribute, None)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise LookupError(  # noqa: TRY004 - a name that leads nowhere, whatever stands there instead
            f"{place} has no network class {attribute} (a subclass of torch.nn.Module)"
        )
    return found


_IMPORTED: dict[tuple[Path, bytes], Any] = {}  # so that a file's classes are the same ones at every build


def digest(name: str, folder: Path | None = None) -> str | None:
    """SHA-256 of the file that a person's own network comes from; None where it is ours or an installed package's."""
    place = name.rpartition(":")[0]
    if not place.endswith(".py"):
        return None
    return hashlib.sha256(((folder or Path.cwd()) / place).read_bytes()).hexdigest()


def _import_file(path: Path) -> Any:
    """Import one file under a name of its own, so that it can neither shadow nor be shadowed.

    Its folder joins the end of the path: files beside it can be imported, and shadow nothing.
    """
    known = (path, hashlib.sha256(path.read_bytes()).digest())
    if known in _IMPORTED:
        return _IMPORTED[known]
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    name = f"tuner_user_{path.stem}_{known[1].hex()[:16]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    _IMPORTED[known] = module
    return module


def build(name: str, signature: Signature, values: Mapping[str, Any], folder: Path | None = None) -> nn.Module:
    """The network of that family for data of that signature; `values` are its constructor's keywords."""
    return family(name, folder)(signature, **values)

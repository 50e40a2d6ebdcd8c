"""The names `models` and `search_spaces` in a person's code: their own package where they have one, else Tuner's.

Tuner's packages are `tuner.models` and `tuner.search_spaces`. The short names lead to the very same modules, never to
second copies of them, so that a network file may say `from models.layers import Dropout`. Knows import paths alone;
never what is imported.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

NAMES = ("models", "search_spaces")
_ROOT = Path(__file__).resolve().parents[1]  # of a checkout, whose folders an editable install puts on the path


class _Alias(Loader):
    """Loads `models.layers` as the module `tuner.models.layers` that it is."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        self._module = importlib.import_module(f"tuner.{spec.name}")
        self._spec = self._module.__spec__
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # importlib has just overwritten it


class _ShortNames(MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None, _target: ModuleType | None = None) -> ModuleSpec | None:
        top, _, inner = name.partition(".")
        if top not in NAMES:
            return None
        if path is None:
            entries = [entry for entry in sys.path if Path(entry).resolve() != _ROOT]
            if (found := PathFinder.find_spec(name, entries)) is not None:
                return found
        elif not self._ours(top) and PathFinder.find_spec(name, path) is not None:
            return None  # their package and their module
        if inner and find_spec(f"tuner.{name}") is None:
            return None
        if inner and not self._ours(top) and not _namespace(top):
            theirs = f"{sys.modules[top].__file__} is a package of your own; Tuner's module is tuner.{name}"
            raise ModuleNotFoundError(f"No module named '{name}': {theirs}", name=name)
        return ModuleSpec(name, _Alias())

    @staticmethod
    def _ours(top: str) -> bool:
        """Whether what was imported under that name is Tuner's, be it from the checkout's own folder."""
        file = getattr(sys.modules.get(top), "__file__", None)
        return file is not None and Path(file).resolve().parent == _folder(top)


def _folder(top: str) -> Path:
    """Where Tuner's package of that name lies: beside `tuner` in a checkout, in it where it is installed."""
    return (Path(__file__).parent / top).resolve()


def _namespace(top: str) -> bool:
    """Whether that name was imported from a folder without Python of its own, such as one of saved weights."""
    return getattr(sys.modules.get(top), "__file__", None) is None


def install() -> None:
    """Answer for the short names from now on, in this process."""
    if not any(isinstance(finder, _ShortNames) for finder in sys.meta_path):
        sys.meta_path.insert(0, _ShortNames())

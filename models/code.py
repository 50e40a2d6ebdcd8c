"""A person's own network in files: which ones it comes from, their digest, and how they are imported.

Knows Python's syntax and import system; never what a network does. A file is imported from the folder that holds it, or
as part of its package where it lies in one; what it imports from there, however indirectly, belongs to it, as do the
files beside it whose names stand in the code, such as weights to begin from.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType

_Version = tuple[int, int]  # of a file: what changes with its content, and costs no reading

# What a network may import that draws from neither Python's random numbers nor numpy's.
_NEVER_DRAW = frozenset(
    {"__future__", "abc", "collections", "contextlib", "copy", "dataclasses", "enum", "functools", "itertools", "math"}
    | {"operator", "torch", "tuner", "typing", "typing_extensions", "warnings"}
)
# Endings of what a constructor reads; others, such as .log and .txt, may as well be what a network writes.
_DATA = frozenset(
    [
        ".bin",
        ".ckpt",
        ".h5",
        ".json",
        ".model",
        ".npy",
        ".npz",
        ".onnx",
        ".pickle",
        ".pkl",
        ".pt",
        ".pth",
        ".safetensors",
        ".toml",
        ".vocab",
        ".yaml",
        ".yml",
    ]
)
_FOLDERS: list[str] = []  # that joined the path, the newest last
_LOADED: dict[str, tuple[Path, str]] = {}  # modules beside networks: their file and its SHA-256 when it was imported
_NEWEST: dict[Path, tuple[dict[Path, _Version], ModuleType]] = {}  # of a file: its sources as they were, its module
_IMPORTED: dict[tuple[Path, str], ModuleType] = {}  # so that a file's classes are the same ones at every build


def locate(place: str, folder: Path) -> Path | None:
    """The file that `path/to/file.py` or `package.module` means for a study in `folder`; None: an installed module."""
    if place.endswith(".py"):
        return (folder / place).resolve()
    return next((path.resolve() for path in _candidates(folder, place) if path.is_file()), None)


def root(path: Path) -> Path:
    """The folder that a file is imported from: its own, or the one that holds its outermost package."""
    folder = path.parent
    while (folder / "__init__.py").is_file():
        folder = folder.parent
    return folder


def sources(path: Path) -> list[Path]:
    """The file and all that it imports from its `root`, however indirectly, and the packages' own files between."""
    base = root(path)
    found: dict[Path, None] = {path: None}
    waiting = [path]
    while waiting:
        for name in _imports(file := waiting.pop(), base):
            parts = name.split(".")
            for end in range(1, len(parts) + 1):
                for candidate in _candidates(base, ".".join(parts[:end])):
                    if candidate.is_file() and candidate not in found:
                        found[candidate] = None
                        waiting.append(candidate)
        for package in (parent / "__init__.py" for parent in file.parents if parent != base and base in parent.parents):
            if package.is_file() and package not in found:
                found[package] = None
                waiting.append(package)
    return sorted(found)


def data(path: Path) -> list[Path]:
    """Files of weights or settings that the sources name in their texts and that lie beside them."""
    found: set[Path] = set()
    for file in sources(path):
        for text in _content(file).texts:
            try:
                named = file.parent / text
                if named.suffix.lower() in _DATA and named.is_file():
                    found.add(named.resolve())
            except (OSError, ValueError):  # no name that a file system takes
                continue
    return sorted(found)


def only_torch(path: Path) -> bool:
    """Whether the sources import nothing but torch and modules that never draw from Python's or numpy's generators."""
    base = root(path)
    names = {name.partition(".")[0] for file in sources(path) for name in _imports(file, base)} - _NEVER_DRAW
    return all(any(candidate.is_file() for candidate in _candidates(base, name)) for name in names)


def needed(path: Path) -> list[Path]:
    """All that a machine without these folders needs: the file, every module that it may import, the data named."""
    base = root(path)
    packages = [file for package in base.glob("*/__init__.py") for file in package.parent.rglob("*.py")]
    found = [path, *sources(path), *base.glob("*.py"), *packages, *data(path)]
    return [file for file in dict.fromkeys(found) if base in file.parents]


def digest(path: Path, *, whole: bool = True) -> str:
    """SHA-256 of the sources and, of the `whole`, of the data; of a file that stands alone, of its content."""
    base = root(path)
    files = [*sources(path), *(data(path) if whole else ())]
    if files == [path]:
        return _sha256(path)
    parts = (f"{file.relative_to(base) if base in file.parents else file.name}\0{_sha256(file)}\n" for file in files)
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def load(path: Path) -> ModuleType:
    """Import one file under a name of its own, so that it can neither shadow nor be shadowed; again when it changed.

    Its root joins the end of the path: what lies there can be imported, and shadows nothing but what other networks
    have beside them.
    """
    newest = _NEWEST.get(path)
    if newest is not None and all(_version(file) == version for file, version in newest[0].items()):
        return newest[1]  # a network is built many times: a look at its files is all that this costs
    module = _loaded(path, (path, digest(path, whole=False)))
    _NEWEST[path] = {file: _version(file) for file in sources(path)}, module
    return module


def _loaded(path: Path, known: tuple[Path, str]) -> ModuleType:
    """The module of that content, imported where it has not been."""
    if known in _IMPORTED:
        return _IMPORTED[known]
    base = beside(path)
    name = f"tuner_user_{known[1][:16]}"
    if path.parent == base:
        module = _execute(f"{name}_{path.stem}", path)
    else:
        package = path.relative_to(base).parts[0]
        if name not in sys.modules:
            _execute(name, base / package / "__init__.py", [str(base / package)])
        inner = path.relative_to(base / package).with_suffix("").parts
        module = importlib.import_module(".".join([name, *inner]).removesuffix(".__init__"))
    _IMPORTED[known] = module
    return module


def beside(path: Path) -> Path:
    """Its `root`, from which from now on can be imported what the file imports, in its present version."""
    base = root(path)
    _prefer(str(base))
    for file in sources(path):
        name = ".".join(file.relative_to(base).with_suffix("").parts).removesuffix(".__init__")
        now = (file, _sha256(file))
        if _LOADED.get(name, now) != now:
            sys.modules.pop(name, None)  # another network's, or older than the file
        _LOADED[name] = now
    return base


def _execute(name: str, path: Path, locations: list[str] | None = None) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=locations)
    assert spec is not None and spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _prefer(folder: str) -> None:
    """The folder stands on the path behind everything but the other networks' folders."""
    if folder in sys.path and folder not in _FOLDERS:
        return
    ours = [index for index, entry in enumerate(sys.path) if entry in _FOLDERS]
    place = min(ours, default=len(sys.path))
    if folder in _FOLDERS:
        sys.path.remove(folder)
        _FOLDERS.remove(folder)
    sys.path.insert(place, folder)
    _FOLDERS.append(folder)


def _candidates(base: Path, name: str) -> Iterator[Path]:
    path = base.joinpath(*name.split("."))
    yield path / "__init__.py"
    yield path.with_name(f"{path.name}.py")


@dataclass(frozen=True)
class _Content:
    """What a Python file says: (level, module, names) of each import, and its texts."""

    imports: tuple[tuple[int, str, tuple[str, ...]], ...] = ()
    texts: frozenset[str] = frozenset()


@lru_cache(maxsize=1024)
def _read(path: Path, _version: _Version) -> _Content:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return _Content()  # its import says why
    imports: list[tuple[int, str, tuple[str, ...]]] = []
    texts = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports += [(0, alias.name, ()) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            imports.append((node.level, node.module or "", tuple(alias.name for alias in node.names)))
        elif isinstance(node, ast.Call) and (name := _imported(node)):
            imports.append((0, name, ()))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            texts.add(node.value)
    return _Content(tuple(imports), frozenset(texts))


def _imported(call: ast.Call) -> str:
    """The name in `importlib.import_module("name")` and `__import__("name")`; empty where it is no such call."""
    called = getattr(call.func, "attr", getattr(call.func, "id", ""))
    name = call.args[0].value if call.args and isinstance(call.args[0], ast.Constant) else None
    return name if called in {"import_module", "__import__"} and isinstance(name, str) else ""


def _content(path: Path) -> _Content:
    return _read(path, _version(path))


def _version(path: Path) -> _Version:
    """Of a file that is gone, zeros."""
    try:
        told = path.stat()
    except OSError:
        return 0, 0
    return told.st_mtime_ns, told.st_size


def _imports(path: Path, base: Path) -> Iterator[str]:
    """The dotted names that the file imports anywhere, as they would be found from `base`."""
    package = path.parent.relative_to(base).parts
    for level, module, names in _content(path).imports:
        above = package[: len(package) - level + 1] if level else ()
        whole = ".".join([*above, *([module] if module else [])])
        if whole:
            yield whole
        yield from (f"{whole}.{name}" if whole else name for name in names)


@lru_cache(maxsize=1024)
def _hashed(path: Path, _version: _Version) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sha256(path: Path) -> str:
    return _hashed(path, _version(path))

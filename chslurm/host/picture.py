# SPDX-License-Identifier: Apache-2.0
"""A drawing as PNG, by Pillow, which is loaded here and nowhere else, and only when a picture is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from io import BytesIO
from typing import TYPE_CHECKING

from chslurm.chart import Drawing, Line, Rect, Text
from chslurm.errors import ChslurmError

if TYPE_CHECKING:
    from PIL import Image
    from PIL.ImageDraw import ImageDraw

_SCALE, _LARGE_SCALE = 2, 1.5
"""Pixels of a unit of the drawing, and of one that is large."""

_LARGE_PIXELS = 4_000_000
"""At full scale: so many take long to be packed."""

_STEPS = 5
"""From the colour of a letter to that below it. So few that a byte can name all shades."""

_UNLIKE = 8
"""Colours that differ by so much Pillow does not confuse, though it compares them without their last two bits."""

_COLOURS = {
    "network": "#cc79a7", "qemu": "#0072b2", "kernel": "#56b4e9", "services": "#009e73", "ready": "#c9ced4",
    "job": "#e69f00", "job-done": "#f6dba6", "shutdown": "#7c848d",
    "on-qemu": "#ffffff", "on-services": "#ffffff", "on-shutdown": "#ffffff",
    "quiet": "#5b636d", "bad": "#b3400a", "cross": "#b3400a", "grid": "#e3e6ea", "break": "#9aa3ad", "paper": "#ffffff",
    "phase0": "#f5f6f8", "phase1": "#e3e6ea",
}  # fmt: skip
"""Those of the page in the light; what is not here is ink."""

_WIDTHS = {"mark": 3, "cross": 4}
"""Of lines, in half units of the drawing."""

_INK, _PAPER = "#1d2126", "#ffffff"
_ANCHORS = {"start": "ls", "middle": "ms", "end": "rs"}


def make_png(drawing: Drawing) -> bytes:
    """Return the picture of a drawing. Raises ChslurmError when there is no Pillow, or an old one."""
    _check_pillow()
    from PIL import Image, ImageDraw

    scale = _SCALE if drawing.width * drawing.height * _SCALE**2 < _LARGE_PIXELS else _LARGE_SCALE
    image = Image.new("RGB", (round(drawing.width * scale), round(drawing.height * scale)), _PAPER)
    _draw(ImageDraw.Draw(image), drawing, scale)
    out = BytesIO()
    _reduce(image).save(out, "png")
    return out.getvalue()


def _check_pillow() -> None:
    hint = "have Pillow 10.1 or newer beside chslurm: pip install 'pillow>=10.1'"
    try:
        from PIL import ImageFont, __version__

        ImageFont.load_default(10)
    except ImportError as error:  # there is none, or it was built without FreeType
        raise ChslurmError(f"can't make a picture: {error}", hint=hint) from error
    except TypeError as error:  # before 10.1 its font has one size, too small to be read
        raise ChslurmError(f"can't make a picture: Pillow {__version__} is too old", hint=hint) from error


def _reduce(image: Image.Image) -> Image.Image:
    """Return the image with a byte a pixel. Pillow can choose colours by itself, which takes longer than all else."""
    from PIL import Image

    palette = Image.new("P", (1, 1))
    palette.putpalette([part for colour in _choose_colours() for part in colour])
    return image.quantize(palette=palette, dither=Image.Dither.NONE)


def _choose_colours() -> list[tuple[int, ...]]:
    """Return our colours, and shades between any of letters and any below them, for the edges of letters."""
    ours = [tuple(bytes.fromhex(colour[1:])) for colour in dict.fromkeys([_PAPER, _INK, *_COLOURS.values()])]
    letters = [tuple(bytes.fromhex(colour[1:])) for colour in (_PAPER, _INK, _COLOURS["quiet"], _COLOURS["bad"])]
    shades = [
        tuple(round(part + (its - part) * step / _STEPS) for part, its in zip(below, letter, strict=True))
        for below in ours
        if below not in letters[1:]
        for letter in letters
        for step in range(1, _STEPS)
    ]
    return [*ours, *(shade for shade in dict.fromkeys(shades) if all(_is_unlike(shade, colour) for colour in ours))]


def _is_unlike(one: Sequence[int], other: Sequence[int]) -> bool:
    return any(abs(part - its) >= _UNLIKE for part, its in zip(one, other, strict=True))


def _draw(canvas: ImageDraw, drawing: Drawing, scale: float) -> None:
    from PIL import ImageFont

    load_font = cache(ImageFont.load_default)  # Pillow would read the font for each word
    for shape in drawing.shapes:
        colour = _COLOURS.get(shape.style, _INK)
        match shape:
            case Rect(x, y, width, height):
                # the last pixel belongs to the rectangle for Pillow
                right, bottom = max(x * scale, (x + width) * scale - 1), max(y * scale, (y + height) * scale - 1)
                canvas.rectangle((x * scale, y * scale, right, bottom), fill=colour)
            case Line(x1, y1, x2, y2):
                canvas.line(
                    (x1 * scale, y1 * scale, x2 * scale, y2 * scale),
                    fill=colour,
                    width=round(_WIDTHS.get(shape.style, 2) * scale / 2),
                )
            case Text(x, y, text, size, _, anchor):
                font = load_font(size * scale)
                for beside in (0, 1) if shape.style in ("head", "bad") else (0,):  # there is no bold font
                    place = (x * scale + beside, y * scale)
                    canvas.text(place, text, fill=colour, font=font, anchor=_ANCHORS[anchor])

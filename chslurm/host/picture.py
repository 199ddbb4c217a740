# SPDX-License-Identifier: Apache-2.0
"""A drawing as PNG, by Pillow, which is loaded here and nowhere else: only who wants a picture needs it."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

from chslurm.chart import Drawing, Line, Rect, Text
from chslurm.errors import ChslurmError

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

_SCALE = 2
"""Pixels of a unit of the drawing."""

_MOST_PIXELS = 40_000_000

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
    """Return the picture of a drawing. Raises ChslurmError when there is no Pillow."""
    try:
        from PIL import Image, ImageDraw, ImageFont

        ImageFont.load_default(10)
    except (ImportError, TypeError) as error:  # a Pillow before 10.1, or without FreeType, has no such font
        raise ChslurmError(
            f"can't make a PNG: {error}",
            hint="make a page (--html), or have Pillow 10.1 beside chslurm: pip install 'chslurm[picture]' in a venv",
        ) from error
    scale = _SCALE if drawing.width * drawing.height * _SCALE**2 <= _MOST_PIXELS else 1
    image = Image.new("RGB", (round(drawing.width * scale), round(drawing.height * scale)), _PAPER)
    _draw(ImageDraw.Draw(image), drawing, scale)
    out = BytesIO()
    image.quantize(128, dither=Image.Dither.NONE).save(out, "png", optimize=True)
    return out.getvalue()


def _draw(canvas: ImageDraw, drawing: Drawing, scale: int) -> None:
    from PIL import ImageFont

    fonts: dict[float, ImageFont.FreeTypeFont | ImageFont.ImageFont] = {}
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
                    width=max(1, _WIDTHS.get(shape.style, 2) * scale // 2),
                )
            case Text(x, y, text, size, _, anchor):
                font = fonts.setdefault(size, ImageFont.load_default(size * scale))
                for beside in (0, 1) if shape.style in ("head", "bad") else (0,):  # there is no bold font
                    place = (x * scale + beside, y * scale)
                    canvas.text(place, text, fill=colour, font=font, anchor=_ANCHORS[anchor])

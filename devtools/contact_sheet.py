"""Draws a contact sheet, run by .venv's Python: `contact_sheet.py SHEET.json OUT.png`. Only this file needs Pillow.

SHEET.json: {"title", "columns": [label], "rows": [{"caption", "pictures": [path]}]}.
"""

import json
import sys
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

MARGIN = 12  # pixels, around and between pictures
SMALLEST_SIDE = 192  # pixels; smaller pictures are enlarged by a whole factor
TEXT_SIZE = 14  # pixels
LINE = TEXT_SIZE + 4  # pixels
CAPTION_WIDTH = 170  # pixels, the column left of the pictures
INK, PAPER, FAINT = (24, 24, 27), (250, 250, 249), (113, 113, 122)


def main(sheet_file: Path, out: Path) -> None:
    sheet = json.loads(sheet_file.read_text(encoding="utf-8"))
    rows = [[_enlarged(Path(picture)) for picture in row["pictures"]] for row in sheet["rows"]]
    side = max(max(picture.size) for row in rows for picture in row)
    header = MARGIN * 3 + LINE + LINE * max(len(_wrapped(label, side)) for label in sheet["columns"])
    width = CAPTION_WIDTH + MARGIN + (side + MARGIN) * len(sheet["columns"])
    canvas = Image.new("RGB", (width, header + (side + MARGIN) * len(rows)), PAPER)
    draw = ImageDraw.Draw(canvas)
    _write(draw, (MARGIN, MARGIN), [sheet["title"]], FAINT)
    for column, label in enumerate(sheet["columns"]):
        _write(draw, (_left(column, side), MARGIN * 2 + LINE), _wrapped(label, side), INK)
    for row, pictures in enumerate(rows):
        top = header + row * (side + MARGIN)
        _write(draw, (MARGIN, top), _wrapped(sheet["rows"][row]["caption"], CAPTION_WIDTH - MARGIN), INK)
        for column, picture in enumerate(pictures):
            canvas.paste(picture, (_left(column, side), top))
    canvas.save(out)


def _left(column: int, side: int) -> int:
    return CAPTION_WIDTH + MARGIN + column * (side + MARGIN)


def _enlarged(file: Path) -> Image.Image:
    picture = Image.open(file).convert("RGB")
    factor = max(1, -(-SMALLEST_SIDE // min(picture.size)))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, max(8, int(width / (TEXT_SIZE * 0.55)))) or [""]


def _write(draw: ImageDraw.ImageDraw, corner: tuple[int, int], lines: list[str], colour: tuple[int, int, int]) -> None:
    font = ImageFont.load_default(TEXT_SIZE)
    for number, line in enumerate(lines):
        draw.text((corner[0], corner[1] + number * LINE), line, fill=colour, font=font)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

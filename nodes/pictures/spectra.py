"""Draws the singular values of layers and the energy of blocks, of one LoRA or of several beside each other."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ...lora_core.file_work.spectra import FileSpectra
from .canvas import GREY, INK, PALE, RISING, SERIES, Canvas, Point

WIDTH = 1200  # pixels
EDGE = 24
TOP = 64  # above the chart: title and names
CHART = (EDGE + 56, TOP + 60, WIDTH - 2 * EDGE - 56, 300)  # x, y, width, height
LOWER = CHART[1] + CHART[3] + 84  # where the lower half begins
LABELS = 210  # width of the names of blocks
HALF = 560  # width of the left half
MAP_HEIGHT = 300
DECADES = 6.0  # of singular values that are shown
QUARTILES = (0.1, 0.5, 0.9)
ROW = 14  # height of a bar, if there is room
FILES_SHOWN = len(SERIES)


def draw_spectra(files: Sequence[FileSpectra]) -> Tensor:
    """The picture: [1, height, width, 3], float32, 0..1."""
    shown = files[:FILES_SHOWN]
    blocks = list(dict.fromkeys(block for one in shown for block in one.blocks()))
    row = max(5, ROW - 3 * (len(shown) - 1))  # pixels of one bar
    step = row * len(shown) + 6
    height = LOWER + max(len(blocks) * step + 20, len(shown) * (MAP_HEIGHT + 64)) + EDGE
    canvas = Canvas(WIDTH, height)
    _names(canvas, shown)
    lowest, highest = _range(shown)
    _chart(canvas, shown, lowest, highest)
    _bars(canvas, shown, blocks, row, step)
    for number, one in enumerate(shown):
        _map(canvas, one, (HALF + 3 * EDGE + 20, LOWER + number * (MAP_HEIGHT + 64)), lowest, highest)
    return canvas.image()


def _names(canvas: Canvas, files: Sequence[FileSpectra]) -> None:
    canvas.text((EDGE, 28), "Singular values and energy of LoRAs", size=20)
    room = (WIDTH - 2 * EDGE) / len(files)
    for number, one in enumerate(files):
        x = EDGE + number * room
        canvas.box((x, TOP - 6), (14, 14), SERIES[number])
        name = f"{one.name}: norm {math.sqrt(one.energy):.4g}"
        canvas.text((x + 20, TOP), name, most=room - 30)


def _range(files: Sequence[FileSpectra]) -> tuple[float, float]:
    """log10 of the smallest and the largest singular value shown, at whole decades."""
    values = [float(layer.values[n]) for one in files for layer in one.layers if layer.values.numel() for n in (0, -1)]
    above = [math.log10(value) for value in values if value > 0]
    if not above:
        return -1.0, 0.0
    highest = math.ceil(max(above) + 1e-9)
    return float(max(math.floor(min(above)), highest - DECADES)), float(highest)


def _chart(canvas: Canvas, files: Sequence[FileSpectra], lowest: float, highest: float) -> None:
    """Median and the middle four fifths of the layers over the number of the singular value."""
    x, y, width, height = CHART
    found = [one.quantiles(QUARTILES) for one in files]
    count = max([2, *(quantiles.shape[1] for quantiles in found)])

    def at(number: int, value: float) -> Point:
        share = (math.log10(max(value, 10.0**lowest)) - lowest) / (highest - lowest)
        return x + width * number / (count - 1), y + height * (1 - share)

    canvas.text((EDGE, y - 22), "Singular values: median of the layers, and the range of 80 % of them", colour=INK)
    for decade in range(int(lowest), int(highest) + 1):
        level = at(0, 10.0**decade)[1]
        canvas.line([(x, level), (x + width, level)], PALE)
        canvas.text((x - 8, level), f"{10.0**decade:g}", anchor="rm", colour=GREY)
    for number in _ticks(count):
        canvas.text((at(number, 1.0)[0], y + height + 16), str(number + 1), anchor="mm", colour=GREY)
    canvas.text((x + width / 2, y + height + 36), "number of the singular value", anchor="mm", colour=GREY)
    for number, quantiles in enumerate(found):
        low, _, high = ([at(n, float(v)) for n, v in enumerate(row)] for row in quantiles)
        canvas.area([*low, *reversed(high)], SERIES[number], 0.18)
    for number, quantiles in enumerate(found):
        canvas.line([at(n, float(v)) for n, v in enumerate(quantiles[1])], SERIES[number], 2.0)
    canvas.frame((x, y), (width, height))


def _ticks(count: int) -> list[int]:
    step = max(1, 2 ** math.ceil(math.log2(max(count / 16, 1))))
    return sorted({0, *range(step - 1, count, step)})


def _bars(canvas: Canvas, files: Sequence[FileSpectra], blocks: Sequence[str], row: int, step: int) -> None:
    """Energy of each block, as a share of the energy of the strongest file."""
    canvas.text((EDGE, LOWER - 24), "Energy per block, in percent of the strongest LoRA", colour=INK)
    energies = [one.blocks() for one in files]
    whole = max((one.energy for one in files), default=0.0) or 1.0
    longest = max((energy for own in energies for energy in own.values()), default=0.0) or 1.0
    room = HALF - LABELS - 60
    for place, block in enumerate(blocks):
        top = LOWER + place * step
        canvas.text((EDGE, top + row * len(files) / 2), block, most=LABELS - 8, size=13)
        for number, own in enumerate(energies):
            energy = own.get(block, 0.0)
            y = top + number * row
            canvas.box((EDGE + LABELS, y), (max(room * energy / longest, 0.5), row - 1), SERIES[number])
            end = EDGE + LABELS + room * energy / longest + 6
            canvas.text((end, y + row / 2), f"{100 * energy / whole:.1f}", colour=GREY, size=min(12, row + 2))


def _map(canvas: Canvas, one: FileSpectra, corner: Point, lowest: float, highest: float) -> None:
    """Every singular value of every layer, rows in the order of the model."""
    width = WIDTH - EDGE - 60 - corner[0]
    x, y = corner
    canvas.text((x, y - 24), f"Every layer of {one.name}", most=width + 50)
    table = one.table()
    if not table.numel():
        canvas.text((x, y + 20), "no matrices", colour=GREY)
        return
    canvas.heat((x, y), (width, MAP_HEIGHT), (table.log10() - lowest) / (highest - lowest), RISING)
    canvas.frame((x, y), (width, MAP_HEIGHT))
    canvas.text((x - 6, y + 6), "first", anchor="rm", colour=GREY, size=12)
    canvas.text((x - 6, y + MAP_HEIGHT - 6), "last", anchor="rm", colour=GREY, size=12)
    canvas.text((x, y + MAP_HEIGHT + 14), "1", anchor="mm", colour=GREY, size=12)
    canvas.text((x + width, y + MAP_HEIGHT + 14), str(table.shape[1]), anchor="mm", colour=GREY, size=12)
    _scale(canvas, (x + width + 14, y), lowest, highest)


def _scale(canvas: Canvas, corner: Point, lowest: float, highest: float) -> None:
    x, y = corner
    canvas.heat((x, y), (10, MAP_HEIGHT), torch.linspace(1, 0, MAP_HEIGHT)[:, None], RISING)
    canvas.text((x + 14, y + 6), f"{10.0**highest:g}", colour=GREY, size=11)
    canvas.text((x + 14, y + MAP_HEIGHT - 6), f"{10.0**lowest:g}", colour=GREY, size=11)

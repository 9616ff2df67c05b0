"""Measures how often the demo shows what its captions ask for: the model alone, with each LoRA, with both.

Sampled by the host, judged by judge.py, at fixed captions and seeds. It first measures the judge itself. --trained:
what `python dev.py demo` has trained is measured instead, read by the host's own loader.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import host_process
import torch
from judge import Verdict, judge
from pictures import BASE_SHAPES, NEW_SHAPE, SHAPES, SOLID, STRIPED, Picture, all_pictures, draw, random_pictures

if TYPE_CHECKING:  # the host can only be imported once the command line has said where it is
    from sampling import Loaded

FIRST_SEED = 1000
STYLE, SHAPE = "demo_style_striped.safetensors", "demo_shape_star.safetensors"


@dataclass(frozen=True)
class Case:
    name: str
    strengths: Mapping[str, float]  # LoRA file -> strength
    shapes: Sequence[str]  # asked for in the captions
    word: str = ""  # in front of every caption


@dataclass(frozen=True)
class Row:
    """Each number but `pictures` is a share, 0..1."""

    case: str
    pictures: int
    colour: float
    shape: float
    background: float
    all_three: float
    solid: float
    striped: float


CASES = (
    Case("base", {}, BASE_SHAPES),
    Case("base, asked for stars", {}, (NEW_SHAPE,)),
    Case("style 1.0", {STYLE: 1.0}, BASE_SHAPES),
    Case("style 0.5", {STYLE: 0.5}, BASE_SHAPES),
    Case("style 1.0, asked for stars", {STYLE: 1.0}, (NEW_SHAPE,)),
    Case("shape 1.0, asked for stars", {SHAPE: 1.0}, (NEW_SHAPE,)),
    Case("shape 0.5, asked for stars", {SHAPE: 0.5}, (NEW_SHAPE,)),
    Case("shape 1.0, asked for base shapes", {SHAPE: 1.0}, BASE_SHAPES),
    Case("style 1.0 + shape 1.0, asked for stars", {STYLE: 1.0, SHAPE: 1.0}, (NEW_SHAPE,)),
    Case("style 1.0 + shape 0.5, asked for stars", {STYLE: 1.0, SHAPE: 0.5}, (NEW_SHAPE,)),
    Case("style 0.5 + shape 1.0, asked for stars", {STYLE: 0.5, SHAPE: 1.0}, (NEW_SHAPE,)),
    Case("style 1.0 + shape 1.0, asked for base shapes", {STYLE: 1.0, SHAPE: 1.0}, BASE_SHAPES),
)

TRAINED_STYLE, TRAINED_SHAPE = "trained_style.safetensors", "trained_star.safetensors"
STYLE_WORD = "sks"  # the trigger in training.json
TRAINED_CASES = (
    Case("base, asked with the style's word", {}, BASE_SHAPES, word=STYLE_WORD),
    Case("trained style, asked with its word", {TRAINED_STYLE: 1.0}, BASE_SHAPES, word=STYLE_WORD),
    Case("trained style, asked for base shapes", {TRAINED_STYLE: 1.0}, BASE_SHAPES),
    Case("base, asked for stars", {}, (NEW_SHAPE,)),
    Case("trained star, asked for stars", {TRAINED_SHAPE: 1.0}, (NEW_SHAPE,)),
    Case("trained star, asked for base shapes", {TRAINED_SHAPE: 1.0}, BASE_SHAPES),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    host_process.add_host_argument(parser)
    parser.add_argument("--demo", type=Path, default=host_process.DEMO, help="the demo folder (default: this one)")
    parser.add_argument("--seeds", type=int, default=1, help="pictures per caption of base shapes (default: 1)")
    parser.add_argument("--base-only", action="store_true", help="only the model, no LoRA")
    parser.add_argument(
        "--trained", type=Path, metavar="FOLDER", help=f"measure {TRAINED_STYLE} and {TRAINED_SHAPE} in it instead"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows here too")
    arguments = parser.parse_args()
    host_process.enter(arguments.host)
    print(HEADER)
    from sampling import Loaded

    base = Loaded.from_folder(arguments.demo)
    if arguments.trained:
        rows = measure(base.with_trained, arguments.trained, TRAINED_CASES, arguments.seeds)
    else:
        rows = [show(row) for row in judge_rows()]
        cases = CASES[:2] if arguments.base_only else CASES
        rows += measure(base.with_loras, arguments.demo / "loras", cases, arguments.seeds)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")


def measure(
    loaded_with: Callable[[Mapping[Path, float]], "Loaded"], loras: Path, cases: Sequence[Case], seeds: int
) -> list[Row]:
    return [
        measure_case(case, loaded_with({loras / file: strength for file, strength in case.strengths.items()}), seeds)
        for case in cases
    ]


def measure_case(case: Case, loaded: "Loaded", seeds: int) -> Row:
    kinds = all_pictures(case.shapes)
    per_caption = max(seeds, seeds * len(BASE_SHAPES) // len(case.shapes))
    start = time.monotonic()
    made: list[torch.Tensor] = []
    with torch.inference_mode():
        for number, kind in enumerate(kinds):
            first = FIRST_SEED + per_caption * number
            caption = f"{case.word} {kind.caption}".strip()
            made.append(loaded.pictures(caption, range(first, first + per_caption)))
    asked = [kind for kind in kinds for _ in range(per_caption)]
    return show(row_of(case.name, torch.cat(made), asked), time.monotonic() - start)


def judge_rows() -> list[Row]:
    """What the judge says of pictures that are right, wrong, and not pictures of anything."""
    rng = torch.Generator().manual_seed(1)
    solid = random_pictures(200, rng, SHAPES)
    striped = [replace(picture, fill=STRIPED) for picture in solid]
    other_shape = [replace(p, shape=SHAPES[(SHAPES.index(p.shape) + 1) % len(SHAPES)]) for p in solid]
    drawn = draw(solid, 128)
    return [
        row_of("judge: drawn solid", drawn, solid),
        row_of("judge: drawn striped", draw(striped, 128), solid),
        row_of("judge: captions of other pictures", drawn, solid[1:] + solid[:1]),
        row_of("judge: captions with another shape", drawn, other_shape),
        row_of("judge: drawn, then half noise", drawn.lerp(torch.rand(drawn.shape, generator=rng), 0.5), solid),
        row_of("judge: noise", torch.rand(drawn.shape, generator=rng), solid),
    ]


def row_of(name: str, pictures: torch.Tensor, asked: Sequence[Picture]) -> Row:
    pairs = [(judge(pixels), picture) for pixels, picture in zip(pictures, asked, strict=True)]

    def share(holds: Callable[[Verdict, Picture], bool]) -> float:
        return sum(holds(verdict, picture) for verdict, picture in pairs) / len(pairs)

    return Row(
        case=name,
        pictures=len(pairs),
        colour=share(lambda seen, wanted: seen.colour == wanted.colour),
        shape=share(lambda seen, wanted: seen.shape == wanted.shape),
        background=share(lambda seen, wanted: seen.background == wanted.background),
        all_three=share(lambda seen, wanted: seen.agrees_with(wanted)),
        solid=share(lambda seen, wanted: seen.fill == SOLID),
        striped=share(lambda seen, wanted: seen.fill == STRIPED),
    )


HEADER = (
    "| case | pictures | colour | shape | background | all three | solid | striped | seconds per picture |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


def show(row: Row, seconds: float | None = None) -> Row:
    shares = (row.colour, row.shape, row.background, row.all_three, row.solid, row.striped)
    cells = [row.case, str(row.pictures), *(f"{share:.1%}" for share in shares)]
    cells.append("" if seconds is None else f"{seconds / row.pictures:.2f}")
    print("| " + " | ".join(cells) + " |", flush=True)
    return row


if __name__ == "__main__":
    main()

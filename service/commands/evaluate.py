"""`slidelift evaluate`: how good models are, on sharp images or on a slide against itself."""

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from models.zoo.catalog import DEFAULT_MODEL
from service.codes import refusal
from service.commands import arguments
from service.errors import EXIT_DONE


def add(commands: Any) -> None:
    """Put the command into the parser's table."""
    evaluate = commands.add_parser(
        "evaluate",
        help="measure models on sharp images, or on a slide against itself",
        description="Reduce sharp images, or the finest level of a slide, enlarge them again with each model and with "
        "bicubic, and compare. A Markdown table goes to standard output.",
    )
    what = evaluate.add_mutually_exclusive_group(required=True)
    what.add_argument("--images", type=Path, nargs="+", metavar="DIR", help="folders of sharp images, one a set")
    what.add_argument("--slide", type=Path, metavar="SLIDE", help="a slide, against itself")
    evaluate.add_argument(
        "--model",
        "--models",
        dest="models",
        type=_names,
        default=DEFAULT_MODEL,
        metavar="A,B",
        help="names of the catalog or files of weights; bicubic is always beside",
    )
    evaluate.add_argument("--scale", type=arguments.whole, default=4, metavar="N", help="enlargement (default 4)")
    evaluate.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    evaluate.add_argument(
        "--mpp", type=arguments.positive, metavar="MPP", help="µm per pixel (default: 0.25; a slide's own)"
    )
    evaluate.add_argument("--json", type=Path, metavar="OUT", help="write all figures to a file")
    evaluate.add_argument("--html", type=Path, metavar="REPORT", help="write a report with plots and crops")
    evaluate.add_argument("--no-crops", action="store_true", help="no pixels of the images or the slide in the report")
    images = evaluate.add_argument_group("with --images")
    images.add_argument(
        "--degradation",
        default="bicubic",
        choices=("bicubic", "area", "gaussian"),
        help="how images are reduced (default bicubic, the measuring convention)",
    )
    images.add_argument("--mask", type=Path, metavar="DIR", help="PNGs of the images' stems and sizes, nonzero inside")
    images.add_argument("--count", type=arguments.whole, metavar="N", help="only the first images of each set")
    slide = evaluate.add_argument_group("with --slide")
    slide.add_argument("--region", type=arguments.region, metavar="X,Y,W,H", help="in level-0 pixels")
    slide.add_argument("--tiles", type=arguments.whole, metavar="N", help="at most N tissue tiles, spread evenly")
    evaluate.set_defaults(command=_run)


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(f"{text} is not a list of models, separated by commas")
    return names


def _run(options: argparse.Namespace) -> int:
    for out in (options.json, options.html):
        if out is not None and not out.absolute().parent.is_dir():
            raise refusal("request.output", f"{out.parent}: no such folder; make it, or choose another output")
    unused = ("region", "tiles") if options.images else ("mask", "count")
    wrong = [f"--{name}" for name in unused if getattr(options, name) is not None]
    if options.slide and options.degradation != "bicubic":
        wrong.append("--degradation")
    if wrong:
        raise refusal(
            "request.invalid", f"{wrong[0]} has no meaning with {'--images' if options.images else '--slide'}"
        )
    return _evaluate_images(options) if options.images else _evaluate_slide(options)


def _evaluate_images(options: argparse.Namespace) -> int:
    from models import evaluate
    from models.crops import CropPicker
    from models.pictures import image_files
    from models.report import image_report
    from service.terminal import tell

    names = Counter(folder.absolute().name for folder in options.images)
    picker = CropPicker(evaluate.BASELINE)
    mpp = evaluate.DEFAULT_MPP if options.mpp is None else options.mpp
    scores = {}
    sets = {
        str(folder) if names[folder.absolute().name] > 1 else folder.absolute().name: image_files(folder, options.count)
        for folder in options.images
    }
    upscalers = _upscalers(options)
    with _bar("images", sum(map(len, sets.values()))) as bar:
        for name, files in sets.items():

            def look(path: Path, *seen: Any) -> None:
                bar.update()
                if options.html and not options.no_crops:
                    picker.look(path, *seen)

            scores[name] = evaluate.evaluate(
                upscalers,
                files,
                options.scale,
                degradation=options.degradation,
                masks=options.mask,
                mpp=mpp,
                look=look,
            )
    tell(evaluate.table(scores))
    _write_json(options.json, evaluate.as_json(scores, options.scale, options.degradation, mpp))
    _write(options.html, image_report(scores, picker.crops, options.scale, options.degradation, mpp))
    return EXIT_DONE


def _evaluate_slide(options: argparse.Namespace) -> int:
    from service.pipeline.self_evaluation import as_json, evaluate_slide, table
    from service.pipeline.self_report import slide_report
    from service.runner import probe
    from service.terminal import say, tell
    from wsi.errors import TileReadError
    from wsi.geometry import Region

    probe(options.slide)
    upscalers = _upscalers(options)
    try:
        with _bar("tiles", options.tiles) as bar:
            found = evaluate_slide(
                options.slide,
                upscalers,
                options.scale,
                region=Region(*options.region) if options.region else None,
                tiles=options.tiles,
                mpp=options.mpp,
                on_tile=bar.update,
            )
    except TileReadError as error:  # its own message advises a flag that this command does not have
        where = f"x {error.region.x}, y {error.region.y}, {error.region.width}x{error.region.height} px"
        raise refusal(
            "slide.tile-unreadable",
            f"{options.slide.name}: {where} can't be decoded ({error.cause}); give a --region without it",
        ) from error
    for warning in found.warnings:
        say(f"warning: {warning}")
    tell(table(found))
    _write_json(options.json, as_json(found))
    _write(options.html, slide_report(found, crops=not options.no_crops))
    return EXIT_DONE


def _upscalers(options: argparse.Namespace) -> dict[str, Any]:
    from models.evaluate import BASELINE
    from models.upscaler import load_upscaler

    names = dict.fromkeys([BASELINE, *options.models])
    return {name: load_upscaler(name, scale=options.scale, device=options.device) for name in names}


@contextmanager
def _bar(unit: str, total: int | None) -> Iterator[Any]:
    """A progress bar on standard error; silent where nobody watches."""
    from tqdm import tqdm

    with tqdm(total=total, unit=f" {unit}", disable=None, dynamic_ncols=True) as bar:
        yield bar


def _write_json(out: Path | None, values: dict[str, Any]) -> None:
    _write(out, json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _write(out: Path | None, text: str) -> None:
    from wsi.durable import write_whole

    if out is not None:
        write_whole(out, text.encode())

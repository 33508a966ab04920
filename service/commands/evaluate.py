"""`slidelift evaluate`: measure models on sharp images, or on a slide reduced and restored."""

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slidelift.models.zoo.catalog import DEFAULT_MODEL
from slidelift.service.commands import arguments
from slidelift.service.errors import EXIT_DONE, refusal

if TYPE_CHECKING:
    from slidelift.models.metrics.source import SourceModel


def add(commands: Any) -> None:
    """Add the command to the parser."""
    evaluate = commands.add_parser(
        "evaluate",
        help="measure models on sharp images or on a slide",
        description="Reduce sharp images, or the finest level of a slide, enlarge them again with each model and with "
        "bicubic, and compare with the original. A Markdown table is printed.",
    )
    what = evaluate.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--images", type=Path, nargs="+", metavar="DIR", help="folders of sharp images; each folder is one set"
    )
    what.add_argument("--slide", type=Path, metavar="SLIDE", help="slide that is reduced and compared with itself")
    evaluate.add_argument(
        "--model",
        "--models",
        dest="models",
        type=_names,
        default=DEFAULT_MODEL,
        metavar="A,B",
        help="names in the catalog or files of weights; bicubic is always added",
    )
    evaluate.add_argument("--scale", type=arguments.whole, default=4, metavar="N", help="enlargement (default 4)")
    evaluate.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    evaluate.add_argument(
        "--precision",
        default="auto",
        choices=("auto", "fp32", "bf16", "fp16"),
        help="precision of the networks (default: as in a job)",
    )
    evaluate.add_argument(
        "--mpp",
        type=arguments.positive,
        metavar="MPP",
        help="µm per pixel (default: 0.25 for images, the slide's own for a slide)",
    )
    _add_outputs(evaluate)
    _add_source(evaluate.add_argument_group("source given to the models"))
    _add_images_and_slide(evaluate)
    evaluate.set_defaults(command=_run)


def _add_images_and_slide(evaluate: argparse.ArgumentParser) -> None:
    images = evaluate.add_argument_group("with --images")
    images.add_argument(
        "--mask", type=Path, metavar="DIR", help="PNG masks with the images' names and sizes, nonzero inside"
    )
    images.add_argument("--count", type=arguments.whole, metavar="N", help="only the first images of each set")
    slide = evaluate.add_argument_group("with --slide")
    slide.add_argument(
        "--region", type=arguments.region, metavar="X,Y,W,H", help="part of the slide, in level-0 pixels"
    )
    slide.add_argument("--tiles", type=arguments.whole, metavar="N", help="at most N tissue tiles, spread evenly")


def _add_outputs(evaluate: argparse.ArgumentParser) -> None:
    evaluate.add_argument("--json", type=Path, metavar="OUT", help="write all values to a JSON file")
    evaluate.add_argument("--html", type=Path, metavar="REPORT", help="write a report with plots and crops")
    evaluate.add_argument("--no-crops", action="store_true", help="leave image crops out of the report")


def _add_source(source: "argparse._ArgumentGroup") -> None:
    source.add_argument(
        "--source-quality",
        type=_qualities,
        metavar="Q,Q",
        help="JPEG qualities of the source, each measured separately; none for no compression (default: none for "
        "images, the slide's own quantisation tables and sampling for a slide)",
    )
    source.add_argument(
        "--source-sampling",
        default=None,
        choices=("4:2:0", "4:2:2", "4:4:4", "RGB"),
        help="chroma sampling of that JPEG; RGB for no colour transform (default 4:2:0, or the slide's own)",
    )
    source.add_argument("--defocus", type=arguments.positive, metavar="PX", help="blur, sigma in source pixels")
    source.add_argument("--noise", type=arguments.positive, metavar="LEVELS", help="noise, sigma in grey levels of 255")
    source.add_argument(
        "--degradation",
        default="bicubic",
        choices=("bicubic", "area", "gaussian"),
        help="how images are reduced (default bicubic, the convention in publications)",
    )


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(f"{text} is not a list of models, separated by commas")
    return names


def _qualities(text: str) -> list[int | None]:
    """Numbers from 1 to 100, or none, separated by commas."""
    words = [word.strip().lower() for word in text.split(",")]
    if not all(word == "none" or (word.isdecimal() and 1 <= int(word) <= 100) for word in words):
        raise argparse.ArgumentTypeError(f"{text} is not a list of JPEG qualities: numbers from 1 to 100, or none")
    return [None if word == "none" else int(word) for word in dict.fromkeys(words)]


def _run(options: argparse.Namespace) -> int:
    _require_consistent(options)
    return _evaluate_images(options) if options.images else _evaluate_slide(options)


def _require_consistent(options: argparse.Namespace) -> None:
    """Refuse arguments that do not belong together, and outputs in folders that do not exist."""
    for out in (options.json, options.html):
        if out is not None and not out.absolute().parent.is_dir():
            raise refusal("request.output", f"{out.parent}: no such folder; create it, or choose another output")
    unused = ("region", "tiles") if options.images else ("mask", "count")
    wrong = [f"--{name}" for name in unused if getattr(options, name) is not None]
    if options.slide and options.degradation != "bicubic":
        wrong.append("--degradation")
    if options.slide and options.source_sampling and options.source_quality is None:
        raise refusal(
            "request.invalid",
            "--source-sampling with --slide needs --source-quality; without it the slide's own sampling is used",
        )
    if options.slide and options.source_quality and len(options.source_quality) > 1:
        raise refusal("request.invalid", "--slide takes one --source-quality; run the command again for another")
    if wrong:
        raise refusal("request.invalid", f"{wrong[0]} can't be used with {'--images' if options.images else '--slide'}")


def _evaluate_images(options: argparse.Namespace) -> int:
    from slidelift.models import evaluate
    from slidelift.models.evaluation_report import image_report
    from slidelift.models.hardware import describe_hardware
    from slidelift.models.image_files import image_files
    from slidelift.models.report_crops import CropPicker
    from slidelift.service.commands.terminal import print_result

    names = Counter(folder.absolute().name for folder in options.images)
    picker = CropPicker(evaluate.BASELINE)
    mpp = evaluate.DEFAULT_MPP if options.mpp is None else options.mpp
    scores = {}
    sets = {
        str(folder) if names[folder.absolute().name] > 1 else folder.absolute().name: image_files(folder, options.count)
        for folder in options.images
    }
    sources = [_source(options, quality) for quality in options.source_quality or [None]]
    upscalers = _upscalers(options)
    with _bar("images", sum(map(len, sets.values())) * len(sources)) as bar:
        for (name, files), source in product(sets.items(), sources):

            def on_image(path: Path, *seen: Any) -> None:
                bar.update()
                if options.html and not options.no_crops:
                    picker.add(path, *seen)

            label = name if len(sources) == 1 else f"{name}, {source.label}"
            scores[label] = evaluate.evaluate(
                upscalers, files, options.scale, source=source, masks=options.mask, mpp=mpp, on_image=on_image
            )
    computed_on = describe_hardware(upscalers)
    print_result(f"{evaluate.table(scores)}\n\n{computed_on}")
    _write_json(options.json, evaluate.as_json(scores, upscalers, options.scale, mpp))
    _write(options.html, image_report(scores, picker.crops, options.scale, mpp, computed_on))
    return EXIT_DONE


def _source(options: argparse.Namespace, quality: int | None) -> "SourceModel":
    from slidelift.models.metrics.source import SourceModel

    return SourceModel(
        reduction=options.degradation,
        defocus=options.defocus or 0.0,
        noise=options.noise or 0.0,
        quality=quality,
        sampling=options.source_sampling or "4:2:0",
    )


def _evaluate_slide(options: argparse.Namespace) -> int:
    from slidelift.service.commands.terminal import print_message, print_result
    from slidelift.service.pipeline.self_evaluation import as_json, evaluate_slide, table
    from slidelift.service.pipeline.self_report import slide_report
    from slidelift.service.processes.runner import probe
    from slidelift.wsi.errors import TileReadError
    from slidelift.wsi.geometry import Region

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
                source=_source(options, (options.source_quality or [None])[0]),
                as_compressed=options.source_quality is None,
                on_tile=bar.update,
            )
    except TileReadError as error:  # its message advises --on-bad-tile, which this command does not have
        where = f"x {error.region.x}, y {error.region.y}, {error.region.width}x{error.region.height} px"
        raise refusal(
            "slide.tile-unreadable",
            f"{options.slide.name}: {where} can't be decoded ({error.cause}); give a --region that excludes it",
        ) from error
    for warning in found.warnings:
        print_message(f"warning: {warning}")
    print_result(f"{table(found)}\n\n{found.source.description} {found.computed_on_words}")
    _write_json(options.json, as_json(found))
    _write(options.html, slide_report(found, crops=not options.no_crops))
    return EXIT_DONE


def _upscalers(options: argparse.Namespace) -> dict[str, Any]:
    from slidelift.models.evaluate import BASELINE
    from slidelift.models.upscaler import load_upscaler

    names = dict.fromkeys([BASELINE, *options.models])
    return {
        name: load_upscaler(name, scale=options.scale, device=options.device, precision=options.precision)
        for name in names
    }


@contextmanager
def _bar(unit: str, total: int | None) -> Iterator[Any]:
    """Progress bar on standard error; hidden if that is not a terminal."""
    from tqdm import tqdm

    with tqdm(total=total, unit=f" {unit}", disable=None, dynamic_ncols=True) as bar:
        yield bar


def _write_json(out: Path | None, values: dict[str, Any]) -> None:
    _write(out, json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _write(out: Path | None, text: str) -> None:
    from slidelift.durable import write_atomically

    if out is not None:
        write_atomically(out, text.encode("utf-8", "backslashreplace"))  # file names may not be UTF-8

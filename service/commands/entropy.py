"""`slidelift entropy`: calibrate the entropy threshold for tissue on sample images."""

import argparse
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slidelift.service.commands import arguments

if TYPE_CHECKING:
    from slidelift.service.pipeline.calibrate import Entropies


def add(commands: Any) -> None:
    """Add the command to the parser."""
    entropy = commands.add_parser(
        "entropy",
        help="calibrate the entropy threshold of tissue",
        description="Show the entropy of patches from images rich in tissue, and the threshold that keeps them. "
        "Choose images with the stain, scanner and µm per pixel that the threshold is meant for.",
    )
    entropy.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="images or slides rich in tissue")
    entropy.add_argument(
        "--size", type=arguments.whole, default=256, metavar="PX", help="side of a patch (default 256)"
    )
    entropy.add_argument(
        "--reduce", type=arguments.whole, default=1, metavar="N", help="reduce images by this factor first (default 1)"
    )
    entropy.add_argument(
        "--keep", type=_share, default=0.95, metavar="SHARE", help="share of the patches to keep (default 0.95)"
    )
    entropy.add_argument("--json", type=Path, metavar="OUT", help="write all values to a JSON file")
    entropy.set_defaults(command=_run)


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a share between 0 and 1")
    return value


def _run(options: argparse.Namespace) -> int:
    from slidelift.durable import write_atomically
    from slidelift.service.errors import EXIT_DONE, EXIT_FAILED, EXIT_USER
    from slidelift.service.pipeline.calibrate import calibration

    spreads, codes = [], {EXIT_DONE}
    for image in options.images:
        found = _measured(image, options)
        if isinstance(found, int):
            codes.add(found)
        else:
            spreads.append(found)
    if spreads:
        result = calibration(spreads, options.keep)
        _show(result)
        if options.json:
            settings = {"size": options.size, "reduce": options.reduce}
            text = json.dumps({**settings, **result}, indent=1, ensure_ascii=False)
            write_atomically(options.json, text.encode("utf-8", "backslashreplace"))  # file names may not be UTF-8
    return next((code for code in (EXIT_FAILED, EXIT_USER) if code in codes), EXIT_DONE)


def _measured(image: Path, options: argparse.Namespace) -> "Entropies | int":
    """Entropies of an image, or the exit code of its error."""
    from slidelift.service.commands.terminal import print_message
    from slidelift.service.errors import ServiceError
    from slidelift.service.pipeline.calibrate import measure_entropies
    from slidelift.service.pipeline.failures import describe
    from slidelift.service.processes.runner import probe
    from slidelift.wsi.errors import WsiError
    from slidelift.wsi.readers import flat_image

    try:
        if not (image.is_file() and flat_image.accepts(image)):  # plain images are read by Pillow, which does not crash
            probe(image)
        return measure_entropies(image, options.size, options.reduce)
    except (ServiceError, WsiError, OSError) as error:
        problem = describe(error)
        print_message(f"error: {problem.detail}")
        return problem.exit_code


def _show(result: dict[str, Any]) -> None:
    from slidelift.service.commands.terminal import print_result

    rows = [*result["images"], result["all"]]
    width = max(len(row["image"]) for row in rows)
    print_result(f"{'bits':{width}} patches   min    5%  median   max")
    for row in rows:
        figures = f"{row['min']:5.2f} {row['p5']:5.2f} {row['median']:7.2f} {row['max']:5.2f}"
        print_result(f"{row['image']:{width}} {row['patches']:7} {figures}")
    print_result("\nthreshold   keeps")
    for threshold, share in result["kept"].items():
        print_result(f"{float(threshold):9.1f} {share:7.1%}")
    rounded = math.floor(result["threshold"] * 100) / 100
    print_result(f"\n--entropy {rounded:g} keeps at least {result['keep']:.0%} of these patches.")
    print_result(
        "The 7 bits of Sun et al. (GraphiCon 2023) suit their stain and scanner: see docs/decisions/entropy.md."
    )

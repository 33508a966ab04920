"""`slidelift entropy`: the threshold that keeps chosen, rich patches."""

import argparse
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slidelift.service.commands import arguments

if TYPE_CHECKING:
    from slidelift.service.pipeline.calibrate import Entropies


def add(commands: Any) -> None:
    """Put the command into the parser's table."""
    entropy = commands.add_parser(
        "entropy",
        help="calibrate the entropy threshold of tissue",
        description="Show the entropy of patches of images that are rich in tissue, and the threshold that keeps them. "
        "Choose images of the stain, the scanner and the µm per pixel that the threshold is for.",
    )
    entropy.add_argument("images", type=Path, nargs="+", metavar="IMAGE")
    entropy.add_argument(
        "--size", type=arguments.whole, default=256, metavar="PX", help="side of a patch (default 256)"
    )
    entropy.add_argument(
        "--reduce", type=arguments.whole, default=1, metavar="N", help="make images N times smaller first (default 1)"
    )
    entropy.add_argument(
        "--keep", type=_share, default=0.95, metavar="SHARE", help="of the rich patches (default 0.95)"
    )
    entropy.add_argument("--json", type=Path, metavar="OUT", help="write all figures to a file")
    entropy.set_defaults(command=_run)


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a share above 0, up to 1")
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
            write_atomically(options.json, text.encode("utf-8", "backslashreplace"))  # a name may be no UTF-8
    return next((code for code in (EXIT_FAILED, EXIT_USER) if code in codes), EXIT_DONE)


def _measured(image: Path, options: argparse.Namespace) -> "Entropies | int":
    """An image's entropies, or the exit code of what went wrong."""
    from slidelift.service.commands.terminal import say
    from slidelift.service.errors import ServiceError
    from slidelift.service.pipeline.calibrate import measure_entropies
    from slidelift.service.pipeline.failures import describe
    from slidelift.service.processes.runner import probe
    from slidelift.wsi.errors import WsiError
    from slidelift.wsi.readers import flat_image

    try:
        if not (image.is_file() and flat_image.accepts(image)):  # pictures are Pillow's, which does not crash
            probe(image)
        return measure_entropies(image, options.size, options.reduce)
    except (ServiceError, WsiError, OSError) as error:
        problem = describe(error)
        say(f"error: {problem.detail}")
        return problem.exit_code


def _show(result: dict[str, Any]) -> None:
    from slidelift.service.commands.terminal import tell

    rows = [*result["images"], result["all"]]
    width = max(len(row["image"]) for row in rows)
    tell(f"{'bits':{width}} patches   min    5%  median   max")
    for row in rows:
        figures = f"{row['min']:5.2f} {row['p5']:5.2f} {row['median']:7.2f} {row['max']:5.2f}"
        tell(f"{row['image']:{width}} {row['patches']:7} {figures}")
    tell("\nthreshold   keeps")
    for threshold, share in result["kept"].items():
        tell(f"{float(threshold):9.1f} {share:7.1%}")
    rounded = math.floor(result["threshold"] * 100) / 100
    tell(f"\n--entropy {rounded:g} keeps at least {result['keep']:.0%} of these patches.")
    tell("The 7 bits of Sun et al. (GraphiCon 2023) suit their stain and scanner: see docs/decisions/entropy.md.")

"""Types and groups of arguments that several commands share."""

import argparse
import math
from typing import Any

from slidelift.service.pipeline.options import (
    DEFAULTS,
    MAX_ENTROPY,
    MAX_QUALITY,
    MIN_QUALITY,
    OPTION_NAMES,
    BadTilePolicy,
    Effort,
    UpscaleOptions,
)


def positive(text: str) -> float:
    """A finite number above zero."""
    value = float(text)
    if not (value > 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def whole(text: str) -> int:
    """A whole number above zero."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above zero")
    return value


def entropy(text: str) -> float:
    """Entropy of 256 grey levels in bits."""
    value = float(text)
    if not 0 <= value <= MAX_ENTROPY:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and {MAX_ENTROPY} bits")
    return value


def quality(text: str) -> int:
    """JPEG quality."""
    value = int(text)
    if not MIN_QUALITY <= value <= MAX_QUALITY:
        raise argparse.ArgumentTypeError(f"{text} is not between {MIN_QUALITY} and {MAX_QUALITY}")
    return value


def region(text: str) -> tuple[int, int, int, int]:
    """X,Y,WIDTH,HEIGHT in pixels."""
    try:
        x, y, width, height = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not X,Y,WIDTH,HEIGHT in whole pixels") from None
    return x, y, width, height


def add_upscale_options(command: argparse.ArgumentParser, defaults: UpscaleOptions | None) -> None:
    """Add an argument for each of `UpscaleOptions` but the model.

    Parameters
    ----------
    defaults
        None to leave arguments that are not given at None, for a service to choose.
    """
    default = defaults.option_values() if defaults else dict.fromkeys(OPTION_NAMES)
    add = command.add_argument
    add(
        "--effort",
        default=default["effort"],
        choices=tuple(map(str, Effort)),
        help=f"what auto favours: computing time or image quality (default {DEFAULTS.effort})",
    )
    add("--mpp", type=positive, metavar="MPP", help="µm per pixel of the slide, if it states none or a wrong value")
    add("--target-mpp", type=positive, metavar="MPP", help="wanted µm per pixel of the result")
    add("--level", type=int, metavar="N", help="source level (default: chosen by --target-mpp, else 0)")
    add("--region", type=region, metavar="X,Y,W,H", help="part of the slide to upscale, in level-0 pixels")
    add(
        "--entropy",
        type=entropy,
        metavar="H",
        help="minimum entropy of tissue in bits; 0 rejects nothing (default 3)",
    )
    add(
        "--quality",
        type=quality,
        default=default["quality"],
        metavar="Q",
        help=f"JPEG quality of an OME-TIFF, 1 to 100 (default {DEFAULTS.quality})",
    )
    add(
        "--on-bad-tile",
        default=default["on_bad_tile"],
        choices=tuple(map(str, BadTilePolicy)),
        help="if a tile can't be decoded: fail, or mark it in the report and resample it from a coarser level "
        f"(default {DEFAULTS.on_bad_tile})",
    )


def upscale_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The `UpscaleOptions` among the parsed arguments, by name."""
    values = {name: getattr(arguments, name) for name in OPTION_NAMES}
    return {**values, "effort": Effort(values["effort"]), "on_bad_tile": BadTilePolicy(values["on_bad_tile"])}

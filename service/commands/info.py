"""`slidelift info`: what a slide says of itself."""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slidelift.service.commands.terminal import tell
from slidelift.service.errors import EXIT_DONE


def add(commands: Any) -> None:
    """Put the command into the parser's table."""
    info = commands.add_parser("info", help="what a slide says of itself")
    info.add_argument("slide", type=Path, metavar="SLIDE")
    info.add_argument("--json", action="store_true")
    info.set_defaults(command=_run)


def _compression(told: Mapping[str, Any] | None) -> str:
    if told is None:
        return "not known"
    if told["quality"] is None:
        return str(told["codec"])
    return f"{told['codec']}, quality about {told['quality']}, {told['sampling'] or 'unusual sampling'}"


def _recommendation(facts: Mapping[str, Any], name: str) -> str:
    from slidelift.service.pipeline.recommendation import recommend
    from slidelift.wsi.errors import PixelSizeImplausibleError, PixelSizeMissingError
    from slidelift.wsi.slide import SlideInfo

    try:
        found = recommend(SlideInfo.from_dict(facts, name), is_dark=facts["is_dark"])
    except (PixelSizeMissingError, PixelSizeImplausibleError):
        return "no recommendation without the µm per pixel: give it to `upscale` as --mpp"
    return f"recommended: {found.reason}" if found.model else f"not recommended to upscale: {found.reason}"


def _run(options: argparse.Namespace) -> int:
    from slidelift.service.processes.runner import probe

    facts = probe(options.slide)
    if options.json:
        tell(json.dumps(facts, indent=2))
        return EXIT_DONE
    mpp = "unknown" if facts["mpp"] is None else f"{facts['mpp'][0]:.6g} x {facts['mpp'][1]:.6g} µm per pixel"
    objective = "unknown" if facts["objective"] is None else f"{facts['objective']:g}x"
    tell(f"{options.slide.name}: {facts['width']}x{facts['height']} px, {mpp}, objective {objective}")
    tell(f"  vendor {facts['vendor'] or 'unknown'}, read by {facts['reader']}")
    for number, level in enumerate(facts["levels"]):
        tell(f"  level {number}: {level['width']}x{level['height']}, downsample {level['downsample']:.4g}")
    tell(f"  compression: {_compression(facts['compression'])}")
    for warning in facts["warnings"]:
        tell(f"  warning: {warning}")
    tell(f"  {_recommendation(facts, options.slide.name)}")
    return EXIT_DONE

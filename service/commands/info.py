"""`slidelift info`: size, pixel size, levels and compression of a slide, and the recommended model."""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slidelift.service.commands.terminal import print_result
from slidelift.service.errors import EXIT_DONE


def add(commands: Any) -> None:
    """Add the command to the parser."""
    info = commands.add_parser("info", help="show a slide's size, pixel size, levels and compression")
    info.add_argument("slide", type=Path, metavar="SLIDE", help="file, or folder of one DICOM slide")
    info.add_argument("--json", action="store_true", help="print as JSON")
    info.set_defaults(command=_run)


def _compression(compression: Mapping[str, Any] | None) -> str:
    if compression is None:
        return "not known"
    if compression["quality"] is None:
        return str(compression["codec"])
    sampling = compression["sampling"] or "unusual sampling"
    return f"{compression['codec']}, quality about {compression['quality']}, {sampling}"


def _recommendation(facts: Mapping[str, Any], name: str) -> str:
    from slidelift.service.pipeline.recommendation import recommend
    from slidelift.wsi.errors import PixelSizeImplausibleError, PixelSizeMissingError
    from slidelift.wsi.slide import SlideInfo

    try:
        answer = recommend(SlideInfo.from_dict(facts, name), is_dark=facts["is_dark"])
    except (PixelSizeMissingError, PixelSizeImplausibleError):
        return "no recommendation, since the µm per pixel is unknown: pass it to `upscale` as --mpp"
    return f"recommended: {answer.reason}" if answer.model else f"not recommended to upscale: {answer.reason}"


def _run(options: argparse.Namespace) -> int:
    from slidelift.service.processes.runner import probe

    facts = probe(options.slide)
    if options.json:
        print_result(json.dumps(facts, indent=2))
        return EXIT_DONE
    mpp = "unknown" if facts["mpp"] is None else f"{facts['mpp'][0]:.6g} x {facts['mpp'][1]:.6g} µm per pixel"
    objective = "unknown" if facts["objective"] is None else f"{facts['objective']:g}x"
    print_result(f"{options.slide.name}: {facts['width']}x{facts['height']} px, {mpp}, objective {objective}")
    print_result(f"  vendor {facts['vendor'] or 'unknown'}, read by {facts['reader']}")
    for number, level in enumerate(facts["levels"]):
        print_result(f"  level {number}: {level['width']}x{level['height']}, downsample {level['downsample']:.4g}")
    print_result(f"  compression: {_compression(facts['compression'])}")
    for warning in facts["warnings"]:
        print_result(f"  warning: {warning}")
    print_result(f"  {_recommendation(facts, options.slide.name)}")
    return EXIT_DONE

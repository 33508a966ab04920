"""`slidelift upscale`: upscale slides on this machine."""

import argparse
from pathlib import Path
from typing import Any

from slidelift.service.commands import arguments
from slidelift.service.pipeline.options import DEFAULTS


def add(commands: Any) -> None:
    """Add the command to the parser."""
    upscale = commands.add_parser(
        "upscale",
        help="upscale slides into pyramids",
        description="Upscale slides into OUT, which is a file or a folder; a missing folder is created. The suffix of "
        "OUT selects the format: .ome.tiff, .ome.tif or .ome.zarr; in a folder it is .ome.tiff. Run the same command "
        "again to continue an interrupted run.",
        epilog="Exit codes: 0 done; 2 the request or its slide must be changed; 1 any other error; 130 interrupted.",
    )
    upscale.add_argument("slides", type=Path, nargs="+", metavar="SLIDE", help="file, or folder of one DICOM slide")
    # OUT is not a Path, which would drop the trailing slash of a folder.
    upscale.add_argument("out", metavar="OUT", help="file or folder of the results")
    upscale.add_argument(
        "--model",
        default=DEFAULTS.model,
        metavar="NAME|FILE",
        help="name (see `slidelift models`) or file of weights; auto, the default, selects the recommended model",
    )
    arguments.add_upscale_options(upscale, DEFAULTS)
    upscale.add_argument(
        "--roi",
        type=Path,
        metavar="FILE",
        help="region of interest: GeoJSON polygons in level-0 pixels, as from QuPath",
    )
    upscale.add_argument(
        "--device",
        default="auto",
        choices=("auto", "cpu", "cuda"),
        help="auto, the default, uses a GPU if there is one",
    )
    upscale.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="Dask scheduler whose workers make the stripes, tls://HOST:PORT (docs/cluster.md)",
    )
    upscale.add_argument("--json", action="store_true", help="print the report to standard output")
    upscale.set_defaults(command=_run)


def _run(options: argparse.Namespace) -> int:
    from slidelift.service.commands.upscale_slides import upscale_all

    return upscale_all(options)

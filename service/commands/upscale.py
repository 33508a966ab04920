"""`slidelift upscale`: slides into pyramids."""

import argparse
from pathlib import Path
from typing import Any

from slidelift.service.commands import arguments


def add(commands: Any) -> None:
    """Put the command into the parser's table."""
    upscale = commands.add_parser(
        "upscale",
        help="upscale slides into pyramids",
        description="Upscale slides into OUT, a file, or a folder, which is made. The suffix of OUT names the format: "
        ".ome.tiff, .ome.tif or .ome.zarr; in a folder it is .ome.tiff. A killed run continues when called again.",
        epilog="Exit codes: 0 done; 2 the request or its slide must be changed; 1 anything else; 130 interrupted.",
    )
    upscale.add_argument("slides", type=Path, nargs="+", metavar="SLIDE")
    upscale.add_argument("out", metavar="OUT")  # as text, in which a slash at the end says that it is a folder
    upscale.add_argument(
        "--model", default="auto", metavar="NAME|FILE", help="see `slidelift models`; auto takes the recommended one"
    )
    upscale.add_argument(
        "--effort",
        default="balanced",
        choices=("fast", "balanced", "best"),
        help="what auto gives more weight to: time or the picture (default balanced)",
    )
    upscale.add_argument(
        "--mpp", type=arguments.positive, metavar="MPP", help="the source's µm per pixel, given or confirmed"
    )
    upscale.add_argument(
        "--target-mpp", type=arguments.positive, metavar="MPP", help="wanted µm per pixel of the result"
    )
    upscale.add_argument("--level", type=int, metavar="N", help="source level (default: by --target-mpp, else 0)")
    upscale.add_argument("--region", type=arguments.region, metavar="X,Y,W,H", help="in level-0 pixels")
    upscale.add_argument(
        "--roi", type=Path, metavar="FILE", help="GeoJSON of polygons in level-0 pixels, as QuPath exports them"
    )
    upscale.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    upscale.add_argument(
        "--entropy",
        type=arguments.entropy,
        metavar="H",
        help="least entropy of tissue in bits; 0 rejects nothing (default 3)",
    )
    upscale.add_argument(
        "--quality", type=arguments.quality, default=90, metavar="Q", help="JPEG quality, 1 to 100 (default 90)"
    )
    upscale.add_argument(
        "--on-bad-tile",
        default="fail",
        choices=("fail", "mark"),
        help="a tile that can't be decoded: fail, or resample it from a coarser level and list it in the report",
    )
    upscale.add_argument(
        "--scheduler", metavar="ADDRESS", help="make the stripes on a Dask cluster, tls://HOST:PORT (docs/cluster.md)"
    )
    upscale.add_argument("--json", action="store_true", help="the report on standard output")
    upscale.set_defaults(command=_run)


def _run(options: argparse.Namespace) -> int:
    from slidelift.service.commands.upscale_slides import upscale_all

    return upscale_all(options)

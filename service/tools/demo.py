"""`make demo`: the main job for real, over HTTP, as a user would.

Starts the service on a free port, uploads a slide, asks for an upscale, follows it, downloads the pyramid, checks it,
says how to open it, stops the service. By default the slide is a real histology picture that scikit-image ships.
"""

import argparse
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from slidelift.service.client import Client, Job, JobOptions
from slidelift.service.commands.terminal import print_message, print_result
from slidelift.service.errors import EXIT_DONE, EXIT_FAILED, EXIT_USER, ServiceError

# The picture's true scale is not published; 1 µm per pixel is what the default model expects, a 10x scan's.
_DEMO_MPP = 1.0
_START_SECONDS = 60


def main() -> int:
    """Run the demonstration; returns an exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slide", type=Path, help="your own slide (default: a picture from scikit-image)")
    parser.add_argument("--mpp", type=float, help="its µm per pixel, if it does not say")
    parser.add_argument("--model", help="default: the recommended one for your slide, else compact-x4")
    parser.add_argument("--out", type=Path, default=Path("demo-output"))
    options = parser.parse_args()
    options.model = options.model or ("auto" if options.slide else "compact-x4")
    if options.slide is not None and not options.slide.is_file():
        print_message(f"error: {options.slide}: no such file")
        return EXIT_USER
    options.out.mkdir(exist_ok=True)
    port = _free_port()
    service = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "slidelift.service.cli",
            "serve",
            "--port",
            str(port),
            "--data-dir",
            str(options.out / "service"),
        ]
    )
    try:
        with Client(f"http://127.0.0.1:{port}", retry_seconds=_START_SECONDS) as client:
            client.wait_until_ready()
            if options.slide is not None:
                _journey(client, options.slide, options.out / "result.ome.tiff", options)
            else:
                _show_picture(client, options)
    except ServiceError as error:
        print_message(f"error: {error.problem.detail}")
        return EXIT_FAILED
    finally:
        service.terminate()
        service.wait()
    print_result("open the .ome.tiff in QuPath: File > Open, image type Brightfield")
    return EXIT_DONE


def write_slide(path: Path, picture: Image.Image) -> Path:
    """Write a picture as a small pyramidal slide that says its pixel size."""
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for level, step in enumerate((1, 2)):
            tiff.write(
                np.asarray(picture.reduce(step)),
                photometric="rgb",
                tile=(128, 128),
                compression="deflate",
                resolution=(1e4 / (_DEMO_MPP * step),) * 2,
                resolutionunit="CENTIMETER",
                subfiletype=1 if level else 0,
                metadata=None,
            )
    return path


def _show_picture(client: Client, options: argparse.Namespace) -> None:
    """The whole picture; and it again from a quarter of its size, to be compared with itself."""
    from skimage.data import immunohistochemistry

    truth = Image.fromarray(immunohistochemistry())
    slide = write_slide(options.out / "demo-slide.tiff", truth)
    _journey(client, slide, options.out / "result.ome.tiff", options)
    quarter = truth.resize((truth.width // 4, truth.height // 4), Image.Resampling.BICUBIC)
    small = write_slide(options.out / "demo-quarter.tiff", quarter)
    result = _journey(client, small, options.out / "quarter-result.ome.tiff", options)
    with tifffile.TiffFile(result) as tiff:
        upscaled = Image.fromarray(tiff.series[0].levels[0].asarray())
    picture = options.out / "before-after.png"
    _compare((quarter.resize(truth.size, Image.Resampling.BICUBIC), upscaled, truth), picture)
    print_result(
        f"{picture.resolve()}: a detail from a quarter of the resolution by bicubic, by {options.model}; the original"
    )


def _journey(client: Client, slide: Path, target: Path, options: argparse.Namespace) -> Path:
    """Upload, ask, follow, download, check."""
    print_message(f"uploading {slide}")
    uploaded = client.upload(slide)
    print_message(f"  {uploaded.width}x{uploaded.height} px, sha256 {uploaded.sha256[:16]}…")
    asked: JobOptions = {"model": options.model}
    if options.mpp:
        asked["mpp"] = options.mpp
    job = client.follow(client.submit(uploaded.id, **asked).id, _say_progress)
    for warning in job.warnings:
        print_message(f"warning: {warning}")
    if job.error is not None:
        raise ServiceError(job.error)
    client.download(job.id, target, overwrite=True)
    with tifffile.TiffFile(target) as tiff:
        levels = ", ".join(f"{level.shape[1]}x{level.shape[0]}" for level in tiff.series[0].levels)
    print_result(f"{target.resolve()}: levels {levels}")
    return target


def _say_progress(job: Job) -> None:
    progress = job.progress
    print_message(f"  {job.state} {job.stage or ''} {progress.tiles_done}/{progress.tiles_total} tiles")


def _compare(pictures: Sequence[Image.Image], target: Path, zoom: int = 2) -> None:
    """The same detail of each, side by side."""
    box = (150, 110, 390, 350)
    side = (box[2] - box[0]) * zoom
    canvas = Image.new("RGB", (len(pictures) * (side + 8) - 8, side), "white")
    for column, picture in enumerate(pictures):
        detail = picture.crop(box).resize((side, side), Image.Resampling.NEAREST)
        canvas.paste(detail, (column * (side + 8), 0))
    canvas.save(target)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    sys.exit(main())

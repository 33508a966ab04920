"""Demo of a complete job over HTTP: upload, upscale, download.

    python -m slidelift.service.tools.demo [--slide FILE] [--mpp N] [--model NAME] [--out DIR]

Starts the service on a free port, upscales a slide, downloads and checks the result, and stops the service. Without
--slide it uses a histology image of scikit-image. `make demo` runs this module.
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

# The image's true scale is not published; the default model expects 1 µm per pixel, as in a 10x scan.
_DEMO_MPP = 1.0
_START_SECONDS = 60


def main() -> int:
    """Run the demo and return an exit code."""
    options = _parse_arguments()
    options.model = options.model or ("auto" if options.slide else "compact-x4")
    if options.slide is not None and not options.slide.is_file():
        print_message(f"error: {options.slide}: no such file")
        return EXIT_USER
    options.out.mkdir(exist_ok=True)
    port, data = _free_port(), options.out / "service"
    command = [sys.executable, "-m", "slidelift.service.cli", "serve", "--port", str(port), "--data-dir", str(data)]
    service = subprocess.Popen(command)
    try:
        with Client(f"http://127.0.0.1:{port}", retry_seconds=_START_SECONDS) as client:
            client.wait_until_ready()
            if options.slide is not None:
                _upscale(client, options.slide, options.out / "result.ome.tiff", options)
            else:
                _upscale_example(client, options)
    except ServiceError as error:
        print_message(f"error: {error.problem.detail}")
        return EXIT_FAILED
    finally:
        service.terminate()
        service.wait()
    print_result("open the .ome.tiff in QuPath: File > Open, image type Brightfield")
    return EXIT_DONE


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slide", type=Path, help="your own slide (default: an image from scikit-image)")
    parser.add_argument("--mpp", type=float, help="µm per pixel of the slide, if its file does not state it")
    parser.add_argument("--model", help="default: the recommended model for your slide, else compact-x4")
    parser.add_argument("--out", type=Path, default=Path("demo-output"), help="folder for the results")
    return parser.parse_args()


def write_slide(path: Path, image: Image.Image) -> Path:
    """Write an image as a small pyramidal slide with a pixel size."""
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for level, step in enumerate((1, 2)):
            tiff.write(
                np.asarray(image.reduce(step)),
                photometric="rgb",
                tile=(128, 128),
                compression="deflate",
                resolution=(1e4 / (_DEMO_MPP * step),) * 2,
                resolutionunit="CENTIMETER",
                subfiletype=1 if level else 0,
                metadata=None,
            )
    return path


def _upscale_example(client: Client, options: argparse.Namespace) -> None:
    """Upscale the example image, and a copy reduced by 4, which is then compared to the original."""
    from skimage.data import immunohistochemistry

    truth = Image.fromarray(immunohistochemistry())
    slide = write_slide(options.out / "demo-slide.tiff", truth)
    _upscale(client, slide, options.out / "result.ome.tiff", options)
    quarter = truth.resize((truth.width // 4, truth.height // 4), Image.Resampling.BICUBIC)
    small = write_slide(options.out / "demo-quarter.tiff", quarter)
    result = _upscale(client, small, options.out / "quarter-result.ome.tiff", options)
    with tifffile.TiffFile(result) as tiff:
        upscaled = Image.fromarray(tiff.series[0].levels[0].asarray())
    comparison = options.out / "before-after.png"
    _write_comparison((quarter.resize(truth.size, Image.Resampling.BICUBIC), upscaled, truth), comparison)
    print_result(f"{comparison.resolve()}: a detail enlarged 4x by bicubic and by {options.model}, and the original")


def _upscale(client: Client, slide: Path, target: Path, options: argparse.Namespace) -> Path:
    """Upload a slide, upscale it, download the result and check that it opens."""
    print_message(f"uploading {slide}")
    uploaded = client.upload(slide)
    print_message(f"  {uploaded.width}x{uploaded.height} px, sha256 {uploaded.sha256[:16]}…")
    job_options: JobOptions = {"model": options.model}
    if options.mpp:
        job_options["mpp"] = options.mpp
    job = client.follow(client.submit(uploaded.id, **job_options).id, _print_progress)
    for warning in job.warnings:
        print_message(f"warning: {warning}")
    if job.error is not None:
        raise ServiceError(job.error)
    client.download(job.id, target, overwrite=True)
    with tifffile.TiffFile(target) as tiff:
        levels = ", ".join(f"{level.shape[1]}x{level.shape[0]}" for level in tiff.series[0].levels)
    print_result(f"{target.resolve()}: levels {levels}")
    return target


def _print_progress(job: Job) -> None:
    progress = job.progress
    print_message(f"  {job.state} {job.stage or ''} {progress.tiles_done}/{progress.tiles_total} tiles")


def _write_comparison(images: Sequence[Image.Image], target: Path, zoom: int = 2) -> None:
    """Write the same detail of each image side by side."""
    box = (150, 110, 390, 350)
    side = (box[2] - box[0]) * zoom
    canvas = Image.new("RGB", (len(images) * (side + 8) - 8, side), "white")
    for column, image in enumerate(images):
        detail = image.crop(box).resize((side, side), Image.Resampling.NEAREST)
        canvas.paste(detail, (column * (side + 8), 0))
    canvas.save(target)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    sys.exit(main())

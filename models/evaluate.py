"""Score models on held-out images against bicubic.

    python -m models.evaluate --images DIR... --models A,B [--scale 4] [--json OUT] [--count N]

Each folder is a set, named after it. The source is the image cropped to a multiple of the scale and
reduced by Pillow's antialiased bicubic; scores are means over a set's images.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.metrics.fidelity import psnr_y, ssim_y
from models.upscaler import PatchUpscaler, load_upscaler

BASELINE = "bicubic"
_SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff"}


@dataclass(frozen=True, slots=True)
class Score:
    """Means over one set's images, and how far they are above bicubic's on the same images."""

    images: int
    psnr_y: float
    ssim_y: float
    psnr_y_gain: float
    ssim_y_gain: float


def image_files(folder: Path, count: int | None = None) -> list[Path]:
    """The first `count` images of a folder in the order of their names.

    Raises
    ------
    FileNotFoundError
        If there is none.
    """
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)[:count]
    if not files:
        raise FileNotFoundError(f"{folder}: no image ({', '.join(sorted(_SUFFIXES))})")
    return files


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """An image file as uint8 (h, w, 3)."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def reduce(image: NDArray[np.uint8], scale: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The image cropped to a multiple of the scale, and its antialiased bicubic reduction."""
    height, width = (side - side % scale for side in image.shape[:2])
    truth = image[:height, :width]
    reduced = Image.fromarray(truth).resize((width // scale, height // scale), Image.Resampling.BICUBIC)
    return truth, np.asarray(reduced)


def upscale_image(upscaler: PatchUpscaler, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Enlarge a whole small image (h, w, 3) as one patch, its border reflected as a slide's is."""
    halo, scale = upscaler.halo, upscaler.scale
    height, width, _ = image.shape
    padded = np.pad(image, ((halo, halo), (halo, halo), (0, 0)), mode="reflect")
    top = halo * scale
    kept = upscaler(padded[None])[0, top : top + height * scale, top : top + width * scale]
    return np.rint(kept).clip(0, 255).astype(np.uint8)


def evaluate(upscalers: Mapping[str, PatchUpscaler], files: Iterable[Path], scale: int) -> dict[str, Score]:
    """Score every model on one set, one image in memory at a time.

    Parameters
    ----------
    upscalers
        By the name to report; `BASELINE` must be among them.
    """
    psnr: dict[str, list[float]] = {name: [] for name in upscalers}
    ssim: dict[str, list[float]] = {name: [] for name in upscalers}
    for path in files:
        truth, source = reduce(read_rgb(path), scale)
        for name, upscaler in upscalers.items():
            enlarged = upscale_image(upscaler, source)
            psnr[name].append(psnr_y(enlarged, truth))
            ssim[name].append(ssim_y(enlarged, truth))
    psnr_mean = {name: fmean(values) for name, values in psnr.items()}
    ssim_mean = {name: fmean(values) for name, values in ssim.items()}
    return {
        name: Score(
            images=len(psnr[name]),
            psnr_y=psnr_mean[name],
            ssim_y=ssim_mean[name],
            psnr_y_gain=psnr_mean[name] - psnr_mean[BASELINE],
            ssim_y_gain=ssim_mean[name] - ssim_mean[BASELINE],
        )
        for name in upscalers
    }


def table(scores: Mapping[str, Mapping[str, Score]]) -> str:
    """Scores by set and model as a Markdown table."""
    rows = ["| set | images | model | PSNR-Y, dB | SSIM-Y | gain, dB | gain, SSIM |", "|---|---|---|---|---|---|---|"]
    rows += [
        f"| {name} | {score.images} | {model} | {score.psnr_y:.2f} | {score.ssim_y:.4f}"
        f" | {score.psnr_y_gain:+.2f} | {score.ssim_y_gain:+.4f} |"
        for name, models in scores.items()
        for model, score in models.items()
    ]
    return "\n".join(rows)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, nargs="+", required=True, help="folders of sharp images, one a set")
    parser.add_argument("--models", required=True, help="catalog names or files of weights, separated by commas")
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--json", type=Path, help="file to write the scores to")
    parser.add_argument("--count", type=int, help="only the first images of each set")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args(arguments)
    names = dict.fromkeys([BASELINE, *options.models.split(",")])
    upscalers = {name: load_upscaler(name, scale=options.scale, device=options.device) for name in names}
    scores = {
        folder.name: evaluate(upscalers, image_files(folder, options.count), options.scale) for folder in options.images
    }
    sys.stdout.write(table(scores) + "\n")
    if options.json:
        plain = {name: {model: asdict(score) for model, score in models.items()} for name, models in scores.items()}
        options.json.write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

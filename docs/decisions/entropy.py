"""Compute the tables of entropy.md: entropy of tissue and glass, and the patches kept by thresholds.

    python docs/decisions/entropy.py DATA_FOLDER

DATA_FOLDER contains `train` and `eval` (images of tissue at about 0.25 µm per pixel) and `slides`.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from slidelift.wsi.geometry import Region
from slidelift.wsi.readers.open_slide import open_slide
from slidelift.wsi.slide import Pixels
from slidelift.wsi.tissue import DEFAULT_ENTROPY, ENTROPY_BLOCK, grey_levels, is_tissue, shannon_entropy

PATCH = 256
REDUCTION = 4
PUBLISHED_ENTROPY = 7.0
TISSUE = (
    ("tnbc (train)", "train", "tnbc-*"),
    ("bcss", "train", "bcss-*"),
    ("brecahad", "train", "brecahad-*"),
    ("oscc", "train", "oscc-*"),
    ("tnbc (eval)", "eval/tnbc", "*"),
    ("kumar (eval)", "eval/kumar", "*"),
)
GLASS = ("cmu-1-small-region.svs", "cmu-0-small.tiff", "prostate-with-ink.jpeg")


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description="Entropy of tissue and glass.")
    parser.add_argument("data", type=Path, metavar="DATA_FOLDER")
    data = parser.parse_args().data
    print_line("tissue        patches   min    1%    5%  median   kept at 3   above 7")
    everything = [patch for name, folder, names in TISSUE for patch in _print_set(name, data / folder, names)]
    _print_tissue("all", everything)
    print_line("\nglass                    patches  median   max  kept at 3   blocks  median   max  above 3")
    for name in GLASS:
        _print_glass(name, data / "slides" / name)


def print_line(line: str) -> None:
    """Print a line of a table."""
    print(line)  # noqa: T201


def tissue_patches(image: Path) -> list[Pixels]:
    """Return the patches of an image reduced to about 1 µm per pixel; a smaller image is one patch."""
    full = Image.open(image).convert("RGB")
    small = full.resize((full.width // REDUCTION, full.height // REDUCTION), Image.Resampling.BICUBIC)
    return list(_squares(np.asarray(small), PATCH))


def glass_patches(pixels: Pixels, side: int) -> list[Pixels]:
    """Return the squares in which each pixel is bright and nearly colourless; entropy is not used."""
    return [square for square in _squares(pixels, side) if _is_glass(square)]


def _is_glass(pixels: Pixels) -> bool:
    colourless = np.ptp(pixels.astype(np.int16), axis=2) < 25
    return bool((colourless & (grey_levels(pixels) > 200)).all())


def _squares(pixels: Pixels, side: int) -> Iterator[Pixels]:
    height, width = pixels.shape[:2]
    for y in range(0, max(1, height - side + 1), side):
        for x in range(0, max(1, width - side + 1), side):
            yield pixels[y : y + side, x : x + side]


def _print_set(name: str, folder: Path, names: str) -> list[Pixels]:
    patches = [patch for image in sorted(folder.glob(names)) for patch in tissue_patches(image)]
    _print_tissue(name, patches)
    return patches


def _print_tissue(name: str, patches: list[Pixels]) -> None:
    bits = np.array([shannon_entropy(grey_levels(patch)) for patch in patches])
    kept = np.mean([is_tissue(patch, DEFAULT_ENTROPY) for patch in patches])
    low, first, fifth, middle = np.percentile(bits, (0, 1, 5, 50))
    published = (bits > PUBLISHED_ENTROPY).mean()
    print_line(
        f"{name:13} {len(bits):7} {low:5.2f} {first:5.2f} {fifth:5.2f} {middle:7.2f} {kept:10.0%} {published:10.0%}"
    )


def _print_glass(name: str, path: Path) -> None:
    reader = open_slide(path)
    size = reader.info.size
    pixels = reader.read_region(0, Region(0, 0, size.width, size.height))
    reader.close()
    patches, blocks = (glass_patches(pixels, side) for side in (PATCH, ENTROPY_BLOCK))
    kept = [is_tissue(patch, DEFAULT_ENTROPY) for patch in patches]
    bits = np.array([shannon_entropy(grey_levels(block)) for block in blocks])
    of_patches = np.array([shannon_entropy(grey_levels(patch)) for patch in patches])
    whole = f"{np.median(of_patches):7.2f} {of_patches.max():5.2f} {np.mean(kept):10.0%}" if kept else " " * 24
    print_line(
        f"{name:24} {len(patches):7} {whole} {len(blocks):8} {np.median(bits):7.2f} {bits.max():5.2f} "
        f"{(bits > DEFAULT_ENTROPY).mean():8.1%}"
    )


if __name__ == "__main__":
    main()

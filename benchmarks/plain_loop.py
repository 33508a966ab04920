"""Baseline of jobs: Real-ESRGAN's tiling of a large image, then libvips for the pyramid.

The image and the enlarged image are in memory as float32; the network computes every tile, also background; tiles
overlap by ten pixels and are cropped (reimplementation of Wang et al., `realesrgan/utils.py`).
"""

from pathlib import Path

import numpy as np
import openslide
import torch

from slidelift.models.zoo.catalog import catalog, weights_paths
from slidelift.models.zoo.weights import load_weights

_TILE, _PAD = 256, 10


@torch.inference_mode()
def upscale_plainly(model: str, slide: str, out: str, precision: str = "fp32", device: str = "cpu") -> None:
    """Read the whole slide, enlarge it tile after tile, and write a JPEG pyramid."""
    weights = load_weights(weights_paths(catalog()[model]))
    network, scale = weights.assembled().eval().to(device), weights.geometry.scale
    with openslide.OpenSlide(slide) as opened:
        pixels = np.array(opened.read_region((0, 0), 0, opened.dimensions).convert("RGB"))
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float().div(255).to(device)
    height, width = image.shape[2:]
    enlarged = torch.zeros(1, 3, height * scale, width * scale, device=device)
    for top in range(0, height, _TILE):
        for left in range(0, width, _TILE):
            bottom, right = min(top + _TILE, height), min(left + _TILE, width)
            above, before = max(top - _PAD, 0), max(left - _PAD, 0)
            patch = image[:, :, above : min(bottom + _PAD, height), before : min(right + _PAD, width)]
            with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
                tile = network(patch).float()
            y, x = (top - above) * scale, (left - before) * scale
            rows, columns = (bottom - top) * scale, (right - left) * scale
            enlarged[:, :, top * scale : bottom * scale, left * scale : right * scale] = tile[
                :, :, y : y + rows, x : x + columns
            ]
    whole = enlarged[0].clamp(0, 1).cpu().numpy()
    save_pyramid(np.ascontiguousarray((np.transpose(whole, (1, 2, 0)) * 255).round().astype(np.uint8)), Path(out))


def save_pyramid(pixels: np.ndarray, out: Path) -> None:
    """Write a pyramidal TIFF by libvips in slidelift's layout: JPEG 4:2:0, 512-px tiles, levels in SubIFDs."""
    import pyvips

    height, width, bands = pixels.shape
    image = pyvips.Image.new_from_memory(pixels, width, height, bands, "uchar")
    shape = {"tile": True, "tile_width": 512, "tile_height": 512, "pyramid": True, "subifd": True, "bigtiff": True}
    image.copy(interpretation="srgb").tiffsave(str(out), compression="jpeg", Q=89, **shape)

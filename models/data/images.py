"""Dataset of images held on one device, and random crops of them.

All pixels are in one flat tensor, so that a batch of flipped and transposed crops is a single gather, without a loop
over samples or a data loader. 200 MB of JPEG take about 3 GB.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from slidelift.models.data.draws import chances
from slidelift.models.errors import ImagesError
from slidelift.models.image_files import image_files, read_rgb


class ImageSet:
    """Images of any sizes, with all pixels in one uint8 tensor (total, 3).

    Memory: three bytes per pixel, twice that during construction.

    Parameters
    ----------
    images
        uint8 (3, H, W) each, at least one.

    Raises
    ------
    ImagesError
        If there is no image.
    """

    def __init__(self, images: Sequence[Tensor], device: torch.device | str = "cpu") -> None:
        if not images:
            raise ImagesError("no image to train on")
        self.sizes = torch.tensor([image.shape[1:] for image in images])
        self.areas = self.sizes.prod(1)
        self.offsets = self.areas.cumsum(0) - self.areas
        self.pixels = torch.cat([image.permute(1, 2, 0).reshape(-1, 3) for image in images]).to(device)

    @classmethod
    def read(cls, folders: Sequence[Path], least_side: int = 1, device: torch.device | str = "cpu") -> "ImageSet":
        """Read all images of the folders themselves, in the order of folders and names; grey images become RGB.

        Parameters
        ----------
        least_side
            Least side of each image in pixels: that of the crops.

        Raises
        ------
        ImagesError
            If a folder is missing or holds no image, or an image is damaged, too small or deeper than 8 bits.
        """
        return cls([_read(path, least_side) for folder in folders for path in image_files(folder)], device)

    def __len__(self) -> int:
        return len(self.areas)

    @property
    def shortest_side(self) -> int:
        """Shortest side of all images in pixels."""
        return int(self.sizes.min())

    def crops(
        self,
        count: int,
        side: int,
        rng: torch.Generator,
        *,
        entropy: float = 0.0,
        attempts: int = 16,
        larger_share: float = 0.5,
    ) -> Tensor:
        """Draw random crops, flipped and transposed at random, some taken larger and scaled down.

        Images are chosen with a probability proportional to the square root of their area; with the area itself a few
        large regions would outweigh many patients. The larger window, one size per call, has a side of up to twice
        `side`, limited by the smallest image, and is scaled down by antialiased bicubic.

        Parameters
        ----------
        count, side
            Number of crops, and their side in pixels.
        entropy
            Least Shannon entropy of the grey levels in bits, 0 to 8; crops below are drawn again (Sun et al., GraphiCon
            2023: 7, for their stain and scanner). 0 accepts every crop.
        attempts
            Maximum of redraws; the crop with the highest entropy is kept.
        larger_share
            Probability that a crop is taken larger.

        Returns
        -------
        Tensor
            float32 (count, 3, side, side) in [0, 1] on the device of the images.

        Raises
        ------
        ImagesError
            If an image is smaller than `side`.
        """
        if self.shortest_side < side:
            raise ImagesError(f"the smallest image has {self.shortest_side} px a side; crops need {side}")
        crops = self._draw(count, side, rng, larger_share)
        if entropy <= 0:
            return crops
        bits = shannon_entropy(crops)
        for _ in range(attempts):
            rows = (bits < entropy).nonzero()[:, 0]
            if not len(rows):
                break
            drawn = self._draw(len(rows), side, rng, larger_share)
            drawn_bits = shannon_entropy(drawn)
            is_better = drawn_bits > bits[rows]
            crops[rows] = torch.where(is_better[:, None, None, None], drawn, crops[rows])
            bits[rows] = torch.where(is_better, drawn_bits, bits[rows])
        return crops

    def _draw(self, count: int, side: int, rng: torch.Generator, larger_share: float) -> Tensor:
        largest = min(2 * side, self.shortest_side)
        larger = chances(count, larger_share if largest >= side + 4 else 0.0, rng)
        window = int(torch.randint(min(side + 4, largest), largest + 1, (), generator=rng, device=rng.device))
        out = torch.empty(count, 3, side, side, device=self.pixels.device)
        plain, scaled = (~larger).nonzero()[:, 0], larger.nonzero()[:, 0]
        if len(plain):
            out[plain] = self._windows(len(plain), side, rng)
        if len(scaled):
            wide = self._windows(len(scaled), window, rng)
            out[scaled] = F.interpolate(wide, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
        return out

    def _windows(self, count: int, window: int, rng: torch.Generator) -> Tensor:
        """Gather (count, 3, window, window) by one index tensor for position, flips and transposition."""
        drawn = torch.rand(count, 3, generator=rng, device=rng.device, dtype=torch.float64).cpu()
        down, across, turned = (chances(count, 0.5, rng)[:, None] for _ in range(3))
        edges = self.areas.double().sqrt().cumsum(0)
        image = torch.searchsorted(edges, drawn[:, 0] * edges[-1], right=True).clamp_max(len(self) - 1)
        heights, widths = self.sizes[image].unbind(1)
        top, left = ((drawn[:, 1 + i] * (size - window + 1)).long() for i, size in enumerate((heights, widths)))
        steps = torch.arange(window)
        rows = (top[:, None] + torch.where(down, window - 1 - steps, steps)) * widths[:, None]
        columns = left[:, None] + torch.where(across, window - 1 - steps, steps) + self.offsets[image][:, None]
        along_y = torch.where(turned, columns, rows).to(self.pixels.device, non_blocking=True)
        along_x = torch.where(turned, rows, columns).to(self.pixels.device, non_blocking=True)
        index = (along_y[:, :, None] + along_x[:, None, :]).ravel()
        pixels = self.pixels.index_select(0, index).reshape(count, window, window, 3)  # twice as fast as by planes
        return pixels.permute(0, 3, 1, 2).float().div(255)


def grey_levels(crops: Tensor) -> Tensor:
    """Return BT.601 luma of RGB in [0, 1], (N, 3, h, w) -> int64 (N, h, w) in 0..255, exactly as Pillow."""
    red, green, blue = crops.mul(255).round().long().unbind(1)
    return (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16


def shannon_entropy(crops: Tensor) -> Tensor:
    """Return the Shannon entropy of each crop's 256 grey levels in bits, (N, 3, h, w) in [0, 1] -> (N,)."""
    count = len(crops)
    levels = grey_levels(crops).reshape(count, -1)
    rows = 256 * torch.arange(count, device=crops.device)[:, None]
    share = torch.bincount((levels + rows).ravel(), minlength=256 * count).reshape(count, 256) / levels.shape[1]
    return -torch.xlogy(share, share).sum(1) / float(np.log(2))


def _read(path: Path, least_side: int) -> Tensor:
    pixels = read_rgb(path)
    height, width = pixels.shape[:2]
    if min(height, width) < least_side:
        raise ImagesError(f"{path}: {width} x {height} px; each side needs {least_side}")
    return torch.from_numpy(pixels).permute(2, 0, 1)

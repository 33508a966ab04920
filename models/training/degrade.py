"""High-resolution crops -> (low, high) training pairs, in batches, on whatever device holds the images.

Each function is a pure function of its inputs and a generator, so that a run can be repeated.
"""

import io

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor


def random_crops(images: list[Tensor], count: int, side: int, rng: torch.Generator) -> Tensor:
    """Crops of `images`, half of them taken larger and scaled down, flipped and transposed at random.

    Parameters
    ----------
    images
        uint8 (3, H, W), each side at least `2 * side`.
    count, side
        How many crops, and their side in pixels.

    Returns
    -------
    Tensor
        float32 (count, 3, side, side) in [0, 1].
    """
    areas = torch.tensor([image.shape[1] * image.shape[2] for image in images], dtype=torch.float64)
    crops = []
    for index in torch.multinomial(areas, count, replacement=True, generator=rng).tolist():
        image = images[index]
        window = side if _chance(0.5, rng) else int(torch.randint(side + 4, 2 * side + 1, (), generator=rng))
        top, left = (int(torch.randint(size - window + 1, (), generator=rng)) for size in image.shape[1:])
        crop = image[:, top : top + window, left : left + window].float().div(255)[None]
        if window != side:
            crop = F.interpolate(crop, (side, side), mode="bicubic", antialias=True, align_corners=False)
        if _chance(0.5, rng):
            crop = crop.flip(2)
        if _chance(0.5, rng):
            crop = crop.flip(3)
        if _chance(0.5, rng):
            crop = crop.transpose(2, 3)
        crops.append(crop[0])
    return torch.stack(crops).clamp(0, 1)


def stain_jitter(crops: Tensor, rng: torch.Generator, share: float = 0.7) -> Tensor:
    """Mix and scale the channels of a share of the crops in optical density, as other stains and scanners would.

    Without it a narrow training set is over-fitted: the gain on stains never seen turns down after
    8,000 iterations while that on the training set's own still climbs.
    """
    n = len(crops)
    mixing = torch.eye(3) + 0.08 * torch.randn(n, 3, 3, generator=rng)
    gain = 0.8 + 0.5 * torch.rand(n, 3, 1, generator=rng)
    chosen = (torch.rand(n, generator=rng) < share).float()[:, None, None]
    mixing = (chosen * mixing * gain + (1 - chosen) * torch.eye(3)).to(crops.device)
    density = -torch.log(crops.clamp_min(1 / 255))
    mixed = torch.einsum("nij,njhw->nihw", mixing, density)
    return torch.exp(-mixed).clamp(0, 1)


def downscale(crops: Tensor, scale: int, rng: torch.Generator, bicubic_share: float = 0.6) -> Tensor:
    """Antialiased bicubic or area mean (as a scanner's own lower levels), rounded to 8 bits."""
    size = (crops.shape[2] // scale, crops.shape[3] // scale)
    bicubic = F.interpolate(crops, size, mode="bicubic", antialias=True, align_corners=False)
    area = F.avg_pool2d(crops, scale)
    chosen = (torch.rand(len(crops), 1, 1, 1, generator=rng) < bicubic_share).to(crops.device)
    return torch.where(chosen, bicubic, area).clamp(0, 1).mul(255).round().div(255)


def compress(low: Tensor, share: float, rng: torch.Generator, qualities: tuple[int, int] = (30, 95)) -> Tensor:
    """JPEG on a share of the low-resolution crops, as scanners store them, with or without chroma subsampling.

    Without it the network sharpens the 8-px blocks of a strongly compressed slide.
    """
    out = low.clone()
    for crop in out:
        if _chance(share, rng):
            pixels = crop.mul(255).round().byte().permute(1, 2, 0).cpu().numpy()
            quality = int(torch.randint(qualities[0], qualities[1] + 1, (), generator=rng))
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=2 if _chance(0.5, rng) else 0)
            decoded = torch.from_numpy(np.array(Image.open(buffer)))
            crop.copy_(decoded.permute(2, 0, 1).float().div(255))
    return out


def _chance(share: float, rng: torch.Generator) -> bool:
    return bool(torch.rand((), generator=rng) < share)

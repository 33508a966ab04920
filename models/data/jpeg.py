"""JPEG's losses without its file: colour transform, chroma halving, 8x8 cosine transform, quantisation.

Done in batches on any device, with a quality for each sample. The tables are those of ITU-T T.81, annex K, scaled by
quality as libjpeg does; enlarging the chroma again is its triangle filter. On tissue the result is 0.2 to 0.6 grey
levels from what Pillow decodes, in the mean. No gradient passes.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_LUMA_STEPS = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51,
    87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121, 120, 101,
    72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip
_CHROMA_STEPS = (
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99,
    99, 99, 99, *(99,) * 32,
)  # fmt: skip
_TO_YCC = ((0.299, 0.587, 0.114), (-0.168735892, -0.331264108, 0.5), (0.5, -0.418687589, -0.081312411))
_FROM_YCC = ((1.0, 0.0, 1.402), (1.0, -0.344136286, -0.714136286), (1.0, 1.772, 0.0))


@torch.no_grad()
def jpeg(images: Tensor, quality: Tensor, halve_chroma: bool) -> Tensor:
    """What remains of each image after it was stored as JPEG.

    Parameters
    ----------
    images
        (N, 3, h, w) in [0, 1], any size; rounded to 8 bits first.
    quality
        (N,), 1 to 100 as libjpeg counts it; fractions are allowed.
    halve_chroma
        4:2:0, else 4:4:4.

    Returns
    -------
    Tensor
        (N, 3, h, w) in [0, 1] on the grid of 8 bits.
    """
    height, width = images.shape[2:]
    unit = 16 if halve_chroma else 8
    ycc = _mix(images.float().clamp(0, 1).mul(255).round(), _TO_YCC).round()  # around 0 for chroma
    ycc = F.pad(ycc, (0, -width % unit, 0, -height % unit), mode="replicate")
    luma = _through_blocks(ycc[:, :1] - 128, _steps(_LUMA_STEPS, quality, images.device)) + 128
    chroma = ycc[:, 1:]
    if halve_chroma:
        chroma = F.avg_pool2d(chroma, 2).round()
    chroma = _through_blocks(chroma, _steps(_CHROMA_STEPS, quality, images.device))
    if halve_chroma:
        chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear").round()
    rgb = _mix(torch.cat([luma, chroma], 1), _FROM_YCC).round().clamp(0, 255).div(255)
    return rgb[:, :, :height, :width].contiguous()


def _mix(image: Tensor, matrix: tuple[tuple[float, float, float], ...]) -> Tensor:
    # sums of products by hand: as a matrix product it would follow the run's choice of TF32
    planes = image.unbind(1)
    return torch.stack([sum((f * p for f, p in zip(row, planes, strict=True)), torch.zeros(())) for row in matrix], 1)


def _steps(table: tuple[int, ...], quality: Tensor, device: torch.device) -> Tensor:
    """(N, 64): the quantisation steps of each sample."""
    quality = quality.double().cpu().clamp(1, 100)
    percent = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality).floor()
    steps = ((torch.tensor(table) * percent[:, None] + 50) / 100).floor().clamp(1, 255)
    return steps.float().to(device, non_blocking=True)


def _transform(device: torch.device) -> Tensor:
    """(64, 64): the orthonormal two-dimensional cosine transform of a flattened block."""
    k = torch.arange(8, dtype=torch.float64)
    one = torch.cos((2 * k[None] + 1) * k[:, None] * math.pi / 16) / 2
    one[0] /= math.sqrt(2)
    return torch.kron(one, one).float().to(device, non_blocking=True)


def _through_blocks(planes: Tensor, steps: Tensor) -> Tensor:
    """Planes (N, C, h, w), sides multiples of 8, after their coefficients were rounded to the steps (N, 64)."""
    count, channels, height, width = planes.shape
    split = (count, channels, height // 8, 8, width // 8, 8)
    blocks = planes.reshape(split).transpose(3, 4).reshape(count, -1, 64)
    transform, steps = _transform(planes.device), steps[:, None]
    coefficients = blocks @ transform.T / steps
    coefficients = coefficients.sign() * (coefficients.abs() + 0.5).floor() * steps  # ties away from zero, as libjpeg
    blocks = (coefficients @ transform).round()
    split = (count, channels, height // 8, width // 8, 8, 8)
    return blocks.reshape(split).transpose(3, 4).reshape(planes.shape).clamp(-128, 127)

"""One back-projection step after any network: what it drew, reduced again, is the source it was given.

The reduction's error is enlarged and added (Irani and Peleg, CVGIP 53(3), 1991). It holds mean colours and coarse
structure to the source, whatever the network believes; trained with the step in place, a network spends its
capacity on what the source does not tell.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

REACH = 4
"""Source pixels that the step looks further than its network: two in reducing, two in enlarging."""
SCALES = (2, 4)
"""Where filter positions are exact in floating point, so that tiles join exactly."""


class BackProjected(nn.Module):
    """(N, C, h, w) in [0, 1] -> (N, C, scale*h, scale*w), as `network`, with the source restored under reduction.

    Parameters
    ----------
    network
        Its output is corrected. A file of weights holds its tensors alone: others can use them without the step.
    scale
        One of `SCALES`.

    Raises
    ------
    ValueError
        If the scale is another.
    """

    def __init__(self, network: nn.Module, scale: int) -> None:
        super().__init__()
        if scale not in SCALES:
            raise ValueError(f"back-projection is exact at scales {SCALES}, not at {scale}")
        self.network = network
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """Network in whatever precision autocast sets, correction in float32."""
        image: Tensor = self.network(x)
        with torch.autocast(x.device.type, enabled=False):
            image = image.float()
            missing = x.float() - bicubic(image, x.shape[2:])
            return image + bicubic(missing, image.shape[2:])


def bicubic(image: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
    """Pillow's bicubic (a = -0.5, antialiased in reducing), on tensors."""
    return F.interpolate(image, size, mode="bicubic", antialias=True, align_corners=False)

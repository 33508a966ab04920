"""Back-projection step after a network, which makes the reduced result agree with the source.

The difference between the source and the reduced result is enlarged and added (Irani and Peleg, CVGIP 53(3), 1991).
This keeps mean colours and coarse structure; a network trained with the step uses its capacity for fine detail.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

REACH = 4
"""Source pixels that the step adds to the receptive radius: two for reducing, two for enlarging."""
SCALES = (2, 4)
"""Scales at which filter positions are exact in floating point, so that tiles join exactly."""


class BackProjected(nn.Module):
    """`network` followed by one back-projection step: (N, C, h, w) in [0, 1] -> (N, C, scale*h, scale*w).

    Parameters
    ----------
    network
        Network to correct. Files of weights hold only its tensors, so that they can be used without the step.
    scale
        One of `SCALES`.

    Raises
    ------
    ValueError
        If the scale is not supported.
    """

    def __init__(self, network: nn.Module, scale: int) -> None:
        super().__init__()
        if scale not in SCALES:
            raise ValueError(f"back-projection is exact at scales {SCALES}, not at {scale}")
        self.network = network
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """Run the network in autocast's precision and the correction in float32."""
        image: Tensor = self.network(x)
        with torch.autocast(x.device.type, enabled=False):
            image = image.float()
            missing = x.float() - bicubic(image, x.shape[2:])
            return image + bicubic(missing, image.shape[2:])


def bicubic(image: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
    """Resize by Pillow's bicubic (a = -0.5, antialiased when reducing)."""
    return F.interpolate(image, size, mode="bicubic", antialias=True, align_corners=False)

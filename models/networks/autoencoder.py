"""Autoencoder of SRGAN_SQE, whose encoder is used in the manifold loss.

The paper names the layers (convolution, ReLU, residual blocks, a decoder that mirrors the encoder) but no sizes; the
project uses 64 features, two downsampling steps and two residual blocks at each size. 64 x 64 x 3 values become
16 x 16 x 16, a third as many: too few for noise, enough for the texture of nuclei.

Source: Upadhyay & Awate, "Robust Super-Resolution GAN, with Manifold-Based and Perception Loss", ISBI 2019, 2.1.
"""

from torch import Tensor, nn

from slidelift.models.networks.blocks import ResidualBlock, conv3

_BLOCKS = 2


class Autoencoder(nn.Module):
    """(N, channels, h, w) in about [0, 1] -> the same shape; h and w are multiples of 4.

    Parameters
    ----------
    channels
        1 for grey images, 3 for RGB.
    features
        Channels of the residual blocks.
    code
        Channels of the code, which has a quarter of the image's height and width.

    Attributes
    ----------
    encoder, decoder
        (N, channels, h, w) -> (N, code, h/4, w/4), and the reverse.
    """

    def __init__(self, channels: int = 3, features: int = 64, code: int = 16) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            conv3(channels, features),
            nn.ReLU(inplace=True),
            *_downsample(features),
            *_downsample(features),
            conv3(features, code),
        )
        self.decoder = nn.Sequential(
            conv3(code, features),
            *_upsample(features),
            *_upsample(features),
            nn.ReLU(inplace=True),
            conv3(features, channels),
        )

    def forward(self, image: Tensor) -> Tensor:
        decoded: Tensor = self.decoder(self.encoder(image))
        return decoded


def _downsample(features: int) -> list[nn.Module]:
    """Residual blocks, then a strided convolution."""
    blocks: list[nn.Module] = [ResidualBlock(features) for _ in range(_BLOCKS)]
    return [*blocks, nn.Conv2d(features, features, 4, 2, 1), nn.ReLU()]


def _upsample(features: int) -> list[nn.Module]:
    """Mirror of `_downsample`."""
    blocks: list[nn.Module] = [ResidualBlock(features) for _ in range(_BLOCKS)]
    return [nn.ReLU(), nn.ConvTranspose2d(features, features, 4, 2, 1), *blocks]

"""Discriminators for adversarial training.

Each takes RGB in about [0, 1], with sides that are multiples of 16 and at least 64 pixels, and returns logits.

Sources: Ledig et al., "SRGAN", CVPR 2017; Wang et al., "Real-ESRGAN", ICCVW 2021 (U-Net); Upadhyay & Awate,
"SRGAN_SQE", ISBI 2019, section 2.1.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import spectral_norm


class SRGANDiscriminator(nn.Module):
    """(N, channels, h, w) -> (N, 1) logits, one per image.

    Eight 3x3 convolutions, every second one with stride 2, as in SRGAN; global average pooling instead of the paper's
    dense layer, so that any size is accepted. Keys are those of leftthomas's SRGAN: one list `net`.
    """

    def __init__(self, channels: int = 3, features: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels, features, 3, padding=1), nn.LeakyReLU(0.2)]
        inputs = features
        for number in range(1, 8):
            outputs = features * 2 ** (number // 2)
            halving = 1 + number % 2
            layers += [nn.Conv2d(inputs, outputs, 3, halving, 1), nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2)]
            inputs = outputs
        layers += [nn.AdaptiveAvgPool2d(1), nn.Conv2d(inputs, 2 * inputs, 1), nn.LeakyReLU(0.2)]
        self.net = nn.Sequential(*layers, nn.Conv2d(2 * inputs, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.net(image)
        return logits.flatten(1)


class UNetDiscriminator(nn.Module):
    """(N, channels, h, w) -> (N, 1, h, w) logits, one per pixel.

    Three downsampling and three upsampling steps with added skip connections; spectral norm on all but the first and
    the last layer. Keys are those of `RealESRGAN_x4plus_netD.pth`.
    """

    def __init__(self, channels: int = 3, features: int = 64) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(channels, features, 3, padding=1)
        self.conv1 = _halving(features, 2 * features)
        self.conv2 = _halving(2 * features, 4 * features)
        self.conv3 = _halving(4 * features, 8 * features)
        self.conv4 = _keeping(8 * features, 4 * features)
        self.conv5 = _keeping(4 * features, 2 * features)
        self.conv6 = _keeping(2 * features, features)
        self.conv7 = _keeping(features, features)
        self.conv8 = _keeping(features, features)
        self.conv9 = nn.Conv2d(features, 1, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        whole = _lrelu(self.conv0(image))
        half = _lrelu(self.conv1(whole))
        quarter = _lrelu(self.conv2(half))
        out = _lrelu(self.conv3(quarter))
        out = _lrelu(self.conv4(_double(out))) + quarter
        out = _lrelu(self.conv5(_double(out))) + half
        out = _lrelu(self.conv6(_double(out))) + whole
        logits: Tensor = self.conv9(_lrelu(self.conv8(_lrelu(self.conv7(out)))))
        return logits


class SQEDiscriminator(nn.Module):
    """(N, channels, h, w) -> (N, 1) logits, one per image.

    Pairs of strided convolution and batch normalisation, as in section 2.1 of SRGAN_SQE; its sigmoid is part of the
    loss. The paper gives neither widths nor depth: here four layers, 64 to 512 channels wide, which fit 64-pixel crops.
    """

    def __init__(self, channels: int = 3, features: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = channels
        for outputs in (features, 2 * features, 4 * features, 8 * features):
            layers += [nn.Conv2d(inputs, outputs, 4, 2, 1), nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2)]
            inputs = outputs
        self.net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Conv2d(inputs, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.net(image)
        return logits.flatten(1)


DISCRIMINATORS: dict[str, Callable[..., nn.Module]] = {
    "srgan": SRGANDiscriminator,
    "unet": UNetDiscriminator,
    "srgan-sqe": SQEDiscriminator,
}
"""Every discriminator by name; each takes `channels` and `features`."""


def _halving(inputs: int, outputs: int) -> nn.Module:
    return spectral_norm(nn.Conv2d(inputs, outputs, 4, 2, 1, bias=False))


def _keeping(inputs: int, outputs: int) -> nn.Module:
    return spectral_norm(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False))


def _lrelu(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2)


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)

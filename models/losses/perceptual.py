"""Perceptual loss: distance of VGG19's features before activation, as in ESRGAN and Real-ESRGAN.

VGG19's weights (548 MB, trained on ImageNet) are not the project's to distribute; users provide torchvision's file.

Sources: Simonyan and Zisserman, ICLR 2015; Johnson et al., ECCV 2016; Wang et al., ESRGAN, ECCVW 2018.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from slidelift.models.errors import WeightsError

_WIDTHS = ((64, 64), (128, 128), (256,) * 4, (512,) * 4, (512,) * 4)
_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)
_FILE = "torchvision's vgg19-dcbb9e9d.pth (keys features.0.weight …), or its tensors as .safetensors"
REALESRGAN_LAYERS: Mapping[str, float] = {
    "conv1_2": 0.1, "conv2_2": 0.1, "conv3_4": 1.0, "conv4_4": 1.0, "conv5_4": 1.0,
}  # fmt: skip
"""Layers and their weights; ESRGAN uses conv5_4 only."""
_UNREADABLE = (OSError, RuntimeError, ValueError, LookupError, TypeError, EOFError, pickle.UnpicklingError)


class VGG19Features(nn.Module):
    """Features of RGB in [0, 1] before activation, by layer name (`conv1_1` to `conv5_4`).

    `features` has torchvision's numbering and ends at the last requested layer.

    Raises
    ------
    ValueError
        If a layer's name is unknown, or none is given.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        indices: dict[str, int] = {}
        width = 3
        for block, widths in enumerate(_WIDTHS, 1):
            for number, features in enumerate(widths, 1):
                indices[f"conv{block}_{number}"] = len(layers)
                layers += [nn.Conv2d(width, features, 3, padding=1), nn.ReLU()]
                width = features
            layers.append(nn.MaxPool2d(2))
        if not names or (unknown := [name for name in names if name not in indices]):
            raise ValueError(f"no layers {unknown if names else names} in VGG19; available: {', '.join(indices)}")
        self.names = {indices[name]: name for name in names}
        self.features = nn.Sequential(*layers[: max(self.names) + 1])
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(_DEVIATION)[:, None, None], persistent=False)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) -> layer name -> features."""
        out = (image - self.mean) / self.deviation
        features: dict[str, Tensor] = {}
        for index, layer in enumerate(self.features):
            out = layer(out)
            if index in self.names:
                features[self.names[index]] = out
        return features


class Perceptual:
    """Weighted sum of the mean distances of VGG19's features.

    Parameters
    ----------
    weights
        torchvision's `vgg19-dcbb9e9d.pth`, or its tensors as safetensors.
    layers
        Layer name -> weight.
    criterion
        "l1" (ESRGAN, Real-ESRGAN) or "mse" (SRGAN).

    Raises
    ------
    WeightsError
        If the file is missing, damaged, or not VGG19's.
    ValueError
        If a layer or the criterion is unknown.
    """

    def __init__(
        self, weights: str | Path, layers: Mapping[str, float] = REALESRGAN_LAYERS, criterion: str = "l1"
    ) -> None:
        if criterion not in ("l1", "mse"):
            raise ValueError(f"no criterion {criterion!r}; available: l1, mse")
        self.layers = dict(layers)
        self.distance = F.l1_loss if criterion == "l1" else F.mse_loss
        self.network = _load(Path(weights), VGG19Features(tuple(self.layers)))

    def __call__(self, prediction: Tensor, target: Tensor, _low: Tensor) -> Tensor:
        self.network.to(prediction.device)
        with torch.no_grad():
            expected = self.network(target)
        actual = self.network(prediction)
        terms = [
            weight * self.distance(actual[name].float(), expected[name].float()) for name, weight in self.layers.items()
        ]
        return torch.stack(terms).sum()


def _load(path: Path, network: VGG19Features) -> VGG19Features:
    if not path.is_file():
        raise WeightsError(f"{path}: no such file; the perceptual loss needs {_FILE}")
    try:
        is_safe = path.suffix.lower() == ".safetensors"
        content = load_file(path) if is_safe else torch.load(path, weights_only=True, map_location="cpu")
        network.load_state_dict({key: content[key].float() for key in network.state_dict()}, strict=True)
    except (*_UNREADABLE, SafetensorError) as error:
        raise WeightsError(f"{path}: not VGG19's weights ({type(error).__name__}); use {_FILE}") from error
    return network.eval().requires_grad_(False)

"""Description of an architecture besides its forward pass."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

StateDict = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Geometry:
    """How patches must be cut so that tiling is not visible.

    Attributes
    ----------
    scale
        Output pixels per source pixel along each axis.
    halo
        Source pixels of context around each tile.
    exact
        True where `halo` covers the whole receptive field, so that a tiled result equals the untiled one.
    fade
        Source pixels over which neighbouring tiles are cross-faded; 0 for exact networks.
    size_multiple
        The patch's height and width must be multiples of this.
    """

    scale: int
    halo: int
    exact: bool
    fade: int
    size_multiple: int = 1


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """One architecture: how to recognise its weights, build it and cut patches for it.

    Attributes
    ----------
    recognise
        Whether a state dict belongs to this architecture, by its keys (of any known implementation).
    canonical
        Converts the keys of other implementations to those of the module that `build` returns.
    hyperparameters
        Infers widths, depth and scale from a canonical state dict's shapes; no `scale` if they do not determine it.
    build
        Returns the module for these hyperparameters, randomly initialised. Input and output are RGB in [0, 1],
        (N, 3, h, w) -> (N, 3, scale*h, scale*w).
    geometry
        Returns how to cut patches for a network of these hyperparameters.
    paper
        Publication of the architecture.
    scales
        Values of `scale` that `build` accepts.
    """

    name: str
    recognise: Callable[[StateDict], bool]
    canonical: Callable[[StateDict], dict[str, Tensor]]
    hyperparameters: Callable[[StateDict], dict[str, int]]
    build: Callable[..., nn.Module]
    geometry: Callable[[Mapping[str, int]], Geometry]
    paper: str
    scales: tuple[int, ...] = (2, 3, 4)

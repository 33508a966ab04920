"""What the rest of the program needs to know of an architecture, beside its forward pass."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

StateDict = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Geometry:
    """How a network's patches must be cut so that tiling does not show.

    Attributes
    ----------
    scale
        Output pixels per source pixel along each axis.
    halo
        Source pixels of context read around what is kept.
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
        Whether a state dict's keys are this architecture's (any of its dialects).
    canonical
        Rewrites a dialect's keys to those of the module that `build` returns.
    hyperparameters
        Widths, depth and scale, read off a canonical state dict's shapes; no `scale` where they do not tell it.
    build
        The module for those hyperparameters, with random weights. Input and output are RGB in [0, 1],
        (N, 3, h, w) -> (N, 3, scale*h, scale*w).
    geometry
        How to cut patches for a network of those hyperparameters.
    paper
        Where the architecture was published.
    scales
        What `build` takes as `scale`.
    """

    name: str
    recognise: Callable[[StateDict], bool]
    canonical: Callable[[StateDict], dict[str, Tensor]]
    hyperparameters: Callable[[StateDict], dict[str, int]]
    build: Callable[..., nn.Module]
    geometry: Callable[[Mapping[str, int]], Geometry]
    paper: str
    scales: tuple[int, ...] = (2, 3, 4)

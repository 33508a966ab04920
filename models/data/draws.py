"""Random numbers from the run's single generator, on any device.

Small draws are returned on the CPU, where they control what is computed; with a CPU generator they need no
synchronisation with the accelerator. Noise images are drawn on the device of the pixels, by a generator seeded from the
run's, so that they depend only on the state of the run's generator.
"""

import torch
from torch import Tensor

Range = tuple[float, float]
"""Lower and upper end of a uniform draw."""


def uniform(count: int, bounds: Range, rng: torch.Generator) -> Tensor:
    """Draw float32 (count,) on the CPU, uniform in `bounds`."""
    low, high = bounds
    return low + (high - low) * torch.rand(count, generator=rng, device=rng.device).cpu()


def chances(count: int, share: float, rng: torch.Generator) -> Tensor:
    """Draw `count` booleans on the CPU, each true with probability `share`."""
    return torch.rand(count, generator=rng, device=rng.device).cpu() < share


def chance(share: float, rng: torch.Generator) -> bool:
    """Return True with probability `share`."""
    return bool(chances(1, share, rng))


def choose(shares: tuple[float, ...], count: int, rng: torch.Generator) -> Tensor:
    """Draw int64 (count,) on the CPU: i with a probability proportional to `shares[i]`."""
    steps = torch.tensor(shares, dtype=torch.float64).cumsum(0)
    drawn = torch.rand(count, generator=rng, device=rng.device, dtype=torch.float64).cpu()
    return torch.searchsorted(steps, drawn * steps[-1], right=True).clamp_max(len(shares) - 1)


def generator_on(device: torch.device, rng: torch.Generator) -> torch.Generator:
    """Return `rng` if it is on a device of that type, else a generator on the device, seeded from `rng`."""
    if rng.device.type == device.type:
        return rng
    seed = torch.randint(2**62, (), generator=rng, device=rng.device)
    return torch.Generator(device).manual_seed(int(seed))


def normal_like(image: Tensor, rng: torch.Generator) -> Tensor:
    """Draw standard normal noise of `image`'s shape on its device."""
    return torch.randn(image.shape, generator=generator_on(image.device, rng), device=image.device)


def per_sample(values: Tensor, image: Tensor) -> Tensor:
    """Reshape (N,) to (N, 1, 1, 1) on the device of `image`."""
    return values.to(image.device, non_blocking=True)[:, None, None, None]

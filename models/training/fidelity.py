"""Train a compact network for fidelity: matched degradation, Charbonnier loss, no adversary.

    python -m models.training.fidelity --images DIR --out WEIGHTS.safetensors

As it stands, the recipe of the shipped `compact-x4`. A run that is stopped continues from its last checkpoint.
``--init FILE --jpeg-share 0.3 --iterations 2500 --learning-rate 3e-4`` teaches it the JPEG blocks of real scanners;
that short a lesson blurred those of a quality-30 slide a little and cost 0.07 dB (TNBC) and 0.12 dB (Kumar), so
the shipped weights do without.
"""

import argparse
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models.networks.srvgg_compact import SRVGGNetCompact
from models.training.degrade import compress, downscale, random_crops, stain_jitter


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything the result depends on besides the images."""

    features: int = 64
    convolutions: int = 16
    scale: int = 4
    iterations: int = 10_000
    batch: int = 8
    crop: int = 128
    learning_rate: float = 1e-3
    jpeg_share: float = 0.0
    ema: float = 0.999
    clip: float = 1.0
    seed: int = 0


def charbonnier(prediction: Tensor, target: Tensor, epsilon: float = 1e-3) -> Tensor:
    """Smooth L1 (Lai et al., CVPR 2017): mean of sqrt(r^2 + epsilon^2)."""
    return torch.sqrt((prediction - target) ** 2 + epsilon**2).mean()


def load_images(folder: Path, least_side: int, device: torch.device) -> list[Tensor]:
    """Every image of a folder as uint8 (3, H, W) on the device, in the order of the names."""
    images = []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in {".png", ".jpg", ".jpeg", ".tif", ".tiff"}:
            pixels = np.asarray(Image.open(path).convert("RGB"))
            if min(pixels.shape[:2]) >= least_side:
                images.append(torch.from_numpy(pixels.copy()).permute(2, 0, 1).contiguous().to(device))
    if not images:
        raise SystemExit(f"{folder}: no image of at least {least_side} pixels a side")
    return images


def train(
    recipe: Recipe, images: list[Tensor], checkpoint: Path, device: torch.device, init: Path | None = None
) -> nn.Module:
    """The network with its averaged (EMA) weights after `recipe.iterations` steps, from the weights `init` if given."""
    torch.manual_seed(recipe.seed)
    network = SRVGGNetCompact(recipe.features, recipe.convolutions, recipe.scale)
    if init is not None:
        network.load_state_dict({key: value.float() for key, value in load_file(init).items()})
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    averaged = {key: value.detach().clone() for key, value in network.state_dict().items()}
    optimiser = torch.optim.AdamW(network.parameters(), recipe.learning_rate, betas=(0.9, 0.99))
    rng = torch.Generator().manual_seed(recipe.seed)
    first = 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True, map_location=device)
        network.load_state_dict(saved["network"])
        optimiser.load_state_dict(saved["optimiser"])
        averaged, first = saved["averaged"], saved["iteration"]
        rng.set_state(saved["rng"].cpu())
    bf16 = device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()
    start, shown = time.monotonic(), 0.0
    for iteration in range(first, recipe.iterations):
        for group in optimiser.param_groups:
            group["lr"] = _cosine(recipe, iteration)
        high = stain_jitter(random_crops(images, recipe.batch, recipe.crop, rng), rng)
        low = compress(downscale(high, recipe.scale, rng), recipe.jpeg_share, rng)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            predicted = network(low.contiguous(memory_format=torch.channels_last))
        loss = charbonnier(predicted, high)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), recipe.clip)
        optimiser.step()
        decay = min(recipe.ema, (iteration + 1) / (iteration + 10))
        for key, value in network.state_dict().items():
            averaged[key].lerp_(value, 1 - decay)
        shown = loss.item() if iteration == first else 0.99 * shown + 0.01 * loss.item()
        if (iteration + 1) % 200 == 0 or iteration + 1 == recipe.iterations:
            rate = (iteration + 1 - first) / (time.monotonic() - start)
            print(f"{iteration + 1}/{recipe.iterations} loss {shown:.5f} {rate:.2f} it/s", flush=True)
            state = {
                "network": network.state_dict(),
                "averaged": averaged,
                "optimiser": optimiser.state_dict(),
                "iteration": iteration + 1,
                "rng": rng.get_state(),
            }
            torch.save(state, checkpoint.with_suffix(".tmp"))
            checkpoint.with_suffix(".tmp").replace(checkpoint)
    network.load_state_dict(averaged)
    network.eval()
    return network


def _cosine(recipe: Recipe, iteration: int) -> float:
    warm = min(1.0, (iteration + 1) / 100)
    return warm * recipe.learning_rate * (0.5 + 0.5 * math.cos(math.pi * iteration / recipe.iterations)) + 1e-6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder of sharp images at the target's µm/px")
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors file to write")
    for name, default in asdict(Recipe()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    parser.add_argument("--init", type=Path, help="weights (.safetensors) to start from")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = vars(parser.parse_args())
    folder, out, init = options.pop("images"), options.pop("out"), options.pop("init")
    device = torch.device(options.pop("device"))
    recipe = Recipe(**options)
    out.parent.mkdir(parents=True, exist_ok=True)
    images = load_images(folder, 2 * recipe.crop, device)
    network = train(recipe, images, out.with_suffix(".checkpoint"), device, init)
    facts = {"architecture": "srvgg-compact", **{key: str(value) for key, value in asdict(recipe).items()}}
    save_file({key: value.half().contiguous().cpu() for key, value in network.state_dict().items()}, out, facts)
    print(out)


if __name__ == "__main__":
    main()

"""`make bench`: engine, pipeline and writer as ratios measured side by side in one run.

    python -m benchmarks.bench [--model compact-x4]

Machines differ and are noisy: the ratios are what carries over. CPU seconds and peak memory stand beside wall time.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
import torch
from skimage.data import immunohistochemistry

from models.upscaler import load_upscaler
from service.pipeline.upscale import upscale
from service.request import UpscaleRequest
from wsi.writers.ome_tiff import encoder

_SIDE = 1536  # 36 tiles, six rows: one stripe
_REPEATS = 5


@dataclass(frozen=True, slots=True)
class Cost:
    """What one piece of work took."""

    wall: float
    cpu: float


def measure(work: Callable[[], object], repeats: int = 1) -> Cost:
    """The quickest of several runs."""
    costs = []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        costs.append(Cost(time.perf_counter() - wall, time.process_time() - cpu))
    return min(costs, key=lambda cost: cost.wall)


def tissue(side: int) -> np.ndarray:
    """Real tissue of any size: one picture, mirrored."""
    picture = immunohistochemistry()
    times = -(-side // picture.shape[0])
    row = np.concatenate([picture[:, :: -1 if i % 2 else 1] for i in range(times)], axis=1)
    return np.ascontiguousarray(np.concatenate([row[:: -1 if i % 2 else 1] for i in range(times)])[:side, :side])


def convolution_flops_per_second(side: int) -> float:
    """What a bare 64 -> 64 3x3 convolution reaches in float32, channels last."""
    layer = torch.nn.Conv2d(64, 64, 3, padding=1).to(memory_format=torch.channels_last)
    patch = torch.rand(1, 64, side, side).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        layer(patch)
        return 2 * 9 * 64 * 64 * side**2 / measure(lambda: layer(patch), 4 * _REPEATS).wall


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="compact-x4")
    model = parser.parse_args().model
    network = load_upscaler(model)
    patch = np.random.default_rng(0).integers(0, 256, (1, 256 + 2 * network.halo, 256 + 2 * network.halo, 3), np.uint8)
    network(patch)
    engine = measure(lambda: network(patch), _REPEATS)
    with tempfile.TemporaryDirectory() as folder:
        slide = Path(folder) / "slide.tiff"
        tifffile.imwrite(slide, tissue(_SIDE), photometric="rgb", tile=(256, 256), compression="deflate", metadata=None)
        request = UpscaleRequest(slide, Path(folder) / "out.ome.tiff", model=model, mpp=1.0, entropy=0)
        whole = measure(lambda: upscale(request))
        plain = UpscaleRequest(slide, Path(folder) / "plain.ome.tiff", model="nearest", mpp=1.0, entropy=0)
        writing = measure(lambda: upscale(plain))
    tiles = (_SIDE // 256) ** 2
    encode, tile = encoder(90), tissue(512).repeat(4, axis=0).repeat(4, axis=1)[:512, :512]
    jpeg = measure(lambda: [encode(tile) for _ in range(64)], _REPEATS)
    ceiling = jpeg.cpu / 64 * (4 * _SIDE / 512) ** 2 * 4 / 3
    bare = convolution_flops_per_second(256)
    flops = 2 * 9 * 64 * (3 + 64 * 16 + 48) * patch.shape[1] ** 2
    rows = [
        (f"engine, {model}, one {patch.shape[1]}-px patch", engine, ""),
        *(
            [
                (
                    "of a bare 64-channel convolution's rate",
                    None,
                    f"{flops / engine.wall / bare:.0%}",
                )
            ]
            if model == "compact-x4"
            else []
        ),
        (f"whole job, {tiles} tissue tiles", whole, ""),
        ("of it in the engine (pipeline efficiency)", None, f"{tiles * engine.wall / whole.wall:.0%}"),
        ("whole job with nearest neighbour: reading, pyramid, writing, reading back", writing, ""),
        ("its CPU over pure JPEG encoding of all levels", None, f"{writing.cpu / ceiling:.1f}x"),
    ]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print("| what | wall, s | CPU, s | ratio |\n|---|---|---|---|")
    for name, cost, ratio in rows:
        print(f"| {name} | {cost.wall:.3f} | {cost.cpu:.3f} | |" if cost else f"| {name} | | | {ratio} |")
    print(f"\npeak memory {peak:.0f} MiB, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()

"""Each shipped network at the pipeline's own input shape, as a share of what bare convolutions reach here."""

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from benchmarks.cost import here
from benchmarks.table import table
from slidelift.models.inference import choose_device, choose_precision
from slidelift.models.networks.blocks import ImageNetwork
from slidelift.models.upscaler import load_upscaler
from slidelift.models.zoo.catalog import ModelKind, catalog, weights_paths
from slidelift.models.zoo.weights import load_weights
from slidelift.wsi.tiling import CORE

_REPEATS = 5
_SECONDS = 6.0
"""How long an engine is timed: the mean counts, as in a job, where no tile is the luckiest."""


def seconds_per_tile(model: str, device: str = "cpu", precision: str = "auto") -> float:
    """Of one tile of the plan, halo and batch as in a job; the mean of as many as fit into six seconds."""
    upscaler = load_upscaler(model, device=device, precision=precision)
    side = CORE + upscaler.fade + 2 * upscaler.halo
    patches = np.random.default_rng(0).integers(0, 256, (upscaler.batch, side, side, 3), np.uint8)
    upscaler(patches)
    return _mean_seconds(lambda: upscaler(patches)) / upscaler.batch


def convolution_flops(model: str) -> float:
    """Multiplications and additions of all convolutions on one tile of the plan."""
    weights = load_weights(weights_paths(catalog()[model]))
    geometry, total = weights.geometry, 0.0
    side = CORE + geometry.fade + 2 * geometry.halo
    side += -side % geometry.size_multiple

    def count(layer: nn.Conv2d, _given: object, out: torch.Tensor) -> None:
        nonlocal total
        total += 2 * out.numel() * layer.weight[0].numel()

    network = weights.assembled()
    for layer in network.modules():
        if isinstance(layer, ImageNetwork) and geometry.exact:
            layer.skip_halo()  # as `NetworkUpscaler` has it, which is what is timed
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(count)
    with torch.inference_mode():
        network(torch.zeros(1, 3, side, side))
    return total


def ceiling(device: str, precision: str) -> Callable[[], float]:
    """What measures FLOP/s of a bare 64 -> 64 3x3 convolution, at the best of several shapes and layouts.

    The shape is chosen once; the rate is a mean, measured anew at each call, since machines change their pace.
    """
    where, kind = choose_device(device), torch.bfloat16 if precision == "bf16" else torch.float32
    best, chosen, flops = 0.0, None, 0.0
    for layout in (torch.contiguous_format, torch.channels_last):
        layer = nn.Conv2d(64, 64, 3, padding=1).to(where, kind, memory_format=layout)  # type: ignore[call-overload]
        for side in (64, 96, 128, 192, 256, 300):
            patch = torch.rand(1, 64, side, side).to(where, kind, memory_format=layout)
            run = _waited(lambda layer=layer, patch=patch: layer(patch), where)
            run()
            rate = 2 * 9 * 64 * 64 * side**2 / here(run, 4 * _REPEATS).wall
            if rate > best:
                best, chosen, flops = rate, run, 2.0 * 9 * 64 * 64 * side**2
    assert chosen is not None  # noqa: S101 - some shape is the best
    work = chosen
    return lambda: flops / _mean_seconds(work)


def _mean_seconds(work: Callable[[], object]) -> float:
    begun, count = time.perf_counter(), 0
    while time.perf_counter() - begun < _SECONDS:
        work()
        count += 1
    return (time.perf_counter() - begun) / count


def _waited(work: Callable[[], object], device: torch.device) -> Callable[[], None]:
    def run() -> None:
        with torch.inference_mode():
            work()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return run


def report(device: str) -> str:
    """The table."""
    precisions = dict.fromkeys(["fp32", choose_precision("auto", choose_device(device))])
    ceilings = {precision: ceiling(device, precision) for precision in precisions}
    rows, found = [], []
    for name, card in catalog().items():
        if card.kind is not ModelKind.NETWORK or card.imported:
            continue
        kept = (CORE * card.default_scale) ** 2
        for precision in precisions:
            before = ceilings[precision]()
            seconds = seconds_per_tile(name, device, precision)
            bare = (before + ceilings[precision]()) / 2
            found.append(f"{precision} {bare / 1e9:.0f}")
            share = convolution_flops(name) / seconds / bare
            rows.append([name, precision, f"{seconds:.4g}", f"{1e9 * seconds / kept:.3g}", f"{share:.0%}"])
    head = ["model", "precision", "s a tile", "ns a kept output pixel", "of the convolution ceiling"]
    note = (
        f"Ceiling, a bare 64 → 64 3×3 convolution at its best shape, before and after each: {', '.join(found)} GFLOP/s."
    )
    return table("Engine", head, rows, note)

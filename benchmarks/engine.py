"""Inference of each shipped network on the pipeline's input shape, compared to a single convolution's FLOP/s."""

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from benchmarks.cost import measure
from benchmarks.table import table
from slidelift.models.inference import choose_device, choose_precision
from slidelift.models.networks.blocks import ImageNetwork
from slidelift.models.upscaler import load_upscaler
from slidelift.models.zoo.catalog import ModelKind, catalog, weights_paths
from slidelift.models.zoo.weights import load_weights
from slidelift.wsi.tiling import CORE

_REPEATS = 5
_SECONDS = 6.0
"""Duration of a timing; its mean is reported, since a job's time is the sum over all tiles."""


def seconds_per_tile(model: str, device: str = "cpu", precision: str = "auto") -> float:
    """Return the mean seconds per tile, with halo and batch as in a job, over six seconds of inference."""
    upscaler = load_upscaler(model, device=device, precision=precision)
    side = CORE + upscaler.fade + 2 * upscaler.halo
    patches = np.random.default_rng(0).integers(0, 256, (upscaler.batch, side, side, 3), np.uint8)
    upscaler(patches)
    return _mean_seconds(lambda: upscaler(patches)) / upscaler.batch


def convolution_flops(model: str) -> float:
    """Return the multiplications and additions of all convolutions for one tile."""
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
            layer.skip_halo()  # as `NetworkUpscaler` does
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(count)
    with torch.inference_mode():
        network(torch.zeros(1, 3, side, side))
    return total


def ceiling(device: str, precision: str) -> Callable[[], float]:
    """Return a function that measures FLOP/s of a 64 -> 64 3x3 convolution at its best shape and layout.

    The shape is chosen once; each call measures the mean rate again, since machines change their speed.
    """
    chosen_device, dtype = choose_device(device), torch.bfloat16 if precision == "bf16" else torch.float32
    best, chosen, flops = 0.0, None, 0.0
    for layout in (torch.contiguous_format, torch.channels_last):
        layer = nn.Conv2d(64, 64, 3, padding=1).to(chosen_device, dtype, memory_format=layout)  # type: ignore[call-overload]
        for side in (64, 96, 128, 192, 256, 300):
            patch = torch.rand(1, 64, side, side).to(chosen_device, dtype, memory_format=layout)
            run = _synchronised(lambda layer=layer, patch=patch: layer(patch), chosen_device)
            run()
            rate = 2 * 9 * 64 * 64 * side**2 / measure(run, 4 * _REPEATS).wall
            if rate > best:
                best, chosen, flops = rate, run, 2.0 * 9 * 64 * 64 * side**2
    assert chosen is not None  # noqa: S101 - for mypy
    work = chosen
    return lambda: flops / _mean_seconds(work)


def _mean_seconds(work: Callable[[], object]) -> float:
    begun, count = time.perf_counter(), 0
    while time.perf_counter() - begun < _SECONDS:
        work()
        count += 1
    return (time.perf_counter() - begun) / count


def _synchronised(work: Callable[[], object], device: torch.device) -> Callable[[], None]:
    def run() -> None:
        with torch.inference_mode():
            work()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return run


def report(device: str) -> str:
    """Return the table."""
    precisions = dict.fromkeys(["fp32", choose_precision("auto", choose_device(device))])
    ceilings = {precision: ceiling(device, precision) for precision in precisions}
    rows, rates = [], []
    for name, card in catalog().items():
        if card.kind is not ModelKind.NETWORK or card.imported:
            continue
        pixels = (CORE * card.default_scale) ** 2
        for precision in precisions:
            before = ceilings[precision]()
            seconds = seconds_per_tile(name, device, precision)
            bare = (before + ceilings[precision]()) / 2
            rates.append(f"{precision} {bare / 1e9:.0f}")
            share = convolution_flops(name) / seconds / bare
            rows.append([name, precision, f"{seconds:.4g}", f"{1e9 * seconds / pixels:.3g}", f"{share:.0%}"])
    head = ["model", "precision", "s per tile", "ns per output pixel", "of the convolution ceiling"]
    note = (
        "Ceiling: a 64 → 64 3×3 convolution at its best shape, mean of before and after each measurement: "
        f"{', '.join(rates)} GFLOP/s."
    )
    return table("Inference", head, rows, note)

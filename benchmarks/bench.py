"""Benchmarks of inference, whole jobs, writers, readers, viewer tiles and scaling with size.

    python -m benchmarks.bench [--device cuda] [--quick] [--only engine,writer]

Seconds depend on the machine, ratios less so. Each measurement runs once, in a separate process. `make bench` runs this
module.
"""

import argparse
import platform
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch

from benchmarks import end_to_end, engine, growth, tiler, viewer, writer
from slidelift.models.inference import choose_device


def main() -> None:
    """Measure and print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--model", default="compact-x4", help="for whole jobs")
    parser.add_argument("--quick", action="store_true", help="a quarter of the side lengths, for a trial run")
    parser.add_argument("--only", help="benchmarks to run, separated by commas")
    options = parser.parse_args()
    chosen = options.only.split(",") if options.only else ["engine", "jobs", "writer", "tiler", "viewer", "growth"]
    if find_spec("pyvips") is None and {"jobs", "writer"} & set(chosen):
        parser.error("jobs and writer need libvips: pip install '.[bench]', or choose others by --only")
    small = 4 if options.quick else 1
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tables: dict[str, Callable[[], str]] = {
            "engine": lambda: engine.report(options.device),
            "jobs": lambda: end_to_end.report(folder, options.model, options.device, 4096 // small),
            "writer": lambda: writer.report(folder, 16384 // small),
            "tiler": lambda: tiler.report(folder, 8192 // small),
            "viewer": lambda: viewer.report(folder, 16384 // small),
            "growth": lambda: growth.report(
                folder, "espcn-x4", tuple(side // small for side in (1024, 4096, 16384)), (8192 // small,)
            ),
        }
        print(f"{_machine(options.device)}\n")
        for name in chosen:
            print(tables[name](), flush=True)


def _machine(device: str) -> str:
    chosen = choose_device(device)
    name = torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return f"{platform.machine()}, {torch.get_num_threads()} threads, {name}, torch {torch.__version__}"


if __name__ == "__main__":
    main()

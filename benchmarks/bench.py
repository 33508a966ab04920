"""`make bench`: engine, whole jobs, writers, readers, viewers and growth as ratios measured side by side in one run.

    python -m benchmarks.bench [--device cuda] [--quick] [--only engine,writer]

Machines differ and are noisy: the ratios carry over. Whatever is compared runs once, in a process of its own.
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
    parser.add_argument("--quick", action="store_true", help="an eighth of the area; to see that it runs")
    parser.add_argument("--only", help="tables to make, separated by commas")
    options = parser.parse_args()
    chosen = options.only.split(",") if options.only else ["engine", "jobs", "writer", "tiler", "viewer", "growth"]
    if find_spec("pyvips") is None and {"jobs", "writer"} & set(chosen):
        parser.error("jobs and writer are compared to libvips: pip install '.[bench]', or leave them out by --only")
    small = 4 if options.quick else 1
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
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
    where = choose_device(device)
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return f"{platform.machine()}, {torch.get_num_threads()} threads, {name}, torch {torch.__version__}"


if __name__ == "__main__":
    main()

"""Measurement of wall time, CPU time and peak memory."""

import importlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Cost:
    """Wall and CPU seconds, peak memory in MiB (None if measured in this process), and the return value."""

    wall: float
    cpu: float
    peak: float | None = None
    answer: Any = None


def measure(work: Callable[[], object], repeats: int = 1) -> Cost:
    """Return the cost of the fastest of several runs in this process."""
    return min((_timed(work) for _ in range(repeats)), key=lambda cost: cost.wall)


def measure_in_subprocess(work: Callable[..., object], *arguments: Any) -> Cost:
    """Run `work`, a function of a module, in a new process; arguments and result are JSON values.

    If `work` returns a function, only that function is timed; the peak memory includes both.
    """
    command = [sys.executable, "-m", "benchmarks.cost", work.__module__, work.__qualname__, json.dumps(arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Cost(**json.loads(done.stdout.splitlines()[-1]))


def _timed(work: Callable[[], object]) -> Cost:
    wall, cpu = time.perf_counter(), time.process_time()
    answer = work()
    return Cost(time.perf_counter() - wall, time.process_time() - cpu, answer=answer)


def _peak() -> float:
    """Return the peak memory in MiB; not by `getrusage`, whose maximum is inherited from the parent process."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024


def main() -> None:
    """Run a function of a module and print its cost as JSON."""
    module, name, arguments = sys.argv[1:]
    work = getattr(importlib.import_module(module), name)
    cost = _timed(lambda: work(*json.loads(arguments)))
    if callable(cost.answer):
        cost = _timed(cost.answer)
    print(json.dumps(asdict(cost) | {"peak": _peak()}))


if __name__ == "__main__":
    main()

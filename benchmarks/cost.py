"""What a piece of work costs: wall clock, processor time, and peak memory where it runs in a process of its own."""

import importlib
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds, and MiB at the peak (None where other work shares the process); `answer` is what the work returned."""

    wall: float
    cpu: float
    peak: float | None = None
    answer: Any = None


def here(work: Callable[[], object], repeats: int = 1) -> Cost:
    """The quickest of several runs in this process."""
    return min((_timed(work) for _ in range(repeats)), key=lambda cost: cost.wall)


def apart(work: Callable[..., object], *arguments: Any) -> Cost:
    """One run in a fresh process; `work` is a function of a module, arguments and answer are JSON values."""
    command = [sys.executable, "-m", "benchmarks.cost", work.__module__, work.__qualname__, json.dumps(arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Cost(**json.loads(done.stdout.splitlines()[-1]))


def _timed(work: Callable[[], object]) -> Cost:
    wall, cpu = time.perf_counter(), time.process_time()
    answer = work()
    return Cost(time.perf_counter() - wall, time.process_time() - cpu, answer=answer)


def main() -> None:
    """Run one function of one module and print its cost as JSON."""
    module, name, arguments = sys.argv[1:]
    work = getattr(importlib.import_module(module), name)
    cost = _timed(lambda: work(*json.loads(arguments)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(asdict(cost) | {"peak": peak}))


if __name__ == "__main__":
    main()

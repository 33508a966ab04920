"""What a piece of work costs: wall clock, processor time, and peak memory where it runs in a process of its own."""

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
    """Seconds, and MiB at the peak (None where other work shares the process); `answer` is what the work returned."""

    wall: float
    cpu: float
    peak: float | None = None
    answer: Any = None


def here(work: Callable[[], object], repeats: int = 1) -> Cost:
    """The quickest of several runs in this process."""
    return min((_timed(work) for _ in range(repeats)), key=lambda cost: cost.wall)


def apart(work: Callable[..., object], *arguments: Any) -> Cost:
    """One run in a fresh process; `work` is a function of a module, arguments and answer are JSON values.

    Where it answers with a function, that one is measured and what came before was preparation; the peak holds both.
    """
    command = [sys.executable, "-m", "benchmarks.cost", work.__module__, work.__qualname__, json.dumps(arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Cost(**json.loads(done.stdout.splitlines()[-1]))


def _timed(work: Callable[[], object]) -> Cost:
    wall, cpu = time.perf_counter(), time.process_time()
    answer = work()
    return Cost(time.perf_counter() - wall, time.process_time() - cpu, answer=answer)


def _peak() -> float:
    """MiB; not `getrusage`, whose maximum a process inherits from the one that started it."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024


def main() -> None:
    """Run one function of one module and print its cost as JSON."""
    module, name, arguments = sys.argv[1:]
    work = getattr(importlib.import_module(module), name)
    cost = _timed(lambda: work(*json.loads(arguments)))
    if callable(cost.answer):
        cost = _timed(cost.answer)
    print(json.dumps(asdict(cost) | {"peak": _peak()}))


if __name__ == "__main__":
    main()

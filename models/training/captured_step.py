"""Training step captured as a CUDA graph: one launch instead of thousands of kernel launches.

The first steps run without a graph, on the stream used for capture, so that cuDNN, cuBLAS and the optimisers make
their one-time allocations. They are ordinary training steps. Capture itself computes nothing and changes no weight, so
a failed capture needs no rollback.

Source: "CUDA Graphs", https://docs.pytorch.org/docs/stable/notes/cuda.html, whole-network capture.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor

from slidelift.models.data.pair import Pair

Losses = dict[str, Tensor]
Number = float | Tensor
Step = Callable[[Pair, Number, Number], Losses]
"""One training step on a pair, with a learning rate and a decay of the EMA weights."""

_WARM_UP = 3
"""Steps before capture, as in torch's notes."""


class Graphs(Protocol):
    """Graph capture on a device."""

    device: torch.device

    def warm_up(self, compute: Callable[[], Losses]) -> Losses:
        """Compute without a graph, before a capture."""
        ...

    def capture(self, compute: Callable[[], Losses]) -> Callable[[], Losses]:
        """Return a function that repeats the computation into the same tensors.

        Raises
        ------
        RuntimeError
            If the computation can't be captured.
        """
        ...


class CudaGraphs:
    """CUDA graphs, captured on a separate stream."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def warm_up(self, compute: Callable[[], Losses]) -> Losses:
        with self._own_stream(), warnings.catch_warnings():
            # Adam warns that it is capturable but not captured; the capture follows
            warnings.filterwarnings("ignore", "This instance was constructed with capturable")
            return compute()

    def capture(self, compute: Callable[[], Losses]) -> Callable[[], Losses]:
        graph = torch.cuda.CUDAGraph()
        with self._own_stream(), torch.cuda.graph(graph, stream=self._stream):
            losses = compute()

        def replay() -> Losses:
            graph.replay()
            return losses

        return replay

    @contextmanager
    def _own_stream(self) -> Iterator[None]:
        current = torch.cuda.current_stream(self.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            yield
        current.wait_stream(self._stream)


class CapturedStep:
    """Runs a training step, captured as a graph after the first few; warns and continues without one if capture fails.

    Memory: the graph's input buffers for one pair, the rate and the decay, and all tensors of one step.
    """

    def __init__(self, graphs: Graphs) -> None:
        self._graphs = graphs
        self._plain_steps = 0
        self._capture_failed = False
        self._replay: Callable[[], Losses] | None = None
        self._rate, self._decay = (torch.zeros((), device=graphs.device) for _ in range(2))
        self._pair: Pair | None = None

    def __call__(self, step: Step, pair: Pair, rate: float, decay: float) -> Losses:
        """Run one step; the returned losses are valid until the next.

        Parameters
        ----------
        step
            The same function each time. It draws no random numbers and reads nothing back to the host.
        pair
            Of the same sizes each time. The step gets only `low` and `target`.
        """
        buffered = self._copy_inputs(pair, rate, decay)

        def compute() -> Losses:
            with self._graphs.device:  # losses create constants, which a graph can't copy from the host
                return step(buffered, self._rate, self._decay)

        if self._plain_steps < _WARM_UP:
            self._plain_steps += 1
            return self._graphs.warm_up(compute)
        if self._replay is None and not self._capture_failed:
            self._capture(compute)
        return compute() if self._replay is None else self._replay()

    def _copy_inputs(self, pair: Pair, rate: float, decay: float) -> Pair:
        if self._pair is None:
            low, target = pair.low.clone(), pair.target.clone()
            self._pair = Pair(low, target, target)
        self._pair.low.copy_(pair.low)
        self._pair.target.copy_(pair.target)
        self._rate.fill_(rate)
        self._decay.fill_(decay)
        return self._pair

    def _capture(self, compute: Callable[[], Losses]) -> None:
        try:
            self._replay = self._graphs.capture(compute)
        except RuntimeError as error:
            self._capture_failed = True
            reason = str(_first_cause(error)).partition("\n")[0]
            warnings.warn(f"training continues slower, its step could not be captured: {reason}", stacklevel=3)


def _first_cause(error: BaseException) -> BaseException:
    """Return the error raised first; ending a failed capture raises another one on top."""
    return error if error.__context__ is None else _first_cause(error.__context__)

"""A training step captured as a CUDA graph: the host starts it whole, not its thousands of kernels one by one.

The first steps are computed plainly, on the stream that the graph will be captured on: in them cuDNN, cuBLAS and the
optimisers make what they make once. They are steps of the training like all others. Capture itself computes nothing,
so it changes no weight, and where it fails nothing has to be put back.

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
"""Learns from a pair at a learning rate, and with a decay of the averaged weights."""

_WARM_UP = 3
"""Steps before capture: as many as torch's notes take."""


class Graphs(Protocol):
    """What `CapturedStep` needs of a device."""

    device: torch.device

    def warm_up(self, compute: Callable[[], Losses]) -> Losses:
        """Compute now, as preparation of a capture."""
        ...

    def capture(self, compute: Callable[[], Losses]) -> Callable[[], Losses]:
        """What computes the same each time it is called, into the same tensors.

        Raises
        ------
        RuntimeError
            If that can't be captured.
        """
        ...


class CudaGraphs:
    """CUDA's graphs, captured on a stream of their own."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def warm_up(self, compute: Callable[[], Losses]) -> Losses:
        """See `Graphs`."""
        with self._own_stream(), warnings.catch_warnings():
            # Adam warns of being capturable and not captured: it soon will be
            warnings.filterwarnings("ignore", "This instance was constructed with capturable")
            return compute()

    def capture(self, compute: Callable[[], Losses]) -> Callable[[], Losses]:
        """See `Graphs`."""
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
    """Computes the same step again and again, captured after the first few; where that fails it warns and goes on.

    Holds buffers for one pair, the rate and the decay, from which the graph reads; and all tensors of one step.
    """

    def __init__(self, graphs: Graphs) -> None:
        self._graphs = graphs
        self._plain_steps = 0
        self._refused = False
        self._replay: Callable[[], Losses] | None = None
        self._rate, self._decay = (torch.zeros((), device=graphs.device) for _ in range(2))
        self._pair: Pair | None = None

    def __call__(self, step: Step, pair: Pair, rate: float, decay: float) -> Losses:
        """One step; its losses hold until the next.

        Parameters
        ----------
        step
            The same each time. It draws no random number and reads nothing back to the host.
        pair
            Of the same sizes each time. Only `low` and `target` are given to the step.
        """
        mine = self._take(pair, rate, decay)

        def compute() -> Losses:
            with self._graphs.device:  # losses make constants: a graph can't copy them from the host
                return step(mine, self._rate, self._decay)

        if self._plain_steps < _WARM_UP:
            self._plain_steps += 1
            return self._graphs.warm_up(compute)
        if self._replay is None and not self._refused:
            self._capture(compute)
        return compute() if self._replay is None else self._replay()

    def _take(self, pair: Pair, rate: float, decay: float) -> Pair:
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
            self._refused = True
            reason = str(_first_cause(error)).partition("\n")[0]
            warnings.warn(f"training goes on slower, its step could not be captured: {reason}", stacklevel=3)


def _first_cause(error: BaseException) -> BaseException:
    """What was raised first: the end of a failed capture raises another error over it."""
    return error if error.__context__ is None else _first_cause(error.__context__)

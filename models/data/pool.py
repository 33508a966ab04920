"""Real-ESRGAN's pool of training pairs: a batch of samples degraded at different times.

A degradation draws some things, the resize factor above all, once a batch; exchanging samples with a pool makes the
batches that the network sees diverse again (Wang et al., ICCVW 2021, section 4.1).
"""

import torch
from torch import Tensor

from slidelift.models.data.pair import Pair

PoolState = dict[str, Tensor | None]


class PairPool:
    """Up to `size` pairs, rounded down to whole batches.

    Memory: 180 pairs of 256 px at scale 4 are 150 MB on the device of the pairs, 290 MB with targets of their own; a
    checkpoint grows by as much.

    Parameters
    ----------
    size
        Pairs kept; 180 in the reference.
    """

    def __init__(self, size: int = 180) -> None:
        self.size = size
        self._low: Tensor | None = None
        self._high: Tensor | None = None
        self._target: Tensor | None = None

    def __len__(self) -> int:
        return 0 if self._low is None else len(self._low)

    def exchange(self, pair: Pair, rng: torch.Generator) -> Pair:
        """Put a batch in and take as many random pairs out; while the pool fills, the batch itself comes back.

        Raises
        ------
        ValueError
            If the batch is larger than the pool.
        """
        count = len(pair.low)
        if count > self.size:
            raise ValueError(f"a batch of {count} does not fit a pool of {self.size} pairs")
        if self._low is None or self._high is None or len(self) + count <= self.size:
            self._append(pair)
            return pair
        rows = torch.randperm(len(self), generator=rng, device=rng.device)[:count].to(pair.low.device)
        low, high = self._low[rows], self._high[rows]
        self._low[rows], self._high[rows] = pair.low, pair.high
        target = high
        if self._target is not None:
            target = self._target[rows]
            self._target[rows] = pair.target
        return Pair(low, high, target)

    def _append(self, pair: Pair) -> None:
        self._low = _joined(self._low, pair.low)
        self._high = _joined(self._high, pair.high)
        if pair.target is not pair.high:
            self._target = _joined(self._target, pair.target)

    def state_dict(self) -> PoolState:
        """All that an exact resume needs besides the generator's state; None stands for what is not kept."""
        return {"low": self._low, "high": self._high, "target": self._target}

    def load_state_dict(self, state: PoolState) -> None:
        """Take a state of `state_dict`, on the device its tensors are on; they are copied."""
        self._low, self._high, self._target = (
            None if (kept := state[name]) is None else kept.clone() for name in ("low", "high", "target")
        )


def _joined(kept: Tensor | None, new: Tensor) -> Tensor:
    return new.clone() if kept is None else torch.cat([kept, new])

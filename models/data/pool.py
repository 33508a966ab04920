"""Real-ESRGAN's training pair pool, which mixes samples of different batches.

Degradations draw some parameters, such as the resize factor, once per batch; the pool restores diversity within
batches (Wang et al., ICCVW 2021, section 4.1).
"""

import torch
from torch import Tensor

from slidelift.models.data.pair import Pair

PoolState = dict[str, Tensor | None]


class PairPool:
    """Pool of up to `size` pairs, rounded down to whole batches.

    Memory: 150 MB on the device of the pairs for 180 pairs of 256 px at scale 4, 290 MB with separate targets; as much
    in a checkpoint.

    Parameters
    ----------
    size
        Capacity in pairs; 180 in the reference implementation.
    """

    def __init__(self, size: int = 180) -> None:
        self.size = size
        self._low: Tensor | None = None
        self._high: Tensor | None = None
        self._target: Tensor | None = None

    def __len__(self) -> int:
        return 0 if self._low is None else len(self._low)

    def exchange(self, pair: Pair, rng: torch.Generator) -> Pair:
        """Add a batch and return as many random pairs; returns the batch itself until the pool is full.

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
        """Return the pool's tensors for an exact resume; None for those not in use."""
        return {"low": self._low, "high": self._high, "target": self._target}

    def load_state_dict(self, state: PoolState) -> None:
        """Restore a state of `state_dict`; its tensors are copied and keep their device."""
        self._low, self._high, self._target = (
            None if (saved := state[name]) is None else saved.clone() for name in ("low", "high", "target")
        )


def _joined(pool: Tensor | None, new: Tensor) -> Tensor:
    return new.clone() if pool is None else torch.cat([pool, new])

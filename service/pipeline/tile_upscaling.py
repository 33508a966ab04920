"""Enlarging the tiles of a stripe: tissue by the model, everything else by interpolation."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from slidelift.models.errors import NonFiniteOutputError
from slidelift.models.interpolate import Interpolator
from slidelift.models.metrics.consistency import MAX_BLOCK_RMSE, mean_consistency, worst_block
from slidelift.models.upscaler import PatchUpscaler
from slidelift.service.pipeline.progress import CancelToken, Tally
from slidelift.service.pipeline.stripe_record import StripeRecorder
from slidelift.wsi.blending import Upscaled
from slidelift.wsi.slide import Pixels
from slidelift.wsi.tiler import PatchBatch
from slidelift.wsi.tiling import Tile, TilePlan

Advance = Callable[[Tally, float | None], None]
"""Called with the tiles that were just finished, and the seconds for which the model computed."""

# Background waits for a batch of tissue to fill up at most this long.
_LONGEST_GROUP = 64
# Tiles of background resampled ahead, 4 MB each.
_RESAMPLED_AHEAD = 2 * (os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class UpscaledTile:
    """A tile, the patch that it was made from, and the enlarged patch."""

    tile: Tile
    patch: Pixels
    upscaled: Upscaled
    by_model: bool


@dataclass(frozen=True, slots=True)
class _Patch:
    tile: Tile
    pixels: Pixels
    is_tissue: bool


@dataclass(frozen=True, slots=True)
class _Group:
    """Patches in the plan's order; the enlarged ones of those with tissue, and the seconds that the model took."""

    patches: Sequence[_Patch]
    by_model: Future[tuple[Sequence[UpscaledTile], float]]


@dataclass(frozen=True, slots=True)
class TileUpscaler:
    """Enlarges the patches of one stripe.

    Attributes
    ----------
    upscaler, interpolator
        For tissue, and for everything else.
    mark_bad
        Resample a tile for which the model computes no finite number, instead of failing.
    network, pool
        The model's thread, and threads for interpolation and scores.
    advance
        Called from the thread that iterates.
    recorder
        Records the outcome of each tile.
    """

    plan: TilePlan
    upscaler: PatchUpscaler
    interpolator: PatchUpscaler
    mark_bad: bool
    network: ThreadPoolExecutor
    pool: ThreadPoolExecutor
    advance: Advance
    cancel: CancelToken
    recorder: StripeRecorder

    def upscale(self, batches: Iterable[PatchBatch]) -> Iterator[UpscaledTile]:
        """Yield tiles in the plan's order; the model computes one group ahead.

        Raises
        ------
        NonFiniteOutputError
            A tile can't be computed, and `mark_bad` is False.
        Cancelled
            The work was cancelled.
        """
        previous: _Group | None = None
        for patches in self._groups(batches):
            self.cancel.raise_if_cancelled()
            tissue = [patch for patch in patches if patch.is_tissue]
            group = _Group(patches, self.network.submit(self._run_model_timed, tissue))
            if previous is not None:
                yield from self._finish(previous)
            previous = group
        if previous is not None:
            yield from self._finish(previous)

    def _groups(self, batches: Iterable[PatchBatch]) -> Iterator[list[_Patch]]:
        """Group neighbouring patches of one row, `plan.batch` of them with tissue where the row has as many."""
        group: list[_Patch] = []
        for batch in batches:
            for bad in batch.bad:
                self.recorder.add_unreadable(bad)
            for tile, pixels, is_tissue in zip(batch.tiles, batch.pixels, batch.tissue.tolist(), strict=True):
                self.recorder.add_read(tile, is_tissue=is_tissue)
                group.append(_Patch(tile, pixels, is_tissue))
                tissue = sum(patch.is_tissue for patch in group)
                is_row_end = tile.column == self.plan.columns - 1
                if tissue == self.plan.batch or len(group) == _LONGEST_GROUP or is_row_end:
                    yield group
                    group = []

    def _finish(self, group: _Group) -> Iterator[UpscaledTile]:
        by_model, seconds = group.by_model.result()
        enlarged = iter(by_model)
        resampled = self._resample_ahead(patch.pixels for patch in group.patches if not patch.is_tissue)
        for patch in group.patches:
            if patch.is_tissue:
                yield next(enlarged)
            else:
                yield UpscaledTile(patch.tile, patch.pixels, next(resampled), by_model=False)
        counted = [patch for patch in group.patches if self.recorder.has(patch.tile)]
        passed = sum(patch.tile.maybe_tissue for patch in counted)
        self.advance(Tally(len(counted), passed, sum(patch.is_tissue for patch in counted)), seconds)

    def _run_model_timed(self, patches: Sequence[_Patch]) -> tuple[Sequence[UpscaledTile], float]:
        started = time.monotonic()
        return self._run_model(patches), time.monotonic() - started if patches else 0.0

    def _run_model(self, patches: Sequence[_Patch]) -> Sequence[UpscaledTile]:
        if not patches:
            return ()
        self.cancel.raise_if_cancelled()
        try:
            outputs = self.upscaler(np.stack([patch.pixels for patch in patches]))
            return [self._checked(patch, output) for patch, output in zip(patches, outputs, strict=True)]
        except NonFiniteOutputError as error:
            failed = patches[error.index]
            if not self.mark_bad:
                raise NonFiniteOutputError(f"{self._place(failed.tile)}: {error}", error.index) from error
            self.recorder.add_failed(failed.tile, str(error))
            before, after = patches[: error.index], patches[error.index + 1 :]
            return [*self._run_model(before), self._resampled(failed), *self._run_model(after)]

    def _place(self, tile: Tile) -> str:
        return f"tile ({tile.column}, {tile.row}) at x {tile.core.x}, y {tile.core.y} of level {self.plan.level}"

    def _checked(self, patch: _Patch, output: Upscaled) -> UpscaledTile:
        """Replace the model's output by interpolation where it is too far from its source."""
        made = UpscaledTile(patch.tile, patch.pixels, output, by_model=True)
        if isinstance(self.upscaler, Interpolator) or worst_block(*self._core(made)) < MAX_BLOCK_RMSE:
            return made
        self.recorder.add_strayed(patch.tile)
        return self._resampled(patch)

    def consistency(self, made: UpscaledTile) -> float:
        """RMSE in grey levels between a tile's source and its result reduced to the source's size."""
        return mean_consistency(*self._core(made))

    def _core(self, made: UpscaledTile) -> tuple[Upscaled, Pixels]:
        """Cut a tile's core, before any cross-fading, from the enlarged patch and from the source."""
        scale, core, patch = self.plan.scale, made.tile.core, made.tile.patch
        top, left = core.y - patch.y, core.x - patch.x
        rows = slice(top * scale, (top + core.height) * scale)
        columns = slice(left * scale, (left + core.width) * scale)
        return made.upscaled[rows, columns], made.patch[top : top + core.height, left : left + core.width]

    def _resampled(self, patch: _Patch) -> UpscaledTile:
        return UpscaledTile(patch.tile, patch.pixels, self._resample(patch.pixels), by_model=False)

    def _resample_ahead(self, patches: Iterable[Pixels]) -> Iterator[Pixels]:
        """Interpolate patches in order, a few at a time on the pool."""
        begun: deque[Future[Pixels]] = deque()
        for patch in patches:
            begun.append(self.pool.submit(self._resample, patch))
            if len(begun) > _RESAMPLED_AHEAD:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()

    def _resample(self, patch: Pixels) -> Pixels:
        """Interpolate a patch; the part of the halo that the filter does not need stays black and is cropped."""
        spare = self.plan.halo - self.interpolator.halo
        inner = patch[spare : patch.shape[0] - spare, spare : patch.shape[1] - spare]
        scaled = self.interpolator(inner[None])[0]
        return np.pad(scaled, ((spare * self.plan.scale,) * 2, (spare * self.plan.scale,) * 2, (0, 0)))

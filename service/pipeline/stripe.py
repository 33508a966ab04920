"""One stripe of the plan: read, batch, upscale, blend and encode into one segment file.

A stripe's bytes depend on the slide, the weights, `StripeSettings` and the stripe's number alone, whichever process
makes it and in whichever order.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from slidelift.models.interpolate import Interpolator
from slidelift.models.upscaler import PatchUpscaler
from slidelift.service.pipeline.progress import CancelToken, Tally
from slidelift.service.pipeline.stripe_record import StripeRecorder
from slidelift.service.pipeline.tile_encoding import Encode, TileEncoder
from slidelift.service.pipeline.tile_upscaling import Advance, TileUpscaler
from slidelift.wsi.blending import blender_for
from slidelift.wsi.pyramid import PyramidBuilder, level_sizes, levels_in_stripe
from slidelift.wsi.seam import SeamGauge
from slidelift.wsi.slide import SlideReader
from slidelift.wsi.tiler import Tiler
from slidelift.wsi.tiling import Stripe, TilePlan
from slidelift.wsi.writers.formats import get_format
from slidelift.wsi.writers.segment import SegmentWriter


@dataclass(frozen=True, slots=True)
class StripeSettings:
    """What a stripe's bytes depend on besides the slide and the weights; can be sent to another process.

    Attributes
    ----------
    format, quality
        Name of the output format, and its JPEG quality.
    mark_bad
        Resample and report a tile that can't be read or computed, instead of failing the job.
    """

    plan: TilePlan
    format: str
    quality: int
    mark_bad: bool

    @property
    def levels(self) -> int:
        """Number of pyramid levels that a stripe completes by itself."""
        return levels_in_stripe(self.plan.stripe_height, len(level_sizes(self.plan.output)))

    @property
    def has_top_levels(self) -> bool:
        """Whether coarser levels follow, for which raw rows are kept."""
        return len(level_sizes(self.plan.output)) > self.levels


@contextmanager
def open_stripe_maker(
    settings: StripeSettings,
    reader: SlideReader,
    upscaler: PatchUpscaler,
    advance: Advance,
    cancel: CancelToken,
) -> Iterator["StripeMaker"]:
    """Open a maker of stripes; its threads end with the context."""
    plan = settings.plan
    interpolator = upscaler if isinstance(upscaler, Interpolator) else Interpolator("bicubic", plan.scale)
    encode = get_format(settings.format).encoder(settings.quality)
    with (
        closing(Tiler(reader, plan, mark_bad=settings.mark_bad)) as tiler,
        ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="encode") as pool,
        ThreadPoolExecutor(1, thread_name_prefix="network") as network,
    ):
        try:
            yield StripeMaker(settings, tiler, upscaler, interpolator, encode, network, pool, advance, cancel)
        finally:
            network.shutdown(cancel_futures=True)


@dataclass(frozen=True, slots=True)
class StripeMaker:
    """Makes the stripes of one job, one after another; see `open_stripe_maker`.

    Attributes
    ----------
    upscaler, interpolator
        For tissue, and for everything else.
    network, pool
        The model's thread, and threads for everything else.
    advance
        Called from the thread that makes the stripe.
    """

    settings: StripeSettings
    tiler: Tiler
    upscaler: PatchUpscaler
    interpolator: PatchUpscaler
    encode: Encode
    network: ThreadPoolExecutor
    pool: ThreadPoolExecutor
    advance: Advance
    cancel: CancelToken

    def make(self, stripe: Stripe, path: Path) -> None:
        """Write the stripe's segment to `path`.

        Raises
        ------
        TileReadError, NonFiniteOutputError
            A tile can't be read or computed, and bad tiles are not to be marked.
        Cancelled
            The work was cancelled; no file is left.
        """
        recorder = StripeRecorder(stripe, self.settings.plan.columns)
        gauge = SeamGauge(self.settings.plan)
        with SegmentWriter(path) as writer:
            encoder = TileEncoder(self.pool, self.encode, writer)
            sizes = tuple(stripe.output.size.halved(level) for level in range(self.settings.levels))
            keep_remainder = self.settings.has_top_levels
            builder = PyramidBuilder(sizes, encoder.submit, keep_remainder=keep_remainder, pool=self.pool)
            try:
                self._make_tiles(stripe, recorder, gauge, builder)
                builder.finish()
            finally:
                encoder.wait()
            record = recorder.record(gauge.sums(), tuple(self.upscaler.incidents))
            self.upscaler.incidents.clear()
            writer.finish(builder.remainder, record.as_dict())
        self.advance(Tally(bytes_written=path.stat().st_size), 0.0)

    def _make_tiles(self, stripe: Stripe, recorder: StripeRecorder, gauge: SeamGauge, builder: PyramidBuilder) -> None:
        blender = blender_for(self.settings.plan, stripe)
        tiles = self._tile_upscaler(recorder)
        for made in tiles.upscale(self.tiler.rows(stripe.first_row, stripe.rows + blender.extra_rows)):
            if made.by_model and recorder.has(made.tile):
                recorder.add_score(made.tile, self.pool.submit(tiles.consistency, made))
            for block in blender.add(made.tile, made.upscaled):
                builder.add(block.x, block.y - stripe.output.y, block.pixels)
                gauge.add(made.tile, block, made.patch, counted=made.by_model)

    def _tile_upscaler(self, recorder: StripeRecorder) -> TileUpscaler:
        return TileUpscaler(
            self.settings.plan,
            self.upscaler,
            self.interpolator,
            self.settings.mark_bad,
            self.network,
            self.pool,
            self.advance,
            self.cancel,
            recorder,
        )

"""Makes stripes in this process, one after another."""

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

import numpy as np

from slidelift.models.errors import NonFiniteOutputError
from slidelift.models.upscaler import OpenedModel, PatchUpscaler, UpscalerFacts
from slidelift.service.pipeline.progress import CancelToken
from slidelift.service.pipeline.request import UpscaleRequest
from slidelift.service.pipeline.stripe import StripeSettings, open_stripe_maker
from slidelift.service.pipeline.tile_upscaling import Advance
from slidelift.service.pipeline.workspace import Workspace
from slidelift.wsi.slide import SlideReader
from slidelift.wsi.tiling import Stripe, TilePlan

# The trial of the model may cost a fiftieth of the work at most.
_LEAST_WORK = 50


class StripeExecutor(Protocol):
    """Makes the stripes of a job: in this process, or on a cluster (`service.pipeline.cluster`)."""

    def load(self, model: OpenedModel, *, scale: int, device: str, precision: str = "auto") -> UpscalerFacts:
        """Load the model where the stripes will be made; see `models.upscaler.OpenedModel`."""
        ...

    def trial(self, plan: TilePlan, passed: int) -> float | None:
        """Measure the model's seconds per patch of the plan; None where `passed` tiles are too few to be worth it."""
        ...

    def make(
        self,
        request: UpscaleRequest,
        reader: SlideReader,
        settings: StripeSettings,
        stripes: Sequence[Stripe],
        workspace: Workspace,
        advance: Advance,
    ) -> None:
        """Write the segment of each stripe into the workspace, with the model that was loaded last.

        Parameters
        ----------
        advance
            Called from this thread.
        """
        ...


class LocalExecutor:
    """Makes stripes in this process; implements `StripeExecutor`."""

    def __init__(self, cancel: CancelToken) -> None:
        self._cancel = cancel
        self._upscaler: PatchUpscaler

    def load(self, model: OpenedModel, *, scale: int, device: str, precision: str = "auto") -> UpscalerFacts:
        """See `StripeExecutor`."""
        self._upscaler = model.upscaler(scale=scale, device=device, precision=precision)
        return self._upscaler

    def trial(self, plan: TilePlan, passed: int) -> float | None:
        """See `StripeExecutor`; the second of two calls is timed, since the first loads kernels."""
        batch = self._upscaler.batch
        if passed < 2 * batch * _LEAST_WORK:
            return None
        patches = np.full((batch, plan.patch, plan.patch, 3), 220, np.uint8)
        with suppress(NonFiniteOutputError):
            self._upscaler(patches)
            started = time.monotonic()
            self._upscaler(patches)
            return (time.monotonic() - started) / batch
        return None

    def make(
        self,
        request: UpscaleRequest,  # noqa: ARG002 - part of the protocol
        reader: SlideReader,
        settings: StripeSettings,
        stripes: Sequence[Stripe],
        workspace: Workspace,
        advance: Advance,
    ) -> None:
        """See `StripeExecutor`."""
        with open_stripe_maker(settings, reader, self._upscaler, advance, self._cancel) as maker:
            for stripe in stripes:
                maker.make(stripe, workspace.segment_path(stripe.number))

"""Stripes made in this process, one after another."""

from collections.abc import Callable, Sequence
from typing import Protocol

from models.upscaler import PatchUpscaler, UpscalerFacts, load_upscaler
from service.pipeline.stripe import StripeOrder, stripe_work
from service.pipeline.workspace import Workspace
from service.progress import CancelToken
from service.request import UpscaleRequest
from wsi.slide import SlideReader
from wsi.tiling import Stripe


class StripeMaker(Protocol):
    """Where a job's stripes are made: here, or by the workers of a cluster (`service.pipeline.cluster`)."""

    def load(self, model: str, *, scale: int, device: str, precision: str = "auto") -> UpscalerFacts:
        """Make the model ready where the stripes will be made; see `models.upscaler.load_upscaler`."""
        ...

    def make(
        self,
        request: UpscaleRequest,
        reader: SlideReader,
        order: StripeOrder,
        stripes: Sequence[Stripe],
        workspace: Workspace,
        advance: Callable[[int], None],
    ) -> None:
        """Put the segment of each stripe into the workspace, with the model that was loaded last.

        Parameters
        ----------
        advance
            Called with the number of tiles that were just finished.
        """
        ...


class Local:
    """Makes stripes in this process; implements `StripeMaker`."""

    def __init__(self, cancel: CancelToken) -> None:
        self._cancel = cancel
        self._upscaler: PatchUpscaler

    def load(self, model: str, *, scale: int, device: str, precision: str = "auto") -> UpscalerFacts:
        """See `StripeMaker`."""
        self._upscaler = load_upscaler(model, scale=scale, device=device, precision=precision)
        return self._upscaler

    def make(
        self,
        request: UpscaleRequest,  # noqa: ARG002 - the face of all
        reader: SlideReader,
        order: StripeOrder,
        stripes: Sequence[Stripe],
        workspace: Workspace,
        advance: Callable[[int], None],
    ) -> None:
        """See `StripeMaker`."""
        with stripe_work(order, reader, self._upscaler, advance, self._cancel) as work:
            for stripe in stripes:
                work.run(stripe, workspace.segment_path(stripe.number))

"""Upscaling of one slide, from the request to the verified file."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from slidelift.models.errors import ModelError, OutOfMemoryError
from slidelift.service.errors import Cancelled, ServiceError, problem
from slidelift.service.pipeline.companion_files import write_companions
from slidelift.service.pipeline.finished import require_finished
from slidelift.service.pipeline.local import LocalExecutor, StripeExecutor
from slidelift.service.pipeline.options import AUTO, BadTilePolicy
from slidelift.service.pipeline.prepare import Prepared, prepare, samples_dark
from slidelift.service.pipeline.progress import CancelToken, Progress, Stage, Tally, TileClock
from slidelift.service.pipeline.recommendation import recommend
from slidelift.service.pipeline.report import BadTileReport, Report
from slidelift.service.pipeline.report_builder import ReportBuilder, Stopwatch
from slidelift.service.pipeline.request import UpscaleRequest
from slidelift.service.pipeline.stripe import StripeSettings
from slidelift.service.pipeline.stripe_record import StripeRecord, segment_tally
from slidelift.service.pipeline.targets import refuse_inputs, refuse_long_names, refuse_strangers
from slidelift.service.pipeline.workspace import Workspace
from slidelift.wsi.companions import companion_files
from slidelift.wsi.errors import SegmentDamagedError, WsiError
from slidelift.wsi.geometry import Region
from slidelift.wsi.pyramid import levels_in_stripe
from slidelift.wsi.readers.open_slide import open_slide
from slidelift.wsi.slide import SlideReader
from slidelift.wsi.tile_mask import maybe_tissue_count
from slidelift.wsi.tiling import Stripe
from slidelift.wsi.verify import Source, is_result, verify
from slidelift.wsi.writers import ome_zarr
from slidelift.wsi.writers.assembly import assemble_levels, build_top_levels
from slidelift.wsi.writers.formats import OutputFormat, format_for
from slidelift.wsi.writers.read_back import read_back
from slidelift.wsi.writers.segment import Entry, Segment

OnProgress = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class _MadeStripes:
    """Segments of all stripes, in order; `resumed` of them are an earlier run's."""

    segments: tuple[Segment, ...]
    resumed: int
    clock: TileClock


def upscale(
    request: UpscaleRequest, on_progress: OnProgress = lambda _progress: None, cancel: CancelToken | None = None
) -> Report:
    """Upscale one slide and return the report.

    The output gets its name only after it is complete and was read back. Its page (``.report.html``) and its tissue
    outlines (``.tissue.geojson``) are published just before it. An interrupted call leaves its finished stripes in a
    hidden folder beside the output, and the same call continues from there.

    Parameters
    ----------
    on_progress
        Called from this thread at every batch.
    cancel
        Checked between batches.

    Returns
    -------
    Report
        Holds no paths.

    Raises
    ------
    WsiError, ModelError, ServiceError
        See the packages' `errors` modules. After a failure that would repeat itself all files are removed.
    """
    cancel = cancel or CancelToken()
    started = time.monotonic()
    output_format = format_for(request.output)
    _refuse_output(request, output_format)
    watch = Stopwatch()

    def tell(progress: Progress) -> None:
        watch.enter(progress.stage)
        on_progress(progress)

    tell(Progress(Stage.OPENING))
    with ExitStack() as stack:
        reader = open_slide(request.slide, request.slide_name)
        stack.callback(reader.close)
        request = with_model(request, reader)
        executor = _executor(request, stack, cancel, lambda: tell(Progress(Stage.PLANNING)))
        workspace = stack.enter_context(Workspace(request.output))
        with _kept_if_continuable(workspace):
            tell(Progress(Stage.PLANNING))
            job = prepare(request, reader, output_format, workspace, executor)
            cancel.raise_if_cancelled()
            made = _make_stripes(job, workspace, executor, tell)
            builder = ReportBuilder(job, tuple(map(StripeRecord.of, made.segments)), made.resumed)
            _join_and_verify(job, workspace, made, builder.bad_tiles, tell, cancel)
            report = _report(builder, workspace, made.clock, watch, started, tell, cancel)
            write_companions(workspace, builder, report)
            cancel.raise_if_cancelled()
            _publish(request, output_format, workspace)
    return replace(report, seconds=round(time.monotonic() - started, 3))


def with_model(request: UpscaleRequest, reader: SlideReader) -> UpscaleRequest:
    """Replace the model "auto" by the recommended model and level.

    Raises
    ------
    ServiceError
        request.little-to-gain: no model is recommended for this slide.
    PixelSizeMissingError, PixelSizeImplausibleError
        The slide's µm per pixel is unknown, and the request does not give it.
    """
    if request.model != AUTO:
        return request
    from slidelift.models.inference import choose_device

    info = reader.info
    device = request.device if request.scheduler else choose_device(request.device).type
    recommended = recommend(
        info,
        mpp=request.mpp,
        target_mpp=request.target_mpp,
        level=request.level,
        effort=request.effort,
        device=device,
        is_dark=samples_dark(reader, 0, Region(0, 0, info.size.width, info.size.height)),
    )
    if recommended.model is None:
        raise ServiceError(
            problem("request.little-to-gain", f"{info.name}: {recommended.reason} Name a model to run it anyway")
        )
    return replace(request, model=recommended.model, level=recommended.level, chosen_because=recommended.reason)


def _executor(
    request: UpscaleRequest, stack: ExitStack, cancel: CancelToken, on_wait: Callable[[], None]
) -> StripeExecutor:
    if request.scheduler is None:
        return LocalExecutor(cancel)
    try:
        from slidelift.service.pipeline.cluster import ClusterExecutor
    except ModuleNotFoundError as error:
        raise ServiceError(
            problem("cluster.not-installed", f"{error.name} is not installed here: pip install 'slidelift[cluster]'")
        ) from error
    return stack.enter_context(ClusterExecutor(request.scheduler, cancel, on_wait))


@contextmanager
def _kept_if_continuable(workspace: Workspace) -> Iterator[None]:
    """Keep finished stripes after a crash, a cancellation or a full disk, but not after errors that would repeat.

    An error before this request's own work has begun leaves an earlier request's stripes unchanged.
    """
    try:
        yield
    except (Cancelled, OutOfMemoryError):
        workspace.keep()
        raise
    except SegmentDamagedError as error:
        error.path.unlink(missing_ok=True)
        workspace.keep()
        raise
    except ServiceError as error:
        if not (workspace.adopted and error.problem.by_user):
            workspace.keep()
        raise
    except (WsiError, ModelError):
        if not workspace.adopted:
            workspace.keep()
        raise
    except BaseException:
        workspace.keep()
        raise


def _refuse_output(request: UpscaleRequest, output_format: OutputFormat) -> None:
    """Raise if the result or a companion can't take its name, or would replace a file of another origin."""
    output = request.output
    refuse_long_names(output)
    refuse_inputs(output, _inputs(request))
    is_folder = output_format.name == ome_zarr.NAME
    if output.exists() and output.is_dir() != is_folder:
        kind = "a folder" if output.is_dir() else "a file"
        raise ServiceError(problem("request.output", f"{output.name} is {kind}; remove it, or choose another output"))
    entries = [entry.name for entry in output.iterdir()] if output.is_dir() else []
    others = [name for name in entries if not ome_zarr.is_result_entry(name)]
    if others:
        raise ServiceError(
            problem("request.output", f"{output.name} holds {others[0]}, which would be lost; choose another output")
        )
    is_taken = bool(entries) or (os.path.lexists(output) and not output.is_dir())
    if is_taken and not is_result(output, output_format.name):
        raise ServiceError(
            problem(
                "request.output",
                f"{output.name} is there, and is no result of this program: it would be lost; move it away, or choose "
                "another output",
            )
        )
    refuse_strangers(output)


def _publish(request: UpscaleRequest, output_format: OutputFormat, workspace: Workspace) -> None:
    """Publish the result and its companions; a file that appeared there meanwhile is not replaced."""
    try:
        _refuse_output(request, output_format)
    except ServiceError:
        workspace.keep()
        raise
    workspace.publish()


def _inputs(request: UpscaleRequest) -> dict[Path, str]:
    """Return the files that a request reads, and their names in messages."""
    slide, model = request.slide, Path(request.model)
    files = dict.fromkeys(companion_files(slide), "a part of the slide") if slide.exists() else {}
    return {model: "the file of weights", **files, slide: "the slide"}


def _make_stripes(
    job: Prepared, workspace: Workspace, executor: StripeExecutor, on_progress: OnProgress
) -> _MadeStripes:
    plan = job.plan
    mark_bad = job.request.on_bad_tile is BadTilePolicy.MARK
    settings = StripeSettings(plan, job.format.name, job.request.quality, mark_bad)

    def finished_segment(stripe: Stripe) -> Segment | None:
        return workspace.finished_segment(stripe.number, lambda segment: require_finished(segment, settings, stripe))

    finished = {stripe.number: finished_segment(stripe) for stripe in plan.stripes()}
    whole = Tally(plan.rows * plan.columns, maybe_tissue_count(plan.mask))
    resumed = sum((segment_tally(segment) for segment in finished.values() if segment), Tally())
    on_progress(TileClock(whole, resumed).snapshot(Stage.UPSCALING))
    clock = TileClock(whole, resumed, executor.trial(plan, whole.passed - resumed.passed))

    def advance(tiles: Tally, busy_seconds: float | None) -> None:
        clock.advance(tiles, busy_seconds)
        on_progress(clock.snapshot(Stage.UPSCALING))

    missing = [stripe for stripe in plan.stripes() if finished[stripe.number] is None]
    executor.make(job.request, job.reader, settings, missing, workspace, advance)
    segments = (finished[stripe.number] or Segment(workspace.segment_path(stripe.number)) for stripe in plan.stripes())
    return _MadeStripes(tuple(segments), sum(segment is not None for segment in finished.values()), clock)


def _join_and_verify(
    job: Prepared,
    workspace: Workspace,
    made: _MadeStripes,
    bad: Sequence[BadTileReport],
    on_progress: OnProgress,
    cancel: CancelToken,
) -> None:
    plan, facts, quality = job.plan, job.facts, job.request.quality
    on_progress(made.clock.snapshot(Stage.JOINING))
    in_stripe = levels_in_stripe(plan.stripe_height, len(facts.sizes))
    top_levels = (
        build_top_levels(workspace.top_levels, made.segments, facts.sizes, in_stripe, job.format.encoder(quality))
        if len(facts.sizes) > in_stripe
        else None
    )

    def between(stage: Stage) -> None:
        cancel.raise_if_cancelled()
        on_progress(made.clock.snapshot(stage))

    def levels(stage: Stage) -> Iterator[Iterator[Entry]]:
        return assemble_levels(
            made.segments, top_levels, plan.stripe_height, facts.sizes, in_stripe, lambda: between(stage)
        )

    workspace.clear_result()
    job.format.write(workspace.result, levels(Stage.JOINING), facts, quality, lambda: between(Stage.JOINING))
    made.clock.advance(Tally(bytes_written=_tile_bytes([*made.segments, *([top_levels] if top_levels else [])])), 0.0)
    on_progress(made.clock.snapshot(Stage.VERIFYING))
    read_back(workspace.result, job.format, levels(Stage.VERIFYING), quality)
    skip = tuple(Region(*tile.region) for tile in bad)
    seed = int(job.provenance.identity[:8], 16)
    verify(workspace.result, job.format.name, facts, quality, Source(job.reader, plan, skip), seed)
    cancel.raise_if_cancelled()


def _report(
    builder: ReportBuilder,
    workspace: Workspace,
    clock: TileClock,
    watch: Stopwatch,
    started: float,
    on_progress: OnProgress,
    cancel: CancelToken,
) -> Report:
    def between() -> None:
        cancel.raise_if_cancelled()
        on_progress(clock.snapshot(Stage.VERIFYING))

    return builder.build(workspace.result, clock.snapshot(Stage.JOINING).device_busy, watch, started, between)


def _tile_bytes(segments: Iterable[Segment]) -> int:
    """Bytes of the tiles that the join copies into the result."""
    return sum(int(segment.index["size"].sum()) for segment in segments)

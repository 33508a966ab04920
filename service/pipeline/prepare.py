"""Prepare a request: slide, model, tiling plan and provenance."""

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from slidelift.models.interpolate import Interpolator
from slidelift.models.upscaler import OpenedModel, UpscalerFacts
from slidelift.models.zoo.catalog import ModelCard, ModelKind
from slidelift.service.errors import refusal
from slidelift.service.pipeline.local import StripeExecutor
from slidelift.service.pipeline.options import BadTilePolicy, Effort
from slidelift.service.pipeline.recommendation import compression_warnings
from slidelift.service.pipeline.request import UpscaleRequest
from slidelift.service.pipeline.workspace import Workspace
from slidelift.wsi.companions import content_hash
from slidelift.wsi.errors import TileReadError
from slidelift.wsi.geometry import Region
from slidelift.wsi.icc import sanitise_profile
from slidelift.wsi.ome_xml import ImageMetadata
from slidelift.wsi.provenance import NOT_FOR_DIAGNOSIS, Provenance, software
from slidelift.wsi.pyramid import level_sizes
from slidelift.wsi.roi import Roi
from slidelift.wsi.slide import SlideInfo, SlideReader
from slidelift.wsi.tile_mask import with_outside
from slidelift.wsi.tiling import SourcePlan, TilePlan, is_close, plan_source
from slidelift.wsi.tissue import DEFAULT_ENTROPY, looks_dark, survey
from slidelift.wsi.writers.formats import OutputFormat

SEGMENTS = 5
"""Version of a stripe's report; a run that an earlier version began is not continued."""

_NOT_IN_PIXELS: dict[str, Any] = {
    "slide": Path(),
    "output": Path(),
    "model": "",
    "effort": Effort.BALANCED,
    "chosen_because": None,
    "device": "",
    "scheduler": None,
    "slide_sha256": None,
    "slide_name": None,
}
"""Fields of a request that its pixels do not depend on, or that the key holds in another form."""

# Libraries whose version may change the result's bytes.
_LIBRARIES = ("imagecodecs", "numcodecs", "numpy", "openslide-bin", "pillow", "tiffslide", "torch")


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request with everything that was looked up for it."""

    request: UpscaleRequest
    reader: SlideReader
    format: OutputFormat
    upscaler: UpscalerFacts
    provenance: Provenance
    facts: ImageMetadata
    card: ModelCard
    warnings: tuple[str, ...]
    chosen_because: str | None

    @property
    def plan(self) -> TilePlan:
        return self.provenance.plan


def prepare(
    request: UpscaleRequest,
    reader: SlideReader,
    output_format: OutputFormat,
    workspace: Workspace,
    executor: StripeExecutor,
) -> Prepared:
    """Look up everything, and continue the plan stored in the workspace or store a new one.

    The model is loaded where the stripes will be made.
    """
    model = OpenedModel(request.model)
    source = _plan_source(request, reader.info, model.card)
    source_sha256 = request.slide_sha256 or content_hash(request.slide)
    upscaler = executor.load(model, scale=source.scale, device=request.device)
    key = _key(request, output_format, source_sha256, upscaler)
    stored = _stored_plan(workspace, key)
    if stored is None:
        plan, warnings = _plan(request, reader, model.card, upscaler, source)
        stored = _StoredPlan(upscaler.precision, plan, warnings, request.chosen_because)
        workspace.begin({"key": key, **stored.as_dict()})
    elif stored.precision != upscaler.precision:
        upscaler = executor.load(model, scale=source.scale, device=request.device, precision=stored.precision)
    provenance = Provenance(
        source_sha256=source_sha256,
        source_mpp=source.mpp,
        source_objective=reader.info.objective,
        model=upscaler.name,
        model_sha256=upscaler.fingerprint,
        precision=upscaler.precision,
        output_format=f"{output_format.name} q{request.quality}",
        plan=stored.plan,
        mark_bad=request.on_bad_tile is BadTilePolicy.MARK,
    )
    return Prepared(
        request=request,
        reader=reader,
        format=output_format,
        upscaler=upscaler,
        provenance=provenance,
        facts=_image_facts(reader, provenance),
        card=model.card,
        warnings=stored.warnings,
        chosen_because=stored.chosen_because,
    )


@dataclass(frozen=True, slots=True)
class _StoredPlan:
    """What a workspace keeps of a run, so that the same request continues it."""

    precision: str
    plan: TilePlan
    warnings: tuple[str, ...]
    chosen_because: str | None

    def as_dict(self) -> dict[str, Any]:
        return {
            "precision": self.precision,
            "plan": self.plan.as_dict(),
            "warnings": list(self.warnings),
            "chosen_because": self.chosen_because,
        }


def _stored_plan(workspace: Workspace, key: str) -> _StoredPlan | None:
    """The plan of an interrupted run with the same key, whose stripes are then kept; None without one."""
    state = workspace.state()
    if not state or state["key"] != key:
        return None
    workspace.adopt()
    plan = TilePlan.from_dict(state["plan"])
    return _StoredPlan(state["precision"], plan, tuple(state["warnings"]), state["chosen_because"])


def _plan_source(request: UpscaleRequest, info: SlideInfo, card: ModelCard) -> SourcePlan:
    return plan_source(
        info,
        card.scales,
        card.default_scale,
        mpp=request.mpp,
        target_mpp=request.target_mpp,
        level=request.level,
        region=request.region,
        roi=request.roi,
    )


def versions() -> tuple[str, ...]:
    """Versions of the software here; stripes made with other versions are neither continued nor joined."""
    return software(), *(f"{name} {version(name)}" for name in _LIBRARIES)


def _key(request: UpscaleRequest, output_format: OutputFormat, source_sha256: str, upscaler: UpscalerFacts) -> str:
    """Hash of everything that the bytes of a stripe may depend on; stripes with another key are not continued."""
    values = {
        **asdict(replace(request, **_NOT_IN_PIXELS)),
        "format": output_format.name,
        "source": source_sha256,
        "model": [upscaler.name, upscaler.fingerprint, upscaler.scale],
        "device": upscaler.device.partition(":")[0],
        "versions": versions(),
        "segments": SEGMENTS,
    }
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()


def _plan(
    request: UpscaleRequest, reader: SlideReader, card: ModelCard, upscaler: UpscalerFacts, source: SourcePlan
) -> tuple[TilePlan, tuple[str, ...]]:
    """A new plan with the mask of tissue, and the warnings that the report repeats."""
    entropy = DEFAULT_ENTROPY if request.entropy is None else request.entropy
    overview = survey(reader, source.level, source.region)
    is_dark = overview.is_dark() if overview.pixels is not None else samples_dark(reader, source.level, source.region)
    if is_dark and card.brightfield_only:
        raise refusal(
            "slide.not-brightfield",
            f"{reader.info.name}: most of the slide is black, as in fluorescence, and {card.name} is made for "
            "brightfield stains; an interpolating model, such as bicubic, enlarges it without enhancing it",
        )
    plan = TilePlan(
        level=source.level,
        source=source.region,
        scale=upscaler.scale,
        halo=max(upscaler.halo, Interpolator("bicubic", upscaler.scale).halo),
        fade=upscaler.fade,
        batch=upscaler.batch,
        entropy=entropy,
        mask=(),
    )
    if entropy > 0:
        mask = overview.tissue_rows(plan.core, plan.rows, plan.columns)
    else:
        mask = tuple("1" * plan.columns for _ in range(plan.rows))
    if request.roi:
        mask = _within_roi(mask, plan, request.roi, reader.info)
    return replace(plan, mask=mask), _warnings(request, reader.info, card, source, is_dark=is_dark)


def _within_roi(mask: tuple[str, ...], plan: TilePlan, roi: Roi, info: SlideInfo) -> tuple[str, ...]:
    """The mask without the tiles that the region of interest does not touch."""
    touched = roi.tile_rows(plan.source, info.levels[plan.level].downsample, plan.core, plan.rows, plan.columns)
    return with_outside(mask, touched)


def samples_dark(reader: SlideReader, level: int, region: Region) -> bool:
    """Whether a region is mostly black, as in fluorescence, judged by nine patches."""
    side = min(256, region.width), min(256, region.height)
    patches = []
    for step in range(9):
        x = region.x + (region.width - side[0]) * (step % 3) // 2
        y = region.y + (region.height - side[1]) * (step // 3) // 2
        with suppress(TileReadError):
            patches.append(reader.read_region(level, Region(x, y, *side)))
    return bool(patches) and looks_dark(np.concatenate(patches))


def _warnings(
    request: UpscaleRequest, info: SlideInfo, card: ModelCard, source: SourcePlan, *, is_dark: bool
) -> tuple[str, ...]:
    warnings = [*info.warnings, *_mpp_warnings(info, request, source.level, source.mpp)]
    level_mpp = source.mpp[0] * info.levels[source.level].downsample
    if card.source_mpp and not card.source_mpp[0] <= level_mpp <= card.source_mpp[1]:
        low, high = card.source_mpp
        warnings.append(
            f"the source has {level_mpp:.3g} µm per pixel and {card.name} was trained for {low:g} to {high:g}: expect "
            "less than its published gain"
        )
    warnings += [*compression_warnings(card, info), *card.warnings]
    if is_dark and card.kind is ModelKind.NETWORK:
        warnings.append(
            "most of the slide is black, as in fluorescence; check whether the model was trained on such slides"
        )
    if request.roi and not Region(0, 0, info.size.width, info.size.height).contains(request.roi.bounds):
        warnings.append("the region of interest reaches over the slide's edge and was cut off there")
    return tuple(warnings)


def _mpp_warnings(info: SlideInfo, request: UpscaleRequest, level: int, mpp: tuple[float, float]) -> list[str]:
    """Warnings about µm per pixel that may mislead."""
    warnings, stated, given, target = [], info.mpp, request.mpp, request.target_mpp
    if given is not None and stated is not None:
        if not is_square(stated):
            warnings.append(
                f"the slide states that its pixels are not square, {stated[0]:.6g} x {stated[1]:.6g} µm; {given:g} was "
                "given and used for both sides, so the result's pixels are recorded as square"
            )
        elif not 0.9 <= given / stated[0] <= 1.1:
            warnings.append(f"{given:g} µm per pixel were given and used; the slide states {stated[0]:.6g}")
    if target is not None and not is_square(mpp):
        warnings.append(
            f"the slide's pixels are not square, {mpp[0]:.6g} x {mpp[1]:.6g} µm, and the result's keep that ratio: "
            f"along x they have the requested {target:g} µm, along y {target * mpp[1] / mpp[0]:.4g}"
        )
    if target is not None and request.level is None:
        warnings += [
            f"level {number} of the slide already has {target:g} µm per pixel, with more detail than a result made "
            f"from level {level}: there is little to gain"
            for number in range(level)
            if is_close(mpp[0] * info.levels[number].downsample, target)
        ][:1]
    return warnings


def is_square(mpp: tuple[float, float]) -> bool:
    """Whether a pixel's sides differ by 1 % at most, as they may where each was measured separately."""
    return abs(mpp[0] / mpp[1] - 1) <= 0.01


def _image_facts(reader: SlideReader, provenance: Provenance) -> ImageMetadata:
    plan, mpp = provenance.plan, provenance.source_mpp
    downsample = reader.info.levels[plan.level].downsample
    return ImageMetadata(
        uuid=provenance.uuid,
        name=f"{provenance.model} x{plan.scale}",
        software=software(),
        description=f"{NOT_FOR_DIAGNOSIS} Model {provenance.model}, x{plan.scale}.",
        sizes=level_sizes(plan.output),
        mpp=(mpp[0] * downsample / plan.scale, mpp[1] * downsample / plan.scale),
        objective=provenance.computed_objective(downsample),
        annotations=tuple(provenance.as_pairs(downsample)),
        icc_profile=sanitise_profile(reader.info.icc_profile) if reader.info.icc_profile is not None else None,
    )

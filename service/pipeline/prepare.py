"""From a request to everything that has to be looked up for it: slide, model, plan, provenance."""

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from slidelift.models.interpolate import Interpolator
from slidelift.models.upscaler import UpscalerFacts, model_card
from slidelift.models.zoo.catalog import ModelCard, ModelKind
from slidelift.service.errors import ServiceError, problem
from slidelift.service.pipeline.local import StripeMaker
from slidelift.service.pipeline.recommendation import compression_warnings
from slidelift.service.pipeline.request import BadTilePolicy, Effort, UpscaleRequest
from slidelift.service.pipeline.workspace import Workspace
from slidelift.wsi.companions import content_hash
from slidelift.wsi.errors import TileReadError
from slidelift.wsi.geometry import Region
from slidelift.wsi.icc import neutral_profile
from slidelift.wsi.ome_xml import ImageFacts
from slidelift.wsi.provenance import NOT_FOR_DIAGNOSIS, Provenance, software
from slidelift.wsi.pyramid import level_sizes
from slidelift.wsi.slide import SlideInfo, SlideReader
from slidelift.wsi.tiling import TilePlan, choose_level, is_close, source_region
from slidelift.wsi.tissue import DEFAULT_ENTROPY, looks_dark, survey
from slidelift.wsi.writers.table import OutputFormat

SEGMENTS = 4
"""What a stripe's report holds; an interrupted run of a program that told less is not continued."""

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
"""Of a request, what its pixels don't depend on, or what stands in the key in another form."""

# Their versions may show in the bytes.
_LIBRARIES = ("imagecodecs", "numcodecs", "numpy", "openslide-bin", "pillow", "tiffslide", "torch")


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request with everything that had to be looked up for it."""

    request: UpscaleRequest
    reader: SlideReader
    format: OutputFormat
    upscaler: UpscalerFacts
    provenance: Provenance
    facts: ImageFacts
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
    maker: StripeMaker,
) -> Prepared:
    """Look up everything, and continue the plan that lies in the workspace or store a new one.

    The model is loaded where the stripes will be made.
    """
    info = reader.info
    mpp = info.trusted_mpp(request.mpp)
    card = model_card(request.model)
    level, scale = choose_level(info, mpp, card.scales, card.default_scale, request.target_mpp, request.level)
    if request.roi:
        region = source_region(info, level, request.roi.clipped_bounds(info.size, info.name), outward=True)
    else:
        region = source_region(info, level, Region(*request.region) if request.region else None)
    source_sha256 = request.slide_sha256 or content_hash(request.slide)
    upscaler = maker.load(request.model, scale=scale, device=request.device)
    key = _key(request, output_format, source_sha256, upscaler)
    stored = workspace.state()
    if stored and stored["key"] == key:
        workspace.adopt()
        plan, warnings = TilePlan.from_dict(stored["plan"]), tuple(stored["warnings"])
        chosen_because = stored["chosen_because"]
        if stored["precision"] != upscaler.precision:
            precision = stored["precision"]
            upscaler = maker.load(request.model, scale=scale, device=request.device, precision=precision)
    else:
        plan, warnings = _plan(request, reader, card, upscaler, level, region, mpp)
        chosen_because = request.chosen_because
        state = {
            "key": key,
            "precision": upscaler.precision,
            "plan": plan.as_dict(),
            "warnings": list(warnings),
            "chosen_because": chosen_because,
        }
        workspace.begin(state)
    provenance = Provenance(
        source_sha256=source_sha256,
        source_mpp=mpp,
        source_objective=info.objective,
        model=upscaler.name,
        model_sha256=upscaler.fingerprint,
        precision=upscaler.precision,
        output_format=f"{output_format.name} q{request.quality}",
        plan=plan,
        mark_bad=request.on_bad_tile is BadTilePolicy.MARK,
    )
    return Prepared(
        request,
        reader,
        output_format,
        upscaler,
        provenance,
        _facts(reader, provenance),
        card,
        warnings,
        chosen_because,
    )


def versions() -> tuple[str, ...]:
    """What is installed here; stripes that were made with another are neither continued nor joined."""
    return software(), *(f"{name} {version(name)}" for name in _LIBRARIES)


def _key(request: UpscaleRequest, output_format: OutputFormat, source_sha256: str, upscaler: UpscalerFacts) -> str:
    """What must be the same for finished stripes to be continued: all that their bytes could depend on."""
    asked = {
        **asdict(replace(request, **_NOT_IN_PIXELS)),
        "format": output_format.name,
        "source": source_sha256,
        "model": [upscaler.name, upscaler.fingerprint, upscaler.scale],
        "device": upscaler.device.partition(":")[0],
        "versions": versions(),
        "segments": SEGMENTS,
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()


def _plan(
    request: UpscaleRequest,
    reader: SlideReader,
    card: ModelCard,
    upscaler: UpscalerFacts,
    level: int,
    region: Region,
    mpp: tuple[float, float],
) -> tuple[TilePlan, tuple[str, ...]]:
    entropy = DEFAULT_ENTROPY if request.entropy is None else request.entropy
    look = survey(reader, level, region)
    dark = look.is_dark() if look.pixels is not None else samples_dark(reader, level, region)
    if dark and card.brightfield_only:
        raise ServiceError(
            problem(
                "slide.not-brightfield",
                f"{reader.info.name}: most of it is black, as in fluorescence, and {card.name} is made for "
                "brightfield stains; an interpolating model, such as bicubic, enlarges it without enhancing it",
            )
        )
    plan = TilePlan(
        level=level,
        source=region,
        scale=upscaler.scale,
        halo=max(upscaler.halo, Interpolator("bicubic", upscaler.scale).halo),
        fade=upscaler.fade,
        batch=upscaler.batch,
        entropy=entropy,
        mask=(),
    )
    mask = (
        look.tissue_rows(plan.core, plan.rows, plan.columns)
        if entropy > 0
        else tuple("1" * plan.columns for _ in range(plan.rows))
    )
    warnings = _warnings(reader, card, level, mpp, request)
    if dark and card.kind is ModelKind.NETWORK:
        warnings += ("most of the slide is black, as in fluorescence; was the model trained on such?",)
    if request.roi:
        if not Region(0, 0, reader.info.size.width, reader.info.size.height).contains(request.roi.bounds):
            warnings += ("the region of interest reaches over the slide's edge and was cut off there",)
        touched = request.roi.tile_rows(
            region, reader.info.levels[level].downsample, plan.core, plan.rows, plan.columns
        )
        mask = tuple("".join(map(min, *pair)) for pair in zip(mask, touched, strict=True))
    return replace(plan, mask=mask), warnings


def samples_dark(reader: SlideReader, level: int, region: Region) -> bool:
    """Whether a slide is mostly black, as in fluorescence, by nine patches of a region of a level."""
    side = min(256, region.width), min(256, region.height)
    seen = []
    for step in range(9):
        x = region.x + (region.width - side[0]) * (step % 3) // 2
        y = region.y + (region.height - side[1]) * (step // 3) // 2
        with suppress(TileReadError):
            seen.append(reader.read(level, Region(x, y, *side)))
    return bool(seen) and looks_dark(np.concatenate(seen))


def _warnings(
    reader: SlideReader, card: ModelCard, level: int, mpp: tuple[float, float], request: UpscaleRequest
) -> tuple[str, ...]:
    found = list(reader.info.warnings)
    found += _mpp_warnings(reader.info, request, level, mpp)
    source = mpp[0] * reader.info.levels[level].downsample
    if card.source_mpp and not card.source_mpp[0] <= source <= card.source_mpp[1]:
        low, high = card.source_mpp
        found.append(
            f"the source has {source:.3g} µm per pixel and {card.name} was trained for {low:g} to {high:g}: expect "
            "less than its published gain"
        )
    found += compression_warnings(card, reader.info)
    return *found, *card.warnings


def _mpp_warnings(info: SlideInfo, request: UpscaleRequest, level: int, mpp: tuple[float, float]) -> list[str]:
    """What could mislead in the µm per pixel that are used."""
    found, said, given, target = [], info.mpp, request.mpp, request.target_mpp
    if given is not None and said is not None:
        if not is_square(said):
            found.append(
                f"the slide says that its pixels are not square, {said[0]:.6g} x {said[1]:.6g} µm; {given:g} were "
                "given and used for both sides, so that the result's µm per pixel don't keep that ratio"
            )
        elif not 0.9 <= given / said[0] <= 1.1:
            found.append(f"{given:g} µm per pixel were given and used; the slide says {said[0]:.6g}")
    if target is not None and not is_square(mpp):
        found.append(
            f"the slide's pixels are not square, {mpp[0]:.6g} x {mpp[1]:.6g} µm, and the result's keep that ratio: "
            f"along x they have the {target:g} µm that were asked for, along y {target * mpp[1] / mpp[0]:.4g}"
        )
    if target is not None and request.level is None:
        found += [
            f"level {number} of the slide has {target:g} µm per pixel by itself, and what is made from level {level} "
            "holds less than it: there is little to gain"
            for number in range(level)
            if is_close(mpp[0] * info.levels[number].downsample, target)
        ][:1]
    return found


def is_square(mpp: tuple[float, float]) -> bool:
    """Whether the sides of a pixel are alike within a hundredth, as they are where each was measured by itself."""
    return abs(mpp[0] / mpp[1] - 1) <= 0.01


def _facts(reader: SlideReader, provenance: Provenance) -> ImageFacts:
    plan, mpp = provenance.plan, provenance.source_mpp
    downsample = reader.info.levels[plan.level].downsample
    return ImageFacts(
        uuid=provenance.uuid,
        name=f"{provenance.model} x{plan.scale}",
        software=software(),
        description=f"{NOT_FOR_DIAGNOSIS} Model {provenance.model}, x{plan.scale}.",
        sizes=level_sizes(plan.output),
        mpp=(mpp[0] * downsample / plan.scale, mpp[1] * downsample / plan.scale),
        objective=provenance.computed_objective(downsample),
        annotations=tuple(provenance.as_pairs(downsample)),
        icc_profile=neutral_profile(reader.info.icc_profile) if reader.info.icc_profile is not None else None,
    )

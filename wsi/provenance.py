"""Provenance of a result: source, model, plan and software, without file names, paths or times."""

import hashlib
import json
import uuid
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from slidelift.wsi.tile_mask import MaskCell
from slidelift.wsi.tiling import TilePlan

NOT_FOR_DIAGNOSIS = "Computed by super-resolution, not scanned; not for primary diagnosis."


def software() -> str:
    """Name and version of the program."""
    try:
        return f"slidelift {version('slidelift')}"
    except PackageNotFoundError:
        return "slidelift (source tree)"


@dataclass(frozen=True, slots=True)
class Provenance:
    """Everything that the bytes of a result depend on; runs with equal values write equal bytes.

    `identity` includes the names of the attributes.

    Attributes
    ----------
    source_sha256
        Content hash of the slide.
    source_mpp, source_objective
        µm per pixel of the slide's level 0 along x and y, and magnification of the scan.
    model, model_sha256
        Catalog name or architecture of the model, and hash of its weights.
    precision
        Precision of the network's body.
    output_format
        Format and quality.
    """

    source_sha256: str
    source_mpp: tuple[float, float]
    source_objective: float | None
    model: str
    model_sha256: str
    precision: str
    output_format: str
    plan: TilePlan
    mark_bad: bool = False

    @property
    def identity(self) -> str:
        """SHA-256 of all attributes and the software's version, in hex."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "plan"}
        mask = [row.replace(MaskCell.OUTSIDE, MaskCell.GLASS) for row in self.plan.mask]  # both are resampled alike
        plan = {**self.plan.as_dict(), "mask": mask}
        text = json.dumps({**values, "plan": plan, "software": software()}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def uuid(self) -> str:
        """UUID of the result, derived from `identity`."""
        return str(uuid.uuid5(uuid.NAMESPACE_OID, self.identity))

    def computed_objective(self, downsample: float) -> float | None:
        """Magnification of the result: that of the scan at the source level times the scale; None if unknown."""
        if self.source_objective is None:
            return None
        return round(self.source_objective / downsample * self.plan.scale, 3) or None  # OME-XML allows no 0

    def as_pairs(self, downsample: float) -> list[tuple[str, str]]:
        """Names and values for the annotation in the result's metadata."""
        computed, source = self.computed_objective(downsample), self.plan.source
        pairs = [
            ("statement", NOT_FOR_DIAGNOSIS),
            ("software", software()),
            ("model", self.model),
            ("model fingerprint", self.model_sha256),
            ("scale", str(self.plan.scale)),
            ("precision", self.precision),
            ("source sha256", self.source_sha256),
            ("source level", str(self.plan.level)),
            ("source region x,y,width,height", f"{source.x},{source.y},{source.width},{source.height}"),
            ("source um per pixel", f"{self.source_mpp[0]:.6g},{self.source_mpp[1]:.6g}"),
            ("tissue entropy threshold, bits", f"{self.plan.entropy:g}"),
        ]
        if computed is not None:
            pairs += [
                ("scan magnification", f"{self.source_objective:g}"),
                ("magnification", f"{computed:g}, computed as scan magnification times scale"),
            ]
        return pairs

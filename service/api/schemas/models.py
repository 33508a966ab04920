"""Schemas of the model catalog."""

from pydantic import BaseModel, ConfigDict, Field

from slidelift.models.zoo.catalog import ModelKind


class Model(BaseModel):
    """A model and its measured properties."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    kind: ModelKind
    description: str
    architecture: str | None
    scales: list[int]
    default_scale: int
    parameters: int | None
    source_mpp: tuple[float, float] | None = Field(description="Range of µm per pixel of the training sources.")
    brightfield_only: bool
    exact: bool = Field(description="Whether tiled output equals untiled output, so that no seams appear.")
    seam: str | None
    back_projection: bool = Field(description="Whether a back-projection step follows the network.")
    effort: str | None = Field(description="fast, balanced or best for a model that auto may choose; else null.")
    metrics: dict[str, dict[str, float]]
    gains: dict[str, dict[str, float]] = Field(
        description="Evaluation set -> source (none, or Q and the JPEG quality) -> PSNR gain over bicubic in dB."
    )
    precision_loss: dict[str, float] = Field(description="Precision -> PSNR loss against fp32 in dB.")
    computed_on: str | None = Field(description="Processor and precision that the measurements used.")
    recipe: str | None
    iterations: int | None
    degradation: str | None
    commit: str | None
    trained_on: str | None
    licence: str | None
    citation: str | None
    notes: str | None
    sha256: str | None


class ModelList(BaseModel):
    """The available models."""

    default: str = Field(description="Model of a job that does not name one: auto.")
    models: list[Model]

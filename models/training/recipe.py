"""Training recipes: TOML files with everything that the weights depend on besides the images.

Recipes from the literature are in `recipes/`, each named after its system. Users' own files have the same format.
"""

import tomllib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from slidelift.models.errors import RecipeError
from slidelift.models.networks.back_projection import SCALES

_HERE = Path(__file__).parent / "recipes"

Parameter = float | int | str | bool | list[float]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LossTerm(_Part):
    """A loss of `models.losses.table.LOSSES` and its weight; further keys are the loss's parameters."""

    model_config = ConfigDict(extra="allow", frozen=True)

    weight: float

    @property
    def parameters(self) -> dict[str, Any]:
        """Arguments of the loss's constructor."""
        return dict(self.model_extra or {})


class Data(_Part):
    """Makes (low, high) pairs of sharp images.

    Attributes
    ----------
    degradation, parameters
        A name of `models.data.degrade.DEGRADATIONS` and its arguments.
    stain
        Share of the crops with stain jitter, in both images of the pair.
    odd_colours
        Share of the crops with colours and contrasts of no stain (`models.data.stain.odd_colours`).
    entropy
        Least Shannon entropy of a crop's grey levels in bits; 0 accepts every crop.
    larger_share
        Share of the crops that are taken up to twice as large and scaled down.
    margin
        Source pixels that are degraded beyond the crop and cut off at a random offset, so that the blocks of a
        compressed source have any offset to the crop, as in a slide's tiles (16 for JPEG).
    corruption, corruption_kinds
        Share of the sharp crops that are corrupted, and how (Upadhyay & Awate 2019).
    pool
        Pairs kept to be mixed with later ones (Real-ESRGAN's training pair pool); 0 for none.
    """

    degradation: str = "bicubic"
    parameters: dict[str, Parameter] = Field(default_factory=dict)
    stain: float = Field(default=0.0, ge=0, le=1)
    odd_colours: float = Field(default=0.0, ge=0, le=1)
    entropy: float = Field(default=0.0, ge=0, lt=8)
    larger_share: float = Field(default=0.5, ge=0, le=1)
    margin: int = Field(default=0, ge=0, le=64)
    corruption: float = Field(default=0.0, ge=0, le=1)
    corruption_kinds: tuple[str, ...] = ("noise", "blur", "contrast")
    pool: int = Field(default=0, ge=0)


class Autoencoder(_Part):
    """Autoencoder of the manifold loss, trained before the stages (Upadhyay & Awate 2019, section 2.1)."""

    features: int = 32
    iterations: int = Field(default=5000, ge=1)
    batch: int = 16
    crop: int = 128
    learning_rate: float = 1e-3


class Discriminator(_Part):
    """Discriminator of a stage.

    Attributes
    ----------
    network, parameters
        A name of `models.networks.discriminators.DISCRIMINATORS` and its arguments.
    loss
        A kind of `models.losses.adversarial`.
    weight
        Weight of the generator's adversarial loss.
    init
        File of a public discriminator's weights to start from.
    """

    network: str
    parameters: dict[str, Parameter] = Field(default_factory=dict)
    loss: Literal["vanilla", "hinge", "relativistic"] = "vanilla"
    weight: float
    learning_rate: float = 1e-4
    init: Path | None = None


class Stage(_Part):
    """Stage of training with its own losses; it starts from the EMA weights of the previous stage.

    Attributes
    ----------
    crop
        Side of the sharp crops in pixels.
    schedule
        "constant"; "cosine" to zero; "linear" to zero over the last share `decay` of the stage; "halving" at
        `milestones`, given as shares of the stage.
    ema
        Decay of the EMA weights, which are the stage's result.
    clip
        Maximum norm of the gradient; 0 for no clipping.
    """

    name: str
    iterations: int = Field(ge=1)
    batch: int = Field(default=16, ge=1)
    crop: int = Field(default=128, ge=16)
    optimiser: Literal["adam", "adamw", "muon", "sgd"] = "adam"
    learning_rate: float = Field(gt=0)
    betas: tuple[float, float] = (0.9, 0.99)
    schedule: Literal["constant", "cosine", "linear", "halving"] = "cosine"
    milestones: tuple[float, ...] = (0.5,)
    decay: float = Field(default=0.4, gt=0, le=1)
    warmup: int = 100
    ema: float = Field(default=0.999, ge=0, lt=1)
    clip: float = Field(default=1.0, ge=0)
    losses: dict[str, LossTerm]
    discriminator: Discriminator | None = None

    @model_validator(mode="before")
    @classmethod
    def _bare_weights(cls, values: Any) -> Any:
        """Accept `l1 = 1.0` for `l1 = { weight = 1.0 }`."""
        if isinstance(values, dict) and isinstance(losses := values.get("losses"), dict):
            plain = {key: term if isinstance(term, Mapping) else {"weight": term} for key, term in losses.items()}
            return {**values, "losses": plain}
        return values


class Recipe(_Part):
    """Training recipe; read by `load`.

    Attributes
    ----------
    network, hyperparameters
        A name of `models.networks.table.NETWORKS` and the arguments of its `build` besides the scale.
    back_projection
        Whether a back-projection step follows the network, in training and in inference.
    init
        Weights to start from, such as a public checkpoint (Sun et al. 2023).
    licence, trained_on, notes
        Metadata for the weights file.
    vgg
        VGG19's weights for the perceptual loss; without them the manifold loss replaces it.
    smoke
        Dotted keys and values that reduce the recipe to seconds, for a smoke test.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    title: str
    paper: str
    network: str
    scale: int = Field(default=4, ge=1, le=8)
    hyperparameters: dict[str, Parameter] = Field(default_factory=dict)
    back_projection: bool = False
    seed: int = 0
    init: Path | None = None
    vgg: Path | None = None
    licence: str = ""
    trained_on: str = ""
    notes: str = ""
    data: Data = Data()
    autoencoder: Autoencoder = Autoencoder()
    stages: tuple[Stage, ...] = Field(min_length=1)
    smoke: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check_consistency(self) -> "Recipe":
        names = [stage.name for stage in self.stages]
        if len({*names, "manifold"}) <= len(names):
            raise ValueError(f"stages need different names, other than manifold; got {', '.join(names)}")
        if self.back_projection and self.scale not in SCALES:
            raise ValueError(f"back_projection supports the scales {SCALES}; set it to false for {self.scale}")
        return self

    @property
    def iterations(self) -> int:
        """Total of all stages."""
        return sum(stage.iterations for stage in self.stages)


def names() -> list[str]:
    """Return the names of the included recipes."""
    return sorted(path.stem for path in _HERE.glob("*.toml"))


def load(recipe: str, settings: Iterable[str] = (), *, smoke: bool = False) -> Recipe:
    """Read a recipe and override some of its values.

    Parameters
    ----------
    recipe
        A name of `names()`, or a TOML file.
    settings
        ``key=value`` each; the key dotted, stages by number (``stages.0.batch=8``), the value in TOML or a bare word.
    smoke
        Apply the recipe's `smoke` table first.

    Raises
    ------
    RecipeError
        If there is no such recipe, or a key or value is invalid.
    """
    path = Path(recipe) if recipe.endswith(".toml") else _HERE / f"{recipe}.toml"
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        close = get_close_matches(recipe, names(), n=1)
        hint = f"did you mean {close[0]}?" if close else f"available: {', '.join(names())}; or a .toml file"
        raise RecipeError(f"{recipe}: no such recipe; {hint}") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"{path}: not a recipe: {error}") from error
    values.setdefault("name", path.stem)
    overrides = dict(values.get("smoke", {})) if smoke else {}
    for key, value in (overrides | _parse_settings(settings)).items():
        _set(values, key, value)
    try:
        return Recipe(**values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        got = f", not {first['input']!r}" if key else ""
        raise RecipeError(f"{path.name}: {key or 'recipe'}: {first['msg']}{got}") from error


def _parse_settings(settings: Iterable[str]) -> dict[str, Any]:
    parsed = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise RecipeError(f"{setting}: write KEY=VALUE, such as stages.0.iterations=1000")
        parsed[key.strip()] = _toml_value(value.strip())
    return parsed


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    container: Any = values
    *path, last = key.split(".")
    try:
        for part in path:
            container = container[int(part)] if isinstance(container, list) else container.setdefault(part, {})
        if isinstance(container, list):
            container[int(last)] = value
        else:
            container[last] = value
    except (IndexError, ValueError, TypeError, AttributeError):
        raise RecipeError(f"{key}: the recipe has no such key") from None

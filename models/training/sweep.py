"""Experiment of Upadhyay and Awate: the effect of corrupted training images and of the quasi-norm's q.

Each combination of corruption and q is one run of a recipe in its own folder; finished runs are not repeated.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from slidelift.models.errors import TrainingError, WeightsError
from slidelift.models.training import recipe as recipes
from slidelift.models.training.recipe import Recipe

_GAUSSIAN = 2.0


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of the experiment.

    Attributes
    ----------
    corruption
        Share of the sharp crops that are corrupted, 0 to 1.
    q
        Exponent of the quasi-norms; None for a recipe without any.
    """

    corruption: float
    q: float | None
    recipe: Recipe

    @property
    def folder(self) -> str:
        return f"corruption-{self.corruption:g}" + (f"-q-{self.q:g}" if self.q is not None else "")


@dataclass(frozen=True, slots=True)
class Row:
    """Result of a cell; if training failed, no measures and the reason."""

    cell: Cell
    measures: Mapping[str, float]
    failure: str


def cells(
    name: str, corruptions: Sequence[float], exponents: Sequence[float], settings: Iterable[str], *, smoke: bool = False
) -> list[Cell]:
    """Return every combination; q replaces the exponent of each quasi-norm, in pixels and on the manifold.

    Quasi-norms with q = 2 are not changed: they define SRGAN_E.

    Raises
    ------
    RecipeError
        If there is no such recipe, or a value is out of range.
    """
    settings = list(settings)
    plain = recipes.load(name, settings, smoke=smoke)
    keys = [
        f"stages.{number}.losses.{loss}.q"
        for number, stage in enumerate(plain.stages)
        for loss in ("quasi_norm", "manifold")
        if loss in stage.losses and stage.losses[loss].parameters.get("q") != _GAUSSIAN
    ]
    return [
        Cell(corruption, q, recipes.load(name, [*settings, *_settings(corruption, q, keys)], smoke=smoke))
        for corruption, q in product(corruptions, exponents if keys else [None])
    ]


def _settings(corruption: float, q: float | None, keys: Iterable[str]) -> list[str]:
    return [f"data.corruption={corruption}", *(f"{key}={q}" for key in keys if q is not None)]


def run(
    experiment: Iterable[Cell],
    train: Callable[[Cell, Path], Path | None],
    score: Callable[[Path], dict[str, float]],
    out: Path,
) -> Iterator[Row]:
    """Train and score each cell; stops when `train` was interrupted and returns None.

    Parameters
    ----------
    train
        Trains a cell in a folder and returns its weights.
    score
        Returns the measures of a file of weights.
    """
    for cell in experiment:
        try:
            weights = train(cell, out / cell.folder)
            if weights is None:
                return
            yield Row(cell, score(weights), "")
        except (TrainingError, WeightsError) as error:  # deterministic, so a retry would fail again
            yield Row(cell, {}, str(error))

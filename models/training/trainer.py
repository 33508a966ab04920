"""Runs a training recipe with exact resume.

A killed run resumes from its last checkpoint and ends with the same weights as an uninterrupted one: bit for bit on a
CPU with the same number of threads; on CUDA up to the summation order of backward passes.
"""

import fcntl
import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from slidelift.models.data.images import ImageSet
from slidelift.models.errors import TrainingError, UntrainedWeightsError
from slidelift.models.inference import choose_device
from slidelift.models.training import checkpoint
from slidelift.models.training.execution import execution_on
from slidelift.models.training.log import Log
from slidelift.models.training.phases import Phase
from slidelift.models.training.plan import Plan
from slidelift.models.training.recipe import Recipe
from slidelift.models.zoo.weights import load_weights, save_weights


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a run.

    Attributes
    ----------
    done, total
        Iterations over all phases.
    losses
        Means since the last report.
    """

    phase: str
    done: int
    total: int
    losses: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class _Session:
    """Generator, log and callbacks of one call of `Trainer.run`."""

    rng: torch.Generator
    log: Log
    on_progress: Callable[[Progress], None]
    should_stop: Callable[[], bool]


class Trainer:
    """One run of a recipe in a folder, which holds its checkpoint, log and weights.

    Memory: the images as uint8, the networks and their optimisers on the device, and the batches drawn together.

    Parameters
    ----------
    facts
        Metadata for the weights file besides the recipe's own.
    log_every
        Iterations per row of the log.
    checkpoint_seconds
        Seconds between checkpoints.
    batches_at_once
        Batches drawn together; None for four on CUDA and one elsewhere.

    Raises
    ------
    RecipeError, WeightsError
        As `models.training.plan.Plan`.
    """

    def __init__(
        self,
        recipe: Recipe,
        images: ImageSet,
        out: Path,
        *,
        device: str = "auto",
        precision: str = "auto",
        facts: Mapping[str, str] | None = None,
        log_every: int = 50,
        checkpoint_seconds: float = 60,
        batches_at_once: int | None = None,
    ) -> None:
        self.recipe = recipe
        self._execution = execution_on(choose_device(device), precision, batches_at_once)
        self._images, self._out = images, out
        self._facts = dict(facts or {})
        self._log_every, self._checkpoint_seconds = log_every, checkpoint_seconds
        self._plan = Plan(recipe)
        self._identity = self._identify()
        self._carried: dict[str, Any] = {}
        self.warnings: list[str] = []

    @property
    def weights_path(self) -> Path:
        """File of the trained weights."""
        return self._out / f"{self.recipe.name}.safetensors"

    def run(
        self,
        on_progress: Callable[[Progress], None] = lambda _: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Train to the end; returns False if `should_stop` ended the run, after saving a checkpoint.

        Raises
        ------
        TrainingError
            If the checkpoint belongs to another run, or a loss is not finite.
        WeightsError
            If the trained weights can't be read back. Weights that change plain colours only give a warning.
        """
        self._out.mkdir(parents=True, exist_ok=True)
        with _lock(self._out), torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
            rng = torch.Generator().manual_seed(self.recipe.seed)
            log = Log(self._out / "log.csv", self._plan.loss_names())
            return self._run(_Session(rng, log, on_progress, should_stop))

    def _run(self, session: _Session) -> bool:
        saved = checkpoint.load(self._checkpoint_path, self._identity)
        first = 0
        if saved is not None:
            first, self._carried = saved["phase"], saved["carried"]
            session.rng.set_state(saved["rng"])
        session.log.cut(self._plan.phases, first, saved["iteration"] if saved else 0)
        for number in range(first, len(self._plan.phases)):
            phase = self._plan.build(number, self._carried, self._images, self._execution)
            start, sums = 0, {}
            if saved is not None:
                phase.restore(saved["state"])
                start, sums, saved = saved["iteration"], saved["sums"], None
            if not self._run_phase(number, phase, start, sums, session):
                return False
            self._carried |= phase.result()
        self._write_weights()
        return True

    def _run_phase(self, number: int, phase: Phase, start: int, sums: dict[str, Any], session: _Session) -> bool:
        reported_at = saved_at = time.monotonic()
        for iteration in range(start, phase.iterations):
            for name, value in phase.step(iteration, session.rng).items():
                sums[name] = sums[name] + value.detach() if name in sums else value.detach().clone()
            done = iteration + 1
            stop = session.should_stop()
            if done % self._log_every == 0 or done == phase.iterations:
                self._report(number, phase, done, sums, time.monotonic() - reported_at, session)
                sums, reported_at = {}, time.monotonic()
            if stop or done == phase.iterations or time.monotonic() - saved_at >= self._checkpoint_seconds:
                self._save(number, done, sums, phase, session.rng)
                saved_at = time.monotonic()
            if stop:
                return False
        return True

    def _report(
        self, number: int, phase: Phase, done: int, sums: Mapping[str, Any], seconds: float, session: _Session
    ) -> None:
        """Write mean losses to the log and report progress."""
        count = (done - 1) % self._log_every + 1
        means = {name: total / count for name, total in self._finite(sums, phase, done).items()}
        row: dict[str, float | int | str] = {"stage": phase.name, "iteration": done, "seconds": seconds}
        session.log.write(row | {"learning_rate": self._plan.rate(number, done - 1)} | means)
        before, total = self._plan.iterations_before(number), self._plan.iterations_before(len(self._plan.phases))
        session.on_progress(Progress(phase.name, before + done, total, means))

    def _finite(self, sums: Mapping[str, Any], phase: Phase, done: int) -> dict[str, float]:
        """Convert the sums to numbers; raises before a log row or checkpoint is written if one is not finite."""
        numbers = {name: float(value) for name, value in sums.items()}
        bad = [name for name, value in numbers.items() if not math.isfinite(value)]
        if bad:
            raise TrainingError(
                f"{self.recipe.name}: {bad[0]} is not a finite number after iteration {done} of {phase.name}; lower "
                f"its learning_rate, delete {self._checkpoint_path} and start again"
            )
        return numbers

    def _save(self, number: int, iteration: int, sums: Mapping[str, Any], phase: Phase, rng: torch.Generator) -> None:
        state = {
            "identity": self._identity,
            "phase": number,
            "iteration": iteration,
            "sums": self._finite(sums, phase, iteration),
            "carried": self._carried,
            "state": phase.state(),
            "rng": rng.get_state(),
        }
        checkpoint.save(self._checkpoint_path, state)

    @property
    def _checkpoint_path(self) -> Path:
        return self._out / "checkpoint.pt"

    def _identify(self) -> str:
        """Hash everything that the weights depend on: the recipe, the files it names, the images."""
        without_effect = {"name", "title", "paper", "notes", "licence", "trained_on", "smoke"}
        settings = json.dumps([_without_paths(self.recipe, without_effect), self._execution.bf16], sort_keys=True)
        digest = hashlib.sha256(settings.encode())
        for path in self._plan.files:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        digest.update(self._images.pixels.cpu().numpy().data)
        return digest.hexdigest()

    def _write_weights(self) -> None:
        recipe, state = self.recipe, self._carried["network"]
        spec = self._plan.spec
        hyperparameters = spec.hyperparameters(state) | {"scale": recipe.scale}
        facts = {
            "recipe": recipe.name,
            "recipe_json": json.dumps(_without_paths(recipe, {"smoke"})),
            "citation": recipe.paper,
            "degradation": recipe.data.degradation,
            "iterations": str(recipe.iterations),
            "notes": self.notes,
        }
        facts |= {name: text for name in ("licence", "trained_on") if (text := getattr(recipe, name))}
        if recipe.back_projection:
            facts["back_projection"] = "1"
        save_weights(self.weights_path, spec, hyperparameters, state, facts | self._facts)
        try:  # the file is verified by reopening it
            self.warnings.extend(load_weights(self.weights_path).card().warnings)
        except UntrainedWeightsError as error:
            self.warnings.append(f"{error}. Train longer: slidelift refuses to use these weights")

    @property
    def notes(self) -> str:
        """The recipe's notes, the initial weights and any replaced loss."""
        instead = "No VGG19 weights were given: the manifold loss replaces the perceptual loss."
        started = f"Started from {self._plan.init.name}." if self._plan.init else ""
        return " ".join(filter(None, [self.recipe.notes, started, instead if self._plan.vgg_missing else ""]))


def _without_paths(recipe: Recipe, exclude: set[str]) -> dict[str, Any]:
    """Return the recipe as plain values without local paths."""
    values = recipe.model_dump(mode="json", exclude=exclude | {"init", "vgg"})
    for stage in values["stages"]:
        if stage["discriminator"] is not None:
            stage["discriminator"].pop("init")
    return values


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Lock a run's folder, so that two runs can't overwrite each other's checkpoint."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TrainingError(f"{folder}: another training runs there; choose another folder") from None
        yield
    finally:
        os.close(handle)

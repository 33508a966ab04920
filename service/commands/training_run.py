"""One training run with a progress bar; an interrupt saves a checkpoint first."""

import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from tqdm import tqdm

from slidelift.models.data.images import ImageSet
from slidelift.models.inference import choose_device
from slidelift.models.training.recipe import Recipe
from slidelift.models.training.trainer import Progress, Trainer
from slidelift.service.commands.signals import signals_cancel
from slidelift.service.commands.terminal import print_message
from slidelift.service.pipeline.progress import CancelToken


def read_images(folders: Sequence[Path], recipe: Recipe, device: str) -> ImageSet:
    """Read images onto the training device, and check that each is large enough for the recipe's crops.

    Raises
    ------
    ImagesError, DeviceError
        An image can't be used, or there is no such device.
    """
    least = max(stage.crop for stage in recipe.stages) + recipe.data.margin * recipe.scale
    return ImageSet.read(folders, least_side=least, device=choose_device(device))


def train(recipe: Recipe, images: ImageSet, out: Path, *, device: str, checkpoint_seconds: float) -> Path | None:
    """Train in a folder; return the file of weights, or None after Ctrl-C, when the checkpoint has been saved."""
    log_every = min(50, *(stage.iterations for stage in recipe.stages))
    trainer = Trainer(
        recipe,
        images,
        out,
        device=device,
        facts=_software(),
        log_every=log_every,
        checkpoint_seconds=checkpoint_seconds,
    )
    print_message(
        f"{recipe.title}: {len(images)} images, {recipe.iterations} iterations on {choose_device(device)}, into {out}"
    )
    if trainer.notes:
        print_message(trainer.notes)
    cancel = CancelToken()
    with signals_cancel(cancel), tqdm(unit="it", disable=None, dynamic_ncols=True) as bar:

        def show(progress: Progress) -> None:
            if not bar.n and progress.done > log_every:
                bar.initial = bar.n = progress.done  # iterations of an earlier run must not count in the speed
            bar.total = progress.total
            bar.set_description(progress.phase)
            bar.set_postfix_str(f"loss {progress.losses['total']:.4g}", refresh=False)
            bar.update(progress.done - bar.n)

        finished = trainer.run(show, lambda: cancel.is_set)
    for warning in trainer.warnings:
        print_message(f"warning: {warning}")
    return trainer.weights_path if finished else None


def _software() -> dict[str, str]:
    """Version, and the commit if slidelift runs from a clone."""
    facts = {"software": f"slidelift {version('slidelift')}"}
    root = Path(__file__).resolve().parent.parent.parent
    if (root / ".git").exists():
        done = subprocess.run(["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
        facts |= {"commit": done.stdout.strip()} if done.returncode == 0 else {}
    return facts

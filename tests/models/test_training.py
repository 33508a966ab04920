"""Training: every recipe's smoke form reduces its loss, and a killed run resumes exactly."""

import csv
import importlib
import io
import json
import shutil
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from slidelift.models.data.images import ImageSet
from slidelift.models.errors import RecipeError, TrainingError, UntrainedWeightsError
from slidelift.models.networks.autoencoder import Autoencoder
from slidelift.models.networks.discriminators import DISCRIMINATORS
from slidelift.models.networks.table import NETWORKS
from slidelift.models.training import recipe as recipes
from slidelift.models.training import sweep
from slidelift.models.training.captured_step import CudaGraphs, Losses
from slidelift.models.training.execution import Execution, execution_on
from slidelift.models.training.muon import Muon, orthogonal
from slidelift.models.training.optimisers import learning_rate
from slidelift.models.training.phases import Phase, StagePhase
from slidelift.models.training.plan import Plan
from slidelift.models.training.recipe import Stage
from slidelift.models.training.trainer import Progress, Trainer
from slidelift.models.zoo.weights import load_weights


def texture(side: int, seed: int) -> np.ndarray:
    """Dark discs on pink, similar to nuclei."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    image = np.full((side, side, 3), (226, 178, 206), np.float64)
    for _ in range(side * side // 120):
        centre, radius = rng.uniform(0, side, 2), rng.uniform(2, 7)
        inside = np.hypot(y - centre[0], x - centre[1]) < radius
        image[inside] = rng.uniform((70, 40, 110), (130, 90, 170))
    return (image + rng.normal(0, 3, image.shape)).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    folder = tmp_path_factory.mktemp("images")
    for seed in range(3):
        Image.fromarray(texture(160, seed)).save(folder / f"{seed}.png")
    return ImageSet.read([folder])


class KilledError(Exception):
    """Simulates a kill between two checkpoints."""


def train(
    recipe: recipes.Recipe,
    images: ImageSet,
    out: Path,
    *,
    kill_after: int | None = None,
    copies: Path | None = None,
    batches_at_once: int | None = None,
) -> list[Progress]:
    """Train with a checkpoint per iteration and a row every three; copy the run's folder to `copies` at each row."""
    reports: list[Progress] = []

    def on_progress(progress: Progress) -> None:
        reports.append(progress)
        if copies is not None:
            shutil.copytree(out, copies / str(progress.done))
        if kill_after is not None and progress.done >= kill_after:
            raise KilledError

    trainer = Trainer(
        recipe, images, out, device="cpu", log_every=3, checkpoint_seconds=0, batches_at_once=batches_at_once
    )
    assert trainer.run(on_progress)
    return reports


@pytest.mark.parametrize("name", recipes.names())
def test_recipe_learns_and_resumes_exactly(name: str, images: ImageSet, tmp_path: Path) -> None:
    recipe, copies = recipes.load(name, smoke=True), tmp_path / "killed-after"
    reports = train(recipe, images, tmp_path / "whole", copies=copies)
    losses = [one.losses["total"] for one in reports if one.phase == recipe.stages[0].name]
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    late = next(one.done for one in reports if one.done >= reports[-1].done - 7)
    killed = copies / str(late)
    assert not list(killed.glob("*.safetensors"))
    resumed_reports = train(recipe, images, killed)
    assert resumed_reports[0].done > reports[0].done
    whole, resumed = (load_file(folder / f"{name}.safetensors") for folder in (tmp_path / "whole", killed))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    assert [row[:2] for row in log(killed)] == [row[:2] for row in log(tmp_path / "whole")]

    expected = without_seconds(log(tmp_path / "whole"))
    for row, one in enumerate(reports):  # each phase starts the same after a resume; the first one from an empty folder
        last = reports[row - 1]
        if row and last.phase == one.phase:
            continue
        folder = copies / str(last.done) if row else tmp_path / "new"
        with pytest.raises(KilledError):
            train(recipe, images, folder, kill_after=one.done)
        assert without_seconds(log(folder)) == expected[: row + 2]


@pytest.mark.parametrize(("name", "killed_after"), [("compact-x4", 6), ("realesrgan", 10 + 6)])
def test_run_killed_between_batches_drawn_together_resumes_exactly(name: str, killed_after, images, tmp_path) -> None:
    settings = [f"stages.{number}.iterations=9" for number in range(len(recipes.load(name).stages))]
    recipe, copies = recipes.load(name, settings, smoke=True), tmp_path / "killed-after"
    train(recipe, images, tmp_path / "whole", copies=copies, batches_at_once=4)
    killed = copies / str(killed_after)
    drawn = torch.load(killed / "checkpoint.pt", weights_only=True)["state"]["drawn"]
    assert (drawn.keys(), drawn["left"]) == ({"generator", "batches", "left"}, 3), "of the stage's fifth; no pixels"
    train(recipe, images, killed, batches_at_once=4)
    whole, resumed = (load_file(folder / f"{name}.safetensors") for folder in (tmp_path / "whole", killed))
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def without_seconds(rows: list[list[str]]) -> list[list[str]]:
    column = rows[0].index("seconds")
    return [row[:column] + row[column + 1 :] for row in rows]


def log(folder: Path) -> list[list[str]]:
    with (folder / "log.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_weights_load_and_contain_metadata(images: ImageSet, tmp_path: Path) -> None:
    settings = ["trained_on=discs", "licence=CC-BY-4.0", "stages.0.iterations=3", "stages.1.iterations=3"]
    recipe = recipes.load("realesrgan", settings, smoke=True)
    train(recipe, images, tmp_path)
    path = tmp_path / "realesrgan.safetensors"
    with safe_open(path, "pt") as file:
        facts = file.metadata()
    assert (facts["architecture"], facts["scale"], facts["trained_on"]) == ("rrdbnet", "4", "discs")
    assert (facts["recipe"], facts["degradation"], facts["licence"]) == ("realesrgan", "realesrgan", "CC-BY-4.0")
    assert "manifold loss replaces" in facts["notes"]
    assert json.loads(facts["recipe_json"])["stages"][1]["discriminator"]["network"] == "unet"
    assert json.loads(facts["hyperparameters"])["blocks"] == 1


def test_weights_that_change_colours_are_saved_with_a_warning_and_do_not_load(images, tmp_path: Path) -> None:
    trainer = Trainer(recipes.load("espcn", ["stages.0.iterations=3"], smoke=True), images, tmp_path, device="cpu")
    assert trainer.run()
    assert "Train longer" in trainer.warnings[0]
    with pytest.raises(UntrainedWeightsError):
        load_weights(trainer.weights_path)


def test_training_starts_from_init_weights(images: ImageSet, tmp_path: Path) -> None:
    settings = ["stages.0.iterations=3", "stages.0.learning_rate=1e-12"]
    train(recipes.load("compact-x4", ["stages.0.iterations=12"], smoke=True), images, tmp_path / "first")
    given = tmp_path / "first" / "compact-x4.safetensors"
    train(recipes.load("compact-x4", [*settings, f"init={given}"], smoke=True), images, tmp_path / "second")
    before, after = load_file(given), load_file(tmp_path / "second" / "compact-x4.safetensors")
    assert all(torch.allclose(before[key], after[key], atol=1e-3) for key in before)
    with pytest.raises(RecipeError, match="trains rrdbnet"):
        train(recipes.load("rrdbnet", [f"init={given}"], smoke=True), images, tmp_path / "third")


@pytest.mark.parametrize("scale", [2, 3])
@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_trains_at_the_other_scales_of_its_network(name: str, scale: int, images, tmp_path: Path) -> None:
    settings = [f"scale={scale}", "back_projection=false", "autoencoder.iterations=1"]
    settings += [f"stages.{number}.iterations=1" for number in range(len(recipes.load(name).stages))]
    recipe = recipes.load(name, settings, smoke=True)
    if scale not in NETWORKS[recipe.network].scales:
        assert (recipe.network, scale) == ("rrdbnet", 3), "Milas 2022 trains it only at 2 and 4"
        return
    train(recipe, images, tmp_path)
    assert load_weights(tmp_path / f"{name}.safetensors", self_test=False).geometry.scale == scale


def test_second_run_in_the_same_folder_is_refused(images: ImageSet, tmp_path: Path) -> None:
    recipe = recipes.load("espcn", ["stages.0.iterations=3"], smoke=True)

    def start_another(_: Progress) -> None:
        with pytest.raises(TrainingError, match="another training runs there"):
            Trainer(recipe, images, tmp_path, device="cpu").run()

    assert Trainer(recipe, images, tmp_path, device="cpu", log_every=1).run(start_another)


def test_interrupt_stops_after_the_iteration_and_loses_none(images: ImageSet, tmp_path: Path) -> None:
    recipe = recipes.load("espcn", ["stages.0.iterations=12"], smoke=True)
    answers = iter([False, False, True])
    stopped = Trainer(recipe, images, tmp_path, device="cpu", log_every=6)
    assert not stopped.run(should_stop=lambda: next(answers))
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["iteration"] == 3
    assert Trainer(recipe, images, tmp_path, device="cpu", log_every=6).run()
    assert Trainer(recipe, images, tmp_path / "whole", device="cpu", log_every=6).run()
    rows, whole = log(tmp_path), log(tmp_path / "whole")
    assert [row[:2] for row in rows] == [row[:2] for row in whole]
    assert [float(row[-1]) for row in rows[1:]] == pytest.approx([float(row[-1]) for row in whole[1:]], rel=1e-5)


def test_weights_contain_no_local_paths(images: ImageSet, tmp_path: Path) -> None:
    discriminator = tmp_path / "secret-discriminator.pth"
    torch.save(DISCRIMINATORS["unet"](features=8).state_dict(), discriminator)
    settings = [f"stages.1.discriminator.init={discriminator}", "stages.0.iterations=1", "stages.1.iterations=1"]
    train(recipes.load("realesrgan", settings, smoke=True), images, tmp_path / "run")
    assert b"secret" not in (tmp_path / "run" / "realesrgan.safetensors").read_bytes()


def test_sweep_does_not_change_the_gaussian_residuals_of_srgan_e() -> None:
    assert [cell.q for cell in sweep.cells("srgan-e", [0.0, 0.3], [0.5, 1.0], [])] == [None, None]
    [cell] = sweep.cells("srgan-qe", [0.3], [0.7], [])
    losses = cell.recipe.stages[0].losses
    assert [losses[name].parameters["q"] for name in ("quasi_norm", "manifold")] == [0.7, 0.7]
    assert (cell.recipe.data.corruption, cell.folder) == (0.3, "corruption-0.3-q-0.7")


def test_checkpoint_of_other_settings_is_refused(images: ImageSet, tmp_path: Path) -> None:
    train(recipes.load("espcn", ["stages.0.iterations=3"], smoke=True), images, tmp_path)
    with pytest.raises(TrainingError, match="another recipe"):
        train(recipes.load("espcn", ["stages.0.iterations=3", "seed=1"], smoke=True), images, tmp_path)


def test_non_finite_loss_ends_the_run_with_its_name(images: ImageSet, tmp_path: Path) -> None:
    recipe = recipes.load("espcn", ["stages.0.learning_rate=1e30", "stages.0.optimiser=sgd"], smoke=True)
    with pytest.raises(TrainingError, match="is not a finite number after iteration"):
        Trainer(recipe, images, tmp_path, device="cpu", log_every=1000, checkpoint_seconds=0).run()
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert all(np.isfinite(total) for total in saved["sums"].values()), "the last checkpoint is from before"


@pytest.mark.parametrize(
    ("recipe", "settings", "message"),
    [
        ("compact-x5", [], "did you mean compact-x"),
        ("compact-x4", ["stages.0.batches=3"], "stages.0.batches"),
        ("compact-x4", ["stages.7.batch=3"], "no such key"),
        ("compact-x4", ["stages.0.batch"], "KEY=VALUE"),
        ("compact-x4", ["stages.0.batch=many"], "stages.0.batch"),
        ("compact-x4", ["name=../elsewhere"], "name"),
        ("compact-x4", ["stages.0.name=manifold"], "different names"),
        ("compact-x4", ["scale=3"], "back_projection supports"),
    ],
)
def test_invalid_recipe_is_refused_with_the_key(recipe: str, settings: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipes.load(recipe, settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["network=alexnet"], "alexnet: no such network"),
        (["data.degradation=fog"], "fog: no such degradation"),
        (["stages.0.losses.beauty=1.0"], "beauty: no such loss"),
        (["data.parameters.fog=1.0"], "fog"),
        (["data.corruption=0.5", "data.corruption_kinds=['fog']"], "fog"),
        (["data.degradation=realesrgan", "data.parameters={}", "data.pool=1"], "fewer than the batch"),
        (["scale=8", "back_projection=false"], "not by 8"),
        (["init=nowhere.pth"], "nowhere.pth"),
    ],
)
def test_unknown_names_are_refused_before_training(settings, message, images: ImageSet, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        Trainer(recipes.load("compact-x4", settings, smoke=True), images, tmp_path)


def test_every_recipe_has_a_paper_and_a_much_smaller_smoke_form() -> None:
    for name in recipes.names():
        full, small = recipes.load(name), recipes.load(name, smoke=True)
        assert full.paper
        assert full.title
        assert full.iterations > 100 * small.iterations


def stage(**values) -> Stage:
    return Stage(name="s", iterations=100, learning_rate=1.0, losses={"l1": 1.0}, warmup=0, **values)


def test_learning_rates_follow_their_schedule() -> None:
    assert [learning_rate(stage(schedule="constant"), i) for i in (0, 99)] == [1.0, 1.0]
    assert learning_rate(stage(schedule="cosine"), 50) == pytest.approx(0.5)
    linear = stage(schedule="linear", decay=0.4)
    assert [learning_rate(linear, i) for i in (0, 60, 80)] == [1.0, 1.0, pytest.approx(0.5)]
    halving = stage(schedule="halving", milestones=(0.5, 0.75))
    assert [learning_rate(halving, i) for i in (49, 50, 75)] == [1.0, 0.5, 0.25]


def test_orthogonalised_matrices_have_singular_values_near_one() -> None:
    matrix = torch.randn(24, 90, generator=torch.Generator().manual_seed(1))
    for one in (matrix, matrix.T):
        values = torch.linalg.svdvals(orthogonal(one))
        assert values.min() > 0.6
        assert values.max() < 1.25


def test_muon_solves_least_squares() -> None:
    rng = torch.Generator().manual_seed(2)
    expected, inputs = torch.randn(8, 8, generator=rng), torch.randn(64, 8, generator=rng)
    weight = torch.zeros(8, 8, requires_grad=True)
    optimiser = Muon([weight], 0.5)
    for step in range(200):
        optimiser.param_groups[0]["lr"] = 0.5 * (1 - step / 200)
        optimiser.zero_grad()
        (inputs @ (weight - expected).T).square().mean().backward()
        optimiser.step()
    assert (weight - expected).abs().max() < 0.05


def test_muon_updates_a_stack_of_matrices_as_single_ones() -> None:
    rng = torch.Generator().manual_seed(3)
    shapes = [(8, 4, 3, 3), (8, 36), (8, 4, 3, 3), (20, 6), (3, 8, 3, 3), (20, 6)]
    weights = [torch.randn(shape, generator=rng) for shape in shapes]
    weights[2] = weights[2].to(memory_format=torch.channels_last)
    copies = [weight.clone() for weight in weights]
    stacked = Muon(weights, 0.1)
    single = [Muon([weight], 0.1) for weight in copies]
    for _ in range(3):
        for one, other in zip(weights, copies, strict=True):
            one.grad = torch.randn(one.shape, generator=rng)
            other.grad = one.grad.clone()
        for optimiser in (stacked, *single):
            optimiser.step()
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(weights, copies, strict=True))


def test_muon_resumes_exactly_from_its_state() -> None:
    rng = torch.Generator().manual_seed(4)
    weights = [torch.randn(8, 4, 3, 3, generator=rng) for _ in range(3)]
    gradients = [[torch.randn(8, 4, 3, 3, generator=rng) for _ in weights] for _ in range(4)]

    def steps(optimiser: Muon, through: Iterable[list[Tensor]]) -> list[Tensor]:
        moved: list[Tensor] = optimiser.param_groups[0]["params"]
        for step in through:
            for weight, gradient in zip(moved, step, strict=True):
                weight.grad = gradient
            optimiser.step()
        return moved

    first = Muon([weight.clone() for weight in weights], 0.1)
    half = [weight.clone() for weight in steps(first, gradients[:2])]
    second = Muon(half, 0.1)
    second.load_state_dict(saved_and_loaded(first.state_dict()))
    for one, other in zip(steps(first, gradients[2:]), steps(second, gradients[2:]), strict=True):
        assert torch.equal(one, other)


def saved_and_loaded(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


class FakeGraphs:
    """Replaces CUDA graphs: computes what was captured again, or fails with two errors as CUDA does."""

    def __init__(self, device: str = "cpu", failure: str = "") -> None:
        self.device, self.failure = torch.device(device), failure
        self.calls: list[str] = []

    def warm_up(self, compute: Callable[[], Losses]) -> Losses:
        self.calls.append("warm up")
        return compute()

    def capture(self, compute: Callable[[], Losses]) -> Callable[[], Losses]:
        self.calls.append("capture")
        if not self.failure:
            return compute
        try:
            raise RuntimeError(f"{self.failure}\nCompile with TORCH_USE_CUDA_DSA")
        except RuntimeError:
            raise RuntimeError("operation failed due to a previous error during capture")  # noqa: B904 - as torch does


@pytest.fixture
def capturable_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow Adam's capturable form, which torch allows on accelerators only, by the device's name."""
    adam = importlib.import_module("torch.optim.adam")
    monkeypatch.setattr(adam, "_get_capturable_supported_devices", lambda supports_xla=True: ["cpu", "meta", "cuda"])


def first_stage(recipe: recipes.Recipe, images: ImageSet, execution: Execution) -> Phase:
    """The recipe's first stage, with an untrained autoencoder if the recipe has a manifold phase before it."""
    plan = Plan(recipe)
    carried = {"autoencoder": Autoencoder(features=recipe.autoencoder.features).state_dict()}
    return plan.build(plan.phases.index(recipe.stages[0].name), carried, images, execution)


@pytest.mark.parametrize("name", recipes.names())
def test_first_stage_is_not_the_manifold_phase(name: str, images: ImageSet) -> None:
    phase = first_stage(recipes.load(name, smoke=True), images, Execution(torch.device("cpu")))
    assert isinstance(phase, StagePhase)
    assert phase.name == recipes.load(name).stages[0].name


def learn(phase: Phase, iterations: range) -> list[float]:
    rng = torch.Generator().manual_seed(iterations.start)
    return [float(phase.step(iteration, rng)["total"]) for iteration in iterations]


@pytest.mark.parametrize("failure", ["", "a loss was read back"])
@pytest.mark.parametrize("name", ["compact-x4", "edsr-baseline"])
def test_captured_step_trains_as_a_plain_one(name: str, failure: str, images, capturable_everywhere) -> None:
    recipe, graphs = recipes.load(name, smoke=True), FakeGraphs(failure=failure)
    plain = first_stage(recipe, images, Execution(torch.device("cpu")))
    captured = first_stage(recipe, images, Execution(torch.device("cpu"), graphs=graphs))
    warning = pytest.warns(UserWarning, match=rf"could not be captured: {failure}$") if failure else nullcontext()
    with warning:
        assert learn(captured, range(6)) == pytest.approx(learn(plain, range(6)), rel=1e-4)
    assert graphs.calls == ["warm up"] * 3 + ["capture"]
    state, expected = captured.state(), plain.state()
    for part in ("network", "averaged"):
        for key, value in expected[part].items():
            assert torch.allclose(state[part][key], value, atol=1e-4), key


@pytest.mark.parametrize("graphs_first", [True, False])
def test_checkpoint_resumes_with_and_without_captured_steps(graphs_first, images, capturable_everywhere) -> None:
    recipe = recipes.load("compact-x4", smoke=True)
    plain, captured = Execution(torch.device("cpu")), Execution(torch.device("cpu"), graphs=FakeGraphs())
    before, after = (captured, plain) if graphs_first else (plain, captured)
    unbroken, broken, resumed = (first_stage(recipe, images, execution) for execution in (before, before, after))
    learn(unbroken, range(6)), learn(broken, range(6))
    resumed.restore(saved_and_loaded(broken.state()))
    assert learn(resumed, range(6, 12)) == pytest.approx(learn(unbroken, range(6, 12)), rel=1e-4)


class MetaTensorsOnly(TorchDispatchMode):
    """Fails if an operation takes a tensor of another device than "meta"."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        assert all(one.device.type == "meta" for one in tensors), f"{function} can't be captured: a tensor of the host"
        return function(*args, **(kwargs or {}))


class MetaGraphs(FakeGraphs):
    def capture(self, compute: Callable[[], Losses]) -> Callable[[], Losses]:
        with MetaTensorsOnly():
            losses = compute()
        return lambda: losses


@pytest.mark.parametrize(
    "name", [name for name in recipes.names() if recipes.load(name).stages[0].discriminator is None]
)
def test_captured_step_exchanges_nothing_with_the_host(name, monkeypatch, capturable_everywhere) -> None:
    """On the device "meta" tensors have no values, so reading one is an error, as it is during a capture."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # does not support the device "meta"
    plain = ["data.degradation=bicubic", "data.parameters={}", "data.entropy=0", "data.corruption=0", "data.pool=0"]
    graphs = MetaGraphs("meta")
    images = ImageSet([torch.zeros(3, 256, 256, dtype=torch.uint8)], "meta")
    phase = first_stage(recipes.load(name, plain, smoke=True), images, Execution(graphs.device, graphs=graphs))
    for iteration in range(4):
        phase.step(iteration, torch.Generator().manual_seed(iteration))


def test_step_with_a_discriminator_or_sgd_is_not_captured(images: ImageSet) -> None:
    for name, settings in (("srgan-e", []), ("espcn", ["stages.0.optimiser=sgd"])):
        recipe, graphs = recipes.load(name, settings, smoke=True), FakeGraphs()
        learn(first_stage(recipe, images, Execution(torch.device("cpu"), graphs=graphs)), range(5))
        assert not graphs.calls


def test_fp16_is_no_training_precision() -> None:
    with pytest.raises(ValueError, match="fp16"):
        execution_on(torch.device("cpu"), "fp16")
    assert execution_on(torch.device("cpu"), "auto").batches_at_once == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("name", ["compact-x4", "realesrgan-x4", "srresnet"])
def test_captured_step_trains_as_a_plain_one_on_cuda(name: str) -> None:
    device = torch.device("cuda")
    images = ImageSet([torch.from_numpy(texture(160, seed)).permute(2, 0, 1) for seed in range(3)], device)
    recipe = recipes.load(name, smoke=True)
    plain = first_stage(recipe, images, Execution(device))
    captured = first_stage(recipe, images, Execution(device, graphs=CudaGraphs(device)))
    assert learn(captured, range(20)) == pytest.approx(learn(plain, range(20)), rel=1e-2)
    assert captured._captured._replay is not None

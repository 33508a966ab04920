"""Every recipe trains, in its shrunken form: the loss falls, and a killed run ends as an undisturbed one."""

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
from slidelift.models.networks.critics import CRITICS
from slidelift.models.networks.table import NETWORKS
from slidelift.models.training import recipe as recipes
from slidelift.models.training import sweep
from slidelift.models.training.captured_step import CudaGraphs, Losses
from slidelift.models.training.execution import Execution, execution_on
from slidelift.models.training.muon import Muon, orthogonal
from slidelift.models.training.optimisers import learning_rate
from slidelift.models.training.phases import Phase
from slidelift.models.training.plan import Plan
from slidelift.models.training.recipe import Stage
from slidelift.models.training.trainer import Progress, Trainer
from slidelift.models.zoo.weights import load_weights


def texture(side: int, seed: int) -> np.ndarray:
    """Dark discs on pink, something like nuclei."""
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
    """Stands for a kill between two checkpoints."""


def train(
    recipe: recipes.Recipe,
    images: ImageSet,
    out: Path,
    *,
    kill_after: int | None = None,
    copies: Path | None = None,
    batches_at_once: int | None = None,
) -> list[Progress]:
    """Checkpoints after every iteration, a row every three; at each row what a kill there would leave is copied."""
    seen: list[Progress] = []

    def look(progress: Progress) -> None:
        seen.append(progress)
        if copies is not None:
            shutil.copytree(out, copies / str(progress.done))
        if kill_after is not None and progress.done >= kill_after:
            raise KilledError

    trainer = Trainer(
        recipe, images, out, device="cpu", log_every=3, checkpoint_seconds=0, batches_at_once=batches_at_once
    )
    assert trainer.run(look)
    return seen


@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_learns_and_resumes_exactly(name: str, images: ImageSet, tmp_path: Path) -> None:
    recipe, copies = recipes.load(name, smoke=True), tmp_path / "killed-after"
    seen = train(recipe, images, tmp_path / "whole", copies=copies)
    first_stage = [one.losses["total"] for one in seen if one.phase == recipe.stages[0].name]
    assert np.mean(first_stage[-3:]) < np.mean(first_stage[:3])
    late = next(one.done for one in seen if one.done >= seen[-1].done - 7)
    killed = copies / str(late)
    assert not list(killed.glob("*.safetensors"))
    again = train(recipe, images, killed)
    assert again[0].done > seen[0].done
    whole, resumed = (load_file(folder / f"{name}.safetensors") for folder in (tmp_path / "whole", killed))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    assert [row[:2] for row in log(killed)] == [row[:2] for row in log(tmp_path / "whole")]

    expected = timeless(log(tmp_path / "whole"))
    for row, one in enumerate(seen):  # each phase begins the same again, the first from nothing
        last = seen[row - 1]
        if row and last.phase == one.phase:
            continue
        begun = copies / str(last.done) if row else tmp_path / "begun"
        with pytest.raises(KilledError):
            train(recipe, images, begun, kill_after=one.done)
        assert timeless(log(begun)) == expected[: row + 2]


@pytest.mark.parametrize(("name", "killed_after"), [("compact-x4", 6), ("realesrgan", 10 + 6)])
def test_a_run_killed_amid_batches_drawn_in_one_go_resumes_exactly(name: str, killed_after, images, tmp_path) -> None:
    settings = [f"stages.{number}.iterations=9" for number in range(len(recipes.load(name).stages))]
    recipe, copies = recipes.load(name, settings, smoke=True), tmp_path / "killed-after"
    train(recipe, images, tmp_path / "whole", copies=copies, batches_at_once=4)
    killed = copies / str(killed_after)
    drawn = torch.load(killed / "checkpoint.pt", weights_only=True)["state"]["drawn"]
    assert (drawn.keys(), drawn["left"]) == ({"generator", "batches", "left"}, 3), "of the stage's fifth; no pixels"
    train(recipe, images, killed, batches_at_once=4)
    whole, resumed = (load_file(folder / f"{name}.safetensors") for folder in (tmp_path / "whole", killed))
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def timeless(rows: list[list[str]]) -> list[list[str]]:
    """A log without its seconds."""
    column = rows[0].index("seconds")
    return [row[:column] + row[column + 1 :] for row in rows]


def log(folder: Path) -> list[list[str]]:
    with (folder / "log.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_the_weights_carry_their_facts_and_load(images: ImageSet, tmp_path: Path) -> None:
    settings = ["trained_on=discs", "licence=CC-BY-4.0", "stages.0.iterations=3", "stages.1.iterations=3"]
    recipe = recipes.load("realesrgan", settings, smoke=True)
    train(recipe, images, tmp_path)
    path = tmp_path / "realesrgan.safetensors"
    with safe_open(path, "pt") as file:
        facts = file.metadata()
    assert (facts["architecture"], facts["scale"], facts["trained_on"]) == ("rrdbnet", "4", "discs")
    assert (facts["recipe"], facts["degradation"], facts["licence"]) == ("realesrgan", "realesrgan", "CC-BY-4.0")
    assert "manifold loss stands in" in facts["notes"]
    assert json.loads(facts["recipe_json"])["stages"][1]["critic"]["network"] == "unet"
    assert json.loads(facts["hyperparameters"])["blocks"] == 1


def test_weights_that_change_colours_are_written_with_a_warning_and_refused_in_use(images, tmp_path: Path) -> None:
    trainer = Trainer(recipes.load("espcn", ["stages.0.iterations=3"], smoke=True), images, tmp_path, device="cpu")
    assert trainer.run()
    assert "Train longer" in trainer.warnings[0]
    with pytest.raises(UntrainedWeightsError):
        load_weights(trainer.weights_path)


def test_training_starts_from_the_weights_it_is_given(images: ImageSet, tmp_path: Path) -> None:
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
        assert (recipe.network, scale) == ("rrdbnet", 3), "Milas 2022 has it at 2 and 4 alone"
        return
    train(recipe, images, tmp_path)
    assert load_weights(tmp_path / f"{name}.safetensors", self_test=False).geometry.scale == scale


def test_a_second_run_in_the_same_folder_is_refused(images: ImageSet, tmp_path: Path) -> None:
    recipe = recipes.load("espcn", ["stages.0.iterations=3"], smoke=True)

    def meddle(_: Progress) -> None:
        with pytest.raises(TrainingError, match="another training runs there"):
            Trainer(recipe, images, tmp_path, device="cpu").run()

    assert Trainer(recipe, images, tmp_path, device="cpu", log_every=1).run(meddle)


def test_an_interrupt_is_heard_at_the_next_iteration_and_loses_none(images: ImageSet, tmp_path: Path) -> None:
    recipe = recipes.load("espcn", ["stages.0.iterations=12"], smoke=True)
    asked = iter([False, False, True])
    stopped = Trainer(recipe, images, tmp_path, device="cpu", log_every=6)
    assert not stopped.run(should_stop=lambda: next(asked))
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["iteration"] == 3
    assert Trainer(recipe, images, tmp_path, device="cpu", log_every=6).run()
    assert Trainer(recipe, images, tmp_path / "whole", device="cpu", log_every=6).run()
    rows, whole = log(tmp_path), log(tmp_path / "whole")
    assert [row[:2] for row in rows] == [row[:2] for row in whole]
    assert [float(row[-1]) for row in rows[1:]] == pytest.approx([float(row[-1]) for row in whole[1:]], rel=1e-5)


def test_no_path_of_this_machine_gets_into_the_weights(images: ImageSet, tmp_path: Path) -> None:
    critic = tmp_path / "secret-critic.pth"
    torch.save(CRITICS["unet"](features=8).state_dict(), critic)
    settings = [f"stages.1.critic.init={critic}", "stages.0.iterations=1", "stages.1.iterations=1"]
    train(recipes.load("realesrgan", settings, smoke=True), images, tmp_path / "run")
    assert b"secret" not in (tmp_path / "run" / "realesrgan.safetensors").read_bytes()


def test_the_sweep_leaves_srgan_e_its_gaussian_residuals() -> None:
    assert [cell.q for cell in sweep.cells("srgan-e", [0.0, 0.3], [0.5, 1.0], [])] == [None, None]
    [cell] = sweep.cells("srgan-qe", [0.3], [0.7], [])
    losses = cell.recipe.stages[0].losses
    assert [losses[name].parameters["q"] for name in ("quasi_norm", "manifold")] == [0.7, 0.7]
    assert (cell.recipe.data.corruption, cell.folder) == (0.3, "corruption-0.3-q-0.7")


def test_a_checkpoint_of_other_settings_is_refused(images: ImageSet, tmp_path: Path) -> None:
    train(recipes.load("espcn", ["stages.0.iterations=3"], smoke=True), images, tmp_path)
    with pytest.raises(TrainingError, match="another recipe"):
        train(recipes.load("espcn", ["stages.0.iterations=3", "seed=1"], smoke=True), images, tmp_path)


def test_a_loss_that_is_no_number_ends_the_run_by_name(images: ImageSet, tmp_path: Path) -> None:
    recipe = recipes.load("espcn", ["stages.0.learning_rate=1e30", "stages.0.optimiser=sgd"], smoke=True)
    with pytest.raises(TrainingError, match="is no number after iteration"):
        Trainer(recipe, images, tmp_path, device="cpu", log_every=1000, checkpoint_seconds=0).run()
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert all(np.isfinite(total) for total in saved["sums"].values()), "the last checkpoint is from before"


@pytest.mark.parametrize(
    ("recipe", "settings", "says"),
    [
        ("compact-x5", [], "did you mean compact-x"),
        ("compact-x4", ["stages.0.batches=3"], "stages.0.batches"),
        ("compact-x4", ["stages.7.batch=3"], "no such place"),
        ("compact-x4", ["stages.0.batch"], "KEY=VALUE"),
        ("compact-x4", ["stages.0.batch=many"], "stages.0.batch"),
        ("compact-x4", ["name=../elsewhere"], "name"),
        ("compact-x4", ["stages.0.name=manifold"], "names of their own"),
        ("compact-x4", ["scale=3"], "back_projection is for"),
    ],
)
def test_a_wrong_recipe_is_refused_with_the_place(recipe: str, settings: list[str], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        recipes.load(recipe, settings)


@pytest.mark.parametrize(
    ("settings", "says"),
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
def test_what_there_is_not_is_refused_before_training(settings, says, images: ImageSet, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=says):
        Trainer(recipes.load("compact-x4", settings, smoke=True), images, tmp_path)


def test_every_recipe_names_its_paper_and_its_full_form_is_larger_than_its_smoke() -> None:
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
    wanted, inputs = torch.randn(8, 8, generator=rng), torch.randn(64, 8, generator=rng)
    weight = torch.zeros(8, 8, requires_grad=True)
    optimiser = Muon([weight], 0.5)
    for step in range(200):
        optimiser.param_groups[0]["lr"] = 0.5 * (1 - step / 200)
        optimiser.zero_grad()
        (inputs @ (weight - wanted).T).square().mean().backward()
        optimiser.step()
    assert (weight - wanted).abs().max() < 0.05


def test_muon_moves_a_stack_of_matrices_as_it_would_one_by_one() -> None:
    rng = torch.Generator().manual_seed(3)
    shapes = [(8, 4, 3, 3), (8, 36), (8, 4, 3, 3), (20, 6), (3, 8, 3, 3), (20, 6)]
    weights = [torch.randn(shape, generator=rng) for shape in shapes]
    weights[2] = weights[2].to(memory_format=torch.channels_last)
    alone = [weight.clone() for weight in weights]
    together = Muon(weights, 0.1)
    apart = [Muon([weight], 0.1) for weight in alone]
    for _ in range(3):
        for one, other in zip(weights, alone, strict=True):
            one.grad = torch.randn(one.shape, generator=rng)
            other.grad = one.grad.clone()
        for optimiser in (together, *apart):
            optimiser.step()
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(weights, alone, strict=True))


def test_muon_goes_on_from_its_state_to_the_bit() -> None:
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
    second.load_state_dict(through_a_file(first.state_dict()))
    for one, other in zip(steps(first, gradients[2:]), steps(second, gradients[2:]), strict=True):
        assert torch.equal(one, other)


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


class StandIn:
    """In place of CUDA's graphs: what was captured is computed again; or the capture fails, in two errors as CUDA's."""

    def __init__(self, device: str = "cpu", refusal: str = "") -> None:
        self.device, self.refusal = torch.device(device), refusal
        self.asked: list[str] = []

    def warm_up(self, compute: Callable[[], Losses]) -> Losses:
        self.asked.append("warm up")
        return compute()

    def capture(self, compute: Callable[[], Losses]) -> Callable[[], Losses]:
        self.asked.append("capture")
        if not self.refusal:
            return compute
        try:
            raise RuntimeError(f"{self.refusal}\nCompile with TORCH_USE_CUDA_DSA")
        except RuntimeError:
            raise RuntimeError("operation failed due to a previous error during capture")  # noqa: B904 - as torch does


@pytest.fixture
def capturable_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adam's form for graphs is for accelerators alone, by a list that asks for no more than the name of a device."""
    adam = importlib.import_module("torch.optim.adam")
    monkeypatch.setattr(adam, "_get_capturable_supported_devices", lambda supports_xla=True: ["cpu", "meta", "cuda"])


def first_stage(recipe: recipes.Recipe, images: ImageSet, execution: Execution) -> Phase:
    return Plan(recipe).build(0, {}, images, execution)


def learn(phase: Phase, iterations: range) -> list[float]:
    rng = torch.Generator().manual_seed(iterations.start)
    return [float(phase.step(iteration, rng)["total"]) for iteration in iterations]


@pytest.mark.parametrize("refusal", ["", "a loss was read back"])
@pytest.mark.parametrize("name", ["compact-x4", "edsr-baseline"])
def test_a_step_to_be_captured_trains_as_any_other(name: str, refusal: str, images, capturable_everywhere) -> None:
    recipe, graphs = recipes.load(name, smoke=True), StandIn(refusal=refusal)
    plain = first_stage(recipe, images, Execution(torch.device("cpu")))
    captured = first_stage(recipe, images, Execution(torch.device("cpu"), graphs=graphs))
    says = pytest.warns(UserWarning, match=rf"could not be captured: {refusal}$") if refusal else nullcontext()
    with says:
        assert learn(captured, range(6)) == pytest.approx(learn(plain, range(6)), rel=1e-4)
    assert graphs.asked == ["warm up"] * 3 + ["capture"]
    state, expected = captured.state(), plain.state()
    for part in ("network", "averaged"):
        for key, value in expected[part].items():
            assert torch.allclose(state[part][key], value, atol=1e-4), key


@pytest.mark.parametrize("graphs_first", [True, False])
def test_a_checkpoint_goes_on_with_and_without_captured_steps(graphs_first, images, capturable_everywhere) -> None:
    recipe = recipes.load("compact-x4", smoke=True)
    plain, captured = Execution(torch.device("cpu")), Execution(torch.device("cpu"), graphs=StandIn())
    before, after = (captured, plain) if graphs_first else (plain, captured)
    unbroken, broken, resumed = (first_stage(recipe, images, execution) for execution in (before, before, after))
    learn(unbroken, range(6)), learn(broken, range(6))
    resumed.restore(through_a_file(broken.state()))
    assert learn(resumed, range(6, 12)) == pytest.approx(learn(unbroken, range(6, 12)), rel=1e-4)


class NothingOfTheHost(TorchDispatchMode):
    """No operation takes a tensor that lies elsewhere than the pixels do."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        assert all(one.device.type == "meta" for one in tensors), f"{function} can't be captured: a tensor of the host"
        return function(*args, **(kwargs or {}))


class Watched(StandIn):
    def capture(self, compute: Callable[[], Losses]) -> Callable[[], Losses]:
        with NothingOfTheHost():
            losses = compute()
        return lambda: losses


@pytest.mark.parametrize("name", [name for name in recipes.names() if recipes.load(name).stages[0].critic is None])
def test_a_step_to_be_captured_reads_and_brings_nothing(name, monkeypatch, capturable_everywhere) -> None:
    """On the device "meta", where nothing has a value: to ask for one is an error there, as it is in a capture."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # it knows no such device
    still = ["data.degradation=bicubic", "data.parameters={}", "data.entropy=0", "data.corruption=0", "data.pool=0"]
    recipe, graphs = recipes.load(name, still, smoke=True), Watched("meta")
    plan = Plan(recipe)
    images = ImageSet([torch.zeros(3, 256, 256, dtype=torch.uint8)], "meta")
    phase = plan.build(plan.phases.index(recipe.stages[0].name), {}, images, Execution(graphs.device, graphs=graphs))
    for iteration in range(4):
        phase.step(iteration, torch.Generator().manual_seed(iteration))


def test_a_step_with_a_critic_or_sgd_is_not_captured(images: ImageSet) -> None:
    for name, settings in (("srgan-e", []), ("espcn", ["stages.0.optimiser=sgd"])):
        recipe, graphs = recipes.load(name, settings, smoke=True), StandIn()
        plan = Plan(recipe)
        carried = {"autoencoder": Autoencoder(features=recipe.autoencoder.features).state_dict()}
        number = plan.phases.index(recipe.stages[0].name)
        learn(plan.build(number, carried, images, Execution(torch.device("cpu"), graphs=graphs)), range(5))
        assert not graphs.asked


def test_training_knows_no_fp16() -> None:
    with pytest.raises(ValueError, match="fp16"):
        execution_on(torch.device("cpu"), "fp16")
    assert execution_on(torch.device("cpu"), "auto").batches_at_once == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="captures on a GPU alone")
@pytest.mark.parametrize("name", ["compact-x4", "realesrgan-x4", "srresnet"])
def test_a_captured_step_trains_as_a_plain_one_on_cuda(name: str, images: ImageSet) -> None:
    device = torch.device("cuda")
    there = ImageSet([torch.from_numpy(texture(160, seed)).permute(2, 0, 1) for seed in range(3)], device)
    recipe = recipes.load(name, smoke=True)
    plain = first_stage(recipe, there, Execution(device))
    captured = first_stage(recipe, there, Execution(device, graphs=CudaGraphs(device)))
    assert learn(captured, range(20)) == pytest.approx(learn(plain, range(20)), rel=1e-2)
    assert captured._captured._replay is not None

"""The estimated remaining time, checked against simulated runs with tissue and background in any order."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest

from slidelift.service.pipeline.progress import Progress, Stage, Tally, TileClock

PLAIN, MODEL = 0.02, 0.40  # seconds: a tile with tissue takes 21 times as long


@dataclass
class Clock:
    """A clock that the test advances."""

    time: float = 100.0

    def __call__(self) -> float:
        return self.time


def run(
    kinds: str, *, trial: float | None = MODEL, known: bool = True, resumed: int = 0
) -> tuple[Sequence[tuple[float, Progress]], Callable[[float], float]]:
    """Return each snapshot with its time, and the naive estimate at a share of the tiles.

    `kinds` has one letter per tile: t through the model, r rejected by entropy, g masked as glass.
    """
    now = Clock()
    whole = Tally(len(kinds), len(kinds) - kinds.count("g"))
    before = kinds[:resumed]
    clock = TileClock(whole, Tally(resumed, resumed - before.count("g"), before.count("t")), trial, now)
    snapshots = [(now.time, clock.snapshot(Stage.UPSCALING))]
    for kind in kinds[resumed:]:
        now.time += PLAIN + MODEL * (kind == "t")
        clock.advance(Tally(1, int(kind != "g"), int(kind == "t")), MODEL * (kind == "t") if known else None)
        snapshots.append((now.time, clock.snapshot(Stage.UPSCALING)))

    def naive(share: float) -> float:
        at = round(share * len(kinds))
        return (snapshots[at][0] - snapshots[0][0]) / at * (len(kinds) - at)

    return snapshots, naive


def error_ratio(snapshots: Sequence[tuple[float, Progress]], share: float) -> float:
    """Return the ratio of estimated to true remaining time."""
    time, progress = snapshots[round(share * (len(snapshots) - 1))]
    assert progress.eta_seconds is not None
    return progress.eta_seconds / (snapshots[-1][0] - time)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_tissue_at_the_end_is_foreseen_where_the_naive_estimate_fails(share) -> None:
    snapshots, naive = run("g" * 600 + "t" * 400)
    assert 1 / 1.5 < error_ratio(snapshots, share) < 1.5
    if share <= 0.5:
        at = round(share * 1000)
        assert naive(share) < (snapshots[-1][0] - snapshots[at][0]) / 5


@pytest.mark.parametrize("share", [0.1, 0.5])
@pytest.mark.parametrize("kinds", ["t" * 400 + "g" * 600, "tgggr" * 200, "g" * 300 + "trtt" * 100 + "g" * 300])
def test_estimate_is_within_half_for_any_order_of_tissue_and_glass(kinds, share) -> None:
    assert 1 / 1.5 < error_ratio(run(kinds)[0], share) < 1.5


def test_estimate_adapts_soon_to_tissue_that_no_mask_predicted() -> None:
    """Without a mask every tile may be tissue; here the first 600 are not."""
    snapshots, _ = run("r" * 600 + "t" * 400)
    assert 1 / 2 < error_ratio(snapshots, 0.7) < 1.5
    assert 1 / 1.5 < error_ratio(snapshots, 0.9) < 1.5


def test_wrong_trial_is_replaced_by_the_first_measured_tiles() -> None:
    assert 1 / 1.5 < error_ratio(run("t" * 400 + "g" * 600, trial=40.0)[0], 0.1) < 1.5


def test_without_a_trial_there_is_no_estimate_before_the_model_has_run() -> None:
    snapshots, _ = run("g" * 60 + "t" * 40, trial=None)
    assert snapshots[50][1].eta_seconds is None
    assert snapshots[62][1].eta_seconds is not None


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_on_a_cluster_a_tissue_tile_counts_as_twenty(share) -> None:
    snapshots, _ = run("g" * 600 + "t" * 400, known=False)
    assert 1 / 1.5 < error_ratio(snapshots, share) < 1.5
    assert snapshots[-1][1].device_busy is None


def test_resumed_tiles_count_as_done_and_not_for_the_speed() -> None:
    snapshots, _ = run("tttrrrtttt" * 100, resumed=500)
    assert 1 / 1.5 < error_ratio(snapshots, 0.1) < 1.5
    assert snapshots[0][1].resumed_tiles == snapshots[0][1].tiles_done == 500


def test_share_of_model_time_is_reported() -> None:
    snapshots, _ = run("t" * 10)
    assert snapshots[0][1].device_busy is None
    assert snapshots[-1][1].device_busy == pytest.approx(MODEL / (MODEL + PLAIN))


def test_only_the_upscaling_stage_has_an_estimate() -> None:
    now = Clock()
    clock = TileClock(Tally(2, 2), now=now)
    now.time += 1
    clock.advance(Tally(1, 1, 1), 0.5)
    assert clock.snapshot(Stage.UPSCALING).eta_seconds == pytest.approx(1.0, rel=0.1)
    assert clock.snapshot(Stage.JOINING).eta_seconds is None
    assert clock.snapshot(Stage.JOINING).tiles_per_second == pytest.approx(1.0)

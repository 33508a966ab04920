"""The remaining time: weighted by the kind of tiles that remain, checked with simulated clocks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest

from slidelift.service.pipeline.progress import Progress, Stage, Tally, TileClock

PLAIN, MODEL = 0.02, 0.40  # seconds: a tile with tissue takes 21 times as long


@dataclass
class Clock:
    """A clock that a test advances."""

    time: float = 100.0

    def __call__(self) -> float:
        return self.time


def run(
    kinds: str, *, trial: float | None = MODEL, known: bool = True, resumed: int = 0
) -> tuple[Sequence[tuple[float, Progress]], Callable[[float], float]]:
    """Every snapshot with its time, and the naive remaining time at a share of the tiles.

    `kinds` has a letter per tile: t for upscaled by the model, r for rejected by entropy, g for known to be glass.
    """
    now = Clock()
    whole = Tally(len(kinds), len(kinds) - kinds.count("g"))
    before = kinds[:resumed]
    clock = TileClock(whole, Tally(resumed, resumed - before.count("g"), before.count("t")), trial, now)
    seen = [(now.time, clock.snapshot(Stage.UPSCALING))]
    for kind in kinds[resumed:]:
        now.time += PLAIN + MODEL * (kind == "t")
        clock.advance(Tally(1, int(kind != "g"), int(kind == "t")), MODEL * (kind == "t") if known else None)
        seen.append((now.time, clock.snapshot(Stage.UPSCALING)))

    def naive(share: float) -> float:
        at = round(share * len(kinds))
        return (seen[at][0] - seen[0][0]) / at * (len(kinds) - at)

    return seen, naive


def off(seen: Sequence[tuple[float, Progress]], share: float) -> float:
    """Ratio of the estimated to the true remaining time."""
    time, progress = seen[round(share * (len(seen) - 1))]
    assert progress.eta_seconds is not None
    return progress.eta_seconds / (seen[-1][0] - time)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_tissue_at_the_end_is_estimated_where_the_naive_estimate_fails(share) -> None:
    seen, naive = run("g" * 600 + "t" * 400)
    assert 1 / 1.5 < off(seen, share) < 1.5
    if share <= 0.5:
        at = round(share * 1000)
        assert naive(share) < (seen[-1][0] - seen[at][0]) / 5


@pytest.mark.parametrize("share", [0.1, 0.5])
@pytest.mark.parametrize("kinds", ["t" * 400 + "g" * 600, "tgggr" * 200, "g" * 300 + "trtt" * 100 + "g" * 300])
def test_any_order_of_tissue_and_glass_is_estimated_within_half(kinds, share) -> None:
    assert 1 / 1.5 < off(run(kinds)[0], share) < 1.5


def test_estimate_adapts_to_unexpected_tissue() -> None:
    """Without a mask, any tile may be tissue; here, the first 600 are not."""
    seen, _ = run("r" * 600 + "t" * 400)
    assert 1 / 2 < off(seen, 0.7) < 1.5
    assert 1 / 1.5 < off(seen, 0.9) < 1.5


def test_wrong_trial_is_replaced_by_the_first_tiles() -> None:
    assert 1 / 1.5 < off(run("t" * 400 + "g" * 600, trial=40.0)[0], 0.1) < 1.5


def test_without_a_trial_there_is_no_estimate_before_the_first_tissue() -> None:
    seen, _ = run("g" * 60 + "t" * 40, trial=None)
    assert seen[50][1].eta_seconds is None
    assert seen[62][1].eta_seconds is not None


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_on_a_cluster_a_tissue_tile_counts_as_twenty(share) -> None:
    seen, _ = run("g" * 600 + "t" * 400, known=False)
    assert 1 / 1.5 < off(seen, share) < 1.5
    assert seen[-1][1].device_busy is None


def test_resumed_tiles_count_as_done_but_not_for_the_speed() -> None:
    seen, _ = run("tttrrrtttt" * 100, resumed=500)
    assert 1 / 1.5 < off(seen, 0.1) < 1.5
    assert seen[0][1].resumed_tiles == seen[0][1].tiles_done == 500


def test_device_busy_is_the_share_of_the_model() -> None:
    seen, _ = run("t" * 10)
    assert seen[0][1].device_busy is None
    assert seen[-1][1].device_busy == pytest.approx(MODEL / (MODEL + PLAIN))


def test_only_upscaling_has_a_remaining_time() -> None:
    now = Clock()
    clock = TileClock(Tally(2, 2), now=now)
    now.time += 1
    clock.advance(Tally(1, 1, 1), 0.5)
    assert clock.snapshot(Stage.UPSCALING).eta_seconds == pytest.approx(1.0, rel=0.1)
    assert clock.snapshot(Stage.JOINING).eta_seconds is None
    assert clock.snapshot(Stage.JOINING).tiles_per_second == pytest.approx(1.0)

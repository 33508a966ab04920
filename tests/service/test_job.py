"""Transitions of a job, without a database."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slidelift.service.errors import problem
from slidelift.service.jobs.job import (
    MAX_CRASHES,
    TRANSITIONS,
    ForbiddenTransitionError,
    Job,
    JobOrder,
    JobState,
    Outcome,
    Result,
)
from slidelift.service.pipeline.progress import Progress, Stage

LEASE = 10.0
CRASH = Outcome(JobState.QUEUED, problem("runner.crashed", "signal 11"), crashed=True)
DONE = Outcome(JobState.SUCCEEDED, result=Result("result.ome.tiff", 3, "ab"))
OUTCOMES = [
    CRASH,
    DONE,
    Outcome(JobState.QUEUED),
    Outcome(JobState.CANCELLED),
    Outcome(JobState.FAILED, problem("slide.unreadable", "no")),
]
COMMANDS = ("claim", "extend", "advance", "cancel", "pause", "resume", "retry", "delete")
MOVES = st.one_of(st.sampled_from(COMMANDS), st.sampled_from(OUTCOMES))


def new() -> Job:
    return Job("j", JobOrder("s", model="bicubic"), created=0)


def move(job: Job, step: object, now: float) -> Job:
    if isinstance(step, Outcome):
        return job.settled(step, now)
    if step == "claim":
        return job.claimed("w", now, LEASE)
    if step == "extend":
        return job.extended(now, LEASE)
    if step == "advance":
        return job.advanced(Progress(Stage.UPSCALING, 1, 2))
    if step == "pause":
        return job.paused(now)
    if step == "resume":
        return job.resumed()
    if step == "retry":
        return job.retried()
    if step == "delete":
        return job.without_result(now)
    return job.cancelled(now)


@given(st.lists(st.tuples(MOVES, st.floats(0, 2 * LEASE)), max_size=30))
def test_any_sequence_of_transitions_keeps_the_invariants(steps: list[tuple[object, float]]) -> None:
    job, now = new(), 0.0
    for step, wait in steps:
        now += wait
        try:
            after = move(job, step, now)
        except ForbiddenTransitionError:
            continue
        assert not job.state.is_ended or step in ("retry", "delete"), "only a retry or a deletion changes an ended job"
        assert after.state is job.state or after.state in TRANSITIONS[job.state] or job.is_abandoned(now)
        assert job.attempt <= after.attempt <= job.attempt + 1
        assert (after.attempt > job.attempt) == (step == "claim" and after.state is JobState.RUNNING)
        assert (after.lease_until is not None) == (after.state is JobState.RUNNING) == (after.worker is not None)
        assert (after.finished is not None) == after.state.is_ended
        assert (after.result is not None) == (after.state is JobState.SUCCEEDED)
        assert after.crashes < MAX_CRASHES or after.state.is_ended
        assert not (after.cancel_requested and after.state in (JobState.QUEUED, JobState.PAUSED))
        assert not after.pause_requested or after.state is JobState.RUNNING
        assert after.revision == job.revision + (after != job and step != "extend") + (
            step == "claim" and job.is_abandoned(now) and after.state is JobState.RUNNING
        )
        job = after


def test_running_job_cannot_be_claimed_before_its_lease_expires() -> None:
    job = new().claimed("w", 0, LEASE)
    with pytest.raises(ForbiddenTransitionError, match="held by another worker"):
        job.claimed("other", LEASE - 0.1, LEASE)


def test_abandoned_job_is_claimed_with_a_new_attempt_number() -> None:
    job = new().claimed("w", 0, LEASE).claimed("other", LEASE, LEASE)
    assert (job.worker, job.attempt, job.crashes, job.started) == ("other", 2, 1, 0)
    assert not job.is_held(1)
    assert job.is_held(2)


def test_job_fails_with_a_slide_problem_after_three_decoder_crashes() -> None:
    job = new()
    for _ in range(MAX_CRASHES):
        job = job.claimed("w", 0, LEASE).settled(CRASH, 1)
    assert job.state is JobState.FAILED
    assert job.problem is not None
    assert (job.problem.code, job.problem.by_user) == ("slide.crashes-decoder", True)


def test_crashes_are_counted_again_from_one_after_a_finished_stripe() -> None:
    job = new()
    for stripes in range(3 * MAX_CRASHES):  # each attempt finishes one stripe and crashes
        job = job.claimed("w", 0, LEASE).advanced(Progress(Stage.UPSCALING, 8, 99, resumed_tiles=8 * stripes))
        job = job.settled(CRASH, 1)
        assert (job.state, job.crashes) == (JobState.QUEUED, 1)
    for _ in range(MAX_CRASHES - 1):  # these attempts finish no stripe
        job = job.claimed("w", 0, LEASE).settled(CRASH, 1)
    assert job.state is JobState.FAILED


def test_job_fails_without_a_slide_problem_after_three_dead_workers() -> None:
    job, now = new().claimed("w", 0, LEASE), 0.0
    while job.state is JobState.RUNNING:
        now += LEASE
        job = job.claimed("w", now, LEASE)
    assert job.attempt == MAX_CRASHES
    assert job.problem is not None
    assert (job.problem.code, job.problem.by_user) == ("job.crashed-repeatedly", False)


def test_job_returned_by_a_worker_counts_no_crash() -> None:
    job = new()
    for _ in range(10):
        job = job.claimed("w", 0, LEASE).settled(Outcome(JobState.QUEUED), 1)
    assert (job.state, job.crashes, job.attempt) == (JobState.QUEUED, 0, 10)


def test_job_of_a_dead_worker_is_cancelled_immediately() -> None:
    assert new().claimed("w", 0, LEASE).cancelled(LEASE).state is JobState.CANCELLED


def test_job_that_finishes_after_a_cancel_request_succeeds() -> None:
    job = new().claimed("w", 0, LEASE).cancelled(1)
    assert (job.state, job.cancel_requested) == (JobState.RUNNING, True)
    assert job.settled(DONE, 2).state is JobState.SUCCEEDED


def test_job_returned_after_a_cancel_request_is_cancelled() -> None:
    assert new().claimed("w", 0, LEASE).cancelled(1).settled(Outcome(JobState.QUEUED), 2).state is JobState.CANCELLED


def test_successful_outcome_requires_a_result() -> None:
    with pytest.raises(ForbiddenTransitionError):
        Outcome(JobState.SUCCEEDED)


def test_resume_withdraws_a_pause_request_of_a_running_job() -> None:
    job = new().claimed("w", 0, LEASE).paused(1)
    assert job.pause_requested
    assert job.resumed().settled(Outcome(JobState.QUEUED), 2).state is JobState.QUEUED


def test_cancel_request_takes_precedence_over_a_pause_request() -> None:
    job = new().claimed("w", 0, LEASE).paused(1).cancelled(2)
    assert job.settled(Outcome(JobState.QUEUED), 3).state is JobState.CANCELLED


def test_retry_resets_the_crashes() -> None:
    job = new()
    for _ in range(MAX_CRASHES):
        job = job.claimed("w", 0, LEASE).settled(CRASH, 1)
    job = job.retried().claimed("w", 2, LEASE)
    assert (job.state, job.crashes, job.attempt) == (JobState.RUNNING, 0, MAX_CRASHES + 1)


def test_succeeded_job_cannot_be_retried() -> None:
    with pytest.raises(ForbiddenTransitionError):
        new().claimed("w", 0, LEASE).settled(DONE, 1).retried()


def test_written_bytes_follow_the_progress_and_the_deletion_of_files() -> None:
    """Progress without a byte count changes nothing; a retry keeps the bytes of the stripes that were kept."""
    job = replace(new(), reserved_bytes=100).claimed("w", 0, LEASE)
    job = job.advanced(Progress(Stage.UPSCALING, 1, 2, bytes_written=70)).advanced(Progress(Stage.OPENING))
    assert (job.written_bytes, job.bytes_to_come) == (70, 30)
    failed = job.settled(OUTCOMES[-1], 1)
    assert failed.retried().bytes_to_come == 30
    assert failed.without_result(2).retried().bytes_to_come == 100
    assert job.settled(Outcome(JobState.CANCELLED), 1).retried().bytes_to_come == 100
    assert job.advanced(Progress(Stage.VERIFYING, 2, 2, bytes_written=130)).bytes_to_come == 0

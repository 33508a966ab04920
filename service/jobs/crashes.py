"""Problems of jobs whose worker or decoder crashed."""

from slidelift.service.errors import Problem, problem

ABANDONED = problem("job.crashed-repeatedly", "the worker that held the job stopped responding")


def crash_problem(crashes: int, last: Problem | None) -> Problem:
    """Report the slide as the cause if its decoder crashed last, otherwise the crashed attempts."""
    detail = last.detail if last else "unknown"
    # A person or a lack of memory causes SIGKILL; a fault of the decoder causes another signal.
    is_killed = "signal SIGKILL" in detail
    if last and last.code == "runner.crashed" and not is_killed:
        return problem(
            "slide.crashes-decoder",
            f"the process that decodes this slide died {crashes} times (last: {detail}); "
            "export the slide again from its scanner's software, or convert it to OME-TIFF",
        )
    return problem(
        "job.crashed-repeatedly",
        f"{crashes} attempts ended in a crash (last: {detail}); check the worker's log and memory, then retry",
    )

"""Schemas of batches."""

from collections import Counter
from collections.abc import Sequence
from typing import Self

from pydantic import BaseModel, Field

from slidelift.service.jobs import job as stored
from slidelift.service.jobs.job import JobState


class Batch(BaseModel):
    """A batch: the states of its jobs."""

    id: str
    total: int
    states: dict[JobState, int] = Field(description="Number of jobs in each state; states without jobs are left out.")
    ended: bool = Field(description="Whether every job has ended.")
    jobs: str = Field(description="URL of the list of its jobs.")

    @classmethod
    def of(cls, batch: str, jobs: Sequence[stored.Job], href: str) -> Self:
        """Make the representation of a batch from its jobs; `href` is the URL of their list."""
        states = Counter(job.state for job in jobs)
        return cls(
            id=batch, total=len(jobs), states=dict(states), ended=all(state.is_ended for state in states), jobs=href
        )

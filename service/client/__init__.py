"""Python client of the REST service; it needs neither torch nor a slide decoder."""

from slidelift.service.client.client import Client
from slidelift.service.client.errors import (
    ClientError,
    IntegrityError,
    ServiceRefusedError,
    UnexpectedAnswerError,
    UnreachableError,
    UnusableError,
)
from slidelift.service.client.values import Job, JobOptions, JobProgress, JobResult, Level, Model, Recommendation, Slide

__all__ = [
    "Client",
    "ClientError",
    "IntegrityError",
    "Job",
    "JobOptions",
    "JobProgress",
    "JobResult",
    "Level",
    "Model",
    "Recommendation",
    "ServiceRefusedError",
    "Slide",
    "UnexpectedAnswerError",
    "UnreachableError",
    "UnusableError",
]

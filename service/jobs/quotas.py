"""Quotas: the number of jobs, the size of slides, and the free disk space for results. Pure functions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from slidelift.service.auth.tokens import Token
from slidelift.service.errors import refusal
from slidelift.service.jobs.job import Job, ResultFormat
from slidelift.service.jobs.store import Admit, Store
from slidelift.service.settings import Settings

_COPIES = 2  # finished stripes and the joined image; for Zarr the image and its zip
# Bytes per level-0 pixel with the pyramid: 1.6 times the maximum measured on dense H&E (docs/reliability.md).
_JPEG = ((80, 0.28), (90, 0.38), (95, 0.5), (100, 0.9))
_ZARR = 2.7


@dataclass(frozen=True, slots=True)
class Limits:
    """Quotas of one caller; see `service.settings.Settings`."""

    max_queue: int
    max_jobs: int
    max_bytes: int

    @classmethod
    def of(cls, settings: Settings, token: Token | None) -> "Limits":
        """Limits of a token, which default to the service's; without a token only the queue and the disk limit."""
        if token is None:
            return cls(settings.max_queue, settings.max_queue, 2**63 - 1)
        max_queue, max_jobs, max_bytes = _of_service(settings)
        return cls(
            max_queue,
            max_jobs if token.max_jobs is None else token.max_jobs,
            max_bytes if token.max_bytes is None else token.max_bytes,
        )

    @classmethod
    def of_owner(cls, settings: Settings, store: Store, owner: str | None) -> "Limits":
        """Limits of the token with an id; of a revoked token the service's."""
        if owner is None:
            return cls.of(settings, None)
        found = next((token for token in store.tokens() if token.id == owner), None)
        return cls.of(settings, found) if found else cls(*_of_service(settings))

    def admit_bytes(self, wanted_bytes: int, kept_bytes: int) -> None:
        """Raise ServiceError quota.bytes if the caller's slides would exceed the limit."""
        if kept_bytes + wanted_bytes > self.max_bytes:
            raise refusal(
                "quota.bytes",
                f"your slides would take {kept_bytes + wanted_bytes} bytes of {self.max_bytes}; delete some first",
            )

    def admit_jobs(self, new: Sequence[Job], room_bytes: Callable[[], int]) -> Admit:
        """Make the function that a store calls before it adds the `new` jobs.

        Parameters
        ----------
        room_bytes
            Free disk space without the reserve.

        Raises
        ------
        ServiceError
            Raised by that function: queue.full, quota.jobs, storage.full.
        """

        def admit(unfinished: Sequence[Job]) -> None:
            if len(unfinished) + len(new) > self.max_queue:
                detail = f"{len(unfinished)} jobs are unfinished, the limit is {self.max_queue}; try again later"
                raise refusal("queue.full", detail)
            owner = new[0].owner
            own = sum(job.owner == owner for job in unfinished)
            if own + len(new) > self.max_jobs:
                detail = f"{own} of your jobs are unfinished, the limit is {self.max_jobs}; try again later"
                raise refusal("quota.jobs", detail)
            needed = sum(job.bytes_to_come for job in new)
            reserved = sum(job.bytes_to_come for job in unfinished)
            if needed > (free := room_bytes()) - reserved:
                detail = (
                    f"about {needed} bytes are needed, {free} are free and {reserved} of them are reserved for other "
                    "jobs; delete results or slides, or request a region"
                )
                raise refusal("storage.full", detail)

        return admit


def _of_service(settings: Settings) -> tuple[int, int, int]:
    return settings.max_queue, settings.max_jobs_per_token, settings.max_bytes_per_token


def reserved_bytes(output_pixels: int, result_format: ResultFormat, quality: int) -> int:
    """Maximum disk space of a job while it runs, from the number of pixels of its result."""
    if result_format is ResultFormat.OME_ZARR:
        return round(output_pixels * _ZARR * _COPIES)
    per_pixel = next(most for below, most in _JPEG if quality <= below)
    return round(output_pixels * per_pixel * _COPIES)

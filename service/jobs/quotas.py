"""What the service admits: how many jobs, how many bytes, and only what the disk can hold. Pure rules."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from slidelift.service.auth.tokens import Token
from slidelift.service.errors import refusal
from slidelift.service.jobs.job import Job, ResultFormat
from slidelift.service.jobs.store import Admit, Store
from slidelift.service.settings import Settings

_COPIES = 2  # finished stripes and the joined image; for Zarr then that and its zip
# Bytes for each pixel of level 0, pyramid and all: 1.6 times the most that dense H&E took (docs/reliability.md).
_JPEG = ((80, 0.28), (90, 0.38), (95, 0.5), (100, 0.9))
_ZARR = 2.7


@dataclass(frozen=True, slots=True)
class Limits:
    """What one caller may have; see `service.settings.Settings` for each."""

    max_queue: int
    max_jobs: int
    max_bytes: int

    @classmethod
    def of(cls, settings: Settings, token: Token | None) -> "Limits":
        """The token's own limits, else the service's; without tokens the queue's and the disk's alone."""
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
        """The same for the id of a token; one that was revoked meanwhile has the service's limits."""
        if owner is None:
            return cls.of(settings, None)
        found = next((token for token in store.tokens() if token.id == owner), None)
        return cls.of(settings, found) if found else cls(*_of_service(settings))

    def admit_bytes(self, wanted_bytes: int, kept_bytes: int) -> None:
        """Raise ServiceError quota.bytes if the caller would keep too much."""
        if kept_bytes + wanted_bytes > self.max_bytes:
            raise refusal(
                "quota.bytes",
                f"your slides would take {kept_bytes + wanted_bytes} bytes of {self.max_bytes}; delete some first",
            )

    def admit_jobs(self, new: Sequence[Job], room_bytes: Callable[[], int]) -> Admit:
        """Make the rule that a store applies before it adds `new`.

        Parameters
        ----------
        room_bytes
            Free on disk less the reserve.

        Raises
        ------
        ServiceError
            By the rule: queue.full, quota.jobs, storage.full.
        """

        def admit(unfinished: Sequence[Job]) -> None:
            if len(unfinished) + len(new) > self.max_queue:
                detail = f"{len(unfinished)} jobs are queued, {self.max_queue} are the most; ask again later"
                raise refusal("queue.full", detail)
            owner = new[0].owner
            own = sum(job.owner == owner for job in unfinished)
            if own + len(new) > self.max_jobs:
                detail = f"{own} of your jobs are unfinished, {self.max_jobs} are the most; ask again when some ended"
                raise refusal("quota.jobs", detail)
            wanted = sum(job.bytes_to_come for job in new)
            promised = sum(job.bytes_to_come for job in unfinished)
            if wanted > (free := room_bytes()) - promised:
                detail = (
                    f"about {wanted} bytes are needed, {free} are free and {promised} of them are promised to other "
                    "jobs; delete results or slides no longer needed, or ask for a region"
                )
                raise refusal("storage.full", detail)

        return admit


def _of_service(settings: Settings) -> tuple[int, int, int]:
    return settings.max_queue, settings.max_jobs_per_token, settings.max_bytes_per_token


def reserved_bytes(output_pixels: int, result_format: ResultFormat, quality: int) -> int:
    """What a job may take on disk at its worst moment, from the pixels of its result."""
    if result_format is ResultFormat.OME_ZARR:
        return round(output_pixels * _ZARR * _COPIES)
    per_pixel = next(most for below, most in _JPEG if quality <= below)
    return round(output_pixels * per_pixel * _COPIES)

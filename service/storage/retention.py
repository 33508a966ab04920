"""Deletes expired results, slides and stripes, and files that crashes have left."""

import logging

from slidelift.service.jobs.job import ForbiddenTransitionError, JobState
from slidelift.service.jobs.store import SlideInUseError, Store, UnknownSlideError
from slidelift.service.settings import Settings
from slidelift.service.storage.files import Storage
from slidelift.service.storage.retention_clock import RetentionClock

KEYS_SECONDS = 24 * 3600
"""How long idempotency keys are kept; clients retry within minutes."""
_BATCH = 500

log = logging.getLogger(__name__)


def delete_expired(settings: Settings, store: Store, storage: Storage, clock: RetentionClock) -> None:
    """Delete what has expired; safe beside running APIs and workers, whose own files are younger or locked."""
    now = clock.keep()
    storage.clean_up(store, now)
    storage.delete_set_aside(now - settings.keep_set_aside_seconds)
    store.forget_keys(now - KEYS_SECONDS)
    if settings.keep_results_seconds is not None:
        _delete_files(store, storage, JobState.SUCCEEDED, now - settings.keep_results_seconds)
    _delete_files(store, storage, JobState.FAILED, now - settings.keep_stripes_seconds)
    if settings.keep_slides_seconds is not None:
        _delete_slides(store, storage, now - settings.keep_slides_seconds)


def _delete_files(store: Store, storage: Storage, state: JobState, before: float) -> None:
    while jobs := store.ended(state, before, _BATCH):
        for job in jobs:
            try:
                storage.tidy_job(store.delete_result(job.id))
            except ForbiddenTransitionError:  # it was just retried
                continue
            log.info("job %s: its files have expired and were deleted", job.id)


def _delete_slides(store: Store, storage: Storage, before: float) -> None:
    while old := [slide for slide in store.idle_slides(_BATCH) if slide.created < before]:
        for slide in old:
            try:
                storage.remove_slide(slide.id, store)
            except (SlideInUseError, UnknownSlideError):
                continue
            log.info("slide %s: expired and deleted", slide.id)

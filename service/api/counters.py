"""Prometheus metrics: requests of this process; jobs, workers and disk of the whole service."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from slidelift.service.jobs.job import JobState
from slidelift.service.jobs.slide import Slide
from slidelift.service.jobs.store import Store
from slidelift.service.storage.files import Storage

_SECONDS = (0.005, 0.02, 0.1, 0.5, 2, 10, 60, 600)


class Counters:
    """Metrics of this process, with their registry."""

    def __init__(self, store: Store, storage: Storage) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "slidelift_requests", "Answered requests", ("method", "route", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "slidelift_request_seconds",
            "Time to the end of a response",
            ("route",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._uploaded = Counter("slidelift_uploaded_bytes", "Bytes of slides received", registry=self.registry)
        self.registry.register(_ServiceCollector(store, storage))

    def count_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a response."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def count_slide(self, slide: Slide) -> None:
        """Count the bytes of a new slide."""
        self._uploaded.inc(slide.bytes)


class _ServiceCollector(Collector):
    """Reads the database at each scrape, so that every API process reports the same values."""

    def __init__(self, store: Store, storage: Storage) -> None:
        self._store, self._storage = store, storage

    def collect(self) -> Iterable[Metric]:
        counts, now = self._store.counts(), self._store.now()
        jobs = GaugeMetricFamily("slidelift_jobs", "Jobs by state", labels=["state"])
        for state in JobState:
            jobs.add_metric([state], counts.get(state, 0))
        failures = CounterMetricFamily("slidelift_job_failures", "Times that jobs failed, by code", labels=["code"])
        for code, number in self._store.failures().items():
            failures.add_metric([code], number)
        silence = GaugeMetricFamily(
            "slidelift_worker_silent_seconds", "Since a worker's last sign of life", labels=["worker"]
        )
        rate = GaugeMetricFamily("slidelift_worker_tiles_per_second", "Speed of the job at hand", labels=["worker"])
        busy = GaugeMetricFamily(
            "slidelift_worker_device_busy_ratio",
            "Share of the job's time in which the network computed",
            labels=["worker", "device"],
        )
        for worker in self._store.workers():
            silence.add_metric([worker.id], max(0.0, now - worker.seen))
            rate.add_metric([worker.id], worker.tiles_per_second or 0.0)
            if worker.busy is not None:
                busy.add_metric([worker.id, worker.device or "unknown"], worker.busy)
        return [
            jobs,
            failures,
            silence,
            rate,
            busy,
            GaugeMetricFamily("slidelift_slides_bytes", "Bytes of slides kept", value=self._store.kept_bytes(None)),
            GaugeMetricFamily(
                "slidelift_disk_free_bytes", "Free bytes on the data folder's disk", self._storage.free_bytes()
            ),
        ]

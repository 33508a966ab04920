"""What the service can be told: one frozen object, made once at the edge and handed down."""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Settings of the API and the worker; each is read from ``SLIDELIFT_<NAME>`` or passed by name."""

    model_config = SettingsConfigDict(env_prefix="SLIDELIFT_", env_ignore_empty=True, frozen=True, extra="forbid")

    data_dir: Path = Path("slidelift-data")
    """Slides, results and the database. Beside where the service was started, so that it is seen; local disk, since
    SQLite's write-ahead log does not work over a network file system."""

    database_url: SecretStr | None = None
    """``postgresql://…`` where several machines share the jobs; none: a SQLite file in the data folder."""

    host: str = "127.0.0.1"
    """This machine only; anywhere else access tokens are required."""

    port: int = Field(default=8000, ge=0, le=65535)
    """What uvicorn's users expect; 0 takes a free one."""

    auth: Literal["auto", "on"] = "auto"
    """``auto`` asks for access tokens unless `host` is this machine alone; there is no way to be open to a network."""

    root_path: str = ""
    """Path under which a reverse proxy shows the service and which it takes away, such as ``/slidelift``."""

    cors_origins: tuple[str, ...] = ()
    """Web origins whose pages may call the service; none, since a page of another site has no business here."""

    log_format: Literal["text", "json"] = "text"
    """``json`` for a log collector: one object a line."""

    max_upload_bytes: int = Field(default=32 * 2**30, gt=0)
    """Larger than any compressed slide of a scanner today; what is refused here is refused before it is read."""

    disk_reserve_bytes: int = Field(default=2**30, ge=0)
    """Room that uploads leave free, so that the database can still write down that the disk was full."""

    max_queue: int = Field(default=1000, ge=1)
    """Unfinished jobs of all; each costs 2 kB of memory when one more is admitted."""

    max_jobs_per_token: int = Field(default=100, ge=1)
    """Unfinished jobs of one access token, unless the token says otherwise: no one fills the queue alone."""

    max_bytes_per_token: int = Field(default=2**40, ge=1)
    """Bytes of slides of one access token, unless the token says otherwise: a thousand slides."""

    keep_results_seconds: float | None = Field(default=None, gt=0)
    """How long after its end a job's result stays; none: until it is deleted."""

    keep_slides_seconds: float | None = Field(default=None, gt=0)
    """How long a slide stays that no unfinished job needs; none: until it is deleted."""

    keep_stripes_seconds: float = Field(default=7 * 86400, gt=0)
    """How long a failed job's finished stripes wait for a retry."""

    keep_set_aside_seconds: float = Field(default=7 * 86400, ge=86400)
    """How long files stay that the database does not know: a restored database is noticed within a week. A day at
    least."""

    sweep_seconds: float = Field(default=300, gt=0)
    """How often what is over its time is looked for; a look reads one index."""
    upload_expiry_seconds: float = Field(default=86400, gt=0)
    """A day: an upload that broke off in the evening can be continued in the morning; then its room is needed."""

    upload_roots: tuple[Path, ...] = ()
    """Folders that ``file://`` addresses may name; none, since what lies on the server is not every client's to read.
    In the environment a JSON list."""

    upload_https: bool = False
    """Fetch from public ``https://`` addresses. Off: a service in a hospital's network should not call out unasked."""

    upload_s3: bool = False
    """Fetch from ``s3://`` with the service's own credentials, which may open more than its clients should see."""

    lease_seconds: float = Field(default=15, gt=0)
    """How long a job stays a silent worker's: several heartbeats, and short enough to wait for after a crash."""

    heartbeat_seconds: float = Field(default=2, gt=0)
    """How often a worker says that it lives and hears of cancellations; a beat costs one commit of 0.3 ms."""

    stall_seconds: float = Field(default=900, gt=0)
    """How long a job may tell no progress before its process is ended and the job tried again: many times what the
    slowest network takes for a batch on one CPU core, so that only what hangs meets it."""

    poll_seconds: float = Field(default=1, gt=0)
    """How often an idle worker looks for a job: the longest that a job waits for nothing."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """The GPU if the worker has one."""

    scheduler: str | None = None
    """Address of a Dask scheduler whose workers make the stripes of every job; none: the worker makes them."""

    @field_validator("root_path")
    @classmethod
    def _prefix(cls, path: str) -> str:
        path = path.rstrip("/")
        if path and not path.startswith("/"):
            raise ValueError("it begins with a slash, as /slidelift")
        return path

    @field_validator("data_dir")
    @classmethod
    def _absolute(cls, path: Path) -> Path:
        return path.expanduser().absolute()

    @field_validator("upload_roots")
    @classmethod
    def _absolute_roots(cls, roots: tuple[Path, ...]) -> tuple[Path, ...]:
        return tuple(root.expanduser().absolute() for root in roots)

    def as_environment(self) -> dict[str, str]:
        """The variables by which another process reads the same."""
        stated = self.model_dump(exclude_none=True)
        return {
            f"{self.model_config['env_prefix']}{name.upper()}": _as_variable(value) for name, value in stated.items()
        }

    @property
    def is_private(self) -> bool:
        """Whether only this machine can reach the service."""
        return self.host in ("127.0.0.1", "::1", "localhost")

    @property
    def asks_for_tokens(self) -> bool:
        """Whether a request must bring an access token."""
        return self.auth == "on" or not self.is_private

    @property
    def database(self) -> Path:
        """The SQLite file of slides and jobs."""
        return self.data_dir / "slidelift.sqlite3"


def _as_variable(value: Any) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return json.dumps(value, default=str) if isinstance(value, (tuple, list)) else str(value)

"""Settings of the service: one frozen object, read once at the start and passed down."""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Settings of the API and the worker; each is read from ``SLIDELIFT_<NAME>`` or passed by name."""

    model_config = SettingsConfigDict(env_prefix="SLIDELIFT_", env_ignore_empty=True, frozen=True, extra="forbid")

    data_dir: Path = Path("slidelift-data")
    """Folder of slides, results and the database, by default below the current folder. It must be on a local disk:
    SQLite's write-ahead log does not work on a network file system."""

    database_url: SecretStr | None = None
    """``postgresql://…`` if several machines share the jobs; None for a SQLite file in the data folder."""

    host: str = "127.0.0.1"
    """Address to listen on. By default only this machine can connect; other addresses require access tokens."""

    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; the default is uvicorn's, and 0 selects a free port."""

    auth: Literal["auto", "on"] = "auto"
    """``auto`` requires access tokens unless `host` is this machine. No value opens the service to a network without
    tokens."""

    root_path: str = ""
    """Path prefix that a reverse proxy adds for clients and strips from requests, such as ``/slidelift``."""

    cors_origins: tuple[str, ...] = ()
    """Origins of other web sites whose pages may call the service; by default none."""

    log_format: Literal["text", "json"] = "text"
    """``json`` writes one object per line, for a log collector."""

    max_upload_bytes: int = Field(default=32 * 2**30, gt=0)
    """Largest upload; a larger one is refused before it is read. No scanner today writes larger compressed slides."""

    disk_reserve_bytes: int = Field(default=2**30, ge=0)
    """Disk space that uploads and results leave free, so that the database can still record that the disk is full."""

    max_queue: int = Field(default=1000, ge=1)
    """Limit of unfinished jobs; admitting a job reads all of them, 2 kB of memory each."""

    max_jobs_per_token: int = Field(default=100, ge=1)
    """Limit of unfinished jobs per access token, unless the token has its own; one user must not fill the queue."""

    max_bytes_per_token: int = Field(default=2**40, ge=1)
    """Limit of bytes of slides per access token, unless the token has its own; about a thousand slides."""

    keep_results_seconds: float | None = Field(default=None, gt=0)
    """How long the result of a finished job is kept; None: until it is deleted."""

    keep_slides_seconds: float | None = Field(default=None, gt=0)
    """How long a slide is kept that no unfinished job needs; None: until it is deleted."""

    keep_stripes_seconds: float = Field(default=7 * 86400, gt=0)
    """How long the finished stripes of a failed job are kept for a retry."""

    keep_set_aside_seconds: float = Field(default=7 * 86400, ge=86400)
    """How long files that are not in the database are kept, at least a day. After an older database was restored, they
    can be recovered during this time."""

    sweep_seconds: float = Field(default=300, gt=0)
    """Interval between searches for expired slides, results and uploads; a search reads one index."""

    upload_expiry_seconds: float = Field(default=86400, gt=0)
    """How long an interrupted upload can be continued; by default until the next morning."""

    upload_roots: tuple[Path, ...] = ()
    """Folders from which clients may import files by ``file://`` addresses, by default none. A JSON list in the
    environment."""

    upload_https: bool = False
    """Whether to fetch from public ``https://`` addresses. Off, since a service in a hospital's network should not
    connect to other hosts by default."""

    upload_s3: bool = False
    """Whether to fetch from ``s3://`` with the service's own credentials, which may give access to more than clients
    should read."""

    lease_seconds: float = Field(default=15, gt=0)
    """How long a job stays assigned to a worker without heartbeats: several heartbeats, but short after a crash."""

    heartbeat_seconds: float = Field(default=2, gt=0)
    """Interval of a worker's heartbeats, at which it also receives cancellations; each costs a commit of 0.3 ms."""

    stall_seconds: float = Field(default=900, gt=0)
    """How long a job may make no progress before its process is ended and the job retried. Many times as long as the
    slowest network takes for a batch on one CPU core, so that only a hanging process reaches it."""

    poll_seconds: float = Field(default=1, gt=0)
    """Interval at which an idle worker looks for a job."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of the networks; ``auto`` is the GPU if the worker has one."""

    scheduler: str | None = None
    """Address of a Dask scheduler whose workers make the stripes of every job; None: the worker makes them itself."""

    @field_validator("root_path")
    @classmethod
    def _prefix(cls, path: str) -> str:
        path = path.rstrip("/")
        if path and not path.startswith("/"):
            raise ValueError("it must begin with a slash, such as /slidelift")
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
        """Return the environment variables from which another process reads the same settings."""
        prefix, values = self.model_config["env_prefix"], self.model_dump(exclude_none=True)
        return {f"{prefix}{name.upper()}": _as_variable(value) for name, value in values.items()}

    @property
    def is_private(self) -> bool:
        """Whether only this machine can reach the service."""
        return self.host in ("127.0.0.1", "::1", "localhost")

    @property
    def asks_for_tokens(self) -> bool:
        """Whether requests need an access token."""
        return self.auth == "on" or not self.is_private

    @property
    def database(self) -> Path:
        """Path of the SQLite file of slides and jobs."""
        return self.data_dir / "slidelift.sqlite3"


def _as_variable(value: Any) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return json.dumps(value, default=str) if isinstance(value, (tuple, list)) else str(value)

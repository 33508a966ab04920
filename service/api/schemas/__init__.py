"""Schemas of the JSON that the REST service takes and returns, by resource."""

from slidelift.service.api.schemas.batches import Batch
from slidelift.service.api.schemas.fields import Mpp, utc
from slidelift.service.api.schemas.health import Check, Liveness, Readiness
from slidelift.service.api.schemas.jobs import BatchRequest, Job, JobList, JobRequest
from slidelift.service.api.schemas.models import Model, ModelList
from slidelift.service.api.schemas.problems import Problem
from slidelift.service.api.schemas.session import Credentials, Session
from slidelift.service.api.schemas.slides import Recommendation, Slide, SlideList
from slidelift.service.api.schemas.tile_map import TileMap
from slidelift.service.api.schemas.uploads import SlideSource, Upload

__all__ = [
    "Batch",
    "BatchRequest",
    "Check",
    "Credentials",
    "Job",
    "JobList",
    "JobRequest",
    "Liveness",
    "Model",
    "ModelList",
    "Mpp",
    "Problem",
    "Readiness",
    "Recommendation",
    "Session",
    "Slide",
    "SlideList",
    "SlideSource",
    "TileMap",
    "Upload",
    "utc",
]

"""The models on offer: those of the catalog that can run as they come, and never a file that a client names."""

from fastapi import APIRouter

from slidelift.models.zoo.catalog import catalog
from slidelift.service.api.problems import documented
from slidelift.service.api.responses import readable
from slidelift.service.api.schemas import ModelOut, ModelsOut
from slidelift.service.pipeline.options import AUTO

router = APIRouter(prefix="/v1/models", tags=["models"], responses=documented())


@readable(router, "", summary="List models")
def models() -> ModelsOut:
    """List the models on offer with the facts of each."""
    return ModelsOut(default=AUTO, models=[ModelOut.model_validate(card) for card in catalog().values()])

"""The models on offer: those of the catalog that can run as they come, and never a file that a client names."""

from fastapi import APIRouter

from models.zoo.catalog import catalog
from service.api.problems import documented
from service.api.reading import readable
from service.api.schemas import ModelOut, ModelsOut
from service.request import AUTO

router = APIRouter(prefix="/v1/models", tags=["models"], responses=documented())


@readable(router, "", summary="List models")
def models() -> ModelsOut:
    """List the models on offer with the facts of each."""
    return ModelsOut(default=AUTO, models=[ModelOut.model_validate(card) for card in catalog().values()])

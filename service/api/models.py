"""Route of the model catalog. Clients can use only these models, never a file of their own."""

from fastapi import APIRouter

from slidelift.models.zoo.catalog import catalog
from slidelift.service.api import schemas
from slidelift.service.api.problems import error_responses
from slidelift.service.api.responses import get_and_head
from slidelift.service.pipeline.options import AUTO

router = APIRouter(prefix="/v1/models", tags=["models"], responses=error_responses())


@get_and_head(router, "", operation_id="list_models", summary="List models")
def list_models() -> schemas.ModelList:
    """List the available models and their measured properties."""
    return schemas.ModelList(default=AUTO, models=[schemas.Model.model_validate(card) for card in catalog().values()])

"""The models on offer: those of the catalog that can run as they come, and never a file that a client names."""

from fastapi import APIRouter

from slidelift.models.zoo.catalog import catalog
from slidelift.service.api import schemas
from slidelift.service.api.problems import error_responses
from slidelift.service.api.responses import get_and_head
from slidelift.service.pipeline.options import AUTO

router = APIRouter(prefix="/v1/models", tags=["models"], responses=error_responses())


@get_and_head(router, "", operation_id="list_models", summary="List models")
def list_models() -> schemas.ModelList:
    """List the models on offer with the facts of each."""
    return schemas.ModelList(default=AUTO, models=[schemas.Model.model_validate(card) for card in catalog().values()])

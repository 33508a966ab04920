"""Field types that several schemas share."""

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, StrictInt

from slidelift.service.pipeline.options import MAX_MPP, MAX_QUALITY, MIN_MPP, MIN_QUALITY


def _integral_float_to_int(value: Any) -> Any:
    """JSON has one type of number, so that 37.0 is 37; "37" and true are not numbers."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


Mpp = Annotated[float, Field(ge=MIN_MPP, le=MAX_MPP, allow_inf_nan=False)]
Pixel = Annotated[StrictInt, Field(ge=0, lt=2**31), BeforeValidator(_integral_float_to_int)]
Quality = Annotated[StrictInt, Field(ge=MIN_QUALITY, le=MAX_QUALITY), BeforeValidator(_integral_float_to_int)]


def utc(seconds: float) -> datetime:
    """Convert seconds since 1970 to the date and time of a JSON member."""
    return datetime.fromtimestamp(seconds, UTC)

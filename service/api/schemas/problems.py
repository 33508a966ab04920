"""The schema of a problem."""

from typing import Any, Self

from pydantic import BaseModel, Field

from slidelift.service import errors as service_errors


class Problem(BaseModel):
    """An error (RFC 9457). `code` is stable, so that clients can branch on it."""

    type: str = Field(examples=["urn:slidelift:problem:slide.mpp-missing"])
    title: str = Field(description="The same for every problem of a code.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What happened and what to try.")
    code: str = Field(examples=["slide.mpp-missing"])
    instance: str = Field(description="Path of the resource that the problem concerns.")
    errors: list[dict[str, Any]] | None = Field(
        default=None, description="The invalid values; only with request.invalid."
    )

    @classmethod
    def of(cls, problem: service_errors.Problem, instance: str) -> Self:
        """Make the representation of a problem that concerns the resource at `instance`."""
        return cls(
            type=f"urn:slidelift:problem:{problem.code}",
            title=service_errors.title(problem.code, problem.status),
            status=problem.status,
            detail=problem.detail,
            code=problem.code,
            instance=instance,
        )

"""Schemas of sessions."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from slidelift.service.auth.tokens import Scope


class Credentials(BaseModel):
    """The access token to sign in with."""

    model_config = ConfigDict(extra="forbid")

    token: SecretStr = Field(min_length=1, max_length=200, description="An access token.")


class Session(BaseModel):
    """The caller as the service identified it."""

    needed: bool = Field(description="Whether the service requires an access token.")
    signed_in: bool = Field(description="Whether the caller is signed in; true where no token is required.")
    name: str | None = Field(description="Name of the token.")
    scopes: list[Scope] = Field(description="Scopes of the token, with those that `admin` includes.")
    expires: datetime | None = Field(description="When the session or the token expires; null for never.")

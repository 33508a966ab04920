"""Hooks for schemathesis: existing ids in most calls, and two additional checks."""

import json
import os
import zlib
from typing import Any

import schemathesis
from schemathesis.generation.modes import GenerationMode

EXISTING: dict[str, list[str]] = json.loads(os.environ["SLIDELIFT_CONTRACT_IDS"])


def pick_id(kind: str, generated: str) -> str:
    """Replace three in four generated ids by an existing one, deterministically; ids that are too long stay."""
    if len(generated) > 100:
        return generated
    drawn = zlib.crc32(repr(generated).encode())
    ids = EXISTING.get(kind, [])
    return ids[drawn // 4 % len(ids)] if ids and drawn % 4 else generated


@schemathesis.serializer("application/offset+octet-stream")
def piece(context: schemathesis.SerializationContext, value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode(errors="surrogatepass")


@schemathesis.hook
def map_path_parameters(context: schemathesis.HookContext, path_parameters: Any) -> Any:
    if not isinstance(path_parameters, dict) or context.operation.method == "put":
        return path_parameters
    return {name: pick_id(name, value) if isinstance(value, str) else value for name, value in path_parameters.items()}


@schemathesis.hook
def map_body(context: schemathesis.HookContext, body: Any) -> Any:
    if isinstance(body, dict) and isinstance(body.get("slide"), str):
        body = {**body, "slide": pick_id("slide", body["slide"])}
    if isinstance(body, dict) and isinstance(body.get("slides"), list):
        body = {
            **body,
            "slides": [pick_id("slide", one) if isinstance(one, str) else one for one in body["slides"]],
        }
    return body


@schemathesis.check
def valid_request_is_not_invalid(
    ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case
) -> None:
    meta = case.meta
    if meta is not None and meta.generation.mode is GenerationMode.POSITIVE and response.status_code == 422:
        problem = response.json()
        assert problem["code"] != "request.invalid", problem["detail"]


@schemathesis.check
def every_error_is_a_problem(
    ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case
) -> None:
    if response.status_code >= 400 and case.method != "HEAD":
        assert response.headers["content-type"] == ["application/problem+json"], response.headers
        assert response.json()["status"] == response.status_code

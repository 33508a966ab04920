"""The OpenAPI document, and the page at /docs that shows it with a local copy of Swagger UI."""

from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

from slidelift.service.api import schemas
from slidelift.service.api.access import COOKIE
from slidelift.service.api.responses import url_path

_SWAGGER_UI = Path(__file__).parent.parent / "web" / "vendor" / "swagger-ui"
_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>slidelift: the REST service</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<link rel="stylesheet" href="{assets}/swagger-ui.css"></head>
<body><div id="swagger-ui"></div>
<script src="{assets}/swagger-ui-bundle.js"></script>
<script src="{assets}/start.js"></script></body></html>
"""
# The URL is relative to the page, so that it also works behind a proxy that adds a path prefix.
_START = """SwaggerUIBundle({url: "openapi.json", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null,
  persistAuthorization: false});
"""
# Swagger UI styles elements inline. frame-ancestors prevents clickjacking.
_POLICY = (
    "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_SECURITY_SCHEMES = {
    "token": {"type": "http", "scheme": "bearer", "description": "Created by `slidelift token create`."},
    "session": {"type": "apiKey", "in": "cookie", "name": COOKIE, "description": "Set by `sign_in`."},
}
_SECURITY: list[dict[str, list[str]]] = [{}, {"token": []}, {"session": []}]
"""The empty entry means that no token is needed, as for a service that only its own machine can reach."""


def install(app: FastAPI) -> None:
    """Serve /docs, and complete the OpenAPI document that FastAPI generates."""

    @app.get("/docs", include_in_schema=False)
    def page(request: Request) -> HTMLResponse:
        content = _PAGE.format(assets=url_path(request, "/docs/assets"))
        return HTMLResponse(content, headers={"Content-Security-Policy": _POLICY})

    @app.get("/docs/assets/start.js", include_in_schema=False)
    def start() -> HTMLResponse:
        return HTMLResponse(_START, media_type="text/javascript")

    app.mount("/docs/assets", StaticFiles(directory=_SWAGGER_UI), name="docs-assets")
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            document["components"]["securitySchemes"] = _SECURITY_SCHEMES
            # The route parses this body itself, so FastAPI does not add its schema.
            document["components"]["schemas"]["SlideSource"] = schemas.SlideSource.model_json_schema()
            document["security"] = _SECURITY
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]

"""The page at /docs: Swagger UI over the service's own description, all of it served from here."""

from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

from slidelift.service.api.access import COOKIE
from slidelift.service.api.responses import address

_VENDORED = Path(__file__).parent.parent / "web" / "vendor" / "swagger-ui"
_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>slidelift: the REST service</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<link rel="stylesheet" href="{here}/swagger-ui.css"></head>
<body><div id="swagger-ui"></div>
<script src="{here}/swagger-ui-bundle.js"></script>
<script src="{here}/start.js"></script></body></html>
"""
# The document lies beside the page, wherever a proxy shows both.
_START = """SwaggerUIBundle({url: "openapi.json", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null,
  persistAuthorization: false});
"""
_POLICY = (  # Swagger UI styles elements; in a frame of another site a click would be a request in its reader's name
    "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


def install(app: FastAPI) -> None:
    """Serve the page, and what security schemes the description names."""

    @app.get("/docs", include_in_schema=False)
    def page(request: Request) -> HTMLResponse:
        return HTMLResponse(
            _PAGE.format(here=address(request, "/docs/assets")), headers={"Content-Security-Policy": _POLICY}
        )

    @app.get("/docs/assets/start.js", include_in_schema=False)
    def start() -> HTMLResponse:
        return HTMLResponse(_START, media_type="text/javascript")

    app.mount("/docs/assets", StaticFiles(directory=_VENDORED), name="docs-assets")
    made = app.openapi

    def described() -> dict[str, object]:
        if app.openapi_schema is None:
            schema = made()
            schema["components"]["securitySchemes"] = {
                "token": {"type": "http", "scheme": "bearer", "description": "Made by `slidelift token create`."},
                "session": {"type": "apiKey", "in": "cookie", "name": COOKIE, "description": "Set by signing in."},
            }
            schema["security"] = [
                {},
                {"token": []},
                {"session": []},
            ]  # none is asked for where only this machine can reach the service
        return app.openapi_schema or {}

    app.openapi = described  # type: ignore[method-assign]

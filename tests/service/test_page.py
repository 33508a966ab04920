"""The page at /: complete, without resources of other hosts, available without a token."""

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

WEB = Path(__file__).resolve().parents[2] / "service" / "web"
SCRIPTS = sorted(WEB.glob("*.js"))
MOST_SCRIPT_BYTES = 62_000

Call = Callable[..., httpx.Response]


class Markup(HTMLParser):
    """Collects the elements of a page with their attributes, and the text of its scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inline = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1][0] in ("script", "style"):
            self.inline += data.strip()

    def values(self, *names: str) -> list[str]:
        return [value for _, given in self.elements for name, value in given.items() if name in names and value]


@pytest.fixture(scope="module")
def markup() -> Markup:
    return Markup((WEB / "index.html").read_text("utf-8"))


def test_page_allows_only_its_own_scripts_and_styles(call: Call) -> None:
    answer = call("GET", "/")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    rules = dict(rule.strip().split(" ", 1) for rule in answer.headers["content-security-policy"].split(";"))
    assert rules == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self' data: blob:",
        "connect-src": "'self'",
        "frame-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


def test_page_has_no_inline_script_style_or_handler(markup: Markup) -> None:
    assert markup.inline == ""
    names = {name for _, given in markup.elements for name in given}
    assert "style" not in names
    assert [name for name in names if name.startswith("on")] == []


def test_every_file_of_the_page_is_served_and_revalidated(call: Call, markup: Markup) -> None:
    named = {one for one in markup.values("src", "href") if one.startswith("page/")}
    assert {"page/main.js", "page/page.css", "page/icon.svg"} <= named
    imported = {f"page/{name}" for one in SCRIPTS for name in re.findall(r'from "\./([^"]+)"', one.read_text("utf-8"))}
    assert len(imported) > 5
    for address in sorted(named | imported):
        answer = call("GET", f"/{address}")
        assert answer.status_code == 200, address
        assert answer.headers["cache-control"] == "no-cache"
        assert answer.headers["x-content-type-options"] == "nosniff"
        known = {"If-None-Match": answer.headers["etag"]}
        assert call("GET", f"/{address}", headers=known).status_code == 304
    assert "javascript" in call("GET", "/page/main.js").headers["content-type"]
    assert call("HEAD", "/").status_code == 200
    assert call("GET", "/page/unknown.js").json()["code"] == "route.unknown"
    assert call("GET", "/page/%2e%2e/app.py").status_code == 404


def test_every_template_and_action_of_a_script_is_in_the_page(markup: Markup) -> None:
    text = "".join(one.read_text("utf-8") for one in SCRIPTS)
    templates = {given["id"] for tag, given in markup.elements if tag == "template"}
    assert set(re.findall(r'\bclone\("([^"]+)"\)', text)) <= templates
    actions = set(re.findall(r"^  (\w+): \(", (WEB / "api.js").read_text("utf-8"), re.MULTILINE))
    assert set(markup.values("data-action")) <= actions


def test_every_link_of_the_page_is_relative(markup: Markup) -> None:
    for address in markup.values("src", "href"):
        assert re.match(r"(page/|docs$|#)", address), address


def test_every_field_has_a_label_and_every_id_is_unique(markup: Markup) -> None:
    ids = markup.values("id")
    assert len(ids) == len(set(ids))
    assert set(markup.values("aria-labelledby")) <= set(ids)


def test_page_needs_no_token(open_app: Callable[..., FastAPI], client: Any) -> None:
    call = client(open_app(auth="on"))
    for address in ("/", "/page/main.js", "/page/vendor/tus-js-client/tus.min.js"):
        assert call("GET", address).status_code == 200
    for address in ("/v1/slides", "/v1/jobs", "/metrics", "//v1/slides", "/pages", "/unknown"):
        assert call("GET", address).status_code == 401, address


def test_page_is_found_behind_a_prefix_with_and_without_a_slash(open_app: Callable[..., FastAPI], client: Any) -> None:
    call = client(open_app(root_path="/apps/slidelift", auth="on"))
    bare = call("GET", "/apps/slidelift")
    assert (bare.status_code, bare.headers["location"]) == (308, "/apps/slidelift/")
    for shown in ("", "/apps/slidelift"):  # whether or not the proxy removes it
        assert "<title>slidelift</title>" in call("GET", f"{shown}/").text
        assert call("GET", f"{shown}/page/main.js").status_code == 200
        assert call("GET", f"{shown}/v1/slides").status_code == 401


def test_page_is_not_in_the_openapi_document(call: Call) -> None:
    paths = call("GET", "/openapi.json").json()["paths"]
    assert not [path for path in paths if path == "/" or path.startswith("/page")]


def test_scripts_are_small() -> None:
    assert sum(one.stat().st_size for one in SCRIPTS) < MOST_SCRIPT_BYTES


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda one: one.name)
def test_script_starts_with_a_comment_and_does_not_create_markup_from_data(script: Path) -> None:
    text = script.read_text("utf-8")
    assert re.match(r"/\*\* .+[.:].* ?\*/\n|/\*\*\n \* .+\.\n", text), "the first comment is one sentence"
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text)
    assert not re.search(r"localStorage|sessionStorage|document\.cookie", text), (
        "the page must store nothing in the browser"
    )


@pytest.mark.parametrize("file", [*SCRIPTS, *sorted(WEB.glob("*.css")), WEB / "index.html"], ids=lambda one: one.name)
def test_nothing_is_loaded_from_other_hosts(file: Path) -> None:
    assert not re.search(r"https?://|[\"'(]//\w|@import", file.read_text("utf-8"))


def test_package_contains_every_file_of_the_page() -> None:
    import tomllib

    given = tomllib.loads((WEB.parents[1] / "pyproject.toml").read_text("utf-8"))
    patterns = given["tool"]["setuptools"]["package-data"]["slidelift.service"]
    packed = {path for pattern in patterns for path in WEB.parent.glob(pattern) if path.is_file()}
    assert {path for path in WEB.rglob("*") if path.is_file()} <= packed

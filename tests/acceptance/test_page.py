"""The web page in Chromium with a real slide.

With SLIDELIFT_SCREENSHOTS=FOLDER (`make screenshots`) the screenshots of the documentation are saved there.
"""

import base64
import hashlib
import io
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import tifffile
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright
from skimage.registration import phase_cross_correlation

WAIT_MS = 60_000
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
REGION = [600, 900, 768, 512]
MARK = "Computed image — not for primary diagnosis"
# Messages that the browser logs for failures provoked by a test.
PROVOKED = re.compile(r"Failed to load resource|net::ERR|Tile %s failed to load")

Open = Callable[..., Page]
pending_tiles: dict[Page, set[str]] = {}
"""Pending tile requests of each page."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        reason = "chromium is not installed, so the page cannot be tested"
        if os.environ.get("SLIDELIFT_REQUIRE_DATA"):
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """Open an address; afterwards the page must have logged no error and sent no request to another host."""
    contexts: list[BrowserContext] = []
    problems: list[str] = []

    def open_(address: str, *, provoked: bool = False, **options: Any) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        context.set_default_timeout(WAIT_MS)
        contexts.append(context)
        page = context.new_page()
        host = urlsplit(address).netloc

        def on_console(kind: str, text: str) -> None:
            if kind == "error" and not (provoked and PROVOKED.search(text)):
                problems.append(text)

        page.on("console", lambda message: on_console(message.type, message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "request",
            lambda request: (
                problems.append(f"request to another host: {request.url}")
                if request.url.startswith("http") and urlsplit(request.url).netloc != host
                else None
            ),
        )
        pending_tiles[page] = set()
        page.on("request", lambda request: pending_tiles[page].add(request.url) if "_files/" in request.url else None)
        for end in ("requestfinished", "requestfailed"):
            page.on(end, lambda request: pending_tiles[page].discard(request.url))  # type: ignore[call-overload]
        page.goto(address)
        return page

    expect.set_options(timeout=WAIT_MS)
    yield open_
    for context in contexts:
        context.close()
    assert problems == []


@pytest.fixture(scope="session")
def keep(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Page, str], None]:
    """Save a screenshot for the documentation."""
    folder = Path(os.environ.get("SLIDELIFT_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots")).absolute()
    folder.mkdir(exist_ok=True)

    def take(page: Page, name: str) -> None:
        picture = Image.open(io.BytesIO(page.screenshot()))
        picture.convert("RGB").save(folder / f"{name}.jpeg", quality=85, subsampling=0, optimize=True)

    return take


@pytest.fixture(scope="module")
def made(service: Any, cmu: Path) -> dict[str, str]:
    """A slide and two results of the same region."""
    slide = service.upload(cmu)["id"]
    jobs = {
        model: service.submit(slide=slide, model=model, region=REGION)["id"] for model in ("bicubic", "compact-x4-fast")
    }
    assert all(service.follow(job)["state"] == "succeeded" for job in jobs.values())
    return {"slide": slide, **jobs}


def assert_accessible(page: Page) -> None:
    """axe-core finds no violation, in light and dark mode."""
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        result = Axe().run(page)
        violations = [
            (rule["id"], [node["html"][:200] for node in rule["nodes"]]) for rule in result.response["violations"]
        ]
        assert violations == [], scheme
    page.emulate_media(color_scheme="light")


def canvas(page: Page, pane: int = 0) -> np.ndarray:
    """Return the pixels of a pane as (height, width, 4) when all its tiles are loaded and drawn."""
    read = f"document.querySelectorAll('.pane')[{pane}].querySelector('.openseadragon-canvas canvas').toDataURL()"
    page.wait_for_selector(".pane .openseadragon-canvas canvas")
    before, deadline = "", time.monotonic() + WAIT_MS / 1000
    while time.monotonic() < deadline:
        page.wait_for_timeout(300)
        now = page.evaluate(read)
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(now.partition(",")[2]))))
        if now == before and not pending_tiles[page] and pixels.any():
            return pixels
        before = now
    raise AssertionError("the image did not stop changing")


def luma(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).convert("RGB").convert("L")).astype(float)


def shift(one: np.ndarray, other: np.ndarray) -> float:
    """Return the shift between two images in pixels."""
    offset, *_ = phase_cross_correlation(luma(one), luma(other), upsample_factor=20, normalization=None)
    return float(np.abs(offset).max())


def address_of(page: Page, route: str) -> str:
    return f"{page.url.partition('#')[0]}#{route}"


def go(page: Page, route: str) -> None:
    page.evaluate("route => { location.hash = route; }", route)


def test_from_an_empty_page_to_a_result_on_disk(
    service: Any, open_page: Open, keep: Callable[[Page, str], None], cmu: Path, tmp_path: Path
) -> None:
    """Upload, submit, follow, view, save and download without a reload."""
    page = open_page(f"{service.address}/")
    expect(page.get_by_text("No slides yet")).to_be_visible()
    expect(page.get_by_text("No jobs yet")).to_be_visible()
    assert_accessible(page)

    page.locator("input[type=file]").set_input_files(cmu)
    row = page.locator("li.row", has_text=cmu.name).filter(has=page.get_by_role("link", name="Upscale"))
    expect(row).to_contain_text("2,220 × 2,967")
    thumbnail = row.locator("img")
    expect(thumbnail).to_be_visible()
    page.wait_for_function("image => image.complete && image.naturalWidth > 100", arg=thumbnail.element_handle())

    row.get_by_role("link", name="Upscale").click()
    expect(page.locator("select[name=model] option:checked")).to_have_text("Recommended: compact-x2")
    expect(page.locator("form")).to_contain_text("compact-x2 makes 0.249 µm per pixel from level 0, which has 0.499")
    page.locator("select[name=model]").select_option("compact-x4")
    expect(page.locator(".targets")).to_contain_text("0.125")
    page.locator("select[name=model]").select_option("auto")
    page.get_by_text("More options").click()
    for name, value in zip(("x", "y", "width", "height"), REGION, strict=True):
        page.locator(f"input[name={name}]").fill(str(value))
    expect(page.locator(".targets")).to_contain_text("0.249")
    command = page.locator("form pre").inner_text()
    assert '"model":"auto"' in command.replace(" ", "")
    assert "[600,900,768,512]" in command.replace(" ", "")
    assert_accessible(page)
    page.get_by_role("button", name="Start").click()

    job = page.locator("li.row").filter(has=page.locator(".state"))
    expect(job.locator(".state")).to_contain_text("running")
    expect(job.locator("progress")).to_be_visible()
    expect(job).to_contain_text(re.compile(r"[1-9] of 6 tiles"))
    keep(page, "page-work")
    expect(job.locator(".state")).to_contain_text("succeeded")
    expect(job).to_contain_text("The model enhanced 5 of 5 tissue tiles.")
    expect(job).to_contain_text("compact-x2")
    assert_accessible(page)

    job.get_by_role("link", name="View").click()
    expect(page.locator(".computed")).to_have_text(MARK)
    first = canvas(page)
    assert (first[..., 3] == 255).mean() > 0.5
    line, stage = page.locator(".curtain"), page.locator(".stage").bounding_box()
    assert stage
    line.hover()
    page.mouse.down()
    page.mouse.move(stage["x"] + stage["width"] * 0.3, stage["y"] + 50, steps=8)
    page.mouse.up()
    assert abs(float(page.locator(".share input").input_value()) - 30) <= 1
    assert (canvas(page) != first).any()
    expect(page.locator(".scale-bar")).to_contain_text("µm")
    expect(page.locator(".scale-bar")).to_contain_text("×")
    assert_accessible(page)
    page.mouse.move(stage["x"] + 400, stage["y"] + 300)
    page.mouse.wheel(0, -500)
    page.locator(".share input").fill("50")
    canvas(page)
    keep(page, "viewer-curtain")

    with page.expect_download() as saved:
        page.get_by_role("button", name="Save PNG").click()
    picture = np.asarray(Image.open(saved.value.path()).convert("RGB"))
    assert picture.shape[:2] == (round(stage["height"]), round(stage["width"]))
    assert picture.std() > 20

    page.get_by_role("link", name="Slides and jobs").click()
    with page.expect_download() as fetched:
        job.get_by_role("link", name="Download").click()
    target = tmp_path / fetched.value.suggested_filename
    fetched.value.save_as(target)
    (finished,) = json.loads(service.curl("{service}/v1/jobs"))["jobs"]
    assert hashlib.sha256(target.read_bytes()).hexdigest() == finished["result"]["sha256"]
    assert tifffile.imread(target, series=0, level=0).shape == (2 * 512, 2 * 768, 3)

    job.get_by_role("link", name="Report").click()
    inside = page.frame_locator("iframe")
    expect(inside.get_by_text("Before and after")).to_be_visible()
    go(page, "/models")
    expect(page.get_by_role("heading", name="compact-x4", exact=False).first).to_be_visible()
    gains = page.get_by_role("region", name="Gain on kumar")
    row = gains.get_by_role("row", name="compact-x4,").or_(gains.locator("tr", has_text=re.compile(r"^compact-x4×4")))
    assert len(re.findall(r"[+-]\d\.\d\d", row.first.inner_text())) >= 6
    assert_accessible(page)


@pytest.mark.parametrize("zoom", [4.0, 1.3, 0.4])
def test_source_and_result_are_aligned(service: Any, open_page: Open, made: dict[str, str], zoom: float) -> None:
    x, y = REGION[0] + REGION[2] / 2, REGION[1] + REGION[3] / 2
    page = open_page(f"{service.address}/#/jobs/{made['compact-x4-fast']}@{x},{y},{zoom},blink")
    result = canvas(page)
    page.keyboard.press("b")
    expect(page.locator(".name.right")).to_have_text("Source")
    source = canvas(page)
    height, width = source.shape[:2]
    # the area that both images cover
    across, down = min(width, int(REGION[2] * zoom)) // 2 - 2, min(height, int(REGION[3] * zoom)) // 2 - 2
    middle = np.s_[height // 2 - down : height // 2 + down, width // 2 - across : width // 2 + across]
    source, result = source[middle], result[middle]
    assert (result[..., 3] == 255).all()
    assert (source != result).any(), "both images must differ"
    assert shift(source, result) < 1
    assert shift(np.roll(source, 3, axis=1), result) > 2, "the measure must detect a shift of three pixels"


def test_the_curtain_shows_the_source_on_its_left_and_the_result_on_its_right(
    service: Any, open_page: Open, made: dict[str, str]
) -> None:
    page = open_page(f"{service.address}/#/jobs/{made['compact-x4-fast']}@984,1156,1.5,blink")
    result = canvas(page)
    page.keyboard.press("b")
    source = canvas(page)
    page.keyboard.press("c")
    page.locator(".share input").fill("40")
    both = canvas(page)
    at = round(0.4 * both.shape[1])
    assert (both[:, : at - 2] == source[:, : at - 2]).all()
    other = (both[:, at + 2 :] != result[:, at + 2 :]).any(axis=(0, 2))
    assert other.sum() <= 3, "only tile edges may differ, where the lower image shows through half a pixel"
    page.keyboard.press("m")
    page.locator(".share input").fill("100")
    assert np.abs(canvas(page).astype(int) - result).max() <= 1


def test_side_by_side_panes_move_together(
    service: Any, open_page: Open, made: dict[str, str], keep: Callable[[Page, str], None]
) -> None:
    page = open_page(f"{service.address}/#/jobs/{made['compact-x4-fast']}@984,1156,2,side")
    assert shift(canvas(page, 0)[..., :3], canvas(page, 1)[..., :3]) < 1
    assert page.url.endswith("@984.0,1156.0,2.0000,side"), "half the width must not change the zoom"
    box = page.locator(".pane").nth(1).bounding_box()
    assert box
    page.mouse.move(box["x"] + 200, box["y"] + 250)
    page.mouse.wheel(0, -300)
    page.mouse.down()
    page.mouse.move(box["x"] + 150, box["y"] + 200, steps=6)
    page.mouse.up()
    left, right = canvas(page, 0), canvas(page, 1)
    assert shift(left, right) < 1
    assert "@984.0,1156.0" not in page.url
    assert_accessible(page)
    keep(page, "viewer-side")


def test_a_link_restores_the_view(service: Any, open_page: Open, made: dict[str, str]) -> None:
    page = open_page(f"{service.address}/#/jobs/{made['compact-x4-fast']}")
    canvas(page)
    page.keyboard.press("m")
    page.mouse.move(500, 400)
    page.mouse.wheel(0, -400)
    shown = canvas(page)
    page.wait_for_timeout(500)
    again = open_page(page.url)
    assert again.url == page.url
    assert np.abs(canvas(again).astype(int) - shown).mean() < 1
    elsewhere = page.url.partition("@")[0] + "@700,950,3,curtain"
    again.goto(elsewhere)
    canvas(again)
    assert again.url == elsewhere.replace("@700,950,3,", "@700.0,950.0,3.0000,")
    expect(again.get_by_role("button", name="Curtain")).to_have_attribute("aria-pressed", "true")


def test_overlays_are_drawn_on_their_tiles(
    service: Any, open_page: Open, made: dict[str, str], keep: Callable[[Page, str], None]
) -> None:
    job = made["compact-x4-fast"]
    tile_map = json.loads(service.curl(f"{{service}}/v1/jobs/{job}/map"))
    page = open_page(f"{service.address}/#/jobs/{job}@984,1156,1.2,curtain")
    canvas(page)
    page.get_by_text("Overlays", exact=True).click()
    page.get_by_label("Tissue, enhanced by the model").check()
    overlay = page.locator("canvas.overlay")
    drawn = overlay.evaluate("one => one.toDataURL()")
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(drawn.partition(",")[2]))))
    for row, marks in enumerate(tile_map["map"]):
        for column, mark in enumerate(marks):
            assert (pixels[4 * row + 1, 4 * column + 1, 3] == 255) == (mark == "t")
    box, stage = overlay.bounding_box(), page.locator(".stage").bounding_box()
    assert box and stage  # noqa: PT018 - both are there
    left = stage["x"] + stage["width"] / 2 + 1.2 * (REGION[0] - 984)
    top = stage["y"] + stage["height"] / 2 + 1.2 * (REGION[1] - 1156)
    found = (box["x"], box["y"], box["width"], box["height"])
    assert found == pytest.approx((left, top, 1.2 * REGION[2], 1.2 * REGION[3]), abs=1.5)
    page.get_by_label("Tissue, enhanced by the model").uncheck()
    page.get_by_label("Difference between reduced result").check()
    assert_accessible(page)
    keep(page, "viewer-overlay")


def test_two_results_of_one_slide_are_compared(service: Any, open_page: Open, made: dict[str, str]) -> None:
    page = open_page(f"{service.address}/")
    row = page.locator("li.row", has_text="compact-x4-fast").filter(has=page.locator(".state")).first
    row.get_by_role("button", name="Compare").click()
    page.get_by_role("dialog").get_by_role("link", name=re.compile("bicubic")).click()
    expect(page.locator(".name.left")).to_have_text("compact-x4-fast")
    expect(page.locator(".name.right")).to_contain_text("bicubic")
    page.keyboard.press("1")
    page.keyboard.press("b")
    one = canvas(page)
    page.keyboard.press("b")
    other = canvas(page)
    assert (one != other).any()
    assert shift(one, other) < 1


def test_finished_stripes_are_seen_while_the_job_runs(
    start_service: Callable[..., Any], open_page: Open, cmu: Path
) -> None:
    """Stops the decoding process when the first of two stripes is on disk, and continues it later."""
    service = start_service()
    slide = service.upload(cmu)["id"]
    service.submit(slide=slide, model="nearest", region=[0, 0, 8, 8])
    job = service.submit(slide=slide, model="compact-x4-fast", region=[900, 0, 300, 2400])["id"]
    page = open_page(f"{service.address}/#/jobs/{job}", provoked=True)  # before the job has a plan
    deadline, decoder = time.monotonic() + 120, None
    while decoder is None:
        assert time.monotonic() < deadline
        if list(service.folder.glob(f"jobs/{job}/attempt-1/.slidelift-*/stripe-00000.segment")):
            (decoder,) = service.descendants("upscale")
            decoder.send_signal(signal.SIGSTOP)
        time.sleep(0.05)
    page.reload()
    expect(page.locator(".viewer-status")).to_contain_text("1 of 2 stripes")
    expect(page.locator(".name.right")).to_contain_text("elsewhere the source")
    go(page, f"/jobs/{job}@1050,2048,0.5,mix")
    page.locator(".share input").fill("100")
    before = canvas(page)
    assert service.job(job)["state"] == "running"
    with page.expect_request(re.compile(r"/result\.dzi$"), timeout=WAIT_MS):  # all stripes are finished
        decoder.send_signal(signal.SIGCONT)
    expect(page.locator(".viewer-status")).to_have_text("")
    expect(page.locator(".name.right")).to_contain_text("Result, compact-x4-fast")
    after = canvas(page)
    middle = before.shape[0] // 2  # where the second stripe begins
    column = np.s_[before.shape[1] // 2 - 60 : before.shape[1] // 2 + 60]
    assert (
        np.abs(after[middle - 150 : middle - 8, column].astype(int) - before[middle - 150 : middle - 8, column]).mean()
        < 2
    )
    assert (after[middle + 8 : middle + 100, column] != before[middle + 8 : middle + 100, column]).any()


def test_a_failed_job_and_a_refused_file_show_their_problem(
    service: Any, open_page: Open, made: dict[str, str], data: Path
) -> None:
    page = open_page(f"{service.address}/", provoked=True)
    page.locator("input[type=file]").set_input_files(data / "damaged" / "text.svs")
    refused = page.locator("li.upload", has_text="text.svs")
    expect(refused.get_by_role("alert")).to_contain_text("can't be read as a slide")
    page.locator("input[type=file]").set_input_files(data / "damaged" / "cmu-bitflip-tiles.svs")
    damaged = page.locator("li.row", has_text="cmu-bitflip-tiles.svs").filter(
        has=page.get_by_role("link", name="Upscale")
    )
    damaged.get_by_role("link", name="Upscale").click()
    page.locator("select[name=model]").select_option("nearest")
    page.get_by_role("button", name="Start").click()
    job = page.locator("li.row", has_text="nearest").filter(has=page.locator(".state")).first
    expect(job.locator(".state")).to_contain_text("failed")
    expect(job).to_contain_text("on_bad_tile")
    expect(job.get_by_role("button", name="Retry")).to_be_visible()
    assert_accessible(page)
    go(page, "/jobs/nothing")
    expect(page.get_by_role("alert")).to_contain_text("Job not found")


def test_an_upload_continues_after_a_lost_connection(service: Any, open_page: Open, tmp_path: Path) -> None:
    slide = tmp_path / "large.tif"
    pixels = np.random.default_rng(0).integers(0, 256, (2400, 2400, 3), dtype=np.uint8)
    tifffile.imwrite(slide, pixels, tile=(512, 512), photometric="rgb")
    page, broken = open_page(f"{service.address}/", provoked=True), []

    def flaky(route: Any) -> None:
        if route.request.method == "PATCH" and len(broken) < 2:
            broken.append(route.request.headers["upload-offset"])
            route.abort("connectionreset")
        else:
            route.continue_()

    page.route("**/v1/uploads/**", flaky)
    page.locator("input[type=file]").set_input_files(slide)
    expect(page.locator("li.row", has_text="large.tif").get_by_role("link", name="Upscale")).to_be_visible()
    assert len(broken) == 2
    uploaded = json.loads(service.curl("{service}/v1/slides"))["slides"]
    (found,) = [one for one in uploaded if one["name"] == "large.tif"]
    assert found["sha256"] == hashlib.sha256(slide.read_bytes()).hexdigest()


def test_a_lost_service_and_its_return_are_shown(start_service: Callable[..., Any], open_page: Open, cmu: Path) -> None:
    service = start_service(None, "--no-worker")
    service.upload(cmu)
    page = open_page(f"{service.address}/", provoked=True)
    row = page.locator("li.row", has_text=cmu.name)
    expect(row).to_be_visible()
    service.stop()
    expect(page.locator("#banner")).to_be_visible()
    expect(row).to_be_visible()
    go(page, "/models")
    expect(page.get_by_role("button", name="Try again")).to_be_visible()
    start_service(service.folder, "--no-worker", port=service.port)
    expect(page.locator("#banner")).to_be_hidden()
    expect(page.get_by_role("heading", name="Models", exact=True)).to_be_visible()


def test_signing_in_keeps_the_token_out_of_addresses_and_storage(
    start_service: Callable[..., Any], slidelift: Callable[..., Any], open_page: Open, cmu: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    token = slidelift("token", "create", "--name", "Dr. Who", "--data-dir", folder).out.split()[-1]
    service = start_service(folder, "--no-worker", auth="on")
    requested: list[str] = []
    page = open_page(f"{service.address}/", provoked=True)
    page.on("request", lambda request: requested.append(request.url))
    assert_accessible(page)
    field = page.get_by_label("Access token")
    field.fill("slidelift_wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("not valid")
    field.fill(token)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_text("Dr. Who")).to_be_visible()
    page.locator("input[type=file]").set_input_files(cmu)
    row = page.locator("li.row", has_text=cmu.name).filter(has=page.get_by_role("link", name="View"))
    row.get_by_role("link", name="View").click()
    assert (canvas(page)[..., 3] == 255).any(), "tiles must be loaded with the cookie"
    assert not any(token in address for address in requested)
    assert token not in json.dumps(
        page.evaluate("({...localStorage, ...sessionStorage, html: document.body.innerHTML})")
    )
    (cookie,) = page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    assert token not in cookie["value"]
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("Access token")).to_be_visible()


def test_a_read_only_token_shows_no_write_actions(
    start_service: Callable[..., Any], slidelift: Callable[..., Any], open_page: Open, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    made = slidelift("token", "create", "--name", "reader", "--scope", "read", "--data-dir", folder)
    service = start_service(folder, "--no-worker", auth="on", root_path="/lift")
    page = open_page(f"{service.address}/lift", provoked=True)
    page.get_by_label("Access token").fill(made.out.split()[-1])
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_text("No slides yet")).to_be_visible()
    expect(page.get_by_role("button", name="Choose files")).to_be_hidden()


def test_the_panels_of_the_toolbar_fit_at_any_width(service: Any, open_page: Open, made: dict[str, str]) -> None:
    page = open_page(f"{service.address}/#/jobs/{made['bicubic']}")
    for width in (360, 640, 1100, 1280):
        page.set_viewport_size({"width": width, "height": 800})
        for name in ("Overlays", "Keys"):
            page.get_by_text(name, exact=True).click()
            (panel,) = page.locator(".viewer-tools details[open] > :not(summary)").all()
            box = panel.bounding_box()
            assert box
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
        page.get_by_text("Keys", exact=True).click()


def test_an_impossible_pixel_size_makes_no_scale(service: Any, open_page: Open, data: Path) -> None:
    slide = service.upload(data / "slides" / "cmu-1-wrong-mpp.tiff")
    page = open_page(f"{service.address}/#/slides/{slide['id']}")
    expect(page.locator(".viewer-status")).to_contain_text("pixel size is not known")
    expect(page.locator(".viewer-foot")).to_contain_text("cmu-1-wrong-mpp.tiff")
    assert page.locator(".scale-bar").inner_text().strip().endswith("px")


def test_a_tile_that_fails_to_load_is_reported(service: Any, open_page: Open, made: dict[str, str]) -> None:
    page = open_page(f"{service.address}/", provoked=True)
    page.route("**/*_files/**", lambda route: route.fulfill(status=500))
    go(page, f"/slides/{made['slide']}")
    expect(page.locator(".viewer-status")).to_contain_text("can’t be loaded")


def test_commands_keep_the_focus_when_a_job_changes(service: Any, open_page: Open, made: dict[str, str]) -> None:
    page = open_page(f"{service.address}/", provoked=True)
    fold = page.locator("ul[aria-label=jobs] details[data-part=fold]").first
    fold.locator("summary").click()
    copy = fold.get_by_role("button", name="Copy").first
    copy.focus()
    fold.dispatch_event("toggle")  # each change of the job sends this event
    expect(copy).to_be_focused()


def test_files_are_dropped_anywhere_and_a_folder_is_refused(
    service: Any, open_page: Open, cmu: Path, tmp_path: Path
) -> None:
    page = open_page(f"{service.address}/", provoked=True)
    heading = page.get_by_role("heading", name="Jobs", exact=True)
    folder, slide = tmp_path / "folder", tmp_path / "it's dropped.svs"
    folder.mkdir()
    shutil.copy(cmu, slide)
    place = heading.bounding_box()
    assert place
    mouse = page.context.new_cdp_session(page)
    for dropped in (folder, slide):
        data = {"items": [], "files": [str(dropped)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            mouse.send("Input.dispatchDragEvent", {"type": kind, "x": place["x"], "y": place["y"], "data": data})
        if dropped == folder:
            expect(page.get_by_role("alert").get_by_text("A folder can’t be uploaded")).to_be_visible()
            assert page.locator("li.upload").count() == 0
    expect(page.locator("li.row", has_text=slide.name).get_by_role("link", name="View")).to_be_visible()
    expect(page.get_by_text("A folder can’t be uploaded")).to_be_hidden()


@pytest.mark.parametrize("width", [360, 768, 3840])
def test_no_view_scrolls_sideways_at_any_width(service: Any, open_page: Open, made: dict[str, str], width: int) -> None:
    page = open_page(f"{service.address}/", viewport={"width": width, "height": 900}, provoked=True)
    for route in ("/", f"/slides/{made['slide']}/upscale", f"/jobs/{made['bicubic']}", "/models"):
        go(page, route)
        page.wait_for_timeout(700)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), route


def test_the_viewer_is_used_without_a_mouse(service: Any, open_page: Open, made: dict[str, str]) -> None:
    page = open_page(f"{service.address}/#/jobs/{made['compact-x4-fast']}@984,1156,2,curtain")
    canvas(page)
    page.locator(".openseadragon-canvas").first.focus()
    page.keyboard.press("ArrowRight", delay=200)
    page.keyboard.press("+", delay=200)
    canvas(page)
    page.wait_for_timeout(500)
    x, y, zoom, mode = page.url.partition("@")[2].split(",")
    assert float(x) > 984
    assert float(zoom) > 2
    assert (float(y), mode) == (1156, "curtain")
    for _ in range(5):
        page.keyboard.press("[")
    assert float(page.locator(".share input").input_value()) == 40
    page.keyboard.press("s")
    expect(page.get_by_role("button", name="Side by side")).to_have_attribute("aria-pressed", "true")


def test_a_slide_is_dropped_onto_the_page(start_service: Callable[..., Any], open_page: Open, cmu: Path) -> None:
    service = start_service(None, "--no-worker")
    page = open_page(f"{service.address}/")
    dropped = page.evaluate_handle(
        """text => {
          const data = new DataTransfer();
          data.items.add(new File([Uint8Array.from(atob(text), (one) => one.charCodeAt(0))], "dropped.svs"));
          return data;
        }""",
        base64.b64encode(cmu.read_bytes()).decode(),
    )
    page.locator(".drop").dispatch_event("drop", {"dataTransfer": dropped})
    expect(page.locator("li.row", has_text="dropped.svs").get_by_role("link", name="Upscale")).to_be_visible()
    (found,) = json.loads(service.curl("{service}/v1/slides"))["slides"]
    assert found["sha256"] == hashlib.sha256(cmu.read_bytes()).hexdigest()


def test_the_viewer_has_a_navigator_and_full_screen(service: Any, open_page: Open, made: dict[str, str]) -> None:
    page = open_page(f"{service.address}/#/jobs/{made['bicubic']}@984,1156,2,curtain")
    canvas(page)
    expect(page.locator(".navigator")).to_be_visible()
    page.get_by_role("button", name="Full screen").click()
    page.wait_for_function("() => document.fullscreenElement !== null")
    page.keyboard.press("f")
    page.wait_for_function("() => document.fullscreenElement === null")

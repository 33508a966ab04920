"""`slidelift evaluate` on real images: table, JSON and self-contained report."""

import json
from html.parser import HTMLParser

import pytest

from slidelift.service.cli import main

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Checks that every element is closed, and collects references and alternative texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.alts: list[str | None] = []
        self.tags: dict[str, int] = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        values = dict(attrs)
        self.references += [values[name] for name in ("src", "href", "srcset", "action", "data") if name in values]
        if tag == "img":
            self.alts.append(values.get("alt"))
        if tag == "svg":
            self.alts.append(values.get("aria-label"))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag


def test_real_images_give_table_json_and_report(slidelift, data, tmp_path) -> None:
    out, report = tmp_path / "scores.json", tmp_path / "report.html"
    done = slidelift(
        *("evaluate", "--images", data / "eval" / "tnbc", "--models", "bicubic,lanczos", "--scale", "4"),
        *("--count", "2", "--json", out, "--html", report),
    )
    assert done.code == 0, done.err
    scores = json.loads(out.read_text("utf-8"))
    assert scores["sets"]["tnbc"]["files"] == ["09_1.png", "09_2.png"]
    models = scores["sets"]["tnbc"]["models"]
    assert list(models) == ["bicubic", "lanczos"]
    lanczos = models["lanczos"]
    assert f"| tnbc | 2 | none | lanczos | {lanczos['summary']['psnr_y']['mean']:.2f} |" in done.out
    assert lanczos["gain"]["psnr_y"]["mean"] > 0.1
    assert 0.8 < lanczos["panel"]["nuclei_f1"] <= 1
    assert 0 < lanczos["panel"]["qilv"] < lanczos["panel"]["ms_ssim"] < 1

    text = report.read_text("utf-8")
    page = Page(text)
    assert page.open == []
    assert page.references
    assert all(reference.startswith("data:image/png;base64,") for reference in page.references)
    assert all(page.alts)
    assert "script" not in page.tags
    assert "url(" not in text
    assert "@import" not in text
    assert page.tags["svg"] > 10
    assert {"table", "caption", "h1", "h2"} <= set(page.tags)


def test_each_source_quality_is_measured(slidelift, data, tmp_path) -> None:
    out = tmp_path / "scores.json"
    done = slidelift(
        *("evaluate", "--images", data / "eval" / "tnbc", "--model", "lanczos", "--count", "1", "--json", out),
        *("--source-quality", "none,80,30", "--source-sampling", "4:2:2", "--defocus", "0.3", "--precision", "fp32"),
    )
    assert done.code == 0, done.err
    sets = json.loads(out.read_text("utf-8"))["sets"]
    assert list(sets) == ["tnbc, none", "tnbc, Q80", "tnbc, Q30"]
    assert [one["source"]["quality"] for one in sets.values()] == [None, 80, 30]
    assert {(one["source"]["sampling"], one["source"]["defocus"]) for one in sets.values()} == {("4:2:2", 0.3)}
    psnr = [one["models"]["bicubic"]["summary"]["psnr_y"]["mean"] for one in sets.values()]
    assert psnr[0] > psnr[1] > psnr[2]
    assert "| tnbc | 1 | Q30 | lanczos |" in done.out
    assert "cores, torch" in done.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "nowhere"], "nowhere"),
        (["--images", ".", "--json", "nowhere/a.json"], "no such folder"),
        (["--images", ".", "--tiles", "3"], "--tiles can't be used with --images"),
        (["--slide", "nowhere.svs", "--count", "3"], "--count can't be used with --slide"),
        (["--slide", "nowhere.svs", "--degradation", "area"], "--degradation can't be used with --slide"),
        (["--slide", "nowhere.svs", "--source-quality", "30,50"], "one --source-quality"),
        (["--slide", "nowhere.svs", "--source-sampling", "4:2:0"], "needs --source-quality"),
        (["--slide", "nowhere.svs"], "nowhere.svs"),
        (["--images", "images", "--models", "no-such-model"], "no-such-model"),
        (["--images", "images", "--models", "compact-x4", "--scale", "2"], "by 4, not by 2"),
    ],
)
def test_invalid_arguments_are_user_errors(tmp_path, monkeypatch, capsys, write_png, arguments, message) -> None:
    (tmp_path / "images").mkdir()
    write_png(40, 40, "images/a.png")
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", *arguments]) == 2
    assert message in capsys.readouterr().err

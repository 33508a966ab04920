"""Training patches: the slide's pixels at the requested µm per pixel, tissue only, each made once."""

import errno
import fcntl
import json
import os
from pathlib import Path

import numpy as np
import pytest
import skimage.measure
import tifffile
from PIL import Image

from slidelift.service.cli import main
from slidelift.service.errors import ServiceError
from slidelift.service.pipeline import patches
from slidelift.service.pipeline.calibrate import Entropies, calibration, measure_entropies
from slidelift.service.pipeline.patch_folder import PatchFolder, PatchOptions
from slidelift.service.pipeline.patches import cut_patches, plan_grid, read_resampled
from slidelift.wsi.errors import PlanError, TileReadError
from slidelift.wsi.geometry import Region, Size
from slidelift.wsi.slide import Level, SlideInfo
from slidelift.wsi.tissue import grey_levels

GLASS = 243


def cut(slide: Path, out: Path, **given: object) -> dict:
    options = PatchOptions(**{"mpp": 0.5, "size": 128, "entropy": 3.0, **given})
    with PatchFolder(out, options) as folder:
        return cut_patches(slide, options, folder, lambda _done, _total: None)


def index(folder: Path) -> dict:
    return json.loads((folder / "patches.json").read_text("utf-8"))


def pictures(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != "patches.json"}


@pytest.fixture
def half_glass(tmp_path, write_pyramid, formula_pixels) -> Path:
    """1000x600 px: formula on the left, flat glass from x = 400 on, with a dot that is not taken for glass."""
    pixels = formula_pixels(Region(0, 0, 1000, 600))
    pixels[:, 400:] = GLASS
    pixels[40:50, 700:710] = 90
    return write_pyramid(tmp_path / "half.tiff", pixels)


def info(*downsamples: float) -> SlideInfo:
    levels = tuple(Level(Size(int(4000 / d), int(3000 / d)), d) for d in downsamples)
    return SlideInfo("some.svs", "test", levels, (0.25, 0.25), 40.0, None)


def test_patch_has_the_pixels_of_the_place_in_its_name(half_glass, tmp_path) -> None:
    truth = tifffile.imread(half_glass, key=0)
    cut(half_glass, tmp_path / "out", entropy=0)
    listed = index(tmp_path / "out")["patches"]
    assert len(listed) == 7 * 4
    for patch in listed:
        x, y, width, height = patch["region"]
        assert patch["file"] == f"half-x{x}-y{y}.png"
        assert patch["slide"] == "half.tiff"
        pixels = np.asarray(Image.open(tmp_path / "out" / patch["file"]))
        assert (pixels == truth[y : y + height, x : x + width]).all()


def test_entropy_is_scikit_images_and_counts_add_up(half_glass, tmp_path) -> None:
    record = cut(half_glass, tmp_path / "out")
    for patch in index(tmp_path / "out")["patches"]:
        pixels = np.asarray(Image.open(tmp_path / "out" / patch["file"]))
        assert patch["entropy"] == pytest.approx(skimage.measure.shannon_entropy(grey_levels(pixels)))
        assert patch["region"][0] < 400
    assert record["counts"] == {
        "grid": 28,
        "background": 11,  # columns 4 to 6 but for the dot's patch
        "kept": 12,  # columns 0 to 2
        "entropy": 5,  # column 3, an eighth of it tissue: 0.54 + 7 / 8 bits; and the dot
        "unreadable": 0,
        "not_needed": 0,
    }


def test_level_at_or_just_finer_than_requested_is_read(half_glass, tmp_path) -> None:
    """The fixture's levels are subsampled, not averaged, which shows which one was read."""
    record = cut(half_glass, tmp_path / "out", mpp=1.0, entropy=0)
    assert record["level"] == 1
    truth = tifffile.imread(half_glass, key=0)[::2, ::2]
    assert (np.asarray(Image.open(tmp_path / "out" / "half-x256-y0.png")) == truth[:128, 128:256]).all()


@pytest.mark.parametrize(
    ("wanted", "level"), [(0.25, 0), (0.246, 0), (0.4, 0), (0.5, 1), (0.495, 1), (0.48, 0), (1.5, 1), (9, 2)]
)
def test_levels_are_never_enlarged_by_more_than_two_percent(wanted, level) -> None:
    grid = plan_grid(info(1.0, 2.0, 8.0), (0.25, 0.25), wanted, 64)
    assert grid.level == level
    assert grid.side[0] == pytest.approx(64 * wanted / (0.25 * grid.downsample))


def test_slide_that_is_too_coarse_or_too_small_is_refused() -> None:
    with pytest.raises(PlanError, match=r"some.svs: .*coarser.*--mpp 0.25"):
        plan_grid(info(1.0), (0.25, 0.25), 0.24, 64)
    with pytest.raises(PlanError, match=r"some.svs: no patch .*--size"):
        plan_grid(info(1.0), (0.25, 0.25), 0.25, 4001)


def test_reduction_by_a_whole_factor_is_exact_on_a_ramp(write_png, tmp_path) -> None:
    """A symmetric kernel keeps a ramp: where v = 2x + 10, the pixel of columns 4i to 4i + 3 has 2 (4i + 1.5) + 10."""
    ramp = np.broadcast_to((2 * np.arange(120, dtype=np.uint8) + 10)[None, :, None], (120, 120, 3))
    slide = write_png(0, 0, "ramp.png", ramp)
    cut(slide, tmp_path / "out", mpp=1.0, source_mpp=0.25, size=8, entropy=0)
    middle = np.asarray(Image.open(tmp_path / "out" / "ramp-x32-y32.png"))
    assert (middle == (8 * (np.arange(8) + 8) + 13)[None, :, None]).all()


@pytest.mark.parametrize("factor", [2.0, 3.0, 1.37])
def test_patches_are_crops_of_the_resampled_slide(write_png, tmp_path, factor) -> None:
    """No patch has edge effects; at whole factors each equals a crop of Pillow's reduction."""
    slide = write_png(600, 410)
    cut(slide, tmp_path / "out", mpp=0.25 * factor, source_mpp=0.25, size=64, entropy=0)
    source = Image.open(slide)
    listed = index(tmp_path / "out")["patches"]
    assert len(listed) >= 6
    for patch in listed:
        x, y, *_ = patch["region"]
        left, top = (round(start / factor) for start in (x, y))
        box = (x - left * factor, y - top * factor)
        size = int((600 - box[0]) / factor), int((410 - box[1]) / factor)
        frame = (*box, box[0] + size[0] * factor, box[1] + size[1] * factor)
        if min(box) < 0:  # this phase would need pixels before the first
            continue
        whole = np.asarray(source.resize(size, Image.Resampling.BICUBIC, box=frame)).astype(int)
        pixels = np.asarray(Image.open(tmp_path / "out" / patch["file"])).astype(int)
        difference = np.abs(pixels - whole[top : top + 64, left : left + 64])
        assert difference.max() <= (0 if factor == int(factor) else 1)


def test_a_slide_with_unequal_pixel_sides_is_resampled_to_square_ones(formula_reader) -> None:
    grid = plan_grid(info(1.0), (0.2, 0.25), 0.5, 64)
    assert (grid.side, grid.pitch) == ((160.0, 128.0), 160)
    pixels = read_resampled(formula_reader(Size(900, 900)), 0, (160, 160), grid.side, Size(64, 64))
    assert pixels.shape == (64, 64, 3)


def test_unreadable_patches_are_skipped_and_listed(tmp_path, monkeypatch, formula_reader) -> None:
    reader = formula_reader(Size(640, 640), (1, 8), broken=(Region(300, 300, 5, 5),))
    monkeypatch.setattr(patches, "open_slide", lambda _path: reader)
    monkeypatch.setattr(patches, "content_hash", lambda _path: "0")
    record = cut(Path("formula.svs"), tmp_path / "out")
    assert (record["counts"]["kept"], record["counts"]["unreadable"]) == (24, 1)
    assert record["unreadable"] == [{"region": [256, 256, 128, 128], "cause": "broken on purpose"}]
    assert not (tmp_path / "out" / "formula-x256-y256.png").exists()


def test_patches_of_an_earlier_run_are_neither_read_nor_written_again(tmp_path, monkeypatch, formula_reader) -> None:
    monkeypatch.setattr(patches, "content_hash", lambda _path: "0")

    class Stalls(formula_reader):
        def read_region(self, level: int, region: Region):
            if level == 0 and region.y >= 256:
                raise OSError("the disk is gone")
            return super().read_region(level, region)

    monkeypatch.setattr(patches, "_WINDOW_PER_THREAD", 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(patches, "open_slide", lambda _path: Stalls(Size(640, 640), (1, 8)))
    with pytest.raises(OSError, match="gone"):
        cut(Path("formula.svs"), tmp_path / "out")
    done = {path: path.stat().st_ino for path in (tmp_path / "out").glob("*.png")}
    assert done
    (journal,) = (tmp_path / "out").glob(".*.diary")
    with journal.open("a") as file:
        file.write('{"cell": [4, ')  # torn by a power cut
    sound = formula_reader(Size(640, 640), (1, 8))
    monkeypatch.setattr(patches, "open_slide", lambda _path: sound)
    record = cut(Path("formula.svs"), tmp_path / "out")
    assert record["counts"]["kept"] == 25
    assert len([region for _, region in sound.reads if region.width == 128]) == 25 - len(done)  # without the survey
    assert {path: path.stat().st_ino for path in done} == done
    cut(Path("formula.svs"), tmp_path / "whole")
    assert pictures(tmp_path / "out") == pictures(tmp_path / "whole")
    assert index(tmp_path / "out") == index(tmp_path / "whole")
    reads = len(sound.reads)
    assert cut(Path("formula.svs"), tmp_path / "out")["counts"] == record["counts"]
    assert len(sound.reads) == reads


def test_removed_patch_is_made_again(half_glass, tmp_path) -> None:
    cut(half_glass, tmp_path / "out")
    before = pictures(tmp_path / "out")
    (tmp_path / "out" / "half-x0-y0.png").unlink()
    cut(half_glass, tmp_path / "out")
    assert pictures(tmp_path / "out") == before


def test_drawn_patches_depend_on_the_seed_alone(half_glass, tmp_path) -> None:
    record = cut(half_glass, tmp_path / "a", most=5, seed=1)
    counts = record["counts"]
    assert counts["kept"] == 5
    assert sum(counts[name] for name in ("kept", "background", "entropy", "unreadable", "not_needed")) == 28
    cut(half_glass, tmp_path / "b", most=5, seed=1)
    cut(half_glass, tmp_path / "c", most=5, seed=2)
    assert pictures(tmp_path / "a") == pictures(tmp_path / "b")
    assert pictures(tmp_path / "a").keys() != pictures(tmp_path / "c").keys()


def test_jpegs_are_close_to_the_slide(half_glass, tmp_path) -> None:
    cut(half_glass, tmp_path / "out", format="jpg", most=1, entropy=0)
    (patch,) = index(tmp_path / "out")["patches"]
    with Image.open(tmp_path / "out" / patch["file"]) as image:
        assert image.format == "JPEG"
        assert image.layer == [(1, 1, 1, 0), (2, 1, 1, 1), (3, 1, 1, 1)]  # chroma at full resolution


def test_folder_has_one_set_of_parameters_and_no_other_files(half_glass, tmp_path) -> None:
    cut(half_glass, tmp_path / "out", most=2)
    with pytest.raises(ServiceError, match="size 128, not 64"):
        cut(half_glass, tmp_path / "out", most=2, size=64)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "mine.png").touch()
    with pytest.raises(ServiceError, match=r"mine\.png"):
        cut(half_glass, foreign)
    held = os.open(tmp_path / "out", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.raises(ServiceError, match="another process"):
        cut(half_glass, tmp_path / "out", most=2)
    os.close(held)


@pytest.mark.parametrize("text", [b"\xff", b"null", b"[]", b"", b"[" * 100_000])
def test_damaged_index_is_refused_by_name(half_glass, tmp_path, text) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "patches.json").write_bytes(text)
    with pytest.raises(ServiceError, match=r"patches\.json: not what this command writes"):
        cut(half_glass, tmp_path / "out", most=2)


@pytest.mark.parametrize("text", [b"\xff\n", b"null\n{}\n", b"{}\n[]\n", b"{}\n{}\n", b"\n", b""])
def test_damaged_journal_is_refused_by_name(half_glass, tmp_path, text) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".half.diary").write_bytes(text)
    with pytest.raises(ServiceError, match=r"half\.diary: not what this command writes|under the same name"):
        cut(half_glass, tmp_path / "out", most=2)


def test_file_system_without_locks_is_refused(half_glass, tmp_path, monkeypatch) -> None:
    def without(*_: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", without)
    with pytest.raises(ServiceError, match="no file locks") as caught:
        cut(half_glass, tmp_path / "out", most=2)
    assert caught.value.problem.by_user


def test_another_slide_of_the_same_name_is_refused(half_glass, tmp_path, write_png) -> None:
    cut(half_glass, tmp_path / "out", source_mpp=0.5)
    before = pictures(tmp_path / "out")
    other = write_png(600, 410, "half.png")
    with pytest.raises(ServiceError, match=r"half\.tiff under the same name"):
        cut(other, tmp_path / "out", source_mpp=0.5)
    assert pictures(tmp_path / "out") == before
    with pytest.raises(ServiceError, match="half-…"):
        _run_command("patches", half_glass, other, "--out", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_slides_are_added_to_a_folder_one_after_the_other(half_glass, tmp_path, write_png) -> None:
    other = write_png(300, 300, "other.png")
    for slide in (other, half_glass):
        cut(slide, tmp_path / "one", source_mpp=0.5)
    for slide in (half_glass, other):
        cut(slide, tmp_path / "two", source_mpp=0.5)
    assert (tmp_path / "one" / "patches.json").read_bytes() == (tmp_path / "two" / "patches.json").read_bytes()
    assert [slide["stem"] for slide in index(tmp_path / "one")["slides"]] == ["half", "other"]


def _run_command(*arguments: object) -> int:
    from slidelift.service import cli

    options = cli._parser().parse_args([str(argument) for argument in arguments])
    return options.command(options)


def test_unknown_pixel_size_error_names_the_flag(write_png, tmp_path) -> None:
    with pytest.raises(ServiceError, match="--source-mpp") as caught:
        cut(write_png(300, 300), tmp_path / "out")
    assert caught.value.problem.code == "slide.mpp-missing"


def test_the_suggested_threshold_is_numpys_percentile_and_keeps_that_share() -> None:
    spreads = [Entropies("a.png", (6.0, 7.0, 4.0)), Entropies("b.png", (7.5, 6.5, 5.0, 5.5, 7.25, 6.75, 3.0))]
    found = calibration(spreads, 0.8)
    bits = np.array(sorted((*spreads[0].bits, *spreads[1].bits)))
    assert found["threshold"] == bits[1] == np.percentile(bits, 20, method="lower")  # 0.2 of 9 intervals: index 1.8
    assert (bits >= found["threshold"]).mean() >= 0.8
    assert calibration(spreads, 1.0)["threshold"] == 3.0
    assert found["kept"]["7"] == 0.3
    assert found["all"] == {"image": "all", "patches": 10, "min": 3.0, "p5": 3.45, "median": 6.25, "max": 7.5}


def test_images_are_cut_into_whole_patches_after_the_reduction(write_png) -> None:
    slide = write_png(600, 300)
    assert len(measure_entropies(slide, 64).bits) == 9 * 4
    (small,) = measure_entropies(slide, 256, reduce=2).bits
    reduced = Image.open(slide).resize((300, 150), Image.Resampling.BICUBIC)
    assert small == pytest.approx(skimage.measure.shannon_entropy(np.asarray(reduced.convert("L"))[:, :256]))


def test_sun_et_al_s_seven_bits_keep_almost_nothing_of_tnbc(data) -> None:
    """The figures of docs/decisions/entropy.md: 1 of 37 training patches and none of 13 held-out ones."""
    for folder, names, kept in (("train", "tnbc-*", 1), ("eval/tnbc", "*", 0)):
        spreads = [measure_entropies(image, 256, reduce=4) for image in sorted((data / folder).glob(names))]
        found = calibration(spreads, 0.95)
        assert found["kept"]["7"] * found["all"]["patches"] == pytest.approx(kept)


def test_the_entropy_command_goes_on_after_a_bad_image(write_png, tmp_path, capsys) -> None:
    good = write_png(300, 300, "good.png")
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    code = main(["entropy", str(tmp_path / "bad.png"), str(good), "--size", "128", "--json", str(tmp_path / "o.json")])
    said = capsys.readouterr()
    assert code == 2
    assert "bad.png" in said.err
    figures = json.loads((tmp_path / "o.json").read_text("utf-8"))
    assert figures["all"]["patches"] == 4
    assert f"--entropy {int(figures['threshold'] * 100) / 100:g} keeps at least 95%" in said.out


def test_other_errors_of_a_reader_are_raised(tmp_path, monkeypatch) -> None:
    class Broken:
        info = info(1.0)

        def read_region(self, level: int, region: Region):
            raise TileReadError("some.svs", level, region, "no bytes")

    reader = Broken()
    with pytest.raises(TileReadError, match="no bytes"):
        read_resampled(reader, 0, (0, 0), (64.0, 64.0), Size(64, 64))

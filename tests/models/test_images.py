"""Training images: reading, errors and crops."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from slidelift.models.data.images import ImageSet, grey_levels, shannon_entropy
from slidelift.models.errors import ImagesError
from slidelift.wsi.tissue import grey_levels as slide_grey_levels
from slidelift.wsi.tissue import shannon_entropy as slide_entropy


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbered(height: int, width: int, red: int) -> torch.Tensor:
    """Images with their number in red, the row in green and the column in blue."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([torch.full_like(y, red), y, x]).byte()


@pytest.fixture
def numbered_set() -> ImageSet:
    return ImageSet([numbered(60, 90, 1), numbered(100, 40, 2), numbered(40, 200, 3)])


def test_plain_crops_are_flipped_or_transposed_windows_of_one_image(numbered_set):
    crops = numbered_set.crops(200, 12, rng(), larger_share=0).mul(255).round().long()
    turns = set()
    for image, rows, columns in crops:
        assert len(image.unique()) == 1
        assert len(rows.unique()) == len(columns.unique()) == 12
        down, across = (rows[0, 0] > rows[-1, -1]).item(), (columns[0, 0] > columns[-1, -1]).item()
        turned = (rows[0, 0] != rows[0, 1]).item()
        turns.add((down, across, turned))
        if turned:
            rows, columns = rows.T, columns.T
        assert torch.equal(rows, rows[:, :1].expand(12, 12))
        assert torch.equal(columns, columns[:1].expand(12, 12))
        assert (rows[1:, 0] - rows[:-1, 0]).abs().eq(1).all()
    assert len(turns) == 8


def test_crops_reach_every_edge_of_every_image(numbered_set):
    crops = numbered_set.crops(1200, 36, rng(), larger_share=0).mul(255).round().long()
    for number, (height, width) in enumerate([(60, 90), (100, 40), (40, 200)], 1):
        mine = crops[crops[:, 0, 0, 0] == number]
        assert (int(mine[:, 1].min()), int(mine[:, 1].max())) == (0, height - 1)
        assert (int(mine[:, 2].min()), int(mine[:, 2].max())) == (0, width - 1)


def test_images_are_chosen_by_the_square_root_of_their_area(numbered_set):
    images = numbered_set.crops(6000, 8, rng(), larger_share=0)[:, 0, 0, 0].mul(255).round().long()
    shares = torch.bincount(images, minlength=4)[1:] / 6000
    roots = [math.sqrt(60 * 90), math.sqrt(100 * 40), math.sqrt(40 * 200)]
    assert shares.tolist() == pytest.approx([root / sum(roots) for root in roots], abs=0.01)


def test_larger_crops_are_scaled_down_without_a_shift():
    ramp = torch.arange(200).expand(3, 200, 200).byte().contiguous()
    pictures = ImageSet([ramp])
    steps = set()
    for seed in range(8):
        for crop in pictures.crops(4, 40, rng(seed), larger_share=1.0):
            line = crop[0].mul(255)
            slope = (
                line[10:-10, 10:-10].diff(dim=1).abs().mean() + line[10:-10, 10:-10].diff(dim=0).abs().mean()
            ).item()
            assert 44 / 40 - 0.01 < slope < 2.01
            steps.add(round(slope, 2))
    assert len(steps) > 4


def test_crops_depend_only_on_the_generators_state(numbered_set):
    generator = rng(5)
    state = generator.get_state()
    one = numbered_set.crops(8, 16, generator, entropy=5.0)
    generator.set_state(state)
    assert torch.equal(numbered_set.crops(8, 16, generator, entropy=5.0), one)
    assert one.shape == (8, 3, 16, 16)
    assert 0 <= float(one.min()) <= float(one.max()) <= 1


def test_entropy_by_hand():
    levels = torch.tensor([0, 0, 0, 0, 128, 128, 255, 64]).reshape(1, 1, 2, 4).expand(2, 3, 2, 4) / 255
    # shares 1/2, 1/4, 1/8, 1/8
    assert shannon_entropy(levels).tolist() == pytest.approx([1.75, 1.75])
    assert shannon_entropy(torch.ones(1, 3, 8, 8)).tolist() == [0]


def test_entropy_equals_the_slide_readers():
    pixels = np.random.default_rng(2).integers(0, 256, (5, 64, 48, 3), np.uint8)
    pixels[1] //= 16
    crops = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    assert np.array_equal(grey_levels(crops).numpy(), [slide_grey_levels(patch) for patch in pixels])
    expected = [slide_entropy(slide_grey_levels(patch)) for patch in pixels]
    assert shannon_entropy(crops).tolist() == pytest.approx(expected, abs=1e-5)


def test_crops_of_low_entropy_are_drawn_again():
    rich = torch.randint(0, 256, (3, 64, 64), generator=rng(), dtype=torch.uint8)
    pictures = ImageSet([rich, torch.full((3, 64, 128), 240, dtype=torch.uint8)])
    assert (shannon_entropy(pictures.crops(64, 32, rng(1))) < 4).any()
    assert (shannon_entropy(pictures.crops(64, 32, rng(1), entropy=4.0, attempts=60)) >= 4).all()


def test_redraws_are_limited():
    glass = ImageSet([torch.full((3, 64, 64), 240, dtype=torch.uint8)])
    assert glass.crops(4, 32, rng(), entropy=7.0).shape == (4, 3, 32, 32)


def test_folders_are_read_in_order_and_grey_becomes_rgb(tmp_path):
    for name, value in (("b.png", 20), ("a.jpg", 10)):
        Image.new("RGB", (40, 32), (value,) * 3).save(tmp_path / name)
    Image.new("L", (40, 32), 30).save(tmp_path / "c.tif")
    (tmp_path / "notes.txt").write_text("not an image")
    pictures = ImageSet.read([tmp_path], least_side=32)
    assert len(pictures) == 3
    assert pictures.sizes.tolist() == [[32, 40]] * 3
    assert pictures.pixels[:: 32 * 40].tolist() == [[10] * 3, [20] * 3, [30] * 3]


def test_errors_name_folders_and_files(tmp_path):
    with pytest.raises(ImagesError, match="no such folder"):
        ImageSet.read([tmp_path / "absent"])
    with pytest.raises(ImagesError, match="no image"):
        ImageSet.read([tmp_path])
    Image.new("RGB", (40, 31)).save(tmp_path / "small.png")
    with pytest.raises(ImagesError, match=r"small\.png: 40 x 31 px; each side needs 32"):
        ImageSet.read([tmp_path], least_side=32)
    with pytest.raises(ImagesError, match="crops need 32"):
        ImageSet.read([tmp_path]).crops(1, 32, rng())
    Image.fromarray(np.zeros((40, 40), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ImagesError, match=r"deep\.png: more than 8 bits"):
        ImageSet.read([tmp_path])
    (tmp_path / "deep.png").write_bytes(b"no image at all")
    with pytest.raises(ImagesError, match=r"deep\.png: can't be read"):
        ImageSet.read([tmp_path])

"""Sanitised ICC profiles keep the colour transform and drop all texts."""

import io
import random
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from slidelift.wsi.icc import sanitise_profile

SECRET = "Meier 1957"


def curve(values: list[int]) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(f">I{len(values)}H", len(values), *values)


def profile(tags: dict[bytes, bytes], *, major: int = 2, kind: bytes = b"scnr", pcs: bytes = b"Lab ") -> bytes:
    """Profile with free text wherever the format has room for it."""
    tags = {
        **tags,
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", 11) + SECRET.encode() + b"\0" * 79,
        b"cprt": b"text\0\0\0\0" + SECRET.encode() + b"\0",
        b"prvt": b"text\0\0\0\0" + SECRET.encode() + b"\0",
    }
    start, table, bodies = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, body in tags.items():
        table += struct.pack(">4sII", name, start + len(bodies), len(body))
        bodies += body + b"\0" * (-len(body) % 4)
    head = bytearray(128)
    head[:4] = struct.pack(">I", start + len(bodies))
    head[4:8], head[8], head[12:16], head[16:24] = b"MEIE", major, kind, b"RGB " + pcs
    head[24:36] = struct.pack(">6H", 1957, 5, 4, 3, 2, 1)
    head[36:40], head[48:56], head[80:84] = b"acsp", b"ScanMeie", b"Meie"
    head[68:80] = struct.pack(">3I", 0xF6D6, 0x10000, 0xD32D)
    head[84:100] = b"Meier 1957 19570"
    return bytes(head) + table + bodies


def mft2() -> bytes:
    rng = np.random.default_rng(0)
    grid = np.linspace(0, 65280, 5)
    levels = np.stack(np.meshgrid(grid, grid, grid, indexing="ij"), axis=-1)
    levels = np.clip(levels[..., [1, 0, 2]] * 0.8 + rng.integers(0, 4000, levels.shape), 0, 65280).astype(">u2")
    ramp = np.linspace(0, 65535, 256).astype(">u2").tobytes() * 3
    identity = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    head = b"mft2\0\0\0\0" + bytes((3, 3, 5, 77)) + identity + struct.pack(">HH", 256, 256)
    return head + ramp + levels.tobytes() + ramp


def mab() -> bytes:
    rng = np.random.default_rng(1)
    curves = curve([]) + curve([0x0180]) + b"\0\0" + curve([0, 30000, 65535]) + b"\0\0"
    offsets = [32]
    parts = curves + SECRET.encode() + b"\0\0"  # between the elements
    offsets.append(0)
    offsets.append(0)
    offsets.append(32 + len(parts))
    clut = bytes((4, 4, 4)) + SECRET.encode() + b"\0\0\0" + bytes((2, 0, 0, 0))
    clut += rng.integers(0, 65535, (64, 3)).astype(">u2").tobytes()
    parts += clut
    offsets.append(32 + len(parts))
    parts += curves
    return b"mAB \0\0\0\0" + bytes((3, 3, 0, 0)) + struct.pack(">5I", *offsets) + parts


def matrix_tags() -> dict[bytes, bytes]:
    def xyz(x: float, y: float, z: float) -> bytes:
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 65536) for v in (x, y, z)))

    gamma = curve([0x0233]) + SECRET.encode()  # after the end of the curve
    return {
        b"wtpt": xyz(0.9505, 1, 1.0891),
        b"rXYZ": xyz(0.4361, 0.2225, 0.0139),
        b"gXYZ": xyz(0.3851, 0.7169, 0.0971),
        b"bXYZ": xyz(0.1431, 0.0606, 0.7141),
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), gamma),
    }


PROFILES = {
    "sRGB as lcms writes it": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
    "a matrix and curves": profile(matrix_tags(), pcs=b"XYZ "),
    "a table of version 2": profile({b"wtpt": matrix_tags()[b"wtpt"], b"A2B0": mft2()}),
    "a table of version 4": profile({b"wtpt": matrix_tags()[b"wtpt"], b"A2B0": mab()}, major=4),
}


def colours(bytes_of_profile: bytes, intent: int) -> np.ndarray:
    grid = np.arange(0, 256, 15, dtype=np.uint8)
    cube = np.stack(np.meshgrid(grid, grid, grid, indexing="ij"), axis=-1).reshape(1, -1, 3)
    source = ImageCms.ImageCmsProfile(io.BytesIO(bytes_of_profile))
    change = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), "RGB", "RGB", renderingIntent=intent)
    return np.asarray(ImageCms.applyTransform(Image.fromarray(cube), change))


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("intent", [0, 1, 3])
def test_colour_transform_is_unchanged(name, intent) -> None:
    neutral = sanitise_profile(PROFILES[name])
    assert neutral is not None
    assert (colours(neutral, intent) == colours(PROFILES[name], intent)).all()


@pytest.mark.parametrize("name", PROFILES)
def test_texts_dates_and_devices_are_dropped_and_bytes_are_reproducible(name) -> None:
    neutral = sanitise_profile(PROFILES[name])
    assert neutral is not None
    for word in ("Meier", "Meie", "1957", "Scan", "lcms", "MEIE"):
        assert word.encode() not in neutral
        assert word.encode("utf-16-be") not in neutral
    assert neutral[4:8] + neutral[24:36] + neutral[40:64] + neutral[80:128] == bytes(4 + 12 + 24 + 48)
    assert sanitise_profile(neutral) == neutral
    opened = ImageCms.ImageCmsProfile(io.BytesIO(neutral)).profile
    assert opened.profile_description == "Colour profile of the source"
    assert opened.copyright == "Not stated"


def test_damaged_profile_gives_none() -> None:
    rng = random.Random(0)
    for whole in PROFILES.values():
        assert sanitise_profile(whole[: len(whole) // 2]) is None
        for _ in range(400):
            damaged = bytearray(whole)
            for _ in range(rng.randint(1, 6)):
                damaged[rng.randrange(min(len(damaged), 700))] = rng.randrange(256)
            sanitise_profile(bytes(damaged))
    assert sanitise_profile(b"") is None
    assert sanitise_profile(b"Meier" * 100) is None


def test_profiles_of_other_colour_spaces_give_none() -> None:
    grey = bytearray(PROFILES["a matrix and curves"])
    grey[16:20] = b"GRAY"
    assert sanitise_profile(bytes(grey)) is None

"""Result hashes equal those of standard tools."""

import subprocess
from pathlib import Path

from slidelift.wsi.result_hash import result_hash

LISTING = r"find . -type f -printf '%P\0' | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum"


def test_hash_of_a_folder_equals_that_of_the_documented_command(tmp_path: Path) -> None:
    for name in (".zattrs", "0/0/0/10", "0/0/0/2", "OME/METADATA.ome.xml", "OME.x"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode() * 1000)
    said = subprocess.run(["sh", "-c", LISTING], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert said.split()[0] == result_hash(tmp_path)


def test_hash_of_a_file_equals_that_of_sha256sum(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tiff"
    path.write_bytes(b"pixels" * 10**6)
    said = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True).stdout
    assert said.split()[0] == result_hash(path)

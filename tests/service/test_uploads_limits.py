"""Resource limits of child processes that read untrusted files."""

import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from slidelift.service.processes.protocol import UnpackArchive, encode

WRITES_NOTHING = {"Max file size": 0, "Max open files": 1024, "Max address space": 4 << 30, "Max cpu time": 30}
UNPACKS = {"Max file size": 5000, "Max address space": 1 << 30, "Max cpu time": 3600, "Max core file size": 0}


def limits(process: "subprocess.Popen[str]") -> dict[str, str]:
    lines = Path(f"/proc/{process.pid}/limits").read_text().splitlines()[1:]
    return {line[:26].strip(): line[26:47].strip() for line in lines}


@pytest.mark.parametrize(
    ("command", "wanted"),
    [(["slidelift.service.processes.child", "probe"], WRITES_NOTHING), (["slidelift.service.uploads.unpack"], UNPACKS)],
)
def test_child_sets_its_limits_before_it_opens_the_file(
    command: list[str], wanted: Mapping[str, int], tmp_path: Path
) -> None:
    pipe = tmp_path / "archive"
    subprocess.run(["mkfifo", pipe], check=True)  # a child that opens it blocks, so that its limits can be read
    request = UnpackArchive(pipe, "tar", tmp_path, most_bytes=5000, free_bytes=5000)
    with subprocess.Popen(
        [sys.executable, "-m", *command], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as child:
        assert child.stdin is not None
        if "probe" not in command:
            child.stdin.write(encode(request))
            child.stdin.flush()
        found: dict[str, str] = {}
        for _ in range(500):
            found = limits(child)
            if found["Max file size"] != "unlimited":
                break
            time.sleep(0.02)
        child.kill()
    assert {name: int(found[name]) for name in wanted} == dict(wanted)

"""Where a result and its companions go, and what they may replace: what this program made there, and no input.

A result is known by its metadata (`wsi.verify.is_result`). A companion holds the suffix of the result that it was made
beside, so that `x.ome.tiff` and `x.ome.zarr`, whose companions have the same names, don't take each other's. Each also
holds a hash of itself: one that somebody has edited is no longer taken for this program's.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from slidelift.service.errors import ServiceError, problem
from slidelift.wsi.suffixes import suffix_of, without_suffix

PAGE, OUTLINES, REPORT = "report.html", "tissue.geojson", "report.json"
COMPANIONS = (PAGE, OUTLINES)
"""What is published beside the result: its name without the format's suffix, a dot, and this. The command line writes
the report (`REPORT`) there too."""

_SIGN = b"\n<!-- slidelift, beside "
_MEMBER = "slidelift"


def companion(output: Path, name: str) -> Path:
    """Where a companion of a result stands."""
    return output.with_name(f"{without_suffix(output.name)}.{name}")


def targets(output: Path) -> tuple[Path, ...]:
    """All names that a result takes: its own and its companions'."""
    return (output, *(companion(output, name) for name in (*COMPANIONS, REPORT)))


def refuse_long_names(output: Path) -> None:
    """Raise ServiceError (request.output) where the file system can't hold the longest of the names."""
    longest = max((target.name for target in targets(output)), key=lambda name: len(os.fsencode(name)))
    try:
        most = os.pathconf(output.parent, "PC_NAME_MAX")
    except OSError:
        most = 255
    if len(os.fsencode(longest)) > most:
        raise _refused(
            f"{longest}, a name of {len(os.fsencode(longest))} bytes, stands beside the result, and there a name has "
            f"{most} at most; choose a shorter output"
        )


def refuse_inputs(output: Path, inputs: Mapping[Path, str]) -> None:
    """Raise ServiceError (request.output) where the result or a companion would replace an input.

    Parameters
    ----------
    inputs
        Files that are read for it, under whatever spelling, and what messages call each.
    """
    for target in targets(output):
        for path, word in inputs.items():
            if _holds(target, path):
                raise _refused(f"{target.name} is {word} itself; choose another output")


def refuse_strangers(output: Path, names: Iterable[str] = (*COMPANIONS, REPORT)) -> None:
    """Raise ServiceError where a companion stands under its name that was not made beside this output."""
    suffix = suffix_of(output.name)
    for name in names:
        target = companion(output, name)
        if target.is_dir():
            raise _refused(
                f"{target}: a folder, in the place of a file that stands beside the result; choose another output"
            )
        if os.path.lexists(target) and _beside(target, name) != suffix:
            raise _refused(
                f"{target.name} is there, and was not made with {output.name}: it would be lost; move it away, or "
                "choose another output"
            )


def signed_page(html: str, output: Path) -> str:
    """A page that can be told from others."""
    shown = html.encode("utf-8", "backslashreplace").decode()  # a name that it quotes may hold any byte
    digest = hashlib.sha256(shown.encode()).hexdigest()
    return f"{shown}{_SIGN.decode()}{suffix_of(output.name)}, {digest} -->\n"


def signed_outlines(collection: Mapping[str, Any], output: Path) -> str:
    """GeoJSON that can be told from others."""
    sign = {"beside": suffix_of(output.name), "sha256": _digest(collection["features"])}
    return json.dumps({"type": collection["type"], _MEMBER: sign, **collection})


def signed_report(report: Mapping[str, Any]) -> dict[str, Any]:
    """A report that can be told from one that somebody has edited."""
    return {**report, _MEMBER: {"sha256": _digest(report)}}


def _beside(path: Path, name: str) -> str | None:
    """The suffix of the result that a companion was made beside; None for what is none, or was edited."""
    try:
        told = path.read_bytes()
        return _page_beside(told) if name == PAGE else _json_beside(json.loads(told), name)
    except (OSError, ValueError, RecursionError):
        return None


def _page_beside(told: bytes) -> str | None:
    html, _, sign = told.rpartition(_SIGN)
    suffix, _, digest = sign.decode().partition(", ")
    return suffix if digest == f"{hashlib.sha256(html).hexdigest()} -->\n" else None


def _json_beside(told: Any, name: str) -> str | None:
    sign = told.pop(_MEMBER, None) if isinstance(told, dict) else None
    if not isinstance(sign, dict) or sign.get("sha256") != _digest(told if name == REPORT else told.get("features")):
        return None
    if name != REPORT:
        return str(sign.get("beside"))
    output = told.get("output")
    return str(output.get("suffix")) if isinstance(output, dict) else None


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _holds(target: Path, path: Path) -> bool:
    """Whether a file is what stands at `target`, or lies in the folder there."""
    try:
        return target.samefile(path) or (target.is_dir() and path.resolve().is_relative_to(target.resolve()))
    except OSError:  # one of them is not there
        return False


def _refused(detail: str) -> ServiceError:
    return ServiceError(problem("request.output", detail))

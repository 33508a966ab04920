"""Paths of a result and its companions, and checks that they replace no input and no file of another origin.

A result is recognised by its metadata (`wsi.verify.is_result`). A companion holds the suffix of its result, since the
companions of `x.ome.tiff` and `x.ome.zarr` have the same names, and a hash of its content, so that a file that was
edited is not replaced.
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
"""Companions that are published with a result: its name without the format's suffix, a dot, and one of these. The
command line writes the report (`REPORT`) there too."""

_SIGNATURE = b"\n<!-- slidelift, beside "
_MEMBER = "slidelift"


def companion(output: Path, name: str) -> Path:
    """Path of a companion of a result."""
    return output.with_name(f"{without_suffix(output.name)}.{name}")


def targets(output: Path) -> tuple[Path, ...]:
    """Paths of a result and all its companions."""
    return (output, *(companion(output, name) for name in (*COMPANIONS, REPORT)))


def refuse_long_names(output: Path) -> None:
    """Raise ServiceError (request.output) if the longest name is too long for the file system."""
    longest = max((target.name for target in targets(output)), key=lambda name: len(os.fsencode(name)))
    try:
        most = os.pathconf(output.parent, "PC_NAME_MAX")
    except OSError:
        most = 255
    if len(os.fsencode(longest)) > most:
        raise _refused(
            f"{longest}: a file beside the result needs this name of {len(os.fsencode(longest))} bytes, but the file "
            f"system allows {most}; choose a shorter output"
        )


def refuse_inputs(output: Path, inputs: Mapping[Path, str]) -> None:
    """Raise ServiceError (request.output) if the result or a companion would replace an input.

    Parameters
    ----------
    inputs
        Files that are read, and their names in messages.
    """
    for target in targets(output):
        for path, word in inputs.items():
            if _holds(target, path):
                raise _refused(f"{target.name} is {word} itself; choose another output")


def refuse_strangers(output: Path, names: Iterable[str] = (*COMPANIONS, REPORT)) -> None:
    """Raise ServiceError if a companion's name is taken by a file that does not belong to this output."""
    suffix = suffix_of(output.name)
    for name in names:
        target = companion(output, name)
        if target.is_dir():
            raise _refused(
                f"{target}: a file beside the result needs this name, but it is a folder; choose another output"
            )
        if os.path.lexists(target) and _beside(target, name) != suffix:
            raise _refused(
                f"{target.name} is there, and was not made with {output.name}: it would be lost; move it away, or "
                "choose another output"
            )


def signed_page(html: str, output: Path) -> str:
    """Append the signature to a page."""
    page = html.encode("utf-8", "backslashreplace").decode()  # a name that it quotes may hold any byte
    digest = hashlib.sha256(page.encode()).hexdigest()
    return f"{page}{_SIGNATURE.decode()}{suffix_of(output.name)}, {digest} -->\n"


def signed_outlines(collection: Mapping[str, Any], output: Path) -> str:
    """Return GeoJSON with a signature."""
    signature = {"beside": suffix_of(output.name), "sha256": _digest(collection["features"])}
    return json.dumps({"type": collection["type"], _MEMBER: signature, **collection})


def signed_report(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return a report with a signature."""
    return {**report, _MEMBER: {"sha256": _digest(report)}}


def _beside(path: Path, name: str) -> str | None:
    """Return the suffix of the result that a companion belongs to; None if it has no valid signature."""
    try:
        content = path.read_bytes()
        return _page_beside(content) if name == PAGE else _json_beside(json.loads(content), name)
    except (OSError, ValueError, RecursionError):
        return None


def _page_beside(page: bytes) -> str | None:
    html, _, signature = page.rpartition(_SIGNATURE)
    suffix, _, digest = signature.decode().partition(", ")
    return suffix if digest == f"{hashlib.sha256(html).hexdigest()} -->\n" else None


def _json_beside(values: Any, name: str) -> str | None:
    signature = values.pop(_MEMBER, None) if isinstance(values, dict) else None
    signed = values if name == REPORT else values.get("features") if isinstance(values, dict) else None
    if not isinstance(signature, dict) or signature.get("sha256") != _digest(signed):
        return None
    if name != REPORT:
        return str(signature.get("beside"))
    output = values.get("output")
    return str(output.get("suffix")) if isinstance(output, dict) else None


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _holds(target: Path, path: Path) -> bool:
    """Whether a file is `target` itself, or lies in the folder `target`."""
    try:
        return target.samefile(path) or (target.is_dir() and path.resolve().is_relative_to(target.resolve()))
    except OSError:  # one of them does not exist
        return False


def _refused(detail: str) -> ServiceError:
    return ServiceError(problem("request.output", detail))

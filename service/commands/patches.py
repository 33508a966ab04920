"""`slidelift patches`: cut training patches from slides."""

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slidelift.service.commands import arguments

if TYPE_CHECKING:
    from slidelift.service.pipeline.patch_folder import PatchFolder, PatchOptions
    from slidelift.service.pipeline.progress import CancelToken


def add(commands: Any) -> None:
    """Add the command to the parser."""
    patches = commands.add_parser(
        "patches",
        help="cut training patches from slides",
        description="Cut slides into patches of tissue for training, each at exactly --mpp, and list them in "
        "DIR/patches.json. Run the same command again to continue an interrupted run.",
        epilog="Exit codes: 0 done; 2 the request or a slide must be changed; 1 any other error; 130 interrupted.",
    )
    patches.add_argument("slides", type=Path, nargs="+", metavar="SLIDE", help="slides to cut")
    patches.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="new folder, or one that this command made"
    )
    patches.add_argument(
        "--mpp", type=arguments.positive, default=0.25, metavar="MPP", help="µm per pixel of the patches (default 0.25)"
    )
    patches.add_argument(
        "--size", type=arguments.whole, default=1024, metavar="PX", help="side of a patch (default 1024)"
    )
    patches.add_argument(
        "--entropy",
        type=arguments.entropy,
        default=3.0,
        metavar="H",
        help="minimum entropy of a patch in bits; 0 keeps all (default 3.0; see `slidelift entropy`)",
    )
    patches.add_argument(
        "--max", type=arguments.whole, dest="most", metavar="N", help="at most N patches per slide, random by --seed"
    )
    patches.add_argument("--format", default="png", choices=("png", "jpg"), help="file format (default png)")
    patches.add_argument(
        "--source-mpp",
        type=arguments.positive,
        metavar="M",
        help="µm per pixel of the slides, if they state none or a wrong value",
    )
    patches.add_argument("--seed", type=int, default=0, metavar="N", help="random seed of --max (default 0)")
    patches.set_defaults(command=_run)


def _run(options: argparse.Namespace) -> int:
    from slidelift.service.commands.signals import signals_cancel
    from slidelift.service.errors import EXIT_DONE, EXIT_FAILED, EXIT_USER, refusal
    from slidelift.service.pipeline.patch_folder import PatchFolder, PatchOptions
    from slidelift.service.pipeline.progress import CancelToken

    duplicates = [stem for stem, count in Counter(slide.stem for slide in options.slides).items() if count > 1]
    if duplicates:
        raise refusal("request.output", f"two slides would give patches named {duplicates[0]}-…; rename one of them")
    patch_options = PatchOptions(
        options.mpp, options.size, options.entropy, options.most, options.format, options.source_mpp, options.seed
    )
    cancel = CancelToken()
    with signals_cancel(cancel), PatchFolder(options.out, patch_options) as folder:
        codes = {_cut_one(slide, patch_options, folder, cancel) for slide in options.slides}
    return next((code for code in (EXIT_FAILED, EXIT_USER) if code in codes), EXIT_DONE)


def _cut_one(slide: Path, patch_options: "PatchOptions", folder: "PatchFolder", cancel: "CancelToken") -> int:
    from tqdm import tqdm

    from slidelift.service.commands.terminal import print_message
    from slidelift.service.errors import EXIT_DONE, Cancelled, ServiceError
    from slidelift.service.pipeline.failures import describe
    from slidelift.service.pipeline.patches import cut_patches
    from slidelift.service.processes.runner import probe
    from slidelift.wsi.errors import WsiError

    try:
        for warning in probe(slide)["warnings"]:
            print_message(f"warning: {slide.name}: {warning}")
        with tqdm(desc=slide.name, unit="patch", disable=None, dynamic_ncols=True) as bar:

            def show(done: int, total: int) -> None:
                cancel.raise_if_cancelled()
                bar.total = total
                bar.update(done - bar.n)

            record = cut_patches(slide, patch_options, folder, show)
    except Cancelled:
        print_message(f"{slide.name}: interrupted; run the same command again to continue")
        raise
    except (ServiceError, WsiError, OSError) as error:
        failure = describe(error)
        print_message(f"error: {failure.detail}")
        return failure.exit_code
    counts = record["counts"]
    for bad in record["unreadable"][:3]:
        print_message(f"warning: {slide.name}: the patch at level-0 {bad['region']} can't be decoded ({bad['cause']})")
    print_message(
        f"{slide.name}: {counts['kept']} of {counts['grid']} patches kept; {counts['background']} are background, "
        f"{counts['entropy']} have under {patch_options.entropy:g} bits, {counts['unreadable']} are unreadable, "
        f"{counts['not_needed']} were not needed"
    )
    return EXIT_DONE

"""`slidelift token`: create, list and revoke access tokens of the REST service."""

import argparse
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from slidelift.service.commands import arguments
from slidelift.service.commands.terminal import print_message, print_result
from slidelift.service.errors import EXIT_DONE

_SCOPES = ("read", "write", "admin")


def add(commands: Any) -> None:
    """Add the commands to the parser."""
    token = commands.add_parser("token", help="create, list and revoke access tokens of the REST service")
    below = token.add_subparsers(required=True, metavar="COMMAND")

    create = below.add_parser("create", help="create a token; its secret is shown only once")
    create.add_argument("--name", required=True, help="name to recognise the token by")
    create.add_argument(
        "--scopes",
        default="read,write",
        help="comma-separated: read and write (of what the token itself created), admin (of everything)",
    )
    create.add_argument("--days", type=arguments.positive, help="days until it expires (default: never)")
    create.add_argument("--max-jobs", type=arguments.whole, metavar="N", help="maximum number of unfinished jobs")
    create.add_argument(
        "--max-bytes", type=arguments.whole, metavar="N", help="maximum size of all its slides in bytes"
    )
    create.set_defaults(command=_create)

    shown = below.add_parser("list", help="list the tokens, without their secrets")
    shown.add_argument("--json", action="store_true", help="print as JSON")
    shown.set_defaults(command=_list)

    revoke = below.add_parser("revoke", help="revoke a token at once")
    revoke.add_argument("id", metavar="ID", help="id of the token")
    revoke.set_defaults(command=_revoke)

    for command in (create, shown, revoke):
        command.add_argument("--data-dir", type=Path, metavar="DIR", help="data folder (default ./slidelift-data)")


def _create(options: argparse.Namespace) -> int:
    from slidelift.service.auth.tokens import Scope, new_token
    from slidelift.service.errors import refusal

    names = [name.strip() for name in options.scopes.split(",") if name.strip()]
    if not names or any(name not in _SCOPES for name in names):
        raise refusal("request.invalid", f"--scopes {options.scopes}: the scopes are {', '.join(_SCOPES)}")
    now = time.time()
    token, secret = new_token(
        options.name,
        frozenset(map(Scope, names)),
        now,
        expires=now + options.days * 86400 if options.days else None,
        max_jobs=options.max_jobs,
        max_bytes=options.max_bytes,
    )
    store = _store(options)
    try:
        store.add_token(token)
    finally:
        store.close()
    print_message(
        f"token {token.id} of {token.name}: {', '.join(sorted(token.scopes))}; the secret is shown only once:"
    )
    print_result(secret)
    return EXIT_DONE


def _list(options: argparse.Namespace) -> int:
    store = _store(options)
    try:
        tokens = store.tokens()
    finally:
        store.close()
    shown = [
        {
            "id": token.id,
            "name": token.name,
            "scopes": sorted(token.scopes),
            "created": _moment(token.created),
            "expires": _moment(token.expires) if token.expires else None,
            "max_jobs": token.max_jobs,
            "max_bytes": token.max_bytes,
        }
        for token in tokens
    ]
    if options.json:
        print_result(json.dumps(shown, indent=2))
    else:
        for one in shown:
            until = f", until {one['expires']}" if one["expires"] else ""
            print_result(f"{one['id']}  {one['name']}: {', '.join(one['scopes'])}, since {one['created']}{until}")
    return EXIT_DONE


def _revoke(options: argparse.Namespace) -> int:
    from slidelift.service.errors import refusal
    from slidelift.service.jobs.store import UnknownTokenError

    store = _store(options)
    try:
        store.revoke_token(options.id)
    except UnknownTokenError as error:
        raise refusal("token.unknown", f"{options.id}: no such token; `slidelift token list` shows them") from error
    finally:
        store.close()
    print_message(f"token {options.id} is no longer valid")
    return EXIT_DONE


def _store(options: argparse.Namespace) -> Any:
    from slidelift.service.jobs.open_store import open_store
    from slidelift.service.settings import Settings

    return open_store(Settings(**({"data_dir": options.data_dir} if options.data_dir else {})))


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")

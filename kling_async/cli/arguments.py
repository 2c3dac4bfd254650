"""The parser of the command line."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable, Mapping
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from kling_async._utils.version import __version__
from kling_async.cli import exit_codes
from kling_async.cli.options import COMMANDS
from kling_async.cli.row_values import COLUMNS, FIELDS, MODES
from kling_async.inputs.base import parse_input
from kling_async.testing.scenario import CALLBACKS, FAULTS, KINDS, OUTCOMES, REQUESTS

if TYPE_CHECKING:
    from kling_async.inputs.base import Input

_N = TypeVar("_N", int, float)


def _path(text: str) -> Path:
    """Return a path, with ``~`` expanded, which a shell does not do after an equals sign."""
    try:
        return Path(text).expanduser()
    except RuntimeError:  # there is no such user: the name begins with a tilde
        return Path(text)


def _path_or_url(text: str) -> Path | str:
    return text if "://" in text else _path(text)


def _number(
    convert: Callable[[str], _N], rule: str, is_valid: Callable[[_N], bool]
) -> Callable[[str], _N]:
    def number(text: str) -> _N:  # argparse prints the name of this function in its messages
        value = convert(text)
        if not is_valid(value):
            raise argparse.ArgumentTypeError(f"must be {rule}, not {text}")
        return value

    return number


_above_zero = _number(float, "above 0", lambda value: 0 < value < inf)

# The types of values, by metavar.
_TYPES: Mapping[str, Callable[[str], object]] = {
    "5|10": int,
    "COUNT": _number(int, "at least 0", lambda value: value >= 0),
    "DIR": _path,
    "FACTOR": _above_zero,
    "FILE": _path,
    "JOURNAL": _path_or_url,
    "N": _number(int, "at least 1", lambda value: value >= 1),
    "NUMBER": float,
    "PATH|URL": _path_or_url,
    "PORT": _number(int, "from 0 to 65535", lambda value: value in range(65_536)),
    "SECONDS": _above_zero,
    "STATUS": _number(int, "from 200 to 599", lambda value: value in range(200, 600)),
    "USD": _above_zero,
}

# What the table of options cannot express.
_SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "--[no-]resume": {"action": argparse.BooleanOptionalAction, "default": True},
    "--drain SECONDS=30": {"type": _number(float, "at least 0", lambda value: 0 <= value < inf)},
    "--journal URL": {"required": True},
    "--mode MODE": {"choices": [*MODES, *MODES.values()]},
}

_VERBOSE = "log to stderr what is submitted, finished and retried; -vv: every request, too"
_LOG_REQUESTS: Mapping[str, Any] = {
    "action": "store_const",
    "const": 2,
    "default": 0,
    "help": "log each request to stderr",
}

# Commands that are meant to be ended by a signal.
_UNTIL_SIGNAL = ("listen", "emulate")


def _format_table(title: str, rows: Mapping[int, str] | Mapping[str, str]) -> str:
    return "\n".join([f"{title}:", *(f"  {name!s:<14} {text}" for name, text in rows.items())])


_EXIT_CODES = _format_table("exit codes", exit_codes.MEANINGS)
_SERVICE = f"""\
environment:
  APIXO_API_KEY   the API key; there is no option for it, since command lines are public
  APIXO_BASE_URL  base URL of the service, if it is not the vendor's
  APIXO_ALLOW_HTTP=1  allow plain http to other machines, for test networks only: the key is
                  sent unencrypted
  KLING_IMAGE_STORE  where images that are files are uploaded: s3://bucket/prefix, gs://…, az://…,
                  or the http:// URL that "kling-async emulate" prints

{_EXIT_CODES}"""
_ROWS = f"""\
FILE has one of two formats, and all rows are checked before anything is sent.

JSON Lines: one JSON object on each line, with the fields of an input, for example
  {{"key": "fox", "mode": "master-text-to-video", "prompt": "a fox", "duration": 5}}
CSV: the first line names the columns, which are any of
  {textwrap.indent(textwrap.fill(", ".join(COLUMNS), 76), "  ").strip()}.
  Cells are separated by commas, semicolons or tabs.

In both, null and empty cells are not set, 5.0 means 5, and mode may be a short name, as with
--mode. A row without a mode means standard-image-to-video, the service's default. An image is a
URL, or the path of a file, relative to the folder of FILE.

key is your name for a row. It identifies the row in the journal, and its files are named after
it. A row without a key gets a checksum of its content."""
_WHICH = {"KIND": f"one of {', '.join(KINDS)}", "WHICH": "3, 2-4, 5-, *5 (every fifth) or * (all)"}
_FAULTS = "\n\n".join(
    (
        "faults: KIND:WHICH=WHAT, such as status:2-4=502 or task:*5=stuck",
        _format_table("KIND and WHICH", _WHICH),
        _format_table(f"WHAT for {', '.join(REQUESTS)}", FAULTS),
        _format_table("WHAT for task", OUTCOMES),
        _format_table("WHAT for callback", CALLBACKS),
    )
)
_EPILOGS: Mapping[str, str] = {
    "batch": f"{_ROWS}\n\n{_SERVICE}",
    "worker": f"""\
The first SIGTERM or Ctrl-C lets running tasks end; the second returns them to the queue at once.

{_SERVICE}""",
    "report": _EXIT_CODES,
    "limits": f"environment:\n  APIXO_API_KEY   the key of the default name\n\n{_EXIT_CODES}",
    "listen": """\
Prints one line for each request: the task, its state, and its URLs or its fail code; for anything
but a callback, what is wrong with it. Secrets in paths are shortened. No request is sent to the
service, and no key is needed.""",
    "emulate": _FAULTS,
    "demo": f"""\
FILE has one JSON object on each line, with the fields of an input, for example
  {{"mode": "master-text-to-video", "prompt": "a fox", "duration": 5}}
{{emulator}} in any text is replaced by the emulator's address; it serves sample images at
{{emulator}}/samples/, such as {{emulator}}/samples/fox.jpg.

{_EXIT_CODES}

{_FAULTS}""",
}


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    raw = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser(
        prog="kling-async",
        description="Generate Kling videos: one from the command line, or many from a file.",
        epilog=_SERVICE,
        formatter_class=raw,
    )
    top.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (summary, options) in COMMANDS.items():
        description = f"{summary[0].upper()}{summary[1:]}."
        epilog = _EPILOGS.get(name, _SERVICE)
        command = commands.add_parser(
            name, help=summary, description=description, epilog=epilog, formatter_class=raw
        )
        for usage, text in options.items():
            _add_option(command, usage, text)
        if name == "emulate":
            command.add_argument("-v", "--verbose", **_LOG_REQUESTS)
        else:
            command.add_argument("-v", "--verbose", action="count", default=0, help=_VERBOSE)
        code = exit_codes.OK if name in _UNTIL_SIGNAL else exit_codes.INTERRUPTED
        command.set_defaults(interrupted=code, **({} if "--json" in options else {"json": False}))
    return top


def _add_option(command: argparse.ArgumentParser, usage: str, text: str) -> None:
    """Add an option that is described as in the table."""
    name, _, metavar = usage.partition(" ")
    metavar, _, default = metavar.partition("=")
    plain = metavar.strip("[].{}")
    settings: dict[str, Any] = {"help": text}
    if not metavar:
        settings["action"] = "store_true"
    elif metavar.startswith("{"):
        settings["choices"] = plain.split(",")
    else:
        settings |= {"metavar": plain, "type": _TYPES.get(plain, str)}
    if metavar.startswith("["):
        settings["nargs"] = "?"
    elif metavar.endswith("..."):
        settings |= {"action": "append", "default": []} if name[0] == "-" else {"nargs": "+"}
    if default:
        settings |= {"default": default, "help": f"{text} (default: {default})"}
    command.add_argument(name.replace("[no-]", ""), **{**settings, **_SETTINGS.get(usage, {})})


def input_from(args: argparse.Namespace) -> Input:
    """Return the input that the options describe."""
    # The option of image_url is --image.
    fields = {name: getattr(args, name.removesuffix("_url")) for name in FIELDS}
    given = {name: value for name, value in fields.items() if value is not None}
    mode = args.mode or ("pro" if args.end_image else "standard" if args.image else "master-text")
    return parse_input({"mode": MODES.get(mode, mode), **given})

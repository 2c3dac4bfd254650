"""The parser of the command line."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import takewhile
from math import inf
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from kling_async._utils.version import __version__
from kling_async.cli import exit_codes
from kling_async.cli.help import PROGRAM, HelpfulParser
from kling_async.cli.options import COMMANDS, Command
from kling_async.cli.row_values import FIELDS, MODES, merge_raw
from kling_async.inputs.parsing import parse_input
from kling_async.inputs.registry import DEFAULT_MODEL

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


def _json_object(text: str) -> dict[str, object]:
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError('must be a JSON object, such as {"seed": 7}')
    return value


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
    "COUNT": _number(int, "at least 0", lambda value: value >= 0),
    "DIR": _path,
    "DIR|URL": _path_or_url,
    "FACTOR": _above_zero,
    "FILE": _path,
    "JOURNAL": _path_or_url,
    "JSON": _json_object,
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
    "--[no-]sound": {"action": argparse.BooleanOptionalAction},
}

_VERBOSE: Mapping[str, Any] = {
    "action": "count",
    "default": 0,
    "help": "log to stderr what is submitted, finished and retried; -vv: every request, too",
}
_LOG_REQUESTS: Mapping[str, Any] = {
    "action": "store_const",
    "const": 2,
    "default": 0,
    "help": "log each request to stderr",
}

# Commands that are meant to be ended by a signal.
_UNTIL_SIGNAL = ("listen", "emulate")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse a command line; a mistyped command or option is reported with the one that is meant."""
    words = sys.argv[1:] if argv is None else list(argv)
    top, commands = parsers()
    name = next((word for word in words if not word.startswith("-")), None)
    if name is None:
        return top.parse_args(words)
    if name not in commands:
        top.error(f"unknown command {name!r}{_suggestion(name, commands)}")
    known = _option_names(COMMANDS[name])
    for word in takewhile(lambda word: word != "--", words[words.index(name) + 1 :]):
        option = word.partition("=")[0]
        is_option = option.startswith("--") and " " not in word
        if is_option and not any(other.startswith(option) for other in known):
            commands[name].error(f"unknown option {option}{_suggestion(option, known)}")
    return top.parse_args(words)


def parsers(
    completers: Mapping[str, object] = MappingProxyType({}),
) -> tuple[argparse.ArgumentParser, Mapping[str, argparse.ArgumentParser]]:
    """Return the parser of the command line, and those of the commands by name.

    ``completers`` are what completes values in a shell, by metavar.
    """
    top = HelpfulParser(
        PROGRAM,
        "%(prog)s [-h] [--version] COMMAND ...",
        "Generate Kling videos: one from the command line, or many from a file.",
    )
    top.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", prog=PROGRAM)
    for name, command in COMMANDS.items():
        summary = command.summary
        described = commands.add_parser(
            name, help=summary, description=f"{summary[0].upper()}{summary[1:]}."
        )
        for subject, options in command.options.items():
            group = described.add_argument_group(subject)
            for usage, text in options.items():
                _add_option(group, usage, text, completers)
            if subject == "output":
                settings = _LOG_REQUESTS if name == "emulate" else _VERBOSE
                group.add_argument("-v", "--verbose", **settings)
        code = exit_codes.OK if name in _UNTIL_SIGNAL else exit_codes.INTERRUPTED
        described.set_defaults(interrupted=code)
    return top, commands.choices


def _option_names(command: Command) -> set[str]:
    usages = [usage for options in command.options.values() for usage in options]
    names = {usage.partition(" ")[0] for usage in usages} | {"--help", "--verbose"}
    return {name.replace("[no-]", prefix) for name in names for prefix in ("", "no-")}


def _suggestion(word: str, known: Iterable[str]) -> str:
    """Return what may have been meant, as the end of a message."""
    from difflib import get_close_matches

    return "".join(f"; did you mean {found}?" for found in get_close_matches(word, known, 1))


def _add_option(
    group: argparse._ArgumentGroup, usage: str, text: str, completers: Mapping[str, object]
) -> None:
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
    settings |= _SETTINGS.get(usage, {})
    action = group.add_argument(name.replace("[no-]", ""), **settings)
    if plain in completers:
        action.complete = completers[plain]  # type: ignore[attr-defined]  # read by shtab


def input_from(args: argparse.Namespace) -> Input:
    """Return the input that the options describe."""
    # The option of image_url is --image.
    options = {name: getattr(args, name.removesuffix("_url")) for name in (*FIELDS, "fields")}
    given = {name: value for name, value in options.items() if value is not None}
    given["model"] = args.model
    if args.mode is not None or args.fields is None:
        mode = args.mode or _default_mode(args)
        given["mode"] = MODES.get(mode, mode)
    return parse_input(given if args.fields is None else merge_raw(given))


def _default_mode(args: argparse.Namespace) -> str:
    """Return the mode that the images and the video ask for."""
    if args.model == DEFAULT_MODEL:
        return "pro" if args.end_image else "standard" if args.image else "master-text"
    return "motion" if args.video else "image" if args.image or args.end_image else "text"

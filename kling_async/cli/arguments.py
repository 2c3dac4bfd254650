"""What may be written on the command line."""

from __future__ import annotations

import argparse
import math
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from kling_async._utils.version import __version__
from kling_async.cli import codes
from kling_async.cli.row_rules import COLUMNS, MODES
from kling_async.inputs.base import parse_input
from kling_async.tasks.arguments import DEFAULT_TIMEOUT
from kling_async.testing.scenario import CALLBACKS, FAULTS, KINDS, OUTCOMES, REQUESTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from kling_async.inputs.base import Input

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 - has no other name

_FIELDS = (
    "prompt",
    "image_url",
    "end_image_url",
    "aspect_ratio",
    "duration",
    "negative_prompt",
    "cfg_scale",
    "provider",
)
_PORTS = 65_535
_ROWS = """\
FILE is one of two, and every row of it is checked before anything is sent.

JSON Lines: one JSON object on each line, with the fields of an input, for example
  {"key": "fox", "mode": "master-text-to-video", "prompt": "a fox", "duration": 5}
CSV: the first line names the columns, of
  %s.
  Cells are separated by commas, semicolons or tabs.

In both, null or an empty cell is not set, 5.0 means 5, and mode may be short, as with --mode.
A row without a mode means standard-image-to-video, the service's default.

key is your name for a row: the journal knows it by that, and its files are called so. Without
one, a checksum of the row is its key."""


def _table(title: str, rows: Mapping[int, str] | Mapping[str, str]) -> str:
    return "\n".join([f"{title}:", *(f"  {name!s:<14} {words}" for name, words in rows.items())])


_EXIT_CODES = _table("exit codes", codes.MEANINGS)
_SERVICE = (
    "environment:\n"
    "  APIXO_API_KEY   the key; no option, since others can see command lines\n"
    "  APIXO_BASE_URL  the service's address, if it is not the vendor's own\n"
    "  APIXO_ALLOW_HTTP=1  allow plain http to other machines: test networks only, since the key\n"
    "                  is sent unencrypted"
)
_RULE_PARTS = {
    "KIND": f"one of {', '.join(KINDS)}",
    "WHICH": "3, 2-4, 5-, *5 (every fifth) or * (all)",
}
_FAULTS = "\n\n".join(
    (
        "faults: KIND:WHICH=WHAT, such as status:2-4=502 or task:*5=stuck",
        _table("KIND and WHICH", _RULE_PARTS),
        _table(f"WHAT for {', '.join(REQUESTS)}", FAULTS),
        _table("WHAT for task", OUTCOMES),
        _table("WHAT for callback", CALLBACKS),
    )
)


def _wrapped(names: Iterable[str]) -> str:
    return "\n  ".join(textwrap.wrap(", ".join(names), 76))


def parser() -> argparse.ArgumentParser:
    """Build the parser of the whole command line."""
    top = argparse.ArgumentParser(
        prog="kling-async",
        description="Make Kling videos: one from the command line, or many from a file.",
        epilog=f"{_SERVICE}\n\n{_EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_generate(commands)
    _add_submit(commands)
    _add_wait(commands)
    _add_status(commands)
    _add_download(commands)
    _add_balance(commands)
    _add_batch(commands)
    _add_worker(commands)
    _add_report(commands)
    _add_shared_limits(commands)
    _add_listen(commands)
    _add_emulate(commands)
    _add_demo(commands)
    return top


def input_of(args: argparse.Namespace) -> Input:
    """Build the input that the options describe.

    Raises:
        InputError: An option is wrong, or does not belong to the mode.
    """
    fields = {name: getattr(args, name) for name in _FIELDS}
    given = {name: value for name, value in fields.items() if value is not None}
    mode = args.mode or (
        "pro" if args.end_image_url else "standard" if args.image_url else "master-text"
    )
    return parse_input({"mode": MODES.get(mode, mode), **given})


def _command(
    commands: Commands,
    name: str,
    words: str,
    *,
    epilog: str = f"{_SERVICE}\n\n{_EXIT_CODES}",
    interrupted: int = codes.INTERRUPTED,
) -> argparse.ArgumentParser:
    command = commands.add_parser(
        name,
        help=words,
        description=f"{words[0].upper()}{words[1:]}.",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(interrupted=interrupted, json=False)
    return command


def _add_service(command: argparse.ArgumentParser) -> None:
    command.add_argument("--base-url", metavar="URL", help="address of the service")
    command.add_argument(
        "--json",
        action="store_true",
        help="one JSON object on each line, results on stdout, errors on stderr; no progress",
    )


def _add_timeout(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--timeout",
        type=_positive,
        default=DEFAULT_TIMEOUT,
        metavar="SECONDS",
        help="how long to wait for the end (default: %(default)g)",
    )


def _add_input(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "prompt", metavar="PROMPT", help="what is to be seen; - reads it from stdin"
    )
    command.add_argument(
        "--mode",
        choices=[*MODES, *MODES.values()],
        metavar="MODE",
        help=f"one of {', '.join(MODES)}, or in full: {', '.join(MODES.values())}."
        " Without it: pro if --end-image is given, standard if --image is, else master-text",
    )
    command.add_argument("--image", dest="image_url", metavar="URL", help="the image to animate")
    command.add_argument(
        "--end-image", dest="end_image_url", metavar="URL", help="the last frame (mode pro)"
    )
    command.add_argument("--aspect-ratio", help="16:9 (default), 9:16 or 1:1 (mode master-text)")
    command.add_argument("--duration", type=int, help="seconds of video: 5 (default) or 10")
    command.add_argument("--negative-prompt", metavar="TEXT", help="what shall not be seen")
    command.add_argument(
        "--cfg-scale", type=float, help="how closely to follow the prompt: 0 to 1 by 0.1"
    )
    command.add_argument("--provider", help="auto, value or official")


def _add_generate(commands: Commands) -> None:
    command = _command(commands, "generate", "submit an input, wait, and print the result's URLs")
    _add_input(command)
    _add_timeout(command)
    command.add_argument(
        "--first-poll",
        type=_positive,
        metavar="SECONDS",
        help="when to ask for the first time (default: when the quickest are done, 60 or 90)",
    )
    command.add_argument(
        "--download-to",
        type=_path,
        metavar="DIR",
        help="save the videos there, and print their paths instead of the URLs",
    )
    _add_service(command)


def _add_submit(commands: Commands) -> None:
    command = _command(commands, "submit", "submit an input and print the task's reference")
    _add_input(command)
    command.add_argument("--callback-url", metavar="URL", help="https URL to call at the end")
    _add_service(command)


def _add_refs(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "refs", nargs="+", metavar="REF", help="a reference such as kling-2-1/task_12345678"
    )


def _add_wait(commands: Commands) -> None:
    command = _command(commands, "wait", "wait for tasks, and print the URLs of each as it ends")
    _add_refs(command)
    _add_timeout(command)
    _add_service(command)


def _add_status(commands: Commands) -> None:
    command = _command(commands, "status", "ask once where tasks stand")
    _add_refs(command)
    _add_service(command)


def _add_download(commands: Commands) -> None:
    command = _command(commands, "download", "save the videos of finished tasks")
    _add_refs(command)
    command.add_argument(
        "--to", type=_path, default=Path(), metavar="DIR", help="where to (default: here)"
    )
    command.add_argument(
        "--overwrite", action="store_true", help="fetch again what is there already"
    )
    _add_service(command)


def _add_balance(commands: Commands) -> None:
    _add_service(_command(commands, "balance", "print the account's balance in US dollars"))


def _add_batch(commands: Commands) -> None:
    command = _command(
        commands,
        "batch",
        "make a video of every row of a file; run it again, and it goes on where it was",
        epilog=f"{_ROWS % _wrapped(COLUMNS)}\n\n{_SERVICE}\n\n{_EXIT_CODES}",
    )
    command.add_argument(
        "file", type=_path, metavar="FILE", help="the rows, as below; - reads them from stdin"
    )
    command.add_argument(
        "--format", choices=["jsonl", "csv"], help="of FILE (default: csv if it ends with .csv)"
    )
    command.add_argument(
        "--journal",
        type=_place,
        metavar="PATH|URL",
        help="what says how every row stands: a file on a local disk (default:"
        " FILE.journal.sqlite; required if FILE is stdin or a pipe), or"
        " postgresql://user@host/database?batch=NAME,"
        " which several workers may share; its password is better in PGPASSWORD or ~/.pgpass",
    )
    command.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="go on with a journal that is there (default), or refuse to",
    )
    command.add_argument(
        "--dry-run",
        action="store_true",
        help="check all rows, say what would be done, send nothing",
    )
    command.add_argument(
        "--enqueue",
        action="store_true",
        help="put the rows in the queue of a journal that workers share, and submit nothing",
    )
    command.add_argument(
        "--skip-invalid", action="store_true", help="go on without the rows that are wrong"
    )
    command.add_argument("--limit", type=_count, metavar="N", help="only the first N rows")
    command.add_argument(
        "--max-tasks", type=_count, metavar="N", help="start no more, all runs together"
    )
    command.add_argument(
        "--resubmit-unsure",
        action="store_true",
        help="submit again what may have been started without our knowing; may pay twice",
    )
    command.add_argument(
        "--resubmit-rejected",
        action="store_true",
        help="submit again the rows that were rejected without charge",
    )
    command.add_argument(
        "--in-flight", type=_count, metavar="N", help="at one time (default: concurrent tasks)"
    )
    _add_doing(command)


def _add_doing(command: argparse.ArgumentParser) -> None:
    """Say how items are brought to their ends."""
    command.add_argument(
        "--download-to", type=_path, metavar="DIR", help="save the videos there, as they finish"
    )
    command.add_argument(
        "--min-balance", type=_positive, metavar="USD", help="stop when the account has less"
    )
    command.add_argument(
        "--resubmit-failed",
        type=_natural,
        default=0,
        metavar="N",
        help="submit again, up to N times, what has failed for a reason that may pass:"
        " timeout or unavailable; is paid each time",
    )
    command.add_argument(
        "--downloads", type=_count, default=4, metavar="N", help="at one time (%(default)s)"
    )
    _add_timeout(command)
    command.add_argument(
        "--first-poll",
        type=_positive,
        metavar="SECONDS",
        help="when to ask for the first time (default: when the quickest are usually done)",
    )
    _add_limits(command, "the account's limit")
    _add_limiter(command)
    _add_service(command)


def _add_worker(commands: Commands) -> None:
    command = _command(
        commands,
        "worker",
        "make the videos that batch --enqueue has put in a queue, beside other workers",
        epilog="The first SIGTERM or Ctrl-C lets what runs end, the second hands it over to the\n"
        f"other workers at once.\n\n{_SERVICE}\n\n{_EXIT_CODES}",
    )
    command.add_argument(
        "--journal",
        required=True,
        metavar="URL",
        help="postgresql://user@host/database, the batch's journal; the queue is there, too."
        " The password is better in PGPASSWORD or ~/.pgpass",
    )
    command.add_argument(
        "--name", help="the batch's name, if it is not in the URL as ?batch= (default: default)"
    )
    command.add_argument(
        "--concurrency",
        type=_count,
        default=100,
        metavar="N",
        help="tasks at one time (default: %(default)s)",
    )
    command.add_argument(
        "--drain",
        type=_seconds,
        default=30.0,
        metavar="SECONDS",
        help="left to what runs when the worker is stopped (default: %(default)g)",
    )
    command.add_argument(
        "--lease",
        type=_positive,
        default=60.0,
        metavar="SECONDS",
        help="after which a worker that is not heard of is believed dead (default: %(default)g)",
    )
    command.add_argument(
        "--until-empty",
        action="store_true",
        help="end when nothing is left in the queue, and no other worker has any of it",
    )
    _add_doing(command)


def _add_report(commands: Commands) -> None:
    command = _command(
        commands,
        "report",
        "tell how every item of a batch's journal stands, even while the batch runs",
        epilog=_EXIT_CODES,
    )
    command.add_argument(
        "journal",
        type=_place,
        metavar="JOURNAL",
        help="such as clips.jsonl.journal.sqlite, or postgresql://user@host/database?batch=NAME",
    )
    command.add_argument(
        "--format",
        choices=["table", "csv", "json", "html"],
        default="table",
        help="table: for reading, the default; csv: for spreadsheets; json: an object on each"
        " line; html: a contact sheet with the videos",
    )
    command.add_argument(
        "--output",
        type=_path,
        metavar="FILE",
        help="where to write (default: stdout; html: index.html in DIR, or beside the journal)",
    )
    command.add_argument(
        "--videos",
        type=_path,
        metavar="DIR",
        help="where the batch has saved its videos, for html (default: beside the journal)",
    )


def _add_shared_limits(commands: Commands) -> None:
    command = _command(
        commands,
        "limits",
        "tell how much of shared limits is in use, and by whom",
        epilog="environment:\n  APIXO_API_KEY   whose limits, without --name\n\n" + _EXIT_CODES,
    )
    command.add_argument(
        "url", metavar="URL", help="of the engine, such as redis://cache:6379/0 or postgresql://db"
    )
    command.add_argument(
        "--name", help="whose limits, if they were given a name (default: the key's)"
    )
    command.add_argument("--json", action="store_true", help="one JSON object")


def _add_listen(commands: Commands) -> None:
    command = _command(
        commands,
        "listen",
        "print the callbacks that arrive on a port until Ctrl-C, to try out a tunnel or a proxy",
        epilog="It prints a line for each request: the task, its state, and its URLs or its\n"
        "fail code; or, of what is no callback, what is wrong with it. Secrets in a path are\n"
        "shortened. Nothing is asked of the service, and no key is needed.",
        interrupted=codes.OK,
    )
    command.add_argument("--host", default="127.0.0.1", help="where to listen (%(default)s)")
    command.add_argument(
        "--port", type=_port, default=8080, help="default: %(default)s; 0: any free one"
    )
    command.add_argument(
        "--answer",
        type=_status,
        default=200,
        metavar="STATUS",
        help="what to answer callbacks with: anything but 200 has them sent again"
        " (default: %(default)s)",
    )
    command.add_argument("--count", type=_count, metavar="N", help="end after N callbacks")
    command.add_argument(
        "--json",
        action="store_true",
        help="one JSON object on each line; the first is the address",
    )


def _add_emulate(commands: Commands) -> None:
    command = _command(
        commands,
        "emulate",
        "run a local stand-in for the service until Ctrl-C",
        epilog=_FAULTS,
        interrupted=codes.OK,
    )
    command.add_argument("--host", default="127.0.0.1", help="where to listen (%(default)s)")
    command.add_argument("--port", type=_port, default=0, help="0, the default: any free one")
    command.add_argument("--api-key", metavar="KEY", help="the only good key; default: any")
    command.add_argument(
        "--balance", type=_positive, default=1000.0, metavar="USD", help="default: %(default)g"
    )
    _add_limits(command, "what it keeps to")
    command.add_argument(
        "--retry-after", action="store_true", help="send the header Retry-After with 429"
    )
    _add_emulator(command, speed=1.0)


def _add_demo(commands: Commands) -> None:
    command = _command(
        commands,
        "demo",
        "make every video of a JSON Lines file with the emulator, and a contact sheet of them",
        epilog=f"FILE has one JSON object on each line, with the fields of an input, for example\n"
        '  {{"mode": "master-text-to-video", "prompt": "a fox", "duration": 5}}\n'
        "In any text of it, {{emulator}} stands for the emulator's address; its pictures are at\n"
        "{{emulator}}/samples/, such as {{emulator}}/samples/fox.jpg.\n\n"
        f"{_EXIT_CODES}\n\n{_FAULTS}".replace("{{", "{").replace("}}", "}"),
    )
    command.add_argument(
        "file", type=_path, nargs="?", metavar="FILE", help="default: a sample of all four modes"
    )
    command.add_argument(
        "--to",
        type=_path,
        default=Path("kling-demo"),
        metavar="DIR",
        help="where to save videos, pictures and index.html (default: %(default)s);"
        " files of an earlier demo are replaced",
    )
    _add_emulator(command, speed=20.0)


def _add_limits(command: argparse.ArgumentParser, words: str) -> None:
    for name, default in (("--requests-per-minute", 10_000), ("--concurrent-tasks", 1_000)):
        command.add_argument(
            name, type=_count, default=default, metavar="N", help=f"{words} (%(default)s)"
        )


def _add_limiter(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--limiter",
        metavar="URL",
        help="redis://, valkey:// or postgresql://: shares the limits with all that give it, too",
    )


def _add_emulator(command: argparse.ArgumentParser, *, speed: float) -> None:
    command.add_argument(
        "--speed",
        type=_positive,
        default=speed,
        metavar="N",
        help="so many times as fast as the service (default: %(default)g)",
    )
    command.add_argument(
        "--video",
        choices=["auto", "rendered", "small"],
        default="auto",
        help='rendered: made from the input, with the extra "emulator"; small: one clip for all;'
        " auto, the default: rendered if the extra is there",
    )
    command.add_argument(
        "--fault",
        action="append",
        default=[],
        dest="faults",
        metavar="RULE",
        help="let something go wrong, as below; may be repeated",
    )


def _path(text: str) -> Path:
    """Return a path; a shell expands no ``~`` behind an equals sign."""
    path = Path(text)
    try:
        return path.expanduser()
    except RuntimeError:  # there is no such user: the name begins so
        return path


def _place(text: str) -> Path | str:
    return text if "://" in text else _path(text)


def _positive(text: str) -> float:
    number = float(text)
    if not (math.isfinite(number) and number > 0):
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text}")
    return number


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError("must be 0 or more")
    return value


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {text}")
    return number


def _natural(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"must be at least 0, not {text}")
    return number


def _port(text: str) -> int:
    number = int(text)
    if not 0 <= number <= _PORTS:
        raise argparse.ArgumentTypeError(f"must be from 0 to {_PORTS}, not {text}")
    return number


def _status(text: str) -> int:
    number = int(text)
    if not 200 <= number <= 599:  # noqa: PLR2004 - what HTTP knows as final
        raise argparse.ArgumentTypeError(f"must be from 200 to 599, not {text}")
    return number


# argparse names the function in its message for what is no number at all.
for _type in (_positive, _count, _natural, _port, _status):
    _type.__name__ = "number"

"""What ``--help`` prints besides the options: examples, explanations, and commands by purpose."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import NoReturn, TypeAlias

from kling_async.cli import exit_codes
from kling_async.cli.options import COMMANDS, PURPOSES
from kling_async.cli.row_values import COLUMNS
from kling_async.testing.scenario import CALLBACKS, FAULTS, KINDS, OUTCOMES, REQUESTS

# Titles with a text, or with rows: each has a name, and a meaning or none.
Sections: TypeAlias = Mapping[str, str | Mapping[str, str | None]]

PROGRAM = "kling-async"
_GUIDE = "docs/guides/command-line.md"

_EXIT_CODES: Sections = {
    "exit codes": {str(code): text for code, text in exit_codes.MEANINGS.items()}
}
_SERVICE: Sections = {
    "environment": {
        "APIXO_API_KEY": "the API key; there is no option for it, since command lines are public",
        "APIXO_BASE_URL": "base URL of the service, if it is not the vendor's",
        "APIXO_ALLOW_HTTP=1": "allow plain http to other machines, for test networks only: the key"
        " is sent unencrypted",
        "KLING_IMAGE_STORE": "where images that are files are uploaded: s3://bucket/prefix, gs://…,"
        " az://…, or the http:// URL that kling-async emulate prints",
        "NO_COLOR=1": "no colours and no live progress; TERM=dumb does the same",
    },
    **_EXIT_CODES,
}
_ROWS: Sections = {
    "rows": "FILE has one of two formats, and all rows are checked before anything is sent. In"
    " both, null and empty cells are not set, 5.0 means 5, and mode may be a short name, as with"
    " generate --mode. A row without a mode means standard-image-to-video, the service's default."
    " Other models have other modes; a row with fields reaches any model."
    " An image is a URL, or the path of a file, relative to the folder of FILE."
    " key is your name for a row. It identifies the row in the journal, and its files are named"
    " after it. A row without a key gets a checksum of its content.",
    "JSON Lines: one JSON object on each line, with the fields of an input": {
        '{"key": "fox", "mode": "master-text-to-video", "prompt": "a fox"}': None
    },
    "CSV": f"The first line names the columns, which are any of {', '.join(COLUMNS)}. Cells are"
    " separated by commas, semicolons or tabs.",
}
_FAULTS: Sections = {
    "faults: KIND:WHICH=WHAT, such as status:2-4=502 or task:*5=stuck": {
        "KIND": f"one of {', '.join(KINDS)}",
        "WHICH": "3, 2-4, 5-, *5 (every fifth) or * (all)",
    },
    f"WHAT for {', '.join(REQUESTS)}": FAULTS,
    "WHAT for task": OUTCOMES,
    "WHAT for callback": CALLBACKS,
}
_SECTIONS: Mapping[str, Sections] = {
    "batch": {**_ROWS, **_SERVICE},
    "worker": {
        "signals": "The first SIGTERM or Ctrl-C lets running tasks end; the second returns them to"
        " the queue at once.",
        **_SERVICE,
    },
    "report": _EXIT_CODES,
    "models": {
        "environment": {
            "APIXO_MODELS_URL": "the vendor's list of models; empty: only the models with classes",
        },
        "cache": "The list and the schemas are kept in the user's cache. No key is needed, and none"
        " is sent.",
        **_EXIT_CODES,
    },
    "limits": {"environment": {"APIXO_API_KEY": "the key of the default name"}, **_EXIT_CODES},
    "listen": {
        "lines": "Prints one line for each request: the task, its state, and its URLs or its fail"
        " code; for anything but a callback, what is wrong with it. Secrets in paths are"
        " shortened. No request is sent to the service, and no key is needed.",
    },
    "emulate": _FAULTS,
    "demo": {
        "rows: one JSON object on each line, with the fields of an input": {
            '{"mode": "master-text-to-video", "prompt": "a fox"}': None,
            "{emulator}": "in any text is replaced by the emulator's address; it serves sample"
            " images at {emulator}/samples/, such as {emulator}/samples/fox.jpg",
        },
        **_EXIT_CODES,
        **_FAULTS,
    },
    "completion": {
        "zsh": "Write the script to a file _kling-async in a folder of $fpath.",
    },
}


class HelpfulParser(argparse.ArgumentParser):
    """A parser whose help ends with explanations, examples, and where the documentation is."""

    def format_help(self) -> str:
        """Return the help of a command, or of the program: its commands by purpose."""
        name = self.prog.removeprefix(PROGRAM).strip()
        if name:
            rest = argparse.ArgumentParser(usage=argparse.SUPPRESS, add_help=False)
            _add_sections(rest, _SECTIONS.get(name, _SERVICE))
            examples = (COMMANDS[name].example, COMMANDS[name].other_example)
            _add_sections(rest, {"examples": {f"{PROGRAM} {line}": None for line in examples}})
            purpose = next(title for title, names in PURPOSES.items() if name in names)
            _add_sections(rest, {"documentation": f"{_GUIDE}#{purpose.replace(' ', '-')}"})
            return f"{super().format_help()}\n{rest.format_help()}"
        overview = argparse.ArgumentParser(self.prog, self.usage, self.description)
        overview.add_argument("--version", action="version")
        for title, names in PURPOSES.items():
            _add_sections(overview, {title: {name: COMMANDS[name].summary for name in names}})
        _add_sections(overview, {"documentation": f"{PROGRAM} COMMAND --help, and {_GUIDE}"})
        return overview.format_help()

    def error(self, message: str) -> NoReturn:
        """Print an error without the usage, which may be longer than the terminal."""
        text = f"{self.prog}: error: {message}\nMore: {self.prog} --help\n"
        self.exit(exit_codes.USAGE, text)


def _add_sections(parser: argparse.ArgumentParser, sections: Sections) -> None:
    """Add sections to a parser that parses nothing: argparse formats their rows as arguments."""
    for title, content in sections.items():
        rows: Mapping[str, str | None] = {} if isinstance(content, str) else content
        group = parser.add_argument_group(title, content if isinstance(content, str) else None)
        for name, text in rows.items():
            group.add_argument(name, help=text and text.replace("%", "%%"))

"""The commands and their options, as a table.

The key of an option is written as in a usage line: ``--count N`` has a value, whose type follows
from its metavar, ``--port PORT=8080`` a default, ``{csv,json}`` lists the choices, ``REF...`` may
be repeated, ``[FILE]`` left out, and ``--[no-]resume`` negated. Without a metavar it is a flag.
"""

from __future__ import annotations

from typing import TypeAlias

from kling_async.cli.row_values import MODES
from kling_async.tasks.arguments import DEFAULT_TIMEOUT

Options: TypeAlias = dict[str, str]

_SERVICE: Options = {
    "--base-url URL": "base URL of the service",
    "--json": "print one JSON object on each line: results on stdout, errors on stderr",
}
_TIMEOUT: Options = {f"--timeout SECONDS={DEFAULT_TIMEOUT:g}": "how long to wait for a task"}
_FIRST_POLL: Options = {"--first-poll SECONDS": "time of a task's first poll (default: 60 or 90)"}
_REFS: Options = {"refs REF...": "a reference such as kling-2-1/task_12345678"}
_IMAGES: Options = {
    "--check-images": "check remote images, too, before they are paid for; files always are",
    "--fix-images": "correct files that the service would not accept; requires the extra images",
}
_INPUT: Options = {
    "prompt PROMPT": "what the video shows; - reads it from stdin",
    "--mode MODE": f"one of {', '.join(MODES)}, or a full name: {', '.join(MODES.values())};"
    " default: pro with --end-image, standard with --image, else master-text",
    "--image PATH|URL": "the image to animate; a file needs KLING_IMAGE_STORE",
    "--end-image PATH|URL": "the last frame (mode pro)",
    "--aspect-ratio RATIO": "16:9 (default), 9:16 or 1:1 (mode master-text)",
    "--duration 5|10": "seconds of video (default: 5)",
    "--negative-prompt TEXT": "what the video must not show",
    "--cfg-scale NUMBER": "how closely to follow the prompt: 0 to 1 by 0.1",
    "--provider PROVIDER": "auto, value or official",
    **_IMAGES,
}
_PROCESSING: Options = {  # of batch and worker
    "--download-to DIR": "save the videos there as tasks finish",
    "--min-balance USD": "stop when the account's balance is below this",
    "--resubmit-failed COUNT=0": "resubmit up to COUNT times what failed for a temporary reason"
    " (timeout, unavailable); each attempt is charged",
    "--downloads N=4": "concurrent downloads",
    **_IMAGES,
    **_TIMEOUT,
    **_FIRST_POLL,
    "--requests-per-minute N=10000": "limit of the account",
    "--concurrent-tasks N=1000": "limit of the account",
    "--limiter URL": "redis://, valkey:// or postgresql:// server through which processes share"
    " the limits",
    **_SERVICE,
}
_EMULATOR: Options = {
    "--video {auto,rendered,small}=auto": "rendered: made from the input, requires the extra"
    " emulator; small: the same clip for every task; auto: rendered if the extra is installed",
    "--fault RULE...": "simulate a fault, see below; repeatable",
}

COMMANDS: dict[str, tuple[str, Options]] = {
    "generate": (
        "submit an input, wait for the task, and print the result's URLs",
        _INPUT
        | _TIMEOUT
        | _FIRST_POLL
        | {"--download-to DIR": "save the videos there, and print their paths instead"}
        | _SERVICE,
    ),
    "submit": (
        "submit an input and print the task's reference",
        _INPUT | {"--callback-url URL": "https URL that the service calls at the end"} | _SERVICE,
    ),
    "wait": (
        "wait for tasks, and print the URLs of each when it ends",
        _REFS | _TIMEOUT | _SERVICE,
    ),
    "status": ("print the current state of tasks", _REFS | _SERVICE),
    "download": (
        "save the videos of finished tasks",
        _REFS | {"--to DIR=.": "the folder", "--overwrite": "replace files that exist"} | _SERVICE,
    ),
    "balance": ("print the account's balance in US dollars", _SERVICE),
    "batch": (
        "generate a video for every row of a file; run it again to continue where it stopped",
        {
            "file FILE": "the rows, see below; - reads them from stdin",
            "--format {jsonl,csv}": "format of FILE (default: csv if it ends with .csv)",
            "--journal PATH|URL": "where the state of every row is stored: a file on a local disk"
            " (default: FILE.journal.sqlite; required if FILE is stdin or a pipe), or"
            " postgresql://user@host/database?batch=NAME, which workers can share; keep its"
            " password in PGPASSWORD or ~/.pgpass",
            "--[no-]resume": "continue with an existing journal (default), or refuse to",
            "--dry-run": "check all rows and report what would be done; send nothing",
            "--enqueue": "add the rows to the queue of a shared journal; submit nothing",
            "--skip-invalid": "continue without the invalid rows",
            "--limit N": "only the first N rows",
            "--max-tasks N": "start at most N tasks, in all runs together",
            "--resubmit-unsure": "resubmit rows whose task may have been started; may pay twice",
            "--resubmit-rejected": "resubmit rows that were rejected without charge",
            "--in-flight N": "concurrent tasks of this batch (default: --concurrent-tasks)",
            **_PROCESSING,
        },
    ),
    "worker": (
        "generate the videos of a batch's queue, beside other workers",
        {
            "--journal URL": "postgresql://user@host/database of the batch's journal and queue;"
            " keep its password in PGPASSWORD or ~/.pgpass",
            "--name NAME": "the batch, if the URL has no ?batch=NAME (default: default)",
            "--concurrency N=100": "concurrent tasks",
            "--drain SECONDS=30": "time for running tasks to end after a stop",
            "--lease SECONDS=60": "silence after which a worker counts as dead",
            "--until-empty": "end when the queue is empty and no other worker has items of it",
            **_PROCESSING,
        },
    ),
    "report": (
        "report the state of every item of a batch, even while it runs",
        {
            "journal JOURNAL": "the path, or postgresql://user@host/database?batch=NAME",
            "--format {table,csv,json,html}=table": "csv: for spreadsheets; json: an object on each"
            " line; html: a contact sheet with the videos",
            "--output FILE": "where to write (default: stdout; html: index.html in DIR)",
            "--videos DIR": "where the videos are, for html (default: beside the journal)",
        },
    ),
    "limits": (
        "report how much of shared limits is in use, and by what",
        {
            "url URL": "the server, such as redis://cache:6379/0 or postgresql://db",
            "--name NAME": "the name of the limits (default: derived from the key)",
            "--json": "print one JSON object",
        },
    ),
    "listen": (
        "print the callbacks that arrive on a port until Ctrl-C, to test a tunnel or a proxy",
        {
            "--host HOST=127.0.0.1": "address to listen on",
            "--port PORT=8080": "port to listen on; 0: any free one",
            "--answer STATUS=200": "status that answers callbacks; the service repeats a callback"
            " that is answered with any other than 200",
            "--count N": "end after N callbacks",
            "--json": "print one JSON object on each line; the first is the address",
        },
    ),
    "emulate": (
        "run a local emulator of the service until Ctrl-C",
        {
            "--host HOST=127.0.0.1": "address to listen on",
            "--port PORT=5546": "port to listen on (KLIN on a telephone's keys); 0: any free one",
            "--api-key KEY": "the only accepted key (default: any)",
            "--balance USD=1000": "initial balance",
            "--requests-per-minute N=10000": "limit that is enforced",
            "--concurrent-tasks N=1000": "limit that is enforced",
            "--retry-after": "send the header Retry-After with 429",
            "--speed FACTOR=1": "speed relative to the service",
            **_EMULATOR,
        },
    ),
    "demo": (
        "generate the videos of a JSON Lines file with the emulator, and a contact sheet of them",
        {
            "file [FILE]": "default: a sample of all four modes",
            "--to DIR=kling-demo": "where to save videos, images and index.html; replaces the files"
            " of an earlier demo",
            "--speed FACTOR=20": "speed relative to the service",
            **_EMULATOR,
        },
    ),
}

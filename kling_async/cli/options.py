"""The commands and their options, as a table.

The key of an option is written as in a usage line: ``--count N`` has a value, whose type follows
from its metavar, ``--port PORT=8080`` a default, ``{csv,json}`` lists the choices, ``REF...`` may
be repeated, ``[FILE]`` left out, and ``--[no-]resume`` negated. Without a metavar it is a flag.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from attrs import frozen

from kling_async.cli.row_values import MODES
from kling_async.inputs.registry import DEFAULT_MODES
from kling_async.tasks.arguments import DEFAULT_TIMEOUT

Options: TypeAlias = dict[str, str]


@frozen
class Command:
    """A command: its options by subject, and two command lines."""

    summary: str
    options: Mapping[str, Options]
    example: str
    other_example: str


_JSON: Options = {
    "--json": "print one JSON object on each line: results on stdout, errors on stderr",
}
_SERVICE: Mapping[str, Options] = {
    "service": {"--base-url URL": "base URL of the service"},
    "output": _JSON,
}
_TIMEOUT: Options = {f"--timeout SECONDS={DEFAULT_TIMEOUT:g}": "how long to wait for a task"}
_WAITING: Options = {
    **_TIMEOUT,
    "--first-poll SECONDS": "time of a task's first poll (default: 60 or 90)",
}
_SAVING: Options = {
    "--download-to DIR|URL": "save the videos there, and print their paths or URLs instead: a"
    " folder, or s3://, gs:// or az:// with the extra storage",
}
_REFS: Options = {"refs REF...": "a reference such as kling-2-1/task_12345678"}
_IMAGES: Options = {
    "--check-images": "check remote images, too, before they are paid for; files always are",
    "--fix-images": "correct files that the service would not accept; requires the extra images",
}
_INPUT: Options = {
    "prompt [PROMPT]": "what the video shows; - reads it from stdin; optional for motion control",
    "--model MODEL=kling-2-1": f"one of {', '.join(DEFAULT_MODES)}; any other with --fields",
    "--mode MODE": f"one of {', '.join(MODES)}, or a full name such as {MODES['text']};"
    " default: by the images and the video",
    "--image PATH|URL": "the image to animate; a file needs KLING_IMAGE_STORE",
    "--end-image PATH|URL": "the last frame (pro, and image-to-video of some models)",
    "--video URL": "the video whose motion is used (motion-control)",
    "--aspect-ratio RATIO": "16:9 (default), 9:16 or 1:1 (videos from text)",
    "--duration N": "seconds of video (default: 5): 5 or 10; with kling-3-0, 3 to 15",
    "--[no-]sound": "with or without sound; kling-2-6 requires one of the two",
    "--resolution RESOLUTION": "720p or 1080p (kling-3-0-turbo)",
    "--negative-prompt TEXT": "what the video must not show",
    "--cfg-scale NUMBER": "how closely to follow the prompt: 0 to 1 by 0.1",
    "--provider PROVIDER": "auto, value or official",
    "--fields JSON": "a JSON object with more fields, sent unchecked; for models and modes that"
    " this version does not know",
    **_IMAGES,
}
# Of batch and worker.
_SPENDING: Options = {
    "--min-balance USD": "stop when the account's balance is below this",
    "--resubmit-failed COUNT=0": "resubmit up to COUNT times what failed for a temporary reason"
    " (timeout, unavailable); each attempt is charged",
}
# Of batch, worker and rescue.
_VIDEOS: Options = {
    "--download-to DIR|URL": "save the videos there: a folder, or s3://, gs:// or az:// with the"
    " extra storage",
    "--downloads N=4": "concurrent downloads",
    "--manifest {none,basic,media}=basic": "basic: write a JSON file beside each video that says"
    " what it was made from; media: also whether it is black, still, cut, silent or too short,"
    " which requires the extra media",
}
_PROCESSING: Mapping[str, Options] = {
    "videos": _VIDEOS | _IMAGES,
    "waiting": _WAITING,
    "limits": {
        "--requests-per-minute N=10000": "limit of the account",
        "--concurrent-tasks N=1000": "limit of the account",
        "--limiter URL": "redis://, valkey:// or postgresql:// server through which processes share"
        " the limits",
    },
    **_SERVICE,
}
_EMULATOR: Options = {
    "--video {auto,rendered,small}=auto": "rendered: made from the input, requires the extra"
    " emulator; small: the same clip for every task; auto: rendered if the extra is installed",
    "--fault RULE...": "simulate a fault, see below; repeatable",
}

COMMANDS: Mapping[str, Command] = {
    "generate": Command(
        "submit an input, wait for the task, and print the result's URLs",
        {"video": _INPUT, "waiting": _WAITING, **_SERVICE, "output": _SAVING | _JSON},
        'generate "a fox in fresh snow" --download-to videos',
        'generate "pan left" --image https://example.com/fox.jpg --json',
    ),
    "submit": Command(
        "submit an input and print the task's reference",
        {
            "video": _INPUT,
            "callback": {"--callback-url URL": "https URL that the service calls at the end"},
            **_SERVICE,
        },
        'submit "pan left" --image https://example.com/fox.jpg',
        'submit "a fox" --callback-url https://example.com/kling/secret --json',
    ),
    "wait": Command(
        "wait for tasks, and print the URLs of each when it ends",
        {"tasks": _REFS, "waiting": _TIMEOUT, **_SERVICE, "output": _SAVING | _JSON},
        "wait kling-2-1/task_12345678",
        "wait kling-2-1/task_12345678 --download-to videos",
    ),
    "status": Command(
        "print the current state of tasks",
        {"tasks": _REFS, **_SERVICE},
        "status kling-2-1/task_12345678",
        "status kling-2-1/task_12345678 --json",
    ),
    "download": Command(
        "save the videos of finished tasks",
        {
            "tasks": _REFS,
            "files": {
                "--to DIR|URL=.": "the folder, or s3://, gs:// or az:// with the extra storage",
                "--overwrite": "replace files that exist; objects are never replaced",
            },
            **_SERVICE,
        },
        "download kling-2-1/task_12345678 --to videos",
        "download kling-2-1/task_12345678 --to videos --overwrite",
    ),
    "models": Command(
        "list the models of the service, or print the JSON schema of one",
        {
            "models": {"model [MODEL]": "print the schema of this model"},
            "output": {"--json": "print one JSON object on each line"},
        },
        "models",
        "models kling-2-6 --json",
    ),
    "balance": Command(
        "print the account's balance in US dollars", _SERVICE, "balance", "balance --json"
    ),
    "batch": Command(
        "generate a video for every row of a file; run it again to continue where it stopped",
        {
            "rows": {
                "file FILE": "the rows, see below; - reads them from stdin",
                "--format {jsonl,csv}": "format of FILE (default: csv if it ends with .csv)",
                "--dry-run": "check all rows and report what would be done; send nothing",
                "--skip-invalid": "continue without the invalid rows",
                "--limit N": "only the first N rows",
            },
            "journal": {
                "--journal PATH|URL": "where the state of every row is stored: a file on a local"
                " disk (default: FILE.journal.sqlite; required if FILE is stdin or a pipe), or"
                " postgresql://user@host/database?batch=NAME, which workers can share; keep its"
                " password in PGPASSWORD or ~/.pgpass",
                "--[no-]resume": "continue with an existing journal (default), or refuse to",
                "--enqueue": "add the rows to the queue of a shared journal; submit nothing",
            },
            "spending": {
                "--max-tasks N": "start at most N tasks, in all runs together",
                "--resubmit-unsure": "resubmit rows whose task may have been started; may pay"
                " twice",
                "--resubmit-rejected": "resubmit rows that were rejected without charge",
                **_SPENDING,
            },
            **_PROCESSING,
            "limits": {
                "--in-flight N": "concurrent tasks of this batch (default: --concurrent-tasks)",
                **_PROCESSING["limits"],
            },
        },
        "batch clips.jsonl --dry-run",
        "batch clips.jsonl --download-to videos --max-tasks 100",
    ),
    "worker": Command(
        "generate the videos of a batch's queue, beside other workers",
        {
            "queue": {
                "--journal URL": "postgresql://user@host/database of the batch's journal and queue;"
                " keep its password in PGPASSWORD or ~/.pgpass",
                "--name NAME": "the batch, if the URL has no ?batch=NAME (default: default)",
                "--concurrency N=100": "concurrent tasks",
                "--drain SECONDS=30": "time for running tasks to end after a stop",
                "--lease SECONDS=60": "silence after which a worker counts as dead",
                "--until-empty": "end when the queue is empty and no other worker has items of it",
            },
            "spending": _SPENDING,
            **_PROCESSING,
        },
        "worker --journal postgresql://db/kling --name foxes --download-to videos",
        "worker --journal postgresql://db/kling --until-empty --json",
    ),
    "report": Command(
        "report the state of every item of a batch, even while it runs",
        {
            "batch": {
                "journal JOURNAL": "the path, or postgresql://user@host/database?batch=NAME",
                "--videos DIR": "where the videos are, for html (default: beside the journal)",
            },
            "output": {
                "--format {table,csv,json,html}=table": "csv: for spreadsheets; json: an object on"
                " each line; html: a contact sheet with the videos",
                "--output FILE": "where to write (default: stdout; html: index.html in DIR)",
                "--json": "the same as --format json, also for errors",
            },
        },
        "report clips.jsonl.journal.sqlite --format csv --output report.csv",
        "report clips.jsonl.journal.sqlite --format html --videos videos",
    ),
    "rescue": Command(
        "save the videos that batches have generated and not saved, before their URLs expire",
        {
            "batches": {"journals JOURNAL...": "a journal's path, or its postgresql:// URL"},
            "videos": _VIDEOS,
            **_SERVICE,
        },
        "rescue clips.jsonl.journal.sqlite --download-to videos",
        "rescue clips.jsonl.journal.sqlite --download-to videos --json",
    ),
    "limits": Command(
        "report how much of shared limits is in use, and by what",
        {
            "limits": {
                "url URL": "the server, such as redis://cache:6379/0 or postgresql://db",
                "--name NAME": "the name of the limits (default: derived from the key)",
            },
            "output": {"--json": "print one JSON object"},
        },
        "limits redis://cache:6379/0",
        "limits redis://cache:6379/0 --name team --json",
    ),
    "listen": Command(
        "print the callbacks that arrive on a port until Ctrl-C, to test a tunnel or a proxy",
        {
            "server": {
                "--host HOST=127.0.0.1": "address to listen on",
                "--port PORT=8080": "port to listen on; 0: any free one",
                "--answer STATUS=200": "status that answers callbacks; the service repeats a"
                " callback that is answered with any other than 200",
                "--count N": "end after N callbacks",
            },
            "output": {"--json": "print one JSON object on each line; the first is the address"},
        },
        "listen --port 8080",
        "listen --count 1 --json",
    ),
    "emulate": Command(
        "run a local emulator of the service until Ctrl-C",
        {
            "server": {
                "--host HOST=127.0.0.1": "address to listen on",
                "--port PORT=5546": "port to listen on (KLIN on a telephone's keys); any free one"
                " if it is 0, or if 5546 is taken",
            },
            "service": {
                "--api-key KEY": "the only accepted key (default: any)",
                "--model NAME...": "a further model, which accepts any input; repeatable",
                "--balance USD=1000": "initial balance",
                "--requests-per-minute N=10000": "limit that is enforced",
                "--concurrent-tasks N=1000": "limit that is enforced",
                "--retry-after": "send the header Retry-After with 429",
                "--speed FACTOR=1": "speed relative to the service",
                **_EMULATOR,
            },
            "output": {"--json": "print the variables for clients as one JSON object"},
        },
        "emulate --speed 20",
        "emulate --port 8080 --fault 'task:*5=stuck'",
    ),
    "demo": Command(
        "generate the videos of a JSON Lines file with the emulator, and a contact sheet of them",
        {
            "videos": {
                "file [FILE]": "default: a sample of all models",
                "--to DIR=kling-demo": "where to save videos, images and index.html; replaces the"
                " files of an earlier demo",
            },
            "service": {"--speed FACTOR=20": "speed relative to the service", **_EMULATOR},
            "output": _JSON,
        },
        "demo",
        "demo my.jsonl --to out --speed 100",
    ),
    "completion": Command(
        "print a script with which a shell completes commands, options and their values",
        {"shell": {"shell {bash,zsh,fish}": "the shell"}, "output": _JSON},
        "completion bash > ~/.local/share/bash-completion/completions/kling-async",
        "completion fish > ~/.config/fish/completions/kling-async.fish",
    ),
}

# The commands by purpose: a section of docs/guides/command-line.md each.
PURPOSES: Mapping[str, tuple[str, ...]] = {
    "one video": ("generate", "submit", "wait", "status", "download", "models", "balance"),
    "a batch": ("batch", "worker", "report", "rescue", "limits"),
    "which callbacks arrive": ("listen",),
    "trying it without an account": ("emulate", "demo"),
    "completion": ("completion",),
}

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Emulate, Execute


@pytest.mark.slow
def test_warnings_are_lines_of_stderr(execute: Execute) -> None:
    """A warning of the package is a line, or with JSON an object, as everything on stderr is."""
    env = {
        **os.environ,
        "APIXO_API_KEY": "a-key",
        "APIXO_BASE_URL": "http://127.0.0.1.nowhere.invalid:1",
        "APIXO_ALLOW_HTTP": "1",
    }
    words = execute("status", "kling-2-1/task_1", "--json", env=env).errors
    assert "unencrypted" in words[0]["warning"]
    assert words[-1]["error"] == "ConnectError"


def test_tasks_are_not_reported_twice(emulate: Emulate, execute: Execute) -> None:
    """A task that `submit` leaves running is on stdout, and nothing else is said of it."""
    ended = execute("submit", "a fox", "--json", env=emulate())
    assert (ended.code, ended.err) == (0, "")
    assert json.loads(ended.out)["ref"].startswith("kling-2-1/task_")

"""One event of each class, with a secret in every text that may hold one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from kling_async import events
from kling_async.errors import AnswerLostError, ServerError
from kling_async.inputs.kling_2_1 import MasterTextToVideo
from kling_async.results import FailReason, SavedFile, Snapshot, TaskRef, TaskState

SECRET = "s3cret"
REF = TaskRef("kling-2-1", "task_1")
INPUT = MasterTextToVideo(f"a fox {SECRET}")
URL = f"https://host/a.mp4?sig={SECRET}"
ERROR = ServerError(f"no answer of {URL}")
LOST = AnswerLostError(f"the answer of {URL} was lost", may_have_charged=True)
SUCCESS = Snapshot(
    REF,
    TaskState.SUCCESS,
    "success",
    completed_at=datetime.now(UTC) - timedelta(seconds=2),
    result_urls=(URL,),
)
FAILED = Snapshot(REF, TaskState.FAILED, "failed", fail_code="NSFW", reason=FailReason.CONTENT)
FILE = SavedFile(URL, "a.mp4", 1_000_000, "00")
TRACEPARENT = f"00-{'ab' * 16}-{'cd' * 8}-01"


def answered(
    kind: str = "submit", error: ServerError | None = None, *, status: int | None = 200
) -> events.RequestAnswered:
    """Return the event of a request; one about the task unless it is a submit or the balance."""
    paths = {"submit": "/generateTask/kling-2-1", "status": "/statusTask/kling-2-1"}
    path = paths.get(kind, "/apikeys/current-balance")
    return events.RequestAnswered(
        kind=kind,  # type: ignore[arg-type]  # one of three words
        method="POST" if kind == "submit" else "GET",
        url=f"https://api.apixo.ai/api/v1{path}",
        path=path,
        attempt=2,
        waited=0.25,
        seconds=0.5,
        status=status,
        error=error,
        limit=60,
        ref=REF if kind == "status" else None,
        submit_id=7 if kind == "submit" else 0,
    )


EVENTS: list[events.DetailedEvent] = [
    events.SubmitStarted(INPUT, submit_id=7),
    events.SlotAcquired(INPUT, 1.5, submit_id=7),
    answered(error=ERROR, status=503),
    events.Retrying("submit", ERROR, 2, 0.5, submit_id=7),
    events.Paused(2.0),
    answered(),
    events.Submitted(REF, INPUT, submit_id=7),
    answered("status"),
    answered("status", ERROR, status=None),
    events.Polled(Snapshot(REF, TaskState.PENDING, "pending")),
    events.CalledBack(SUCCESS),
    events.CallbackReceived(SUCCESS, "unknown", TRACEPARENT),
    events.TaskEnded(SUCCESS),
    events.TaskEnded(FAILED),
    events.DownloadEnded(REF, (FILE,), 1_000_000, 2.5),
    events.DownloadEnded(REF, (), 10, 2.5, OSError(f"{URL} is gone")),
    events.SubmitFailed(INPUT, LOST, submit_id=8),
    events.SubmitFailed(INPUT, ERROR, submit_id=9),
    events.SubmitWithdrawn(INPUT, submit_id=10),
    events.TaskAttached(REF, INPUT, None, TRACEPARENT),
    events.TaskDropped(REF, "not_found"),
    events.TaskLimitChanged(20, 1000),
    events.TasksAbandoned((REF,)),
]

"""Many Kling videos at once from asyncio, inside the account's limits, without paying twice.

Describe a video (an input), submit it (a task), await the task (a result with URLs).

Everything public is named here and loaded when first used, so that importing the package
costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kling_async._utils.lazy import lazy_names

if TYPE_CHECKING:
    from collections.abc import Callable

    from kling_async._utils.version import __version__
    from kling_async.batch.batch import Batch
    from kling_async.batch.decisions import Item
    from kling_async.batch.options import BatchOptions
    from kling_async.client import KlingClient
    from kling_async.errors import (
        AnswerLostError,
        APIError,
        AuthenticationError,
        BadRequestError,
        BalanceError,
        ClientClosedError,
        ConfigurationError,
        ConnectError,
        ContractError,
        DownloadError,
        InputError,
        JournalError,
        KlingError,
        LimiterError,
        MissingExtraError,
        NotFoundError,
        Problem,
        RateLimitError,
        RefusedError,
        RequestError,
        ResultExpiredError,
        ServerError,
        StorageError,
        TaskError,
        TaskFailedError,
        TaskTimeoutError,
    )
    from kling_async.events import (
        CallbackReceived,
        CalledBack,
        DetailedHook,
        DownloadEnded,
        Event,
        Hook,
        Paused,
        Polled,
        RequestAnswered,
        Retrying,
        SlotAcquired,
        SubmitFailed,
        SubmitStarted,
        Submitted,
        SubmitWithdrawn,
        TaskAttached,
        TaskDropped,
        TaskEnded,
        TaskLimitChanged,
        TasksAbandoned,
    )
    from kling_async.inputs.base import Input
    from kling_async.inputs.kling_2_1 import (
        MasterImageToVideo,
        MasterTextToVideo,
        ProImageToVideo,
        StandardImageToVideo,
    )
    from kling_async.inputs.kling_2_5_turbo_pro import (
        Kling25TurboProImageToVideo,
        Kling25TurboProTextToVideo,
    )
    from kling_async.inputs.kling_2_6 import Kling26ImageToVideo, Kling26TextToVideo
    from kling_async.inputs.kling_3_0_std import (
        Kling30StdImageToVideo,
        Kling30StdMotionControl,
        Kling30StdTextToVideo,
    )
    from kling_async.inputs.kling_3_0_turbo import (
        Kling30TurboImageToVideo,
        Kling30TurboTextToVideo,
    )
    from kling_async.inputs.parsing import parse_input
    from kling_async.inputs.raw import RawInput
    from kling_async.limits.base import Limiter, Limits, Permit, Slot
    from kling_async.limits.local import LocalLimiter
    from kling_async.limits.shared.limiter import SharedLimiter
    from kling_async.policy.polling import Polling
    from kling_async.policy.retry import Retry
    from kling_async.progress.contact_sheet import ContactSheet
    from kling_async.results import (
        FailReason,
        MediaFacts,
        MediaProblem,
        Result,
        SavedFile,
        Snapshot,
        TaskRef,
        TaskState,
    )
    from kling_async.tasks.fan_out import Outcome
    from kling_async.tasks.submitter import SubmitObserver
    from kling_async.tasks.task import Task
    from kling_async.tasks.updates import TaskUpdate
    from kling_async.transport import Transport
    from kling_async.webhooks.inbox import Inbox
    from kling_async.webhooks.relay.relay import Relay

__all__ = [
    "APIError",
    "AnswerLostError",
    "AuthenticationError",
    "BadRequestError",
    "BalanceError",
    "Batch",
    "BatchOptions",
    "CallbackReceived",
    "CalledBack",
    "ClientClosedError",
    "ConfigurationError",
    "ConnectError",
    "ContactSheet",
    "ContractError",
    "DetailedHook",
    "DownloadEnded",
    "DownloadError",
    "Event",
    "FailReason",
    "Hook",
    "Inbox",
    "Input",
    "InputError",
    "Item",
    "JournalError",
    "Kling25TurboProImageToVideo",
    "Kling25TurboProTextToVideo",
    "Kling26ImageToVideo",
    "Kling26TextToVideo",
    "Kling30StdImageToVideo",
    "Kling30StdMotionControl",
    "Kling30StdTextToVideo",
    "Kling30TurboImageToVideo",
    "Kling30TurboTextToVideo",
    "KlingClient",
    "KlingError",
    "Limiter",
    "LimiterError",
    "Limits",
    "LocalLimiter",
    "MasterImageToVideo",
    "MasterTextToVideo",
    "MediaFacts",
    "MediaProblem",
    "MissingExtraError",
    "NotFoundError",
    "Outcome",
    "Paused",
    "Permit",
    "Polled",
    "Polling",
    "ProImageToVideo",
    "Problem",
    "RateLimitError",
    "RawInput",
    "RefusedError",
    "Relay",
    "RequestAnswered",
    "RequestError",
    "Result",
    "ResultExpiredError",
    "Retry",
    "Retrying",
    "SavedFile",
    "ServerError",
    "SharedLimiter",
    "Slot",
    "SlotAcquired",
    "Snapshot",
    "StandardImageToVideo",
    "StorageError",
    "SubmitFailed",
    "SubmitObserver",
    "SubmitStarted",
    "SubmitWithdrawn",
    "Submitted",
    "Task",
    "TaskAttached",
    "TaskDropped",
    "TaskEnded",
    "TaskError",
    "TaskFailedError",
    "TaskLimitChanged",
    "TaskRef",
    "TaskState",
    "TaskTimeoutError",
    "TaskUpdate",
    "TasksAbandoned",
    "Transport",
    "__version__",
    "parse_input",
]

__getattr__: Callable[[str], object]
__dir__: Callable[[], list[str]]
__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "_utils.version": ("__version__",),
        "errors": ("Problem", *(name for name in __all__ if name.endswith("Error"))),
        "results": (
            "FailReason",
            "MediaFacts",
            "MediaProblem",
            "Result",
            "SavedFile",
            "Snapshot",
            "TaskRef",
            "TaskState",
        ),
        "inputs": (
            "Input",
            "Kling25TurboProImageToVideo",
            "Kling25TurboProTextToVideo",
            "Kling26ImageToVideo",
            "Kling26TextToVideo",
            "Kling30StdImageToVideo",
            "Kling30StdMotionControl",
            "Kling30StdTextToVideo",
            "Kling30TurboImageToVideo",
            "Kling30TurboTextToVideo",
            "MasterImageToVideo",
            "MasterTextToVideo",
            "ProImageToVideo",
            "RawInput",
            "StandardImageToVideo",
            "parse_input",
        ),
        "events": (
            "CallbackReceived",
            "CalledBack",
            "DetailedHook",
            "DownloadEnded",
            "Event",
            "Hook",
            "Paused",
            "Polled",
            "RequestAnswered",
            "Retrying",
            "SlotAcquired",
            "SubmitFailed",
            "SubmitStarted",
            "SubmitWithdrawn",
            "Submitted",
            "TaskAttached",
            "TaskDropped",
            "TaskEnded",
            "TaskLimitChanged",
            "TasksAbandoned",
        ),
        "policy.polling": ("Polling",),
        "policy.retry": ("Retry",),
        "limits.base": ("Limiter", "Limits", "Permit", "Slot"),
        "limits.local": ("LocalLimiter",),
        "limits.shared.limiter": ("SharedLimiter",),
        "transport": ("Transport",),
        "tasks.task": ("Task",),
        "tasks.updates": ("TaskUpdate",),
        "tasks.fan_out": ("Outcome",),
        "tasks.submitter": ("SubmitObserver",),
        "client": ("KlingClient",),
        "progress.contact_sheet": ("ContactSheet",),
        "batch.batch": ("Batch",),
        "batch.decisions": ("Item",),
        "batch.options": ("BatchOptions",),
        "webhooks.inbox": ("Inbox",),
        "webhooks.relay.relay": ("Relay",),
    },
)

"""The options of a batch: one definition for ``Batch``, ``Worker``, taskiq and the command line."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Literal, TypeAlias, TypedDict, TypeGuard, get_args

from attrs import frozen

from kling_async._utils.numbers import is_number
from kling_async.errors import ConfigurationError
from kling_async.results import FailReason
from kling_async.tasks.arguments import DEFAULT_TIMEOUT, check_timeout

# Fail reasons for which another attempt may succeed.
TRANSIENT_REASONS = (FailReason.TIMEOUT, FailReason.UNAVAILABLE)
_REASONS = tuple(FailReason)
_PERMANENT_REASONS = {FailReason.CONTENT, FailReason.PROMPT, FailReason.IMAGE, FailReason.MEDIA}


ManifestKind: TypeAlias = Literal["none", "basic", "media"]
"""What is recorded of each saved video; see :class:`BatchOptions`."""


@frozen(kw_only=True)
class BatchOptions:
    """The options of a batch, checked.

    Attributes:
        download_to: A folder for the videos; or the URL of an archive in an object store, such as
            ``s3://bucket/prefix``, ``gs://bucket/prefix`` or ``az://container/prefix``, which
            needs the extra ``storage``. None saves only their URLs, which expire after days.
        in_flight: How many tasks may run at one time. None means the limit of concurrent tasks.
        timeout: Seconds to wait for each task. A task that takes longer stays *submitted* in the
            journal, and the next run waits for it again.
        downloads: How many downloads may run at one time, beside the generation. The client
            runs at most 16.
        manifest: What is recorded of each saved video. ``"basic"`` writes a JSON file beside it,
            such as ``fox.mp4.json``, with what it was made from; see
            :func:`kling_async.batch.manifest.manifest_schema`. ``"media"`` also inspects the
            video, and records what it contains and what is wrong with it there, in
            ``Outcome.media`` and in the journal; it needs the extra ``media``, see
            :func:`kling_async.media.inspect_video`. ``"none"`` writes no file.
        resubmit_unsure: Submit items again that are *unsure* when the journal is opened. This may
            pay twice.
        resubmit_rejected: Submit items again whose submit the service had rejected, at no charge,
            when the journal is opened.
        resubmit_failed: How often an item may be submitted again after its task has failed for
            one of ``resubmit_reasons``. Each submit costs money again.
        resubmit_reasons: The reasons. Content, prompt, image and media are not accepted: the same
            input would fail again.
        max_tasks: Stop submitting when this number of tasks has been started, in all runs of the
            journal together. Of several workers that share a journal, each counts the tasks that
            were started before its run began, and its own.
        min_balance: Stop before a submit that could bring the account's balance below this, in US
            dollars. The price of a task is learned from the balance, which is read before and
            after the first submit, and then after as many submits as it certainly allows, at
            most 50.
        max_rejections: Stop when this number of submits in a row was rejected or could not be
            sent, at no charge. None never stops. Items that were not submitted stay *planned*.

    Raises:
        ConfigurationError: A value is out of range, or ``download_to`` is another URL.
        MissingExtraError: An extra is not installed.
    """

    download_to: str | os.PathLike[str] | None = None
    in_flight: int | None = None
    timeout: float = DEFAULT_TIMEOUT
    downloads: int = 4
    manifest: ManifestKind = "basic"
    resubmit_unsure: bool = False
    resubmit_rejected: bool = False
    resubmit_failed: int = 0
    resubmit_reasons: Collection[FailReason] = TRANSIENT_REASONS
    max_tasks: int | None = None
    min_balance: float | None = None
    max_rejections: int | None = 50

    def __attrs_post_init__(self) -> None:
        for name in ("in_flight", "downloads", "max_tasks", "max_rejections"):
            value: object = getattr(self, name)
            optional = name != "downloads"
            if not (value is None and optional) and (type(value) is not int or value < 1):
                raise ConfigurationError(f"{name} must be at least 1, not {value!r}")
        reasons: object = self.resubmit_reasons  # a text would be searched for a reason
        several = isinstance(reasons, Collection) and not isinstance(reasons, str)
        known = several and all(map(_REASONS.__contains__, self.resubmit_reasons))
        no_path = not isinstance(self.download_to, str | os.PathLike | None)
        failed: object = self.resubmit_failed
        no_count = type(failed) is not int or failed < 0
        no_dollars = self.min_balance is not None and not is_number(self.min_balance)
        kinds = get_args(ManifestKind)
        for name, wrong, rule in (
            ("resubmit_failed", no_count, "at least 0"),
            ("resubmit_unsure", not isinstance(self.resubmit_unsure, bool), "True or False"),
            ("resubmit_rejected", not isinstance(self.resubmit_rejected, bool), "True or False"),
            ("resubmit_reasons", not known, "several of FailReason"),
            ("min_balance", no_dollars, "a number of US dollars"),
            ("manifest", self.manifest not in kinds, f"one of {', '.join(kinds)}"),
            ("download_to", no_path, "a path or a URL"),
        ):
            if wrong:
                raise ConfigurationError(f"{name} must be {rule}, not {getattr(self, name)!r:.80}")
        if permanent := sorted(_PERMANENT_REASONS.intersection(self.resubmit_reasons)):
            raise ConfigurationError(
                f"resubmit_reasons must not contain {permanent[0]!s}: the same input fails again"
            )
        if self.timeout != DEFAULT_TIMEOUT:
            check_timeout(self.timeout)
        if self.manifest == "media":
            from kling_async.media.containers import import_av

            import_av()
        if is_archive_url(self.download_to):
            from kling_async._storage.opening import check_store_url

            check_store_url(self.download_to)


class BatchKeywords(TypedDict, total=False):
    """The fields of :class:`BatchOptions` as keyword arguments, for type checkers."""

    download_to: str | os.PathLike[str] | None
    in_flight: int | None
    timeout: float
    downloads: int
    manifest: ManifestKind
    resubmit_unsure: bool
    resubmit_rejected: bool
    resubmit_failed: int
    resubmit_reasons: Collection[FailReason]
    max_tasks: int | None
    min_balance: float | None
    max_rejections: int | None


def is_archive_url(place: object) -> TypeGuard[str]:
    """Return whether ``download_to`` is the URL of an archive, and no folder."""
    return isinstance(place, str) and "://" in place

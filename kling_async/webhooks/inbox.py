"""The receiving half of callbacks, without any framework: an inbox.

An :class:`Inbox` takes a method, a path, a query and a body, and answers with a status. What
stands before it (:mod:`~kling_async.webhooks.asgi`, :mod:`~kling_async.webhooks.aiohttp`,
:mod:`~kling_async.webhooks.fastapi`) only carries bytes.

The service signs nothing (the contract). So a callback counts only at a URL that nobody can
guess, and even there it is a hint: the client asks for the status before it believes it.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Sequence
from hashlib import sha256
from threading import RLock
from typing import TYPE_CHECKING
from weakref import WeakSet

from attrs import frozen

from kling_async._utils.urls import is_unencrypted, split_web_url
from kling_async.errors import ConfigurationError, ContractError
from kling_async.protocol import callbacks

if TYPE_CHECKING:
    from kling_async.results import Snapshot, TaskRef
    from kling_async.tasks.callback_router import Listener

# Characters or bytes. Less can be guessed from one token by trying.
_SHORTEST_SECRET = 16

# The documented body is below 1 KB.
_MAX_BODY_BYTES = 65_536

# A task's callbacks that are passed on. The service tries four times (the contract); whoever has
# learned a URL can have the status asked no more often than that.
_OFTEN = 4

# Tasks whose callbacks are remembered.
_REMEMBERED = 10_000

_OK, _MALFORMED, _NOT_FOUND, _NOT_POST, _TOO_LARGE = 200, 400, 404, 405, 413

_log = logging.getLogger("kling_async")


@frozen
class Counts:
    """What became of the requests that an inbox was given.

    Attributes:
        taken: First callbacks of tasks that run: each wakes its task.
        repeated: Further callbacks of such tasks.
        relayed: First callbacks of tasks that run here, which came to another process: see
            :mod:`kling_async.webhooks.relay.relay`.
        unknown: Callbacks of tasks that no client of this inbox waits for: they have been seen to
            end already, or another process has submitted them.
        unfinished: Callbacks that say that the task still runs.
        malformed: Bodies that say nothing about a task.
        oversized: Bodies above the limit.
        misused: Other methods than POST.
        forged: Paths without a token of ours.
    """

    taken: int = 0
    relayed: int = 0
    repeated: int = 0
    unknown: int = 0
    unfinished: int = 0
    malformed: int = 0
    oversized: int = 0
    misused: int = 0
    forged: int = 0


class Inbox:
    """Takes callbacks, proves that their URLs are ours, and wakes the tasks that they are about.

    Give it to one or more clients (``KlingClient(inbox=inbox)``) and to one of the edges. It does
    no input or output, and needs no closing. It may be given callbacks on any thread.

    Args:
        public_url: Where the service reaches the edge: https, or plain http on loopback.
        secret: What the tokens are signed with: at least 16 characters or bytes that nobody
            knows, the same in all processes and after a restart. Of several, the first signs,
            and each is recognised: put a new one first, and drop the old one an hour later.
        confirm: Ask for the status before a callback is believed. Without, whoever can read the
            URLs (proxies, their logs) can end tasks: for networks in which you trust everybody.
        max_body_bytes: The largest body that is read.

    Raises:
        ConfigurationError: The URL is not public https, or a secret is too short.
    """

    def __init__(
        self,
        public_url: str,
        *,
        secret: str | bytes | Sequence[str | bytes],
        confirm: bool = True,
        max_body_bytes: int = _MAX_BODY_BYTES,
    ) -> None:
        self._public_url = _checked_url(public_url)
        self._secrets = _checked_secrets(secret)
        self._confirm = confirm
        if not isinstance(max_body_bytes, int) or max_body_bytes < 1:
            raise ConfigurationError(f"an inbox needs max_body_bytes >= 1, not {max_body_bytes!r}")
        self._max_body_bytes = max_body_bytes
        self._listeners: WeakSet[Listener] = WeakSet()
        self._passed_on: OrderedDict[tuple[TaskRef, bool], int] = OrderedDict()
        self._counts: Counter[str] = Counter()
        self._lock = RLock()  # a hook that is told of a callback may read the counts

    def __repr__(self) -> str:
        return f"<Inbox {self._public_url}>"

    @property
    def public_url(self) -> str:
        """Where the service reaches the edge, without a slash at the end."""
        return self._public_url

    @property
    def max_body_bytes(self) -> int:
        """The largest body that is read."""
        return self._max_body_bytes

    @property
    def names(self) -> tuple[str, ...]:
        """A checksum of each secret: what all processes have in common that share one."""
        return tuple(sha256(b"kling_async relay " + one).hexdigest()[:16] for one in self._secrets)

    @property
    def counts(self) -> Counts:
        """What became of the requests so far."""
        with self._lock:
            return Counts(**self._counts)

    def callback_url(self, model: str, nonce: str) -> str:
        """Return the URL for one submit to a model; clients ask for it."""
        return f"{self._public_url}/{callbacks.write_token(model, nonce, self._secrets[0])}"

    def join(self, listener: Listener) -> None:
        """Tell a listener of every callback, as long as it lives; clients do it by themselves."""
        with self._lock:
            self._listeners.add(listener)

    def refuses(self, method: str, path: str, length: int | None = None) -> int | None:
        """Say, before a body is read, whether to read it.

        Args:
            method: The HTTP method.
            path: The path of the URL, with or without the one that ``public_url`` has.
            length: How many bytes the body is to have, if that was said.

        Returns:
            The status to answer with, or None: read the body, and call :meth:`handle`.
        """
        judged = self._judge(method, path, length)
        return judged if isinstance(judged, int) else None

    def handle(self, method: str, path: str, query: str, body: bytes) -> int:  # noqa: ARG002 - no part of the proof
        """Take a request that may be a callback; return the status to answer with, at once.

        It does not wait for the confirmation, and raises nothing, whatever it is given.

        Args:
            method: The HTTP method.
            path: The path of the URL; only its last segment is looked at.
            query: The query of the URL. Some gateways add one; it is not looked at.
            body: The body.
        """
        judged = self._judge(method, path, len(body))
        if isinstance(judged, int):
            return judged
        model, nonce = judged
        try:
            snapshot = callbacks.parse_callback(body, model)
        except ContractError:
            return self._count("malformed", _MALFORMED)  # it comes again, and may be whole then
        return self._pass_on(callbacks.Callback(snapshot, nonce, not self._confirm))

    def relayed(self, snapshot: Snapshot, nonce: str) -> None:
        """Take what a callback said that came to another process; raises nothing.

        Here it is of use to a task that runs here, and else nobody counts it.

        Args:
            snapshot: How it says that the task stands.
            nonce: Which submit's URL it came to.
        """
        callback = callbacks.Callback(snapshot, nonce, not self._confirm, relayed=True)
        with self._lock:
            what = self._told(callback)
            if what != "unknown":
                what = "relayed" if what == "taken" else what
                self._count(what if snapshot.state.ended else "unfinished")

    def _judge(self, method: str, path: str, length: int | None) -> tuple[str, str] | int:
        """Return the model and the nonce of the path, or the status to answer with."""
        proven = callbacks.verify_token(path.rpartition("/")[2], self._secrets)
        if proven is None:
            return self._count("forged", _NOT_FOUND)
        if method != "POST":
            return self._count("misused", _NOT_POST)
        if length is not None and length > self._max_body_bytes:
            return self._count("oversized", _TOO_LARGE)
        return proven

    def _pass_on(self, callback: callbacks.Callback) -> int:
        with self._lock:
            what = self._told(callback)
            return self._count(what if callback.snapshot.state.ended else "unfinished", _OK)

    def _told(self, callback: callbacks.Callback) -> str:
        """Pass a callback on; return whether it was taken, is repeated, or its task unknown."""
        # One that says that the task still runs takes nothing from those that say how it ended.
        what = callback.snapshot.ref, callback.snapshot.state.ended
        before = self._passed_on.get(what, 0)
        if before >= _OFTEN:
            return "repeated"
        # Each is told, even if one knows the task: they may share it.
        known = [listener.hear(callback) for listener in tuple(self._listeners)]
        if not any(known):
            return "repeated" if before else "unknown"
        self._passed_on[what] = before + 1
        if len(self._passed_on) > _REMEMBERED:
            self._passed_on.popitem(last=False)
        return "repeated" if before else "taken"

    def _count(self, what: str, status: int = _OK) -> int:
        with self._lock:
            self._counts[what] += 1
            many = self._counts[what]
        # The first, the second, the fourth ...: a flood of them must not become one in the log.
        noted = what not in {"taken", "relayed"} and many & (many - 1) == 0
        # The path holds the token, and is never written down.
        _log.log(
            logging.INFO if noted else logging.DEBUG,
            "a callback was answered with %d: %s (%d so far)",
            status,
            what,
            many,
        )
        return status


def _checked_url(url: str) -> str:
    if split_web_url(url) is None or {"?", "#", "@"} & set(url) or is_unencrypted(url):
        raise ConfigurationError(
            "an inbox needs a public https URL such as https://example.com/kling"
            f" (plain http on loopback only), not {url!r:.80}"
        )
    return url.rstrip("/")


def _checked_secrets(secret: str | bytes | Sequence[str | bytes]) -> tuple[bytes, ...]:
    if isinstance(secret, str | bytes):
        secret = (secret,)
    given = tuple(secret) if isinstance(secret, Sequence) else ()  # such as what is not set
    secrets = tuple(map(_as_bytes, given))
    if not secrets or any(len(one) < _SHORTEST_SECRET for one in secrets):
        raise ConfigurationError(
            f"an inbox needs secrets of at least {_SHORTEST_SECRET} characters, such as"
            ' python -c "import secrets; print(secrets.token_urlsafe())" prints'
        )
    return secrets


def _as_bytes(secret: object) -> bytes:
    """Return the bytes of a secret, and none of anything else."""
    if isinstance(secret, str):  # what comes from the environment need not be UTF-8
        return secret.encode("utf-8", "surrogatepass")
    return secret if isinstance(secret, bytes) else b""

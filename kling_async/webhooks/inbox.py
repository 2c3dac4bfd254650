"""The inbox: verifies callbacks and delivers them to clients. It depends on no framework.

The adapters (:mod:`~kling_async.webhooks.asgi`, :mod:`~kling_async.webhooks.aiohttp`,
:mod:`~kling_async.webhooks.fastapi`) only pass requests to it.

The service does not sign callbacks. So a callback is accepted only at a URL that cannot be guessed,
and its content is not trusted: the client requests the task's status.
"""

from __future__ import annotations

import asyncio
import logging
from asyncio import CancelledError
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from hashlib import sha256
from threading import RLock
from typing import TYPE_CHECKING
from weakref import WeakSet

from attrs import frozen

from kling_async._utils.urls import is_unencrypted, split_web_url
from kling_async.errors import ConfigurationError, ContractError
from kling_async.events import CallbackReceived
from kling_async.protocol.callbacks import (
    Callback,
    parse_callback,
    unpack_traceparent,
    verify_token,
    write_token,
)
from kling_async.tasks.arguments import checked_hooks

if TYPE_CHECKING:
    from kling_async.events import Hook
    from kling_async.results import Snapshot, TaskRef
    from kling_async.tasks.callback_router import Listener

# Characters or bytes. A shorter secret can be found by trying, given one token.
_MIN_SECRET = 16

# The documented body is below 1 KB.
_MAX_BODY_BYTES = 65_536

# Seconds in which a body is read. It is short, and arrives together with its headers.
_BODY_TIMEOUT = 10.0

# Callbacks of one task that are delivered. The service sends each four times at most, and a
# stranger who learns a URL cannot cause more status requests than that.
_MAX_DELIVERIES = 4

# Tasks whose callbacks are counted.
_MAX_TASKS = 10_000

# The HTTP status of each outcome that is not accepted with 200.
_REJECTIONS = {"malformed": 400, "invalid_token": 404, "wrong_method": 405, "too_large": 413}

_log = logging.getLogger("kling_async")


@frozen
class Counts:
    """The number of requests to an inbox, by outcome.

    Attributes:
        delivered: First callbacks of tasks that run here: each wakes its task.
        relayed: The same, for callbacks that another process received: see
            :mod:`kling_async.webhooks.relay.relay`.
        repeated: Further callbacks of such tasks.
        unknown: Callbacks of tasks that no client of this inbox waits for: their end is known
            already, or another process has submitted them.
        still_running: Callbacks that say that the task still runs.
        malformed: Bodies that describe no task.
        too_large: Bodies above the limit.
        wrong_method: Methods other than POST.
        invalid_token: Paths without a valid token.
    """

    delivered: int = 0
    relayed: int = 0
    repeated: int = 0
    unknown: int = 0
    still_running: int = 0
    malformed: int = 0
    too_large: int = 0
    wrong_method: int = 0
    invalid_token: int = 0


class Inbox:
    """Verifies callbacks and delivers them to the clients that wait for their tasks.

    Pass it to one or more clients (``KlingClient(inbox=inbox)``) and to one of the adapters. It
    does no I/O and need not be closed. It may be used from any thread.

    Args:
        public_url: The URL at which the service reaches the adapter: https, or plain http on
            loopback.
        secret: Signs the tokens: at least 16 characters or bytes, the same in all processes and
            after a restart. If there are several, the first signs and each one verifies: put a
            new secret first, and remove the old one an hour later.
        confirm: Request a task's status before its callback is acted on. If false, anyone who can
            read the URLs (proxies, their logs) can end tasks: use it only in networks in which
            every party is trusted.
        max_body_bytes: The largest body that is read.
        hooks: Functions that receive the event :class:`~kling_async.events.CallbackReceived`.

    Attributes:
        public_url: The URL, without a slash at the end.
        max_body_bytes: The largest body that is read.
        names: A checksum of each secret. Processes that share a secret share its name.

    Raises:
        ConfigurationError: The URL is not a public https URL, or a secret is too short.
    """

    def __init__(
        self,
        public_url: str,
        *,
        secret: str | bytes | Sequence[str | bytes],
        confirm: bool = True,
        max_body_bytes: int = _MAX_BODY_BYTES,
        hooks: Iterable[Hook] = (),
    ) -> None:
        if not isinstance(confirm, bool):
            raise ConfigurationError(f"confirm must be True or False, not {confirm!r:.80}")
        if type(max_body_bytes) is not int or max_body_bytes < 1:
            raise ConfigurationError(f"an inbox needs max_body_bytes >= 1, not {max_body_bytes!r}")
        self.public_url: str = _checked_url(public_url)
        self.max_body_bytes: int = max_body_bytes
        self._secrets = _checked_secrets(secret)
        self.names: tuple[str, ...] = tuple(
            sha256(b"kling_async relay " + key).hexdigest()[:16] for key in self._secrets
        )
        self._confirm = confirm
        self._hooks = checked_hooks(hooks)
        self._listeners: WeakSet[Listener] = WeakSet()
        self._deliveries: OrderedDict[tuple[TaskRef, bool], int] = OrderedDict()
        self._counts: Counter[str] = Counter()
        self._lock = RLock()  # reentrant: an event hook may read the counts during a delivery

    def __repr__(self) -> str:
        return f"<Inbox {self.public_url}>"

    @property
    def counts(self) -> Counts:
        """The number of requests so far, by outcome."""
        with self._lock:
            return Counts(**self._counts)

    def callback_url(self, model: str, nonce: str) -> str:
        """Return the URL for one submit to a model. Clients call this."""
        return f"{self.public_url}/{write_token(model, nonce, self._secrets[0])}"

    def join(self, listener: Listener) -> None:
        """Deliver callbacks to a listener until it is garbage-collected. Clients call this."""
        with self._lock:
            self._listeners.add(listener)

    async def receive(
        self, method: str, path: str, length: int | None, read: Callable[[], Awaitable[bytes]]
    ) -> int:
        """Verify a request, read its body and deliver it; return the HTTP status to respond with.

        The body is not read if :meth:`verify` rejects the request, nor beyond ``max_body_bytes``.
        ``read`` returns its next bytes, and ``b""`` at its end; it raises `ConnectionError` if the
        body is incomplete.
        """
        token = self.verify(method, path, length)
        if isinstance(token, int):
            return token
        body = bytearray()
        limit = self.max_body_bytes + 1  # one byte too many shows that it is too large
        try:
            async with asyncio.timeout(_BODY_TIMEOUT):
                while len(body) < limit and (chunk := await read()):
                    body += chunk[: limit - len(body)]
        except TimeoutError:
            return 408
        except ConnectionError:  # the client will not receive this response
            return 400
        return self.deliver(token, bytes(body))

    def verify(self, method: str, path: str, length: int | None = None) -> tuple[str, str] | int:
        """Verify a request before its body is read.

        Args:
            method: The HTTP method.
            path: The path of the URL, with or without that of ``public_url``.
            length: The announced number of bytes of the body, if any.

        Returns:
            The model and the nonce of the token, for :meth:`deliver`; or the HTTP status to
            respond with, if the request is rejected.
        """
        token = verify_token(path.rpartition("/")[2], self._secrets)
        if token is None:
            return self._record("invalid_token")
        if method != "POST":
            return self._record("wrong_method")
        if length is not None and length > self.max_body_bytes:
            return self._record("too_large")
        return token

    def deliver(self, token: tuple[str, str], body: bytes) -> int:
        """Deliver a verified request to the clients; return the HTTP status to respond with.

        It does not wait for the confirmation, and raises nothing.
        """
        if len(body) > self.max_body_bytes:
            return self._record("too_large")
        model, nonce = token
        try:
            snapshot = parse_callback(body, model)
        except ContractError:
            return self._record("malformed")  # the service sends it again, perhaps complete
        with self._lock:
            outcome = self._dispatch(Callback(snapshot, nonce, not self._confirm))
            outcome = outcome if snapshot.state.ended else "still_running"
            status = self._record(outcome)
        if self._hooks:
            self._emit_received(snapshot, nonce, outcome)
        return status

    def handle(self, method: str, path: str, query: str, body: bytes) -> int:  # noqa: ARG002 - proves nothing
        """Verify and deliver a request whose body has been read; return the HTTP status.

        The query, which some gateways add, is ignored.
        """
        token = self.verify(method, path)
        return token if isinstance(token, int) else self.deliver(token, body)

    def deliver_relayed(self, snapshot: Snapshot, nonce: str) -> None:
        """Deliver a callback that another process received. It raises nothing.

        It is counted only if its task runs in this process.
        """
        callback = Callback(snapshot, nonce, not self._confirm, relayed=True)
        with self._lock:
            outcome = self._dispatch(callback)
            if outcome != "unknown":
                outcome = "relayed" if outcome == "delivered" else outcome
                self._record(outcome if snapshot.state.ended else "still_running")

    def _dispatch(self, callback: Callback) -> str:
        """Pass a callback to all listeners; return "delivered", "repeated" or "unknown"."""
        # Callbacks that say that the task still runs must not use up the deliveries of its end.
        key = callback.snapshot.ref, callback.snapshot.state.ended
        earlier = self._deliveries.get(key, 0)
        if earlier >= _MAX_DELIVERIES:
            return "repeated"
        known = False
        for listener in tuple(self._listeners):  # all of them: several may wait for one task
            known |= listener.handle(callback)
        if known:
            self._deliveries[key] = earlier + 1
            if len(self._deliveries) > _MAX_TASKS:
                self._deliveries.popitem(last=False)
        elif not earlier:
            return "unknown"
        return "repeated" if earlier else "delivered"

    def _emit_received(self, snapshot: Snapshot, nonce: str, outcome: str) -> None:
        event = CallbackReceived(snapshot, outcome, unpack_traceparent(nonce))
        for hook in self._hooks:
            try:
                hook(event)
            except (Exception, CancelledError):  # noqa: BLE001 - a hook is the user's code
                _log.exception("a hook failed on a callback")

    def _record(self, outcome: str) -> int:
        """Count and log an outcome; return its HTTP status."""
        status = _REJECTIONS.get(outcome, 200)
        with self._lock:
            self._counts[outcome] += 1
            count = self._counts[outcome]
        # The first, second, fourth ... at INFO: a flood of requests must not flood the log.
        notable = outcome not in {"delivered", "relayed"} and count & (count - 1) == 0
        # The path holds the token, and is never logged.
        _log.log(
            logging.INFO if notable else logging.DEBUG,
            "callback request answered with %d: %s (%d so far)",
            status,
            outcome,
            count,
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
    secrets = []
    for key in secret if isinstance(secret, Sequence) else ():  # else a variable that is not set
        # Text from the environment need not be valid UTF-8.
        data = key.encode("utf-8", "surrogatepass") if isinstance(key, str) else key
        secrets.append(data if isinstance(data, bytes) else b"")
    if not secrets or min(map(len, secrets)) < _MIN_SECRET:
        raise ConfigurationError(
            f"an inbox needs secrets of at least {_MIN_SECRET} characters, such as"
            ' python -c "import secrets; print(secrets.token_urlsafe())" prints'
        )
    return tuple(secrets)

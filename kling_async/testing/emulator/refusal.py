"""The one way in which the emulator says no: an envelope with an HTTP status."""

from __future__ import annotations


class Refusal(Exception):  # noqa: N818 - a value that is raised, not an error of ours
    """A request that is answered with `status` and `message`; `error` goes into ``data.error``."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        error: str | None = None,
        has_data: bool = True,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.error = error
        self.has_data = has_data
        self.retry_after = retry_after

    def envelope(self) -> dict[str, object]:
        """Give the body of the answer."""
        body: dict[str, object] = {"code": self.status, "message": self.message}
        if self.has_data:
            body["data"] = None if self.error is None else {"error": self.error}
        return body

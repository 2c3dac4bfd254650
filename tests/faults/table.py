"""What a caller sees of each fault: expectations written by hand, and the page made of them.

`test_table.py` checks every row against a run of the client. The tables of
the page are made by

    python -m tests.faults.table
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from attrs import frozen

from tests.faults import service
from tests.faults.service import Fault, busy, page, said

__all__ = ["ATTEMPTS", "CASES", "PAGE", "Case", "Sees", "rendered"]

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "reliability.md"

ATTEMPTS = 6
MANY = "until the deadline"
PATIENT = "until the patience ends"


@frozen
class Sees:
    """What the caller of one operation sees of one fault.

    Attributes:
        once: If only the first request meets it: ``value``, or the error's class.
        lasting: The same, if all of them do.
        requests: How many complete ones have reached the service then.
        charged: ``may_have_charged`` of the error.
        retryable: ``retryable`` of the error.
        item: The state of the batch's item, of a submit.
    """

    once: str
    lasting: str
    requests: int | str
    charged: bool = False
    retryable: bool = False
    item: str = ""


def fine(item: str = "") -> Sees:
    """No harm is done."""
    return Sees("value", "value", 1, item=item)


def again(error: str, requests: int | str = ATTEMPTS) -> Sees:
    """The request is repeated, and costs nothing."""
    return Sees("value", error, requests, retryable=True)


def planned(error: str, requests: int | str = ATTEMPTS) -> Sees:
    """The submit is repeated, since nothing was started; an item waits for the next run."""
    return Sees("value", error, requests, retryable=True, item="planned")


def final(error: str, requests: int = 1, item: str = "") -> Sees:
    """The request is not repeated: it would fail again."""
    return Sees(error, error, requests, item=item)


def failed(error: str) -> Sees:
    """The submit is refused, for free."""
    return final(error, item="failed")


def stops(error: str, requests: int = 1) -> Sees:
    """Every submit would fare the same: items stay planned."""
    return final(error, requests, item="planned")


def unsure(error: str, requests: int = 1) -> Sees:
    """The submit is not repeated: it may have started a task."""
    return Sees(error, error, requests, charged=True, item="unsure")


@frozen
class Case:
    """One fault, and what becomes of each kind of request that meets it."""

    name: str
    fault: Fault
    submit: Sees
    read: Sees  # a status call, or the balance
    file: Sees | None = None  # None: files have no such answer


LOST = unsure("AnswerLostError")
PAGED = unsure("ContractError")
SERVER = unsure("ServerError")
ODD = unsure("BadRequestError")
POLLED_AGAIN = again("AnswerLostError")
FILE_AGAIN = again("DownloadError")
FILE_REFUSED = final("DownloadError")
DEAD = final("ResultExpiredError")


def gateway(status: int, file: Sees = FILE_REFUSED) -> Case:
    """A page that says that the request was not forwarded."""
    fault = page(status)
    name = f"{status}, a page"
    return Case(name, fault, planned("ContractError"), again("ContractError"), file)


def given_up(status: int, submit: Sees, read: str) -> Case:
    """A page of a gateway that has forwarded the request, or may have."""
    return Case(f"{status}, a page", page(status, works=True), submit, again(read), FILE_AGAIN)


def refused(status: int, error: str, submit: Callable[[str], Sees] = failed) -> Case:
    """The service's own refusal, which stays."""
    return Case(f"{status}, the envelope", said(status), submit(error), final(error))


def unclear(status: int, submit: Sees, read: str) -> Case:
    """The service's own words, which prove nothing about a submit."""
    return Case(f"{status}, the envelope", said(status, works=True), submit, again(read))


BUSY = planned("RateLimitError", PATIENT)
BUSY_READ = again("RateLimitError", MANY)

CONNECTING = (
    Case(
        "connection refused",
        Fault(closed=True),
        planned("ConnectError", 0),
        again("ConnectError", 0),
        again("DownloadError", 0),
    ),
    Case(
        "name resolution fails",
        Fault(name="fails"),
        planned("ConnectError", 0),
        again("ConnectError", 0),
        again("DownloadError", 0),
    ),
    Case(
        "name resolution hangs",
        Fault(name="hangs"),
        planned("ConnectError", 0),
        again("AnswerLostError", 0),
        again("DownloadError", 0),
    ),
    Case(
        "TLS: unknown certificate",
        Fault(tls="strange", passes=False),
        stops("ConnectError", 0),
        final("ConnectError", 0),
        final("DownloadError", 0),
    ),
    Case(
        "TLS: the port speaks plain HTTP",
        Fault(tls="none", passes=False),
        stops("ConnectError", 0),
        final("ConnectError", 0),
        final("DownloadError", 0),
    ),
)

BREAKING = (
    Case(
        "reset before the request is read",
        Fault(greets=False),
        unsure("AnswerLostError", 0),
        again("AnswerLostError", 0),
        again("DownloadError", 0),
    ),
    Case(
        "reset before the answer",
        Fault(service.drop),
        LOST,
        POLLED_AGAIN,
        again("DownloadError", 2 * ATTEMPTS),  # aiohttp itself sends a GET a second time
    ),
    Case("reset inside the answer", Fault(service.cut), LOST, POLLED_AGAIN, FILE_AGAIN),
    Case("no answer", Fault(service.hang), LOST, POLLED_AGAIN, again("DownloadError", 3)),
    Case(
        "one byte every 10 s",
        Fault(service.drip),
        LOST,
        POLLED_AGAIN,
        Sees("DownloadError", "DownloadError", 1, retryable=True),
    ),
)

BUSY_CASES = (
    Case("429, the envelope", said(429), BUSY, BUSY_READ, FILE_AGAIN),
    Case("429, the envelope, Retry-After: 30", busy(30, own=True), BUSY, BUSY_READ, FILE_AGAIN),
    Case(
        "429, the envelope, Retry-After: a date",
        busy(30, own=True, date=True),
        BUSY,
        BUSY_READ,
        FILE_AGAIN,
    ),
    Case("429, a page", page(429), BUSY, BUSY_READ, FILE_AGAIN),
    Case("429, a page, Retry-After: 30", busy(30, own=False), BUSY, BUSY_READ, FILE_AGAIN),
    Case(
        "429, a page, Retry-After: a date",
        busy(30, own=False, date=True),
        BUSY,
        BUSY_READ,
        FILE_AGAIN,
    ),
)

FAILING = (
    *(given_up(status, SERVER, "ServerError") for status in (500, 502, 503, 504, 522)),
    unclear(500, SERVER, "ServerError"),
    Case(
        "503, the envelope",
        said(503),
        planned("ServerError"),
        again("ServerError"),
        FILE_AGAIN,
    ),
    Case(
        "503, the envelope, with a task's id",
        said(503, works=True, data={"taskId": "task_1"}),
        SERVER,
        again("ServerError"),
    ),
)

REFUSING = (
    gateway(403, DEAD),
    gateway(404, DEAD),
    gateway(405),
    given_up(408, PAGED, "ContractError"),
    gateway(409, FILE_AGAIN),
    gateway(413),
    gateway(423, FILE_AGAIN),
    gateway(425, FILE_AGAIN),
    given_up(499, PAGED, "ContractError"),
    refused(400, "BadRequestError"),
    refused(401, "AuthenticationError", stops),
    refused(402, "BalanceError", stops),
    refused(403, "RefusedError"),
    refused(404, "NotFoundError"),
    *(unclear(status, ODD, "BadRequestError") for status in (405, 408, 409)),
    refused(413, "BadRequestError"),
    refused(422, "BadRequestError"),
    *(unclear(status, ODD, "BadRequestError") for status in (425, 499)),
)

CONTRADICTING = (
    Case(
        "200, a maintenance page", page(200, works=True), PAGED, again("ContractError"), FILE_AGAIN
    ),
    Case("200, code 400", said(200, 400), failed("BadRequestError"), final("BadRequestError")),
    Case("200, code 500", said(200, 500, works=True), SERVER, again("ServerError")),
    Case("200, code 503", said(200, 503), planned("ServerError"), again("ServerError")),
    Case("400, code 200", said(400, 200, works=True), ODD, again("BadRequestError")),
    Case("500, code 200", said(500, 200, works=True), SERVER, again("ServerError")),
    Case(
        "302, to a page for logging in",
        Fault(service.redirect, works=False),
        planned("ContractError"),
        again("ContractError"),
        FILE_AGAIN,
    ),
)

READING = (
    Case(
        "half of the answer, said to be all",
        Fault(service.truncated),
        PAGED,
        again("ContractError"),
        fine(),  # half a video whose size nothing names
    ),
    Case(
        "larger than any answer",
        Fault(service.oversized),
        PAGED,
        again("ContractError"),
        FILE_REFUSED,
    ),
    Case("gzip, as was asked for", Fault(service.zipped), fine("finished"), fine(), fine()),
    Case("br, which was not asked for", Fault(service.brotli), LOST, POLLED_AGAIN, FILE_AGAIN),
    Case("100 kB of header fields", Fault(service.large_headers), fine("finished"), fine(), fine()),
)

CASES = (
    *CONNECTING,
    *BREAKING,
    *BUSY_CASES,
    *FAILING,
    *REFUSING,
    *CONTRADICTING,
    *READING,
)

# Of the tables, in their order on the page.
_ONCE = "| fault | once | lasting | requests |"
_SUBMITS = f"{_ONCE} `may_have_charged` | `retryable` | item |\n|---|---|---|---|---|---|---|\n"
_OTHERS = f"{_ONCE} `retryable` |\n|---|---|---|---|---|\n"
_TABLE = re.compile(r"(?:^\|.*\n)+", re.MULTILINE)


def rendered(text: str) -> str:
    """Return the text of the page with its tables made again; all else is written by hand."""
    tables = iter(
        (
            _SUBMITS + "".join(_lines((case.name, case.submit) for case in CASES)),
            _OTHERS + "".join(_lines((case.name, case.read) for case in CASES)),
            _OTHERS + "".join(_lines((case.name, case.file) for case in CASES if case.file)),
        )
    )
    return _TABLE.sub(lambda _: next(tables), text)


def _lines(rows: Iterable[tuple[str, Sees]]) -> Iterator[str]:
    for name, sees in rows:
        ok = sees.lasting == "value"
        fields = [name, _code(sees.once), _code(sees.lasting), str(sees.requests)]
        if sees.item:
            fields += ["–" if ok else _yes(sees.charged)]
        fields += ["–" if ok else _yes(sees.retryable)]
        if sees.item:
            fields += [sees.item]
        yield f"| {' | '.join(fields)} |\n"


def _code(outcome: str) -> str:
    return outcome if outcome == "value" else f"`{outcome}`"


def _yes(value: bool) -> str:  # noqa: FBT001 - one cell
    return "**yes**" if value else "no"


if __name__ == "__main__":
    PAGE.write_text(rendered(PAGE.read_text("utf-8")), "utf-8")

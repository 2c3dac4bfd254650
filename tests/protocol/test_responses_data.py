import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kling_async.protocol.responses import StatusData, structure_status
from tests.protocol.answers import VIDEO

# No property depends on how fast the machine is, or on luck.
FREELY = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(10**400)
    | st.floats()
    | st.text(st.characters())
    | st.sampled_from(['{"resultUrls": ["https://x/y"]}', "[" * 20_000, "{", "null", "1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
FIELDS = st.sampled_from(
    [
        "state",
        "taskId",
        "resultJson",
        "costTime",
        "createTime",
        "completeTime",
        "failCode",
        "failMsg",
    ]
)


def parse_data(data: dict[str, object]) -> StatusData:
    """Return the data of a status answer."""
    return structure_status(data, StatusData)


def test_a_full_status() -> None:
    """Every field of the contract is converted, times to seconds."""
    assert parse_data(
        {
            "taskId": "task_1",
            "state": "success",
            "resultJson": json.dumps({"resultUrls": [VIDEO, VIDEO]}),
            "costTime": 65_432,
            "createTime": 1_700_000_000_123,
            "completeTime": 1_700_000_065_555,
            "failCode": "C",
            "failMsg": "m",
            "model": "not in the contract",
        }
    ) == StatusData(
        state="success",
        task_id="task_1",
        result_urls=(VIDEO, VIDEO),
        cost_time=65.432,
        created=1_700_000_000.123,
        completed=1_700_000_065.555,
        fail_code="C",
        fail_message="m",
    )


@pytest.mark.parametrize(
    "data",
    [
        {},
        dict.fromkeys(
            ("state", "taskId", "resultJson", "costTime", "createTime", "completeTime"), None
        ),
        {"failCode": None, "failMsg": None},
    ],
)
def test_missing_and_null_are_the_same(data: dict[str, object]) -> None:
    """A field that is missing or null is empty."""
    assert parse_data(data) == StatusData()


def test_numbers_for_text() -> None:
    """A whole number is converted to text."""
    read = parse_data({"taskId": 12, "failCode": 1001, "state": 0})
    assert (read.task_id, read.fail_code, read.state) == ("12", "1001", "0")


@pytest.mark.parametrize("name", ["state", "taskId", "failCode", "failMsg"])
@pytest.mark.parametrize("value", [True, 1.5, [], {}, ["success"]])
def test_no_text(name: str, value: object) -> None:
    """A value that cannot be text raises an error with its type."""
    with pytest.raises(ValueError, match=f"^text expected, not {type(value).__name__}$"):
        parse_data({name: value})


@pytest.mark.parametrize(
    "result",
    [
        {"resultUrls": [VIDEO]},
        json.dumps({"resultUrls": [VIDEO]}),
        f'  {{"resultUrls": ["{VIDEO}"], "more": 1}}\n',
    ],
)
def test_result_as_string_or_object(result: object) -> None:
    """`resultJson` is read as a JSON string and as an object."""
    assert parse_data({"resultJson": result}).result_urls == (VIDEO,)


@pytest.mark.parametrize(
    "result",
    [None, "", "  ", "null", "{}", {}, [], "[]", {"resultUrls": None}, {"resultUrls": []}, '""'],
)
def test_empty_results(result: object) -> None:
    """A result without URLs is empty. The state decides whether that is an error."""
    assert parse_data({"resultJson": result}).result_urls == ()


@pytest.mark.parametrize(
    "result",
    [
        "{",
        "https://cdn.example/a.mp4",
        "[1]",
        '"text"',
        [VIDEO],
        5,
        True,
        {"resultUrls": VIDEO},
        {"resultUrls": [5]},
        {"resultUrls": [VIDEO, None]},
        {"resultUrls": {"0": VIDEO}},
        json.dumps({"resultUrls": "x"}),
        "[" * 100_000,
        '{"resultUrls": [' + "9" * 5000 + "]}",
    ],
)
def test_wrong_results(result: object) -> None:
    """A malformed result raises ValueError."""
    with pytest.raises(ValueError, match=r"\w"):
        parse_data({"resultJson": result})


@pytest.mark.parametrize(
    "value",
    [True, "1700000000000", [], {}, float("nan"), float("inf"), 10**30, -(10**30), 10**400],
)
@pytest.mark.parametrize("name", ["costTime", "createTime", "completeTime"])
def test_times_that_make_no_sense(name: str, value: object) -> None:
    """A time that makes no sense is ignored."""
    assert parse_data({name: value}) == StatusData()


@pytest.mark.parametrize("value", [300_000_000_000_000, -100_000_000_000_000])
def test_times_beyond_the_calendar(value: int) -> None:
    """A time before the year 1 or after 9999 is ignored."""
    assert parse_data({"createTime": value}).created is None


def test_fractions_of_milliseconds() -> None:
    """Milliseconds may have fractions."""
    assert parse_data({"costTime": 1.5}).cost_time == 0.0015


@pytest.mark.slow
@FREELY
@given(st.dictionaries(FIELDS | st.text(), JSON))
def test_any_data_is_read_or_refused(data: dict[str, object]) -> None:
    """Any data is converted or raises ValueError."""
    try:
        read = parse_data(data)
    except ValueError:
        return
    assert isinstance(read, StatusData)
    assert all(isinstance(url, str) for url in read.result_urls)
    if read.created is not None:
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=read.created)
        assert moment.utcoffset() == timedelta(0)

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kling_async.inputs.base import Input, parse_input
from kling_async.inputs.kling_2_1 import (
    MasterImageToVideo,
    MasterTextToVideo,
    ProImageToVideo,
    StandardImageToVideo,
)
from kling_async.protocol.converter import ResultData, StatusData, input_to_wire, read_status

# No property depends on how fast the machine is, or on luck.
FREELY = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])

CAT = "https://example.com/cat.jpg"
DOG = "https://example.com/dog.jpg"
VIDEO = "https://cdn.example/a.mp4"

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


@pytest.mark.parametrize(
    ("one", "wire"),
    [
        (
            StandardImageToVideo("x", CAT),
            {
                "mode": "standard-image-to-video",
                "prompt": "x",
                "duration": 5,
                "image_urls": [CAT],
            },
        ),
        (
            ProImageToVideo("x", CAT, duration=10),
            {"mode": "pro-image-to-video", "prompt": "x", "duration": 10, "image_urls": [CAT]},
        ),
        (
            ProImageToVideo("x", CAT, end_image_url=DOG, provider="value"),
            {"mode": "pro-image-to-video", "prompt": "x", "duration": 5, "image_urls": [CAT, DOG]},
        ),
        (
            MasterTextToVideo("x", aspect_ratio="1:1", negative_prompt="y", cfg_scale=0.1 * 3),
            {
                "mode": "master-text-to-video",
                "prompt": "x",
                "duration": 5,
                "aspect_ratio": "1:1",
                "negative_prompt": "y",
                "cfg_scale": 0.3,
            },
        ),
        (
            MasterImageToVideo("x", CAT, cfg_scale=0, negative_prompt=""),
            {
                "mode": "master-image-to-video",
                "prompt": "x",
                "duration": 5,
                "image_urls": [CAT],
                "cfg_scale": 0,
                "negative_prompt": "",
            },
        ),
    ],
)
def test_inputs_on_the_wire(one: Input, wire: dict[str, object]) -> None:
    """An input is spelled as the contract has it, with nothing that is not set."""
    assert input_to_wire(one) == wire


@FREELY
@given(
    st.sampled_from([StandardImageToVideo, ProImageToVideo, MasterImageToVideo]),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    st.sampled_from([5, 10]),
    st.sampled_from([None, 0.1, 0.7, 1]),
)
def test_the_wire_is_read_back(
    cls: type[Input], prompt: str, duration: int, scale: float | None
) -> None:
    """What goes over the wire describes the same input when it is read again."""
    one = cls.from_dict(
        {"prompt": prompt, "image_url": CAT, "duration": duration, "cfg_scale": scale}
    )
    assert parse_input(json.loads(json.dumps(input_to_wire(one)))) == one


def test_a_full_status() -> None:
    """Every field of the contract is read under our name, times as aware UTC."""
    assert read_status(
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
        result=ResultData((VIDEO, VIDEO)),
        cost_time=65.432,
        created_at=datetime(2023, 11, 14, 22, 13, 20, 123_000, tzinfo=UTC),
        completed_at=datetime(2023, 11, 14, 22, 14, 25, 555_000, tzinfo=UTC),
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
    """A field that is missing or null is empty, and no error."""
    assert read_status(data) == StatusData()


def test_numbers_for_text() -> None:
    """A whole number is taken for the text that it would be."""
    read = read_status({"taskId": 12, "failCode": 1001, "state": 0})
    assert (read.task_id, read.fail_code, read.state) == ("12", "1001", "0")


@pytest.mark.parametrize("name", ["state", "taskId", "failCode", "failMsg"])
@pytest.mark.parametrize("value", [True, 1.5, [], {}, ["success"]])
def test_no_text(name: str, value: object) -> None:
    """What cannot be text is an error that says what it is."""
    with pytest.raises(ValueError, match=f"^text expected, not {type(value).__name__}$"):
        read_status({name: value})


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
    assert read_status({"resultJson": result}).result.result_urls == (VIDEO,)


@pytest.mark.parametrize(
    "result",
    [None, "", "  ", "null", "{}", {}, [], "[]", {"resultUrls": None}, {"resultUrls": []}, '""'],
)
def test_empty_results(result: object) -> None:
    """A result without URLs is empty here: what that means depends on the state."""
    assert read_status({"resultJson": result}).result == ResultData()


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
    """A result that can mean no list of URLs is a ValueError, whatever is wrong with it."""
    with pytest.raises(ValueError, match=r"\w"):
        read_status({"resultJson": result})


@pytest.mark.parametrize(
    "value",
    [True, "1700000000000", [], {}, float("nan"), float("inf"), 10**30, -(10**30), 10**400],
)
@pytest.mark.parametrize("name", ["costTime", "createTime", "completeTime"])
def test_times_that_make_no_sense(name: str, value: object) -> None:
    """A time that makes no sense is as good as missing: nobody's video depends on it."""
    assert read_status({name: value}) == StatusData()


@pytest.mark.parametrize("value", [300_000_000_000_000, -100_000_000_000_000])
def test_times_beyond_the_calendar(value: int) -> None:
    """A time before the year 1 or after 9999 is as good as missing."""
    assert read_status({"createTime": value}).created_at is None


def test_fractions_of_milliseconds() -> None:
    """Milliseconds may have fractions."""
    assert read_status({"costTime": 1.5}).cost_time == 0.0015


@FREELY
@given(st.dictionaries(FIELDS | st.text(), JSON))
def test_any_data_is_read_or_refused(data: dict[str, object]) -> None:
    """Whatever the data holds, it is read or is a ValueError, never another accident."""
    try:
        read = read_status(data)
    except ValueError:
        return
    assert isinstance(read, StatusData)
    assert all(isinstance(url, str) for url in read.result.result_urls)
    assert read.created_at is None or read.created_at.utcoffset() == timedelta(0)

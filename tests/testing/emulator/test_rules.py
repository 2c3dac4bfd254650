from __future__ import annotations

import json
from typing import Any

import pytest

from kling_async.testing.emulator.checks import Refusal
from kling_async.testing.emulator.rules import read_order

URL = "https://example.com/a.jpg"
TEXT = {"mode": "master-text-to-video", "prompt": "a fox"}
IMAGE = {"mode": "standard-image-to-video", "prompt": "a fox", "image_urls": [URL]}


def raw(body: object) -> bytes:
    """Give the bytes of a body."""
    return json.dumps(body).encode()


def error(body: bytes) -> str:
    """Read a wrong body and give what is said of it."""
    with pytest.raises(Refusal) as caught:
        read_order(body)
    refusal = caught.value
    assert refusal.status == 400
    assert refusal.envelope() == {
        "code": 400,
        "message": "Invalid request",
        "data": {"error": refusal.error},
    }
    return str(refusal.error)


@pytest.mark.parametrize(
    ("mode", "counts"),
    [
        ("standard-image-to-video", {1}),
        ("pro-image-to-video", {1, 2}),
        ("master-image-to-video", {1}),
    ],
)
def test_number_of_images(mode: str, counts: set[int]) -> None:
    """Each image mode takes just as many images as the contract says."""
    for count in range(4):
        body = raw({"input": {**IMAGE, "mode": mode, "image_urls": [URL] * count}})
        if count in counts:
            assert read_order(body).image_urls == (URL,) * count
        else:
            assert f"got {count}" in error(body)


def test_defaults() -> None:
    """The API's own defaults are standard-image-to-video, async and 5 seconds."""
    order = read_order(raw({"input": {"prompt": "x", "image_urls": [URL]}}))
    assert order.mode == "standard-image-to-video"
    assert order.duration == 5
    assert order.aspect_ratio is None
    assert order.callback_url is None
    assert read_order(raw({"input": TEXT})).aspect_ratio == "16:9"


def test_everything_that_may_be_said() -> None:
    """A body with every documented field is taken."""
    fields = {
        **TEXT,
        "duration": 10,
        "aspect_ratio": "9:16",
        "negative_prompt": "",
        "cfg_scale": 0.7,
    }
    body = {
        "request_type": "callback",
        "callback_url": "https://example.com/x",
        "provider": "value",
        "input": fields,
    }
    order = read_order(raw(body))
    assert (order.duration, order.aspect_ratio) == (10, "9:16")
    assert order.callback_url == "https://example.com/x"
    assert order.input == fields


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe\xff", "not valid JSON"),
        (b"[" * 200_000, "not valid JSON"),
        (b'{"input": {"cfg_scale": NaN}}', "NaN"),
        (b'{"input": {"cfg_scale": ' + b"1" * 6000 + b"}}", "not valid JSON"),
        (b"[]", "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b"{}", "Missing required field: input"),
        (b'{"input": []}', "Invalid value for input"),
    ],
)
def test_bodies_that_are_no_submit(body: bytes, message: str) -> None:
    """A body that is not a JSON object with an input is refused, and it is said why."""
    assert message in error(body)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mode": "master-text-to-video"}, "Missing required field: input.prompt"),
        ({**TEXT, "prompt": ""}, "input.prompt: 0 characters"),
        ({**TEXT, "prompt": "é" * 5001}, "input.prompt: 5001 characters"),
        ({**TEXT, "prompt": None}, "input.prompt"),
        ({**TEXT, "prompt": ["x"]}, "input.prompt"),
        ({**TEXT, "mode": "slow-motion"}, "input.mode"),
        ({**TEXT, "mode": 1}, "input.mode"),
        ({**TEXT, "mode": ["x"]}, "input.mode"),
        ({**TEXT, "duration": 7}, "input.duration"),
        ({**TEXT, "duration": True}, "input.duration"),
        ({**TEXT, "duration": "5"}, "input.duration"),
        ({**TEXT, "duration": 5.0}, "input.duration"),
        ({**TEXT, "duration": None}, "input.duration"),
        ({**TEXT, "aspect_ratio": "4:3"}, "input.aspect_ratio"),
        ({**IMAGE, "aspect_ratio": "16:9"}, "input.aspect_ratio does not apply"),
        ({**TEXT, "negative_prompt": "x" * 501}, "input.negative_prompt"),
        ({**TEXT, "negative_prompt": None}, "input.negative_prompt"),
        ({**TEXT, "image_urls": [URL]}, "input.image_urls does not apply"),
        ({**TEXT, "image_urls": []}, "input.image_urls does not apply"),
        ({"prompt": "x"}, "Missing required field: input.image_urls"),
        ({**IMAGE, "image_urls": URL}, "input.image_urls"),
        ({**IMAGE, "image_urls": [1]}, "input.image_urls"),
        ({**IMAGE, "image_urls": [""]}, "input.image_urls"),
        ({**TEXT, "sound": True}, "Unknown field: input.sound"),
    ],
)
def test_inputs_that_break_a_rule(fields: dict[str, Any], message: str) -> None:
    """Each rule of the contract is kept, and the message names the field."""
    assert message in error(raw({"input": fields}))


def test_the_documented_example() -> None:
    """A missing prompt is answered in the very words of the contract."""
    fields = {"mode": "master-text-to-video"}
    assert error(raw({"input": fields})) == "Missing required field: input.prompt"


def test_lengths_count_characters() -> None:
    """5,000 characters are allowed however many bytes they take."""
    assert len(read_order(raw({"input": {**TEXT, "prompt": "狐" * 5000}})).prompt) == 5000


@pytest.mark.parametrize("value", [0, 1, 0.0, 0.3, 0.7, 0.1 + 0.2, 1.0, 0.1 * 7])
def test_cfg_steps(value: float) -> None:
    """Steps of 0.1 are taken as Python writes them."""
    assert read_order(raw({"input": {**TEXT, "cfg_scale": value}})).input["cfg_scale"] == value


@pytest.mark.parametrize(
    "value", ["0.55", "0.3001", "-0.1", "1.1", "1e999", "true", '"0.5"', "null", "1" + "0" * 400]
)
def test_cfg_off_the_steps(value: str) -> None:
    """Anything but 0 to 1 in steps of 0.1 is refused."""
    body = raw({"input": {**TEXT, "cfg_scale": "VALUE"}}).replace(b'"VALUE"', value.encode())
    assert "input.cfg_scale" in error(body)


def test_a_long_value_is_shown_short() -> None:
    """A message does not repeat a whole novel."""
    assert len(error(raw({"input": {**TEXT, "mode": "x" * 9000}}))) < 300


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"provider": "cheapest"}, "provider"),
        ({"request_type": "sync"}, "request_type"),
        ({"priority": 1}, "Unknown field: priority"),
        ({"request_type": "callback"}, "Missing required field: callback_url"),
        ({"request_type": "callback", "callback_url": 5}, "callback_url"),
        ({"request_type": "callback", "callback_url": "http://example.com/x"}, "callback_url"),
        ({"request_type": "callback", "callback_url": "http://10.0.0.1/x"}, "callback_url"),
        ({"request_type": "callback", "callback_url": "ftp://localhost/x"}, "callback_url"),
        ({"request_type": "callback", "callback_url": "https://"}, "callback_url"),
        ({"request_type": "callback", "callback_url": "https://[::1/x"}, "callback_url"),
    ],
)
def test_fields_around_the_input(extra: dict[str, Any], message: str) -> None:
    """The fields around the input have rules, too."""
    assert message in error(raw({"input": TEXT, **extra}))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "a.localhost"])
def test_callbacks_without_tls_only_on_this_machine(host: str) -> None:
    """Plain http is good for a callback URL on loopback."""
    url = f"http://{host}:8000/x"
    body = {"input": TEXT, "request_type": "callback", "callback_url": url}
    assert read_order(raw(body)).callback_url == url


def test_a_callback_url_of_a_polled_task_is_ignored() -> None:
    """With request_type async nothing is called back."""
    assert read_order(raw({"input": TEXT, "callback_url": "https://a.b/c"})).callback_url is None

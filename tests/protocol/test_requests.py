import json
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kling_async._utils.urls import is_loopback
from kling_async.errors import ConfigurationError, InputError
from kling_async.inputs.base import Input
from kling_async.inputs.fields import Provider
from kling_async.inputs.kling_2_1 import (
    MasterImageToVideo,
    MasterTextToVideo,
    ProImageToVideo,
    StandardImageToVideo,
)
from kling_async.inputs.kling_3_0_std import Kling30StdMotionControl
from kling_async.inputs.parsing import parse_input
from kling_async.inputs.raw import RawInput
from kling_async.protocol import requests
from kling_async.protocol.requests import Request, normalize_base_url
from kling_async.results import TaskRef
from tests.inputs.strategies import CAT, DOG, FREELY, INPUTS

INPUT = MasterTextToVideo("a fox")


def body(request: Request) -> dict[str, object]:
    """Read the body of a submit."""
    assert request.body is not None
    read: dict[str, object] = json.loads(request.body)
    return read


def test_submit() -> None:
    """A submit posts the input to its model's address, to be polled for."""
    request = requests.build_submit(INPUT)
    assert (request.kind, request.method, request.path, request.ref) == (
        "submit",
        "POST",
        "/generateTask/kling-2-1",
        None,
    )
    assert body(request) == {
        "request_type": "async",
        "input": {
            "mode": "master-text-to-video",
            "prompt": "a fox",
            "duration": 5,
            "aspect_ratio": "16:9",
        },
    }


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
        (
            Kling30StdMotionControl(image_url=CAT, video_url=DOG, sound=False),
            {"mode": "motion-control", "image_urls": [CAT], "video_urls": [DOG], "sound": False},
        ),
    ],
)
def test_inputs_on_the_wire(one: Input, wire: dict[str, object]) -> None:
    """An input has the contract's names, without fields that are None."""
    assert body(requests.build_submit(one))["input"] == wire


@FREELY
@given(INPUTS)
def test_the_wire_is_read_back(one: Input) -> None:
    """The input of a submit describes the same input when it is parsed again."""
    sent = body(requests.build_submit(one))
    fields = sent["input"]
    assert isinstance(fields, dict)
    assert not {"model", "provider", "image_url", "end_image_url", "video_url"} & set(fields)
    provider = {"provider": sent["provider"]} if "provider" in sent else {}
    assert parse_input({"model": one.model, **fields, **provider}) == one


def test_raw_inputs_on_the_wire() -> None:
    """The fields of a raw input are sent as they are, and the provider beside them."""
    fields = {"mode": "omni", "image_url": CAT, "provider": "x", "deep": [{"a": None}, 1.0]}
    request = requests.build_submit(RawInput("kling-9", fields, provider="lab"))
    assert request.path == "/generateTask/kling-9"
    assert body(request) == {"request_type": "async", "provider": "lab", "input": fields}
    assert body(requests.build_submit(RawInput("a", {}))) == {"request_type": "async", "input": {}}


@pytest.mark.parametrize("provider", ["auto", "value", "official"])
def test_provider_stands_beside_the_input(provider: Provider) -> None:
    """A provider that is set goes beside the input; one that is not is left out."""
    sent = body(requests.build_submit(MasterTextToVideo("a fox", provider=provider)))
    assert sent["provider"] == provider
    assert sent["input"] == body(requests.build_submit(INPUT))["input"]
    assert "provider" not in body(requests.build_submit(INPUT))


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/kling?token=abc",
        "https://example.com:8443/",
        "http://127.0.0.1:8000/kling",
        "http://localhost/kling",
        "http://[::1]:8000/kling",
    ],
)
def test_callback(url: str) -> None:
    """With a callback URL, public HTTPS or on this machine, the request type is callback."""
    sent = body(requests.build_submit(INPUT, url))
    assert (sent["request_type"], sent["callback_url"]) == ("callback", url)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/kling",
        "http://localhost.example.com/",
        "http://127.0.0.1.example.com/",
        "ftp://example.com/",
        "file:///kling",
        "example.com/kling",
        "//example.com/kling",
        "/kling",
        "https://",
        "https:///kling",
        "https://example.com:0/",
        "https://example.com:99999/",
        "https://[::1/",
        "https://exam ple.com/",
        "https://example.com/\n",
        "",
        ["https://example.com/"],
        5,
        b"https://example.com/",
    ],
)
def test_wrong_callbacks(url: object) -> None:
    """Any other callback URL is an InputError that shows it, before anything is sent."""
    with pytest.raises(InputError) as caught:
        requests.build_submit(INPUT, url)  # type: ignore[arg-type] # on purpose
    (problem,) = caught.value.problems
    assert problem.field == "callback_url"
    assert problem.rule == "must be an absolute https URL (plain http on loopback only)"
    assert problem.seen == repr(url)


def test_long_callbacks_are_cut_in_messages() -> None:
    """Of a wrong callback URL, 80 characters are shown."""
    with pytest.raises(InputError) as caught:
        requests.build_submit(INPUT, "x" * 1000)
    assert len(caught.value.problems[0].seen) == 80


@FREELY
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_prompt_is_sent_whole(prompt: str) -> None:
    """Whatever a prompt says arrives as it was written, in plain ASCII on the wire."""
    request = requests.build_submit(StandardImageToVideo(prompt, "https://example.com/cat.jpg"))
    assert request.body is not None
    assert request.body.isascii()
    sent = body(request)["input"]
    assert isinstance(sent, dict)
    assert sent["prompt"] == prompt


def test_prompts_stay_out_of_logs() -> None:
    """How a request shows itself does not quote what is in it."""
    assert "a fox" not in repr(requests.build_submit(INPUT))


def test_status() -> None:
    """A status call asks the task's own model for its id."""
    ref = TaskRef("kling-2-1", "task_12345678")
    request = requests.build_status(ref)
    assert (request.kind, request.method, request.path, request.body, request.ref) == (
        "status",
        "GET",
        "/statusTask/kling-2-1?taskId=task_12345678",
        None,
        ref,
    )


@FREELY
@given(
    st.text(
        st.characters(exclude_categories=["Cc", "Cs", "Z"]) | st.sampled_from("&?#/%+=.;"),
        min_size=1,
        max_size=50,
    )
)
def test_any_id_is_asked_for_as_it_is(task_id: str) -> None:
    """An opaque id can neither change the address nor add to the query."""
    path = requests.build_status(TaskRef("kling-2-1", task_id)).path
    assert path.isascii()
    parts = urlsplit(path)
    assert (parts.path, parts.fragment) == ("/statusTask/kling-2-1", "")
    assert "/" not in parts.query
    assert parse_qs(parts.query, strict_parsing=True) == {"taskId": [task_id]}


def test_balance() -> None:
    """The balance is a plain read."""
    request = requests.build_balance()
    assert (request.kind, request.method, request.path, request.body, request.ref) == (
        "balance",
        "GET",
        "/apikeys/current-balance",
        None,
        None,
    )


@pytest.mark.parametrize(
    "url",
    [
        "https://api.apixo.ai/api/v1",
        "https://api.apixo.ai/api/v1/",
        "https://api.apixo.ai",
        "https://api.apixo.ai/",
        "https://api.apixo.ai//",
        "  https://api.apixo.ai/api/v1\n",
        requests.DEFAULT_BASE_URL,
    ],
)
def test_base_urls(url: str) -> None:
    """A base URL may be given with or without `/api/v1` and slashes."""
    assert normalize_base_url(url) == "https://api.apixo.ai/api/v1"


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("https://example.com:8443/proxy", "https://example.com:8443/proxy/api/v1"),
        ("https://example.com/proxy/api/v1/", "https://example.com/proxy/api/v1"),
        ("HTTPS://EXAMPLE.COM", "HTTPS://EXAMPLE.COM/api/v1"),
        ("http://localhost:8000", "http://localhost:8000/api/v1"),
        ("http://LOCALHOST", "http://LOCALHOST/api/v1"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/api/v1"),
        ("http://127.8.9.10", "http://127.8.9.10/api/v1"),
        ("http://[::1]:8000", "http://[::1]:8000/api/v1"),
    ],
)
def test_other_base_urls(url: str, normal: str) -> None:
    """Proxies, ports and this machine itself may be the base."""
    assert normalize_base_url(url) == normal
    assert normalize_base_url(normal) == normal


@pytest.mark.parametrize(
    "url",
    [
        "",
        "api.apixo.ai",
        "//api.apixo.ai",
        "/api/v1",
        "ftp://api.apixo.ai",
        "file:///api/v1",
        "https://",
        "https:///api/v1",
        "https://api.apixo.ai?x=1",
        "https://api.apixo.ai/?",
        "https://api.apixo.ai/#",
        "https://api.apixo.ai/#x",
        "https://api.apixo.ai:port",
        "https://api.apixo.ai:0",
        "https://[::1",
        "https://api.apixo.ai/a b",
        "https://api.ap\nixo.ai",
        "http://local\thost",
        "https://api.apixo.ai/\x00x",
    ],
)
def test_wrong_base_urls(url: str) -> None:
    """What is no absolute http(s) URL, without query or fragment, is a ConfigurationError."""
    with pytest.raises(ConfigurationError) as caught:
        normalize_base_url(url)
    assert str(caught.value) == (
        "the base URL must be an absolute http(s) URL such as https://api.apixo.ai/api/v1,"
        f" not {url!r}"
    )


@pytest.mark.parametrize(
    "url", ["https://me:word@api.apixo.ai", "https://me@api.apixo.ai", "http://localhost@evil.com"]
)
def test_no_password_in_the_base_url(url: str) -> None:
    """A user name or password in the base URL is refused, and not repeated."""
    with pytest.raises(
        ConfigurationError, match="must not contain a user name or password"
    ) as caught:
        normalize_base_url(url)
    assert "word@" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://api.apixo.ai",
        "http://10.0.0.1",
        "http://0.0.0.0",
        "http://128.0.0.1",
        "http://127.0.0.1.example.com",
        "http://127.example.com",
        "http://localhost.example.com",
        "http://[::2]",
        "HTTP://api.apixo.ai",
    ],
)
def test_the_key_is_not_sent_in_the_clear(url: str) -> None:
    """Plain http to anywhere but this machine is refused."""
    with pytest.raises(ConfigurationError, match="would send the API key unencrypted: use https"):
        normalize_base_url(url)


@FREELY
@given(st.text(st.sampled_from("htps:/[]@.%?#0x\\ \n")).map("http".__add__) | st.text())
def test_any_base_url_is_normal_or_refused(url: str) -> None:
    """Whatever the text, it is a base that paths can follow or a ConfigurationError."""
    try:
        base = normalize_base_url(url)
    except ConfigurationError:
        return
    parts = urlsplit(base + "/x?y=1")
    assert parts.path.endswith("/api/v1/x")
    assert (parts.query, parts.fragment, parts.username) == ("y=1", "", None)
    assert parts.scheme == "https" or is_loopback(parts.hostname or "")


@pytest.mark.parametrize(
    "url", ["http://emulator:8080", "http://10.0.0.5/api/v1", "http://127.0.0.1"]
)
def test_plain_http_can_be_allowed(url: str) -> None:
    """In a test network, plain http to other machines can be allowed; other rules hold."""
    assert normalize_base_url(url, allow_http=True).startswith("http://")
    with pytest.raises(ConfigurationError):
        normalize_base_url("ftp://emulator", allow_http=True)


def test_a_base_url_of_another_type() -> None:
    """A base URL that is not text raises ConfigurationError."""
    with pytest.raises(ConfigurationError, match="must be a text such as https://api"):
        normalize_base_url(5)  # type: ignore[arg-type] # on purpose


def test_refusal_of_plain_http_names_the_switch() -> None:
    """Who needs plain http is given the switch."""
    with pytest.raises(ConfigurationError, match=r"APIXO_ALLOW_HTTP=1 or KlingClient\(allow_http"):
        normalize_base_url("http://emulator:8080")

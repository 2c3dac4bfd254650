from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kling_async.cli.arguments import input_from, parse
from kling_async.cli.options import COMMANDS
from kling_async.errors import InputError
from kling_async.inputs.kling_2_1 import (
    MasterImageToVideo,
    MasterTextToVideo,
    ProImageToVideo,
    StandardImageToVideo,
)
from kling_async.inputs.kling_2_6 import Kling26ImageToVideo
from kling_async.inputs.kling_3_0_std import Kling30StdMotionControl
from kling_async.inputs.kling_3_0_turbo import Kling30TurboTextToVideo
from kling_async.inputs.raw import RawInput

if TYPE_CHECKING:
    from kling_async.inputs.base import Input

IMAGE = "https://example.com/fox.jpg"
END = "https://example.com/den.jpg"
DANCE = "https://example.com/dance.mp4"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], MasterTextToVideo("a fox")),
        (["--image", IMAGE], StandardImageToVideo("a fox", IMAGE)),
        (
            ["--image", IMAGE, "--end-image", END],
            ProImageToVideo("a fox", IMAGE, end_image_url=END),
        ),
        (["--mode", "pro", "--image", IMAGE], ProImageToVideo("a fox", IMAGE)),
        (["--mode", "master-image", "--image", IMAGE], MasterImageToVideo("a fox", IMAGE)),
        (["--mode", "master-image-to-video", "--image", IMAGE], MasterImageToVideo("a fox", IMAGE)),
        (["--mode", "master-text"], MasterTextToVideo("a fox")),
        (["--mode", "standard", "--image", IMAGE], StandardImageToVideo("a fox", IMAGE)),
        (
            ["--aspect-ratio", "9:16", "--duration", "10", "--negative-prompt", "rain"],
            MasterTextToVideo("a fox", aspect_ratio="9:16", duration=10, negative_prompt="rain"),
        ),
        (
            ["--cfg-scale", "0.3", "--provider", "official"],
            MasterTextToVideo("a fox", cfg_scale=0.3, provider="official"),
        ),
        (
            ["--model", "kling-2-6", "--no-sound", "--image", IMAGE],
            Kling26ImageToVideo("a fox", IMAGE, sound=False),
        ),
        (
            ["--model", "kling-3-0-std", "--image", IMAGE, "--video", DANCE, "--sound"],
            Kling30StdMotionControl(prompt="a fox", image_url=IMAGE, video_url=DANCE, sound=True),
        ),
        (
            ["--model", "kling-3-0-turbo", "--duration", "3", "--resolution", "720p"],
            Kling30TurboTextToVideo("a fox", duration=3, resolution="720p"),
        ),
        (
            ["--model=kling-9", "--fields", '{"seed": [7]}', "--image", IMAGE, "--provider=lab"],
            RawInput(
                "kling-9",
                {"prompt": "a fox", "image_urls": [IMAGE], "seed": [7]},
                provider="lab",
            ),
        ),
        (
            ["--fields", "{}", "--mode", "text", "--video", DANCE, "--sound"],
            RawInput(
                "kling-2-1",
                {"prompt": "a fox", "mode": "text-to-video", "video_urls": [DANCE], "sound": True},
            ),
        ),
    ],
)
def test_options_become_an_input(options: list[str], expected: Input) -> None:
    """The mode is the one that is named, else the one that the images ask for."""
    assert input_from(parse(["generate", "a fox", *options])) == expected


def test_motion_control_needs_no_prompt() -> None:
    """A prompt may be left out where the mode does not need one."""
    argv = ["generate", "--model", "kling-3-0-std", "--image", IMAGE, "--video", DANCE]
    assert input_from(parse(argv)) == Kling30StdMotionControl(image_url=IMAGE, video_url=DANCE)
    with pytest.raises(InputError, match="prompt: is required"):
        input_from(parse(["generate"]))


def test_a_field_given_twice() -> None:
    """An option and a field of the same name contradict each other."""
    argv = ["generate", "a fox", "--model", "kling-9", "--fields", '{"prompt": "a hare"}']
    with pytest.raises(InputError, match="prompt in fields: given twice"):
        input_from(parse(argv))


def test_files_of_raw_inputs() -> None:
    """The images of a raw input are URLs: nothing would upload a file."""
    with pytest.raises(InputError, match="an image must be a URL, not a file"):
        input_from(parse(["generate", "a fox", "--fields", "{}", "--image", "cat.jpg"]))


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (["--duration", "7"], "duration"),
        (["--cfg-scale", "nan"], "cfg_scale"),
        (["--cfg-scale", "0.55"], "cfg_scale"),
        (["--aspect-ratio", "4:3"], "aspect_ratio"),
        (["--image", IMAGE, "--aspect-ratio", "1:1"], "aspect_ratio"),
        (["--image", "ftp://fox.jpg"], "image_url"),
        (["--mode", "standard"], "image_url"),
        (["--mode", "cheap"], "mode"),
        (["--model", "kling-9"], "model"),
        (["--model", "kling-2-6"], "sound"),
        (["--sound"], "sound"),
        (["--model", "kling-3-0-turbo", "--duration", "16"], "duration"),
        (["--model", "kling-9", "--fields", '{"seed": 1e999}'], "fields.seed"),
    ],
)
def test_options_that_make_no_input(options: list[str], field: str) -> None:
    """An option that breaks a rule is named."""
    with pytest.raises(InputError) as caught:
        input_from(parse(["submit", "a fox", *options]))
    assert [problem.field for problem in caught.value.problems] == [field]


@pytest.mark.parametrize(
    "argv",
    [
        ["generate", "a fox", "--timeout", "0"],
        ["generate", "a fox", "--timeout", "nan"],
        ["generate", "a fox", "--timeout", "inf"],
        ["generate", "a fox", "--timeout", "soon"],
        ["generate", "a fox", "--fields", "{"],
        ["generate", "a fox", "--fields", "[]"],
        ["generate", "a fox", "--api-key", "a-key"],
        ["batch", "x", "--resubmit-failed", "-1"],
        ["batch", "x", "--limit", "0"],
        ["report", "x", "--format", "pdf"],
        ["emulate", "--port", "65536"],
        ["emulate", "--port", "-1"],
        ["listen", "--answer", "199"],
        ["listen", "--answer", "600"],
        ["listen", "--count", "0"],
        ["listen", "--port", "65536"],
        ["emulate", "--requests-per-minute", "0"],
        ["emulate", "--concurrent-tasks", "many"],
        ["wait"],
        [],
    ],
)
def test_wrong_usage(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong usage ends with code 2 and words on stderr, before anything is done."""
    with pytest.raises(SystemExit) as caught:
        parse(argv)
    assert caught.value.code == 2
    assert "error:" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["generate", "submit", "wait", "status", "download", "balance"])
def test_help_of_a_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The help of a command that speaks to the service names its environment and exit codes."""
    with pytest.raises(SystemExit) as caught:
        parse([command, "--help"])
    assert caught.value.code == 0
    said = capsys.readouterr().out
    assert "APIXO_API_KEY" in said
    assert "130" in said


@pytest.mark.parametrize("command", ["emulate", "demo"])
def test_help_of_faults(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The help of a command that runs an emulator lists what can go wrong in it."""
    with pytest.raises(SystemExit):
        parse([command, "--help"])
    said = capsys.readouterr().out
    assert "lost-answer" in said
    assert "processing_r2" in said
    assert "overtaken" in said
    assert "{{" not in said


def test_home_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tilde in a path is the home folder, where there is such a user; a URL is left alone."""
    monkeypatch.setenv("HOME", "/home/fox")
    args = parse(["batch", "~/a.csv", "--journal=~/j", "--download-to=~/videos"])
    expected = [Path("/home/fox") / name for name in ("a.csv", "j", "videos")]
    assert [args.file, args.journal, args.download_to] == expected
    assert parse(["batch", "~no-such-user/x"]).file == Path("~no-such-user/x")
    assert parse(["report", "postgresql://h/~d"]).journal == "postgresql://h/~d"


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        (["batc", "x"], "unknown command 'batc'; did you mean batch?"),
        (["a fox"], "unknown command 'a fox'"),
        (["batch", "--limt", "3", "x"], "unknown option --limt; did you mean --limit?"),
        (["batch", "x", "--no-resum3"], "unknown option --no-resum3; did you mean --no-resume?"),
        (["worker", "--jornal=x"], "unknown option --jornal; did you mean --journal?"),
        (["balance", "--xyz"], "unknown option --xyz"),
    ],
)
def test_suggestions(argv: list[str], error: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What is mistyped is reported in two lines, with what may have been meant."""
    with pytest.raises(SystemExit) as caught:
        parse(argv)
    program = f"kling-async {argv[0]}" if argv[0] in COMMANDS else "kling-async"
    said = capsys.readouterr().err
    assert (caught.value.code, said) == (2, f"{program}: error: {error}\nMore: {program} --help\n")


def test_words_that_are_no_options() -> None:
    """Unambiguous starts of options are accepted, and prompts may begin with dashes."""
    args = parse(["submit", "--cfg", "0.5", "--prov=auto", "--base-url", "http://h", "--", "--fox"])
    assert (args.cfg_scale, args.provider, args.prompt) == (0.5, "auto", "--fox")
    assert parse(["submit", "--a fox --in the snow"]).prompt == "--a fox --in the snow"
    assert parse(["batch", "x", "--no-res"]).resume is False

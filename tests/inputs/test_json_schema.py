import subprocess
import sys

from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from kling_async.inputs.json_schema import class_schema, model_schema
from kling_async.inputs.kling_2_6 import Kling26TextToVideo
from kling_async.inputs.registry import DEFAULT_MODES
from tests.inputs.strategies import EXAMPLES


def test_schema_of_a_class() -> None:
    """A schema has the rules, the defaults and the words of the class; `sound` is required."""
    schema = class_schema(Kling26TextToVideo)
    assert schema["required"] == ["sound", "prompt"]
    assert schema["properties"]["negative_prompt"] == {
        "anyOf": [{"type": ["string", "number", "boolean"], "x-unknown": "rule"}, {"type": "null"}],
        "default": None,
        "description": "What to avoid. Its rule is unknown: any value is sent unchecked.",
    }
    written = class_schema(Kling26TextToVideo, written=True)
    assert written["properties"]["negative_prompt"].keys() == {"type", "x-unknown", "description"}
    assert written["required"] == ["model", "mode", "sound", "prompt", "duration", "aspect_ratio"]


def test_schema_of_a_model() -> None:
    """Of a model's schema exactly one part accepts an input, and none that of another model."""
    for model in DEFAULT_MODES:
        validator = Draft202012Validator(model_schema(model))
        for one in EXAMPLES:
            plain = one.to_dict()
            if plain.get("cfg_scale") == 0.3:  # no multiple of 0.1 as a binary fraction
                plain["cfg_scale"] = 0.5
            assert validator.is_valid(plain) == (one.model == model)
    assert Draft202012Validator(model_schema("kling-2-1")).is_valid(
        {"prompt": "x", "image_url": "https://example.com/cat.jpg"}
    )
    choices = model_schema("kling-3-0-turbo")["oneOf"]
    assert all(choice["required"][:2] == ["model", "mode"] for choice in choices)


def test_pydantic_is_not_needed() -> None:
    """The schema of a class is made without pydantic."""
    code = """if True:
        import sys
        from kling_async.inputs.json_schema import class_schema
        from kling_async.inputs.kling_2_6 import Kling26TextToVideo
        class_schema(Kling26TextToVideo)
        print("pydantic" in sys.modules)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"

import subprocess
import sys

from kling_async.inputs.json_schema import class_schema
from kling_async.inputs.kling_2_6 import Kling26TextToVideo
from tests.inputs.strategies import rules_of


def test_schema_of_a_class() -> None:
    """A schema has the rules, the defaults and the words of the class; `sound` is required."""
    schema = class_schema(Kling26TextToVideo, rules_of(Kling26TextToVideo))
    assert schema["required"] == ["sound", "prompt"]
    assert schema["properties"]["negative_prompt"] == {
        "anyOf": [{"type": ["string", "number", "boolean"], "x-unknown": "rule"}, {"type": "null"}],
        "default": None,
        "description": "What to avoid. Its rule is unknown: any value is sent unchecked.",
    }
    written = class_schema(Kling26TextToVideo, rules_of(Kling26TextToVideo), written=True)
    assert written["properties"]["negative_prompt"].keys() == {"type", "x-unknown", "description"}
    assert written["required"] == ["model", "mode", "sound", "prompt", "duration", "aspect_ratio"]


def test_pydantic_is_not_needed() -> None:
    """The schema of a class is made without pydantic."""
    code = """if True:
        import sys
        from kling_async.inputs.json_schema import class_schema
        from kling_async.inputs.kling_2_6 import Kling26TextToVideo
        class_schema(Kling26TextToVideo, Kling26TextToVideo._rules)
        print("pydantic" in sys.modules)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"

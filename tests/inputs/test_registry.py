import pkgutil
import subprocess
import sys

import pytest

from kling_async import inputs
from kling_async.inputs import registry
from tests.inputs.strategies import CLASSES


def test_every_module_of_a_model_is_known() -> None:
    """Each module `kling_….py` has its model in the table, and the classes of that model."""
    modules = {one.name for one in pkgutil.iter_modules(inputs.__path__) if "kling" in one.name}
    assert modules == {model.replace("-", "_") for model in registry.DEFAULT_MODES}
    for model, default in registry.DEFAULT_MODES.items():
        classes = registry.classes_of(model)
        assert {cls.model for cls in classes.values()} == {model}
        assert default is None or next(iter(classes)) == default


def test_classes_of_all_models() -> None:
    """All classes, in the order of the models, are public."""
    assert registry.all_classes() == [*CLASSES]
    assert {cls.__name__ for cls in CLASSES} <= set(inputs.__all__)


@pytest.mark.parametrize("statement", ["from kling_async import MasterTextToVideo", "pass"])
def test_models_are_loaded_when_needed(statement: str) -> None:
    """A program loads the modules of the models that it uses."""
    code = f"""if True:
        {statement}
        from kling_async import parse_input
        parse_input({{"model": "kling-2-6", "prompt": "x", "sound": True}})
        import sys
        print(*(name for name in sys.modules if ".kling_" in name))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    expected = {"kling_async.inputs.kling_2_6"}
    if statement != "pass":
        expected.add("kling_async.inputs.kling_2_1")
    assert set(done.stdout.split()) == expected

import os
import subprocess
import sys
from importlib import metadata
from types import ModuleType

import pytest

import kling_async
from kling_async import errors, events, results
from tests.patience import HANGS

# What a process may not have loaded that has only imported the package or described a video.
HEAVY = ("aiohttp", "aiolimiter", "asyncio", "cattrs", "multiprocessing", "ssl")


def printed(code: str) -> list[str]:
    """Give the words that some code prints in a new process."""
    command = (sys.executable, "-c", code)
    # Measuring coverage in that process would load modules of its own.
    env = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    done = subprocess.run(
        command, capture_output=True, check=True, env=env, text=True, timeout=HANGS
    )
    return done.stdout.split()


def loaded(statement: str) -> set[str]:
    """Give the modules that a new process has loaded after a statement."""
    return set(printed(f"{statement}\nimport sys\nprint(*sys.modules)"))


@pytest.mark.parametrize(
    "statement",
    [
        "import kling_async",
        "from kling_async import KlingError, TaskRef, parse_input\nparse_input",
        "from kling_async import MasterTextToVideo\nMasterTextToVideo('a fox').to_dict()",
        "import kling_async.events, kling_async.policy.polling, kling_async.policy.retry",
        "import kling_async\ndir(kling_async)",
    ],
)
def test_light_imports(statement: str) -> None:
    """Importing the package and describing videos loads neither asyncio nor aiohttp nor cattrs."""
    modules = loaded(statement)
    assert "kling_async" in modules
    assert modules.isdisjoint(HEAVY)


def test_import_is_lazy() -> None:
    """A bare import loads no module of the package except what loads the others."""
    assert {name for name in loaded("import kling_async") if name.startswith("kling_async")} == {
        "kling_async",
        "kling_async._utils",
        "kling_async._utils.lazy",
    }


@pytest.mark.slow
def test_downloads_are_loaded_when_needed() -> None:
    """A client loads the modules for downloads only if it downloads."""
    modules = loaded("from kling_async import KlingClient\nKlingClient('a-key')")
    assert "kling_async.client" in modules
    assert not [name for name in modules if name.startswith("kling_async.download.")]


def test_all_is_sorted() -> None:
    """The public names are sorted and none stands twice."""
    assert kling_async.__all__ == sorted(set(kling_async.__all__))


@pytest.mark.parametrize("name", kling_async.__all__)
def test_every_public_name_is_there(name: str) -> None:
    """Each public name can be had, and keeps the value it had the first time."""
    first = getattr(kling_async, name)
    assert first is not None
    assert getattr(kling_async, name) is first
    assert vars(kling_async)[name] is first


def test_a_loaded_name_is_the_one_of_its_module() -> None:
    """The face hands out the very classes of the modules behind it."""
    assert kling_async.KlingError is errors.KlingError
    assert kling_async.TaskRef is results.TaskRef
    assert kling_async.Submitted is events.Submitted


@pytest.mark.parametrize("module", [errors, results, events])
def test_values_of_these_modules_are_public(module: ModuleType) -> None:
    """What errors, results and events offer is all offered by the face."""
    name = module.__name__
    classes = {
        key for key, value in vars(module).items() if getattr(value, "__module__", "") == name
    }
    public = {key for key in classes if key[0].isupper()}
    assert public
    assert public <= set(kling_async.__all__)


def test_star_import_gives_every_name() -> None:
    """`from kling_async import *` brings all public names."""
    namespace: dict[str, object] = {}
    exec("from kling_async import *", namespace)  # noqa: S102 - not allowed inside a function
    assert set(kling_async.__all__) <= set(namespace)


def test_dir_names_what_is_not_loaded_yet() -> None:
    """`dir` lists every public name, sorted, before any has been loaded."""
    code = "import kling_async as k\nassert 'KlingClient' not in vars(k)\nprint(*dir(k))"
    names = printed(code)
    assert set(kling_async.__all__) <= set(names)
    assert names == sorted(set(names))
    assert set(names) <= set(dir(kling_async))


def test_an_unknown_name() -> None:
    """A name that is not public is an AttributeError that says which."""
    with pytest.raises(AttributeError, match=r"module 'kling_async' has no attribute 'Klient'"):
        _ = kling_async.Klient


def test_version() -> None:
    """The version is that of the installed package."""
    assert kling_async.__version__ == metadata.version("kling-async")

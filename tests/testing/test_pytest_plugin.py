from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

pytest_plugins = ["pytester"]

INI = """
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
filterwarnings = error
"""

# Hides a package that is installed, in the process of its own that each of these tests starts.
HIDE = """
import importlib.abc, sys

class Hider(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "pytest_asyncio":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name == "pytest_asyncio" else real(name)
sys.meta_path.insert(0, Hider())
"""


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """Give a folder for tests that are run in a process of its own, as a user runs them."""
    monkeypatch.setenv("PYTHONDEVMODE", "1")
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    pytester.makeini(INI)
    return pytester


def start(run: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """Run pytest with few other plugins, which takes half of the time."""
    without = ("hypothesispytest", "sybil", "cacheprovider", "anyio", "typeguard")
    return run.runpytest_subprocess(*arguments, *(f"-pno:{name}" for name in without))


def test_the_fixtures(run: pytest.Pytester) -> None:
    """The fixtures give an emulator and a client of it to each test, as its options say."""
    run.makepyfile(
        test_plain="""
            import asyncio, gc, pytest
            from kling_async import KlingClient, MasterTextToVideo
            from kling_async.testing import Emulator, VirtualLoop

            @pytest.mark.virtual_time
            async def test_marked(kling_client, kling_emulator):
                assert isinstance(kling_client, KlingClient)
                assert isinstance(kling_emulator, Emulator)
                result = await kling_client.generate(MasterTextToVideo("a fox"))
                assert kling_emulator.ledger[0].task_id == result.ref.task_id
                assert 60 <= asyncio.get_running_loop().time() <= 100

            @pytest.mark.virtual_time
            async def test_another_has_another_emulator(kling_emulator):
                assert not kling_emulator.ledger

            async def test_real_time_is_the_default(kling_client):
                assert not isinstance(asyncio.get_running_loop(), VirtualLoop)
                assert await kling_client.balance() == 1000

            def test_nothing_is_left_open():
                gc.collect()
        """,
        test_options="""
            import pytest
            from kling_async import MasterTextToVideo, Retry, ServerError
            from kling_async.testing import Scenario

            @pytest.fixture
            def kling_emulator_options():
                return {"scenario": Scenario().on("submit", "*", "503"), "api_key": "the-right-key"}

            @pytest.fixture
            def kling_client_options():
                return {"retry": Retry(attempts=2)}

            @pytest.mark.virtual_time
            async def test_they_count(kling_client, kling_emulator):
                assert kling_emulator.key == "the-right-key"
                with pytest.raises(ServerError):
                    await kling_client.submit(MasterTextToVideo("a fox"))
                assert len(kling_emulator.requests) == 2
        """,
        test_key="""
            import pytest
            from kling_async import AuthenticationError

            @pytest.fixture
            def kling_emulator_options():
                return {"api_key": "the-right-key"}

            @pytest.fixture
            def kling_client_options():
                return {"api_key": "the-wrong-key"}

            @pytest.mark.virtual_time
            async def test_an_option_goes_before_the_fixtures_own(kling_client):
                with pytest.raises(AuthenticationError):
                    await kling_client.balance()
        """,
    )
    start(run, "--strict-markers").assert_outcomes(passed=6)


def test_loops_of_ones_own(run: pytest.Pytester) -> None:
    """A loop that the user's conftest asks for is used, but for tests that are marked."""
    run.makeconftest("""
        import asyncio

        class Mine(asyncio.SelectorEventLoop):
            pass

        def pytest_asyncio_loop_factories():
            return {"mine": Mine}
    """)
    run.makepyfile("""
        import asyncio, pytest

        async def test_mine():
            assert type(asyncio.get_running_loop()).__name__ == "Mine"

        @pytest.mark.virtual_time
        async def test_marked():
            assert type(asyncio.get_running_loop()).__name__ == "VirtualLoop"
    """)
    start(run).assert_outcomes(passed=2)


def test_the_ini_option(run: pytest.Pytester) -> None:
    """With the ini option every test is on virtual time."""
    run.makeini(INI + "kling_virtual_time = true\n")
    run.makepyfile("""
        import asyncio
        from kling_async.testing import VirtualLoop

        async def test_it():
            assert isinstance(asyncio.get_running_loop(), VirtualLoop)
            await asyncio.sleep(10_000)

        def test_an_ordinary_one():
            pass
    """)
    start(run, "--strict-config").assert_outcomes(passed=2)


def test_the_marker_is_documented(run: pytest.Pytester) -> None:
    """`pytest --markers` and `pytest --fixtures` list the marker and the fixtures."""
    output = start(run, "--markers", "--fixtures").stdout.str()
    assert "@pytest.mark.virtual_time: run this asynchronous test on virtual time" in output


def test_strict_mode(run: pytest.Pytester) -> None:
    """The fixtures work in pytest-asyncio's strict mode too."""
    run.makeini(INI.replace("auto", "strict"))
    run.makepyfile("""
        import pytest

        @pytest.mark.asyncio
        @pytest.mark.virtual_time
        async def test_it(kling_client):
            assert await kling_client.balance() == 1000
    """)
    start(run).assert_outcomes(passed=1)


def test_without_pytest_asyncio(run: pytest.Pytester, tmp_path: Path) -> None:
    """Without pytest-asyncio ordinary tests run, and the fixtures name the extra to install."""
    run.makeini("[pytest]\nfilterwarnings = error\n")
    run.path.joinpath("hide.py").write_text(HIDE)
    run.syspathinsert()
    run.makepyfile("""
        import pytest
        from kling_async.testing import pytest_plugin

        def test_ordinary():
            pass

        def test_client(kling_client):
            pass

        def test_emulator(kling_emulator):
            pass
    """)
    result = start(run, "-p", "hide", "-p", "no:asyncio")
    result.assert_outcomes(passed=1, errors=2)
    assert "[pytest]'" in result.stdout.str()

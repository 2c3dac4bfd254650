from __future__ import annotations

import re
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
    return run.runpytest_subprocess(*(f"-pno:{name}" for name in without), *arguments)


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_help_of_pytest(run: pytest.Pytester) -> None:
    """`pytest --markers` and `pytest --fixtures` explain the marker and the fixtures."""
    output = start(run, "--markers").stdout.str()
    assert "@pytest.mark.virtual_time: run this asynchronous test on virtual time" in output
    output = start(run, "--fixtures").stdout.str()
    for name, text in {
        "kling_emulator": "An emulator of the service for this test",
        "kling_client": "An asynchronous client of `kling_emulator`",
        "kling_emulator_options": "Keyword arguments for `kling_emulator`",
        "kling_client_options": "Keyword arguments for `kling_client`",
    }.items():
        assert re.search(rf"^{name} -- .*\n    {text}", output, re.MULTILINE), output


@pytest.mark.slow
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


@pytest.mark.slow
def test_without_pytest_asyncio(run: pytest.Pytester, tmp_path: Path) -> None:
    """Without pytest-asyncio, the fixtures serve synchronous tests."""
    run.makeini("[pytest]\nfilterwarnings = error\n")
    run.path.joinpath("hide.py").write_text(HIDE)
    run.syspathinsert()
    run.makepyfile("""
        import asyncio
        from kling_async import MasterTextToVideo

        def test_it(kling_client, kling_emulator):
            asyncio.run(kling_client.generate(MasterTextToVideo("a fox")))
            assert len(kling_emulator.ledger) == 1
    """)
    start(run, "-p", "hide", "-p", "no:asyncio").assert_outcomes(passed=1)


@pytest.mark.slow
def test_tests_that_are_not_on_a_loop(run: pytest.Pytester) -> None:
    """In tests that pytest-asyncio does not run, the emulator is in a thread, and fast."""
    run.makepyfile(
        test_plain="""
            import asyncio, threading, pytest
            from kling_async import BalanceError, MasterTextToVideo

            def test_it(kling_client, kling_emulator):
                for _ in range(2):
                    asyncio.run(kling_client.generate(MasterTextToVideo("a fox")))
                kling_emulator.add_fault("submit", 1, "402")
                with pytest.raises(BalanceError):
                    asyncio.run(kling_client.generate(MasterTextToVideo("a fox")))
                assert len(kling_emulator.ledger) == 2

            def test_threads_end():
                assert threading.active_count() == 1
        """,
        test_unittest="""
            import unittest, pytest
            from kling_async import MasterTextToVideo
            from kling_async.testing import Emulator

            class PlainTest(unittest.TestCase):
                @classmethod
                def setUpClass(cls):
                    cls.emulator = cls.enterClassContext(Emulator())

                @pytest.fixture(autouse=True)
                def fixtures(self, kling_emulator):
                    self.other = kling_emulator

                def test_each_is_its_own(self):
                    assert self.emulator.origin != self.other.origin

            class LoopTest(unittest.IsolatedAsyncioTestCase):
                @pytest.fixture(autouse=True)
                def fixtures(self, kling_client):
                    self.client = kling_client

                async def test_a_loop_of_its_own(self):
                    async with self.client as client:
                        await client.generate(MasterTextToVideo("a fox"))
        """,
        test_anyio="""
            import pytest
            from kling_async import MasterTextToVideo

            @pytest.fixture
            def anyio_backend():
                return "asyncio"

            @pytest.mark.anyio
            async def test_it(kling_client, kling_emulator):
                async with kling_client:
                    await kling_client.generate(MasterTextToVideo("a fox"))
                assert len(kling_emulator.ledger) == 1
        """,
        test_options="""
            import pytest

            @pytest.fixture
            def kling_emulator_options():
                return {"speed": 20.0, "api_key": "mine"}

            def test_they_count(kling_emulator):
                environment = kling_emulator.environment
                assert environment["KLING_FIRST_POLL"] == "3"
                assert environment["APIXO_API_KEY"] == "mine"
        """,
    )
    start(run, "-panyio").assert_outcomes(passed=6)


@pytest.mark.slow
def test_loops_of_a_module(run: pytest.Pytester) -> None:
    """A test whose loop is that of its module has an emulator of its own on that loop."""
    run.makepyfile("""
        import pytest
        from kling_async import MasterTextToVideo

        pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.virtual_time]

        async def test_one(kling_client, kling_emulator):
            await kling_client.generate(MasterTextToVideo("a fox"))
            assert len(kling_emulator.ledger) == 1

        async def test_another(kling_client, kling_emulator):
            assert not kling_emulator.ledger
    """)
    start(run).assert_outcomes(passed=2)

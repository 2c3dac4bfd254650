"""Every check of the project, one session each. `.ci/run` runs the same sessions.

With `--no-venv` a session uses the environment that nox runs in, made by
`pip install -e '.[dev]'`, and installs nothing.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import nox

nox.needs_version = ">=2025.10.14"
nox.options.default_venv_backend = "venv"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False
nox.options.sessions = ["lint", "types", "tests", "examples", "docs", "wheel"]

PYTHONS = ["3.11", "3.12", "3.13", "3.14"]
ROOT = Path(__file__).parent


def install(session: nox.Session, *requirements: str) -> None:
    """Install into the session's own environment, where it has one."""
    if session.virtualenv.venv_backend != "none":
        session.install(*requirements)


def fresh_folder(session: nox.Session) -> Path:
    """Give an empty folder that only this session uses."""
    folder = Path(session.create_tmp()).resolve()
    shutil.rmtree(folder)
    folder.mkdir()
    return folder


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run all tests, slow ones included but for soaks, and ask for every line and branch.

    What has been measured into `COVERAGE_FILE` before counts, too.
    """
    install(session, "-e", ".[test]")
    # One file per session, so that two Pythons never mix their lines.
    env = {"COVERAGE_FILE": os.getenv("COVERAGE_FILE") or str(fresh_folder(session) / "coverage")}
    # Coverage starts pytest, not the other way round: pytest loads our own plugin, and with it
    # the package, before any plugin that measures could start.
    run = ("coverage", "run", "-m", "pytest", "-m", "not (soak or examples)", *session.posargs)
    session.run("python", "-X", "dev", "-m", *run, env=env)
    session.run("coverage", "combine", "--quiet", env=env)
    session.run("coverage", "report", env=env)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, format and which module imports which."""
    install(session, "-e", ".[lint]")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("lint-imports")


@nox.session
def types(session: nox.Session) -> None:
    """Check the types of everything."""
    install(session, "-e", ".[test,types]", "nox")
    session.run("mypy")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation; a warning is an error."""
    install(session, "-e", ".[docs,emulator]")
    html = fresh_folder(session) / "html"
    session.run("sphinx-build", "-W", "--keep-going", "--quiet", "docs", str(html))


@nox.session
def examples(session: nox.Session) -> None:
    """Run every example in README, docs and docstrings."""
    install(session, "-e", ".[test]")
    run = ("pytest", "-m", "examples", "--dist=load", "tests/test_examples.py", *session.posargs)
    session.run("python", "-X", "dev", "-m", *run)


@nox.session
def wheel(session: nox.Session) -> None:
    """Build, install into a clean environment, and try it from another folder."""
    install(session, "build", "basedpyright")
    folder = fresh_folder(session)
    # The wheel is built from the sdist, so that a file missing in either is missed here.
    session.run("python", "-m", "build", "--outdir", str(folder), silent=True)
    (built,) = folder.glob("*.whl")
    session.run("python", "-m", "venv", str(folder / "clean"))
    scripts = folder / "clean" / ("Scripts" if sys.platform == "win32" else "bin")
    python = str(scripts / "python")
    session.run(python, "-m", "pip", "install", "--quiet", str(built), "pytest", external=True)
    # Far away: pytest would find the checkout's settings in any folder above.
    with tempfile.TemporaryDirectory() as away:
        shutil.copy(ROOT / "tests" / "test_installed.py", away)
        with session.chdir(away):
            session.run(python, "-X", "dev", "-W", "error", "-m", "pytest", external=True)
            # The types of optional packages are known only where those are.
            extras = f"{built}[all]"
            quick = ("--quiet", "--no-compile")  # they are read, and not run
            session.run(python, "-m", "pip", "install", *quick, extras, external=True)
            # It looks for packages beside the first Python of PATH; its --pythonpath does not count
            # together with --verifytypes.
            env = {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
            verify = ("--verifytypes", "kling_async", "--ignoreexternal")
            session.run("basedpyright", *verify, env=env)


@nox.session
def bench(session: nox.Session) -> None:
    """Print how fast it is, as ratios of one run."""
    install(session, "-e", ".[test]")
    session.run("python", "-m", "tests.bench", *session.posargs)


@nox.session
def campaign(session: nox.Session) -> None:
    """Let seeded faults, cancellations and restarts look for a task that is paid twice or lost.

    Before that, the soaks: is the throughput flat while faults go on?
    """
    install(session, "-e", ".[test]")
    session.run("python", "-X", "dev", "-m", "pytest", "-m", "soak", "tests/faults")
    session.run("python", "-X", "dev", "-m", "tests.faults.campaign", *session.posargs)

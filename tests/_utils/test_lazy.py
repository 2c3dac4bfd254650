"""Public names that are loaded on first use."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from kling_async._utils.lazy import lazy_names


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Give a package with one module, which defines ``Cat``."""
    package, module = ModuleType("zoo"), ModuleType("zoo.cats")
    module.Cat = object()  # type: ignore[attr-defined] # the module of this test
    monkeypatch.setitem(sys.modules, "zoo", package)
    monkeypatch.setitem(sys.modules, "zoo.cats", module)
    return package


def test_a_name_is_loaded_once(package: ModuleType) -> None:
    """A name is imported from its module and then is an attribute of the package."""
    load, _ = lazy_names("zoo", {"cats": ("Cat",)})
    assert load("Cat") is sys.modules["zoo.cats"].Cat
    assert vars(package)["Cat"] is sys.modules["zoo.cats"].Cat


def test_an_unknown_name(package: ModuleType) -> None:
    """Another name raises AttributeError, as on any module."""
    load, _ = lazy_names(package.__name__, {"cats": ("Cat",)})
    with pytest.raises(AttributeError, match="module 'zoo' has no attribute 'Dog'"):
        load("Dog")


def test_dir(package: ModuleType) -> None:
    """All names are listed, before and after they are loaded."""
    load, listed = lazy_names(package.__name__, {"cats": ("Cat",)})
    assert "Cat" in listed()
    load("Cat")
    assert listed() == sorted({"Cat", *vars(package)})

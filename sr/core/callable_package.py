"""Packages that can be called: `sr.train(...)` trains, and `sr.train.trainer` is a module of the package."""

import inspect
import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any


def make_callable(package: str, module: str) -> None:
    """Let `package(...)` call the function in `package.module` that has the last part of the package's name.

    The module is imported at the first call. Without this, importing any module of `sr.train` would replace a function
    `sr.train` by the package.
    """

    class Package(ModuleType):
        @property
        def __wrapped__(self) -> Callable[..., Any]:  # read by `inspect.signature` and by documentation tools
            function: Callable[..., Any] = getattr(import_module(f"{package}.{module}"), package.rpartition(".")[2])
            return function

        @property
        def __signature__(self) -> inspect.Signature:
            return inspect.signature(self.__wrapped__)

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return self.__wrapped__(*args, **kwargs)

    sys.modules[package].__class__ = Package

"""Metrics, validation sets and scores. `sr.evaluate(...)` is `sr.evaluate.api.evaluate`."""

from sr.core.callable_package import make_callable

make_callable(__name__, "api")

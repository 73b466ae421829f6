"""The training loop and everything that it builds, saves and reports. `sr.train(...)` is `sr.train.api.train`."""

from sr.core.callable_package import make_callable

make_callable(__name__, "api")

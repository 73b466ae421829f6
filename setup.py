"""Install options/ and launch/ as data of the package, which pyproject.toml cannot express."""

from setuptools import find_packages, setup

DATA = {"sr.config.recipes": "options", "sr.config.launch": "launch"}

setup(packages=[*find_packages(include=["sr*"]), *DATA], package_dir=DATA)

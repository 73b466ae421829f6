"""Install options/ and launch/ as data of the package, and the signatures of all parts if torch is there."""

import sys
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

DATA = {"sr.config.recipes": "options", "sr.config.launch": "launch"}


class BuildSignatures(build_py):
    """Spares the first `sr check` after an installation the import of torch. Without torch, that run makes the file."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        sys.path.insert(0, str(Path(__file__).parent))
        try:
            from sr.train.early_check import write

            write(Path(self.build_lib) / "sr" / "config" / "signatures.json")
        except ImportError:
            print("torch cannot be imported: the first run writes the signatures of parts")


setup(packages=[*find_packages(include=["sr*"]), *DATA], package_dir=DATA, cmdclass={"build_py": BuildSignatures})

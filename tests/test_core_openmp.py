"""The wait policy of OpenMP threads: a default before torch is imported, and the user's own setting kept."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sr.core.openmp import DEFAULTS, USER, set_wait_policy


def test_the_default_is_set_once():
    environ = {"HOME": "/root"}
    set_wait_policy(environ)
    assert environ == {"HOME": "/root", **DEFAULTS}


@pytest.mark.parametrize("name", USER)
def test_a_setting_of_the_user_is_kept(name):
    environ = {name: "7"}
    set_wait_policy(environ)
    assert environ == {name: "7"}


def test_it_is_set_before_torch_is_imported():
    code = "import sys, os, sr; assert 'torch' not in sys.modules; print(os.environ['OMP_WAIT_POLICY'])"
    environ = {name: value for name, value in os.environ.items() if name not in USER}
    environ["PYTHONPATH"] = str(Path(__file__).parents[1])
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environ, check=True)
    assert made.stdout.strip() == "passive"

"""Switch EMA: training continues from the moving average."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sr.core.errors import UserError
from sr.distributed.backends.launch_config import Launch
from sr.train.builder import check_switch, load
from sr.train.trainer import Trainer
from tests.helpers.training import assert_same, engine, state

Recipe = Callable[..., Path]
SWITCH = "train.switch_ema=2"


def is_average(trainer: Trainer) -> bool:
    average = trainer.ema.state()
    return all(torch.equal(value, average[key]) for key, value in trainer.players["generator"].raw.state_dict().items())


def test_the_weights_become_the_average_and_the_run_resumes(recipe: Recipe) -> None:
    whole, file = engine(recipe(name="whole"), "train.total_steps=4", SWITCH), recipe(name="parts")
    whole.run()
    assert is_average(whole)
    first = engine(file, "train.total_steps=3", SWITCH)
    first.run()
    assert not is_average(first)
    parts = engine(file, "train.total_steps=4", SWITCH)
    parts.run()
    assert_same(state(whole), state(parts))


def test_it_is_refused_without_an_average_and_with_zero(recipe: Recipe) -> None:
    with pytest.raises(UserError, match=r"switch_ema does not work without an EMA; remove it"):
        engine(recipe(), SWITCH, "train.ema_decay=0")
    train = load(recipe(), [SWITCH]).train
    check_switch(train, Launch(backend="fsdp2"))
    with pytest.raises(UserError, match=r"switch_ema does not work with ZeRO-1, which"):
        check_switch(train, Launch(backend="zero1"))

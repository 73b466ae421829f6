"""Changed options on resume: which are allowed, which need consent, which are refused."""

import pytest

from sr.train.option_changes import NOT_SET, Change, changes, table

RULES = {
    "allowed": [
        "optimizer.generator.lr",
        "schedule.milestones.0",
        "train.total_steps",
        "train.timeout",
        "log.every",
        "save.keep_models",
        "validation.sets.v.hr",
        "generator.test_time",
        "data.workers",
        "data.source.cache",
        "data.source.sources.0.cache_gb",
        "init.generator",
    ],
    "consent": [
        "losses.pixel.weight",
        "data.source.path",
        "data.batch_size",
        "degrade.0.sigma.1",
        "optimizer.generator.type",
        "optimizer.generator.betas.0",
        "train.ema_decay",
        "train.precision",
        "seed",
    ],
    "refused": ["task", "scale", "generator.num_feat", "generator.type", "discriminator.num_feat", "discriminator"],
}


@pytest.mark.parametrize(("rule", "key"), [(rule, key) for rule, keys in RULES.items() for key in keys])
def test_every_option_has_a_rule(rule: str, key: str) -> None:
    assert Change(key, 1, 2).rule == rule


def test_changes_are_found_at_any_depth() -> None:
    old = {"a": {"b": [1, {"c": 2}]}, "gone": {"x": 1}, "empty": {}, "same": [1, 2]}
    new = {"a": {"b": [1, {"c": 3}, 4]}, "empty": {"y": 0}, "same": [1, 2], "new": None}
    found = {change.key: (change.old, change.new) for change in changes(old, new, new)}
    assert found == {
        "a.b.1.c": (2, 3),
        "a.b.2": (NOT_SET, 4),
        "gone.x": (1, NOT_SET),
        "empty": ({}, NOT_SET),
        "empty.y": (NOT_SET, 0),
        "new": (NOT_SET, None),
    }


def test_the_default_of_an_option_that_the_checkpoint_does_not_know_is_no_change() -> None:
    old, new = {"a": 1}, {"a": 1, "given": 2, "part": {"newer": [], "b": 0}}
    assert [change.key for change in changes(old, new, {"a": 1, "given": 2})] == ["given"]


def test_the_table_has_aligned_columns() -> None:
    lines = table([Change("seed", 1, 2), Change("train.total_steps", 100, 2000)], step=7).splitlines()
    assert lines[0] == "options changed since step 7:"
    assert [line.index(value) for line, value in zip(lines[1:], ("old", "1", "100"), strict=True)] == [21, 21, 21]

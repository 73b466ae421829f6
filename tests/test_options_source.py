"""The YAML source of options: encodings, empty parts, merge keys, removal by null, paths with ~ and variables."""

import copy
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from sr.config.base import read
from sr.core.errors import UserError
from sr.train.builder import Builder, load
from tests.helpers.program import TINY

Recipe = Callable[..., Path]


def problem(file: Path, *sets: str) -> str:
    with pytest.raises(UserError) as caught:
        load(file, sets)
    return str(caught.value)


def write(tmp_path: Path, text: str) -> Path:
    (tmp_path / "x.yml").write_text(text)
    return tmp_path / "x.yml"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le-bom"])
def test_unicode_encodings_with_a_mark_are_read(recipe: Recipe, encoding: str) -> None:
    file = recipe()
    text = "# größer\n" + file.read_text()
    file.write_bytes(b"\xff\xfe" + text.encode("utf-16-le") if "bom" in encoding else text.encode(encoding))
    assert load(file).name == "tiny"


def test_other_encodings_are_named_with_their_line(recipe: Recipe) -> None:
    file = recipe()
    text = file.read_text()
    file.write_bytes((text + "# größer\n").encode("latin-1"))
    line = text.count("\n") + 1
    assert f"{file}:{line}  the text is not UTF-8 (byte 0xf6; Latin-1" in problem(file)
    assert problem(file).endswith("save the file as UTF-8")
    file.write_bytes(text.encode("utf-16-le"))
    assert "null bytes" in problem(file)


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n", "---\n"])
def test_an_empty_file_is_one_problem(tmp_path: Path, text: str) -> None:
    assert "the file is empty; start from a copy of a recipe" in problem(write(tmp_path, text))


def test_an_empty_section_is_left_out_or_named(recipe: Recipe) -> None:
    file = recipe()
    file.write_text(file.read_text() + "save:\nvalidation:\n")
    assert load(file).save.every == 5000
    file.write_text(re.sub(r"train:\n(  .*\n)+", "train:\n", file.read_text()))
    assert "train: is required but empty; give it a value, or indent its keys below it" in problem(file)


@pytest.mark.parametrize(
    ("key", "value", "kind"),
    [("name", "2024", "a number"), ("name", "yes", "true or false"), ("data.source.gt", "0123", "a number")],
)
def test_numbers_as_names_are_to_be_quoted(recipe: Recipe, key: str, value: str, kind: str) -> None:
    assert f"is read as {kind}; write it in quotes" in problem(recipe(), f"{key}={value}")
    assert "\n" not in problem(recipe(), f"{key}={value}")


def test_merge_keys(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        "a: &a {type: adam, lr: 1, betas: [0, 0]}\nb: &b {lr: 2, eps: 3}\n"
        "c: {<<: *a, lr: 5}\nd: {lr: 6, <<: [*a, *b]}\ne:\n  <<: *b\n  eps: 7\n",
    )
    document = read(file)
    assert document.values["c"] == {"type": "adam", "lr": 5, "betas": [0, 0]}
    assert document.values["d"] == {"type": "adam", "lr": 6, "betas": [0, 0], "eps": 3}
    assert document.values["e"] == {"lr": 2, "eps": 7}
    assert document.where(("c", "type")) == f"{file}:1"
    assert document.where(("c", "lr")) == f"{file}:3"
    assert document.where(("e", "eps")) == f"{file}:7"
    for wrong in ("<<: 3", "<<: [1]", "lr: 1, lr: 2"):
        with pytest.raises(UserError, match=r":2  .*(merges mappings only|occurs twice)"):
            read(write(tmp_path, f"a: 1\nb: {{{wrong}}}\n"))


def test_a_key_that_is_no_word_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r":2  a key is a list or a mapping"):
        read(write(tmp_path, "a: 1\nout: {{ folder }}\n"))


# ---- removal by null -------------------------------------------------------------------------------------------------


def test_null_removes_any_optional_part(recipe: Recipe) -> None:
    sets = {"own": {"hr": "x"}, "other": {"hr": "y"}}
    losses = {**copy.deepcopy(TINY["losses"]), "perceptual": {"type": "vgg19", "weights": "random"}}  # type: ignore[dict-item]
    file = recipe(losses=losses, validation={"sets": sets}, save={"keep": 2}, init={"generator": "x"})
    removed = [
        *("losses.perceptual=null", "validation.sets.own=null", "save=null", "init.generator=null"),
        *("optimizer.generator.betas=null", "degrade.0=null", "degrade.2=null", "schedule=null", "data.make=null"),
    ]
    options = load(file, removed)
    assert list(options.losses.reconstruction) == ["pixel"]
    assert list(options.validation.sets) == ["other"]
    assert (options.save.keep, options.init, options.schedule) == (3, {}, {"type": "constant"})
    assert [stage["type"] for stage in options.degrade] == ["downscale"]
    assert "betas" not in options.optimizer["generator"]
    assert ": null" not in Builder(options).resolved()


def test_every_optional_key_can_be_set_to_null(recipe: Recipe) -> None:
    whole = yaml.safe_load(Builder(load(recipe())).resolved())
    needed = {"name", "task", "scale", "generator", "losses", "data", "optimizer", "train", "discriminator"}
    for key in whole.keys() - needed:
        load(recipe(), [f"{key}=null"])
    for section in ("data", "train"):
        for key in whole[section].keys() - {"source", "gt_size", "batch_size", "total_steps"}:
            load(recipe(), [f"{section}.{key}=null"])


def test_null_of_something_else_is_an_error(recipe: Recipe) -> None:
    assert "data.gt_size: is required but empty" in problem(recipe(), "data.gt_size=null")
    assert "no 'pixl' to remove. Did you mean 'pixel'?" in problem(recipe(), "losses.pixl=null")
    assert "no 'trian' to remove. Did you mean 'train'" in problem(recipe(), "trian=null")
    assert "null to remove the key" in problem(recipe(), "name=")
    removed = problem(recipe(), "degrade.0=null", "degrade.1.mode=x")  # indices are those of the file
    assert "--set degrade.1.mode=x  degrade.0.mode" in removed


def test_sets_may_have_numbers_as_names(recipe: Recipe) -> None:
    assert load(recipe(), ["validation.sets.14.hr=x"]).validation.sets["14"].hr == "x"
    assert "'²' is not one of 3 entries" in problem(recipe(), "degrade.²=1")


# ---- paths -----------------------------------------------------------------------------------------------------------


def test_home_and_variables_are_expanded_in_every_path(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("DATA", "/data")
    source = {"type": "shards", "path": ["~/a.tar", "$DATA/b.tar", "list:~/c.txt", "pipe:cat $DATA/d"], "cache": "~/e"}
    file = recipe(out="${DATA}/runs", data__source=source, init={"generator": "~/f.pth"})
    options = load(file, ["validation.sets.own.hr=~/hr", "validation.sets.own.lr=[$DATA/lr]"])
    assert options.folder == Path("/data/runs/tiny")
    assert options.data.source["path"] == ["/home/me/a.tar", "/data/b.tar", "list:/home/me/c.txt", "pipe:cat $DATA/d"]
    assert options.data.source["cache"] == "/home/me/e"
    assert options.init["generator"] == "/home/me/f.pth"
    assert (options.validation.sets["own"].hr, options.validation.sets["own"].lr) == ("/home/me/hr", ["/data/lr"])


def test_a_variable_that_is_not_set_is_an_error(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOT_SET", raising=False)
    assert "the environment variable NOT_SET is not set" in problem(recipe(), "out=$NOT_SET/runs")
    assert "no such user" in problem(recipe(), "out=~no_such_user/runs")

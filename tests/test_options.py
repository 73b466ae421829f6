"""Every mistake at once, with its line; overrides; the schema; contradictions."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
import yaml

from sr.cli import main
from sr.config.base import read
from sr.config.json_schema import schema as schema_of
from sr.config.options import Options
from sr.core.errors import UserError
from sr.train.builder import TABLES, Builder, load
from sr.train.summary import summary
from tests.helpers.program import ROOT, TINY, sr

Recipe = Callable[..., Path]


def problems(file: Path, *sets: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        load(file, sets)
    return str(caught.value).splitlines()


def test_all_mistakes_at_once_with_line_key_and_fix(tmp_path: Path) -> None:
    file = tmp_path / "x.yml"
    file.write_text(
        "name: x\ntask: sr_gan\nscale: 4\ngenerator: {type: rrdbnet, num_feats: 64, num_block: many}\n"
        "discriminator: {type: unet_s}\nlosses:\n  pixel: {type: l1, weigt: 2}\n  gan: {type: vanila}\n"
        "degrade:\n  - type: one_of\n    choices: [[{type: downscale, mode: bicubik}, {type: jpg}]]\n"
        "data: {source: {type: shards}, gt_size: 32, batch_size: 4, worker: 3}\n"
        "optimizer: {generator: {type: adam}}\ntrain: {total_steps: 9, precision: fp61}\n"
    )
    found = problems(file)
    expected = [
        (4, "generator.num_block", "valid integer"),
        (4, "generator.num_feats", "Did you mean 'num_feat'?"),
        (5, "discriminator.type", "Did you mean 'unet_sn'?"),
        (7, "losses.pixel.weigt", "Did you mean 'weight'?"),
        (8, "losses.gan.type", "Did you mean 'vanilla'?"),
        (11, "degrade.0.choices.0.0.mode", "Did you mean 'bicubic'?"),
        (11, "degrade.0.choices.0.1.type", "Did you mean 'jpeg'?"),
        (12, "data.source", "shards needs 'path'"),
        (12, "data.worker", "Did you mean 'workers'?"),
        (13, "optimizer.generator", "adam needs 'lr'"),
        (14, "train.precision", "Did you mean 'fp16'?"),
    ]
    assert len(found) == len(expected)
    for line, (number, key, message) in zip(found, expected, strict=True):
        assert line.startswith(f"{file}:{number}  {key}: ")
        assert message in line


@pytest.mark.parametrize(
    ("changes", "key", "word"),
    [
        ({"task": "psnr"}, "discriminator", "no use"),
        ({"discriminator": None}, "discriminator", "needs"),
        ({"data__make": {"photos": "x"}}, "data.make", "type: shards"),
        ({"data__gt_size": 33}, "data.gt_size", "no multiple of scale 2"),
        ({"data__degrade_size": 16}, "data.degrade_size", "smaller than gt_size"),
        ({"train__accumulate": 3}, "data.batch_size", "multiple"),
        ({"optimizer__discriminator": None}, "optimizer", "add optimizer.discriminator"),
    ],
)
def test_contradictions(recipe: Recipe, changes: dict[str, object], key: str, word: str) -> None:
    assert any(f"  {key}: " in line and word in line for line in problems(recipe(**changes)))


FOLDER = {"type": "folder", "gt": "x"}
PLAIN = {"scale": None, "degrade": []}
TRANSLATION = {**PLAIN, "task": "pix2pix", "discriminator__conditional": True}
CYCLE = {**PLAIN, "task": "cyclegan"}


@pytest.mark.parametrize(
    ("changes", "key", "word"),
    [
        ({"scale": None}, "scale", "needs 'scale'"),
        ({**TRANSLATION, "scale": 2}, "scale", "remove 'scale'"),
        ({"data__direction": "b_to_a"}, "data", "set scale: 1"),
        ({**TRANSLATION, "data__load_size": 16}, "data.load_size", "raise it"),
        ({**TRANSLATION, "cycle": {"pool": 3}}, "cycle", "task: cyclegan"),
        ({**CYCLE, "discriminator__conditional": True}, "discriminator.conditional", "remove it"),
        ({**PLAIN, "task": "pix2pix"}, "discriminator", "as the paper has it"),
        ({**TRANSLATION, "validation": {"sets": {"own": {"hr": "x"}}}}, "validation.sets.own", "compared with itself"),
        (
            {**TRANSLATION, "data__direction": "b_to_a", "data__source": {"type": "colorize", "of": FOLDER}},
            "data.direction",
            "Lab",
        ),
        ({**CYCLE, "data__direction": "b_to_a"}, "data.direction", "both directions"),
        (CYCLE, "data.source", "two sets"),
        ({**CYCLE, "losses__pixel": None}, "losses", "cycle term"),
        ({**CYCLE, "losses__gan__regularizers": [{"type": "feature_matching"}]}, "losses.gan.regularizers", "pairs"),
        ({**CYCLE, "degrade": [{"type": "downscale"}]}, "degrade", "remove it"),
        ({**CYCLE, "losses__ldl": {"weight": 1.0}}, "losses.ldl", "another term"),
        ({**CYCLE, "generator__num_out_ch": 1}, "cycle.identity", "set it to 0"),
        ({**TRANSLATION, "generator__num_out_ch": 2, "losses__vgg19": {}}, "losses.vgg19", "2 channels"),
        ({"validation": {"sets": {"own": {"size": 64}}}}, "validation.sets.own", "either hr"),
    ],
)
def test_contradictions_of_translation(recipe: Recipe, changes: dict[str, object], key: str, word: str) -> None:
    assert any(f"  {key}: " in line and word in line for line in problems(recipe(**changes)))


def test_set_overrides_and_is_named_in_errors(recipe: Recipe) -> None:
    file = recipe()
    options = load(
        file, ["train.total_steps=7", "degrade.0.prob=0.5", "losses.gan.weight=1e-2", "schedule.type=constant"]
    )
    assert options.train.total_steps == 7
    assert options.degrade[0]["prob"] == 0.5
    assert options.losses.gan is not None
    assert options.losses.gan["weight"] == 0.01
    assert problems(file, "losses.gan.type=hindge")[0].startswith(
        "--set losses.gan.type=hindge  losses.gan.type: no 'hindge'"
    )
    assert "'9' is not one of 3 entries" in problems(file, "degrade.9.prob=1")[0]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("a: [1", "not YAML"),
        ("- 1\n- 2\n", "mapping"),
        ("a: 1\na: 2\n", "occurs twice"),
        ("a: &a [1,1]\nb: &b [*a,*a]\nc: &c [*b,*b]\n" + "d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\n" * 1, "needs"),
        ("a: !!python/object/apply:os.system ['true']\n", ""),
        ("", "empty"),
    ],
)
def test_files_that_are_no_options(tmp_path: Path, text: str, word: str) -> None:
    file = tmp_path / "x.yml"
    file.write_text(text)
    assert any(word in line for line in problems(file))


def test_a_bomb_of_aliases_is_refused_at_once(tmp_path: Path) -> None:
    file = tmp_path / "x.yml"
    file.write_text("a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)))
    began = time.monotonic()
    assert "too large" in problems(file)[0]
    assert time.monotonic() - began < 10


def test_exponents_are_numbers(tmp_path: Path) -> None:
    file = tmp_path / "x.yml"
    file.write_text("a: 1e-4\nb: 2E5\nc: 1e4x\nd: -3.e2\n")
    assert read(file).values == {"a": 1e-4, "b": 2e5, "c": "1e4x", "d": -300.0}


def test_resolved_options_run_again(recipe: Recipe, tmp_path: Path) -> None:
    options = load(recipe())
    again = tmp_path / "again.yml"
    again.write_text(Builder(options).resolved())
    assert "num_grow_ch: 4" in again.read_text()
    assert "sinc_prob: 0.1" in again.read_text()  # a default of a part, spelled out
    assert Builder(load(again)).resolved() == again.read_text()


def test_plugins_are_used_and_can_be_shut_out(recipe: Recipe) -> None:
    file = recipe(losses__pixel={"type": "torch.nn.L1Loss"})
    assert load(file).losses.reconstruction["pixel"]["type"] == "torch.nn.L1Loss"
    with pytest.raises(UserError, match="--no-plugins"):
        load(file, plugins=False)
    assert "cannot import 'no.such.Loss'" in problems(file, "losses.pixel.type=no.such.Loss")[0]


def test_schema_accepts_the_recipes_and_refuses_mistakes() -> None:
    schema = schema_of(Options, TABLES)
    validator = jsonschema.Draft202012Validator(schema)
    for file in sorted((ROOT / "options").glob("*.yml")):
        errors = list(validator.iter_errors(read(file).values))
        assert not errors, f"{file.name}: {errors[0].message}"
    wrong = yaml.safe_load(yaml.safe_dump(TINY))
    wrong["losses"]["gan"]["typo"] = 1
    assert list(validator.iter_errors(wrong))


def test_summary_counts_parameters_and_batches(recipe: Recipe) -> None:
    text = str(summary(load(ROOT / "options" / "realesrgan_x4.yml")))
    assert "16.698 M" in text
    assert "4.377 M" in text  # as published for UNetDiscriminatorSN with 64 features
    assert "48 = 1 process(es) x accumulate 1 x 48 samples" in text


def test_check_ends_with_code_2_and_no_traceback(recipe: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(recipe(losses__gan={"type": "hindge"}))]) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert "losses.gan.type: no 'hindge' here" in said
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out)["$defs"]["part.generators"]
    assert sr("check", "--no-such-flag").returncode == 2  # the process ends with the code of `main`

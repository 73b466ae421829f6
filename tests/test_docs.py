"""The documentation is correct: its commands run or at least parse; its files, links, keys and tests exist.

Each command in a ```sh block is read by the verb's own parser, and its options and `--set` are resolved. Those of the
guides named below are run too, scaled down, in their order, on small images in the place of PHOTOS, TEST and so on.
Commands of other programs are checked for the files they name.
"""

import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from reference import verbs

from sr import cli
from sr.nets.io.load import architecture
from sr.nets.io.state_dicts import save_pth, save_safetensors
from sr.nets.rrdbnet import RRDBNet
from sr.nets.unet import UNet
from sr.nets.unet_sn import UNetDiscriminatorSN
from sr.train.builder import load
from tests.helpers.importing import PAIRS
from tests.helpers.program import ROOT, write_photos

DOCS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
GUIDES = ROOT / "docs" / "guides"
OTHERS = {"pip", "git", "pre-commit", "cd", "export", "sudo", "scp", "docker", "kubectl", "tensorboard"}
OTHERS |= {"sbatch", "srun", "torchrun"}
CODE = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command in the sh blocks; `&&` and pipes part them, comments are dropped, and of a loop
    (`for NAME in A B`) the first round is taken."""
    for block in CODE.findall(text):
        for name, value in re.findall(r"^for (\w+) in (\S+).*", block, re.MULTILINE):
            block = re.sub(rf"\${name}\b", value, block)
        block = re.sub(r"^\s*for \w+ in [^;\n]*|\b(do|done)(?=[\s;]|$)", "", block, flags=re.MULTILINE)
        for line in block.replace("\\\n", " ").splitlines():
            lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;<>")
            lexer.whitespace_split, lexer.commenters = True, "#"
            words: list[str] = []
            for word in [*lexer, ";"]:
                if set(word) <= set("&|;"):
                    if words:
                        yield words
                    words = []
                else:
                    words.append(word)


def ours(words: list[str]) -> list[str] | None:
    """The arguments of `sr`, where that is what is started, without a redirection."""
    words = words[: words.index(">")] if ">" in words else words
    if words[0] == "sr":
        return words[1:]
    if "-m" in words and words[words.index("-m") + 1] == "sr" and words[0] in ("accelerate", "python", "torchrun"):
        return words[words.index("-m") + 2 :]
    return None


ALL = [(doc, words) for doc in DOCS for words in commands(doc.read_text())]


@pytest.mark.parametrize(("doc", "words"), ALL, ids=[f"{doc.name}: {' '.join(words)[:60]}" for doc, words in ALL])
def test_commands_parse_and_name_what_is_there(doc: Path, words: list[str]) -> None:
    for word in words:
        if re.match(r"(options|launch|tools|docs)/[\w/]+\.\w+$", word) and word not in ("options/imported.yml",):
            assert (ROOT / word).exists(), f"{doc.name} names {word}"
    arguments = ours(words)
    if arguments and arguments[1:] == ["--help"]:
        assert arguments[0] in verbs()
        return
    if arguments is None:
        tool = next((ROOT / word for word in words if word.startswith("tools/")), None)
        assert tool or words[0] in OTHERS or "python" in words[0] or words[0] == ".", f"what is {words[0]}?"
        for flag in (word.partition("=")[0] for word in words if tool and word.startswith("--")):
            assert f'"{flag}"' in tool.read_text(), f"{tool} has no {flag}"  # type: ignore[union-attr]
        return
    parsed = cli.parser().parse_args(arguments)  # exits where a flag is unknown
    file = getattr(parsed, "options", None)
    if file and (ROOT / file).exists() and "mylab" not in " ".join(words):
        load(ROOT / file, parsed.set)


@pytest.mark.parametrize("doc", DOCS, ids=lambda doc: doc.name)
def test_links_files_and_tests_exist(doc: Path) -> None:
    text = doc.read_text()
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if "://" not in target:
            assert (doc.parent / target).exists(), f"{doc.name} links to {target}"
    for name in re.findall(r"`((?:options|launch|tools|tests)/[\w/]+\.\w+)`", text):
        assert (ROOT / name).exists(), f"{doc.name} names {name}"
    for file, test in re.findall(r"`(test_\w+\.py)(?:::(\w+))?`", text):
        source = (ROOT / "tests" / file).read_text()
        assert not test or f"def {test}(" in source, f"{doc.name}: {file} has no {test}"


def test_the_readme_is_short_and_its_figures_are_in_the_documentation() -> None:
    readme = (ROOT / "README.md").read_text()
    assert readme.count("\n") <= 120
    evidence = "".join(path.read_text() for path in (ROOT / "docs").rglob("*.md"))
    for figure in re.findall(r"\d+\.\d\d dB", readme):
        assert figure.removesuffix(" dB") in evidence, figure


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    nav = re.findall(r"[\w/]+\.md", (ROOT / "mkdocs.yml").read_text())
    assert sorted(nav) == sorted(path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md"))


def test_every_complaint_has_an_answer() -> None:
    rows = re.findall(r"^\| (\d+)\. (.*?) \| (.*?) \| (.*?) \|$", (ROOT / "docs/troubleshooting.md").read_text(), re.M)
    assert [int(row[0]) for row in rows] == list(range(1, 26))
    assert all(len(answer) > 20 for _, _, answer, _ in rows)


# ---- run -------------------------------------------------------------------------------------------------------------

SMALL = ["data.gt_size=32", "data.degrade_size=32", "data.batch_size=2", "data.workers=0", "train.total_steps=2"]
SMALL += ["validation.every=2", "save.every=2", "log.every=1", "generator.num_feat=4", "generator.num_block=1"]
SMALL += ["generator.num_grow_ch=2", "discriminator.num_feat=4", "schedule={type: constant}"]
MADE = {"480": "40", "400": "40", "240": "20", "200": "20"}
LENIENT = {"--min-side": "40", "--blockiness": "99", "--blur": "0"}  # drawn photographs are small and smooth


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the documents' capital letters stand for, and with small files of the published layouts."""
    for name in ("options", "tools"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("PHOTOS", "TEST", "HR"):
        write_photos(tmp_path / name)
    cli.main(["upscale", str(tmp_path / "HR"), "-o", str(tmp_path / "LR"), "-m", "bicubic", "--scale", "1"])
    for path in (tmp_path / "LR").glob("*.png"):
        Image.open(path).resize((14, 12)).save(path)
    torch.manual_seed(0)
    weights = RRDBNet(scale=4, num_feat=4, num_block=1, num_grow_ch=2).state_dict()
    for name in ("RealESRGAN_x4plus.pth", "RealESRGAN_x4plus"):  # a file precedes the published model of its name
        save_pth(tmp_path / name, weights)
    discriminator = UNetDiscriminatorSN(num_in_ch=3, num_feat=4)
    save_pth(tmp_path / "RealESRGAN_x4plus_netD", discriminator.state_dict(), key="params")
    torch.save(UNet(scale=1, num_feat=2, num_downs=5).state_dict(), tmp_path / "latest_net_G.pth")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def scaled(arguments: list[str]) -> list[str]:
    """The same on little: small nets, two steps, no download."""
    small = [MADE.get(word, word) if before in ("--size", "--step") else word for before, word in _pairs(arguments)]
    small = [LENIENT.get(before, word) for before, word in _pairs(small)]
    if small[0] == "train":
        sets = SMALL + (["losses.perceptual={type: tv}"] if "realesrgan" in small[1] else [])
        sets += ["data.make.size=40", "data.make.step=20"] if "quickstart" in small[1] else []
        small += [f"--set={one}" for one in sets]
    return small


def _pairs(words: list[str]) -> Iterator[tuple[str, str]]:
    yield from zip(["", *words], words, strict=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["own_photos.md", "fine_tuning.md"])
def test_the_commands_of_a_document(place: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    ran = 0
    for words in commands((GUIDES / name).read_text()):
        arguments = ours(words)
        assert arguments is not None
        code = cli.main(scaled(arguments))
        assert code == 0, f"{' '.join(words)}\n{capfd.readouterr().err[-2000:]}"
        ran += 1
    assert ran >= 5
    if name == "own_photos.md":
        assert len(list((place / "upscaled").glob("*.png"))) == 6
        assert list((place / "runs" / "mine" / "strips").iterdir())


@pytest.mark.slow
def test_parts_are_swapped_as_documented(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (GUIDES / "swapping_parts.md").read_text()
    module = re.search(r"```python\n# (mylab/losses\.py)\n(.*?)```", text, re.DOTALL)
    assert module
    (place / "mylab").mkdir()
    (place / module[1]).write_text(module[2])
    sys.path.insert(0, str(place))
    try:
        for words in commands(text):
            arguments = ours(words)
            assert arguments is not None
            if "basicsr." in " ".join(words) and find_spec("basicsr") is None:
                continue
            if "--plugins" in words:  # needs a trained model; see tests/test_nets_model_files.py
                cli.parser().parse_args(arguments)
                continue
            assert cli.main(arguments) == 0, f"{' '.join(words)}\n{capsys.readouterr().err[-2000:]}"
            assert "M parameters" in capsys.readouterr().out
        strong = "losses.gamma={type: mylab.losses.Gamma, power: strong}"
        assert cli.main(["check", "options/rrdb_psnr_x4.yml", "--set", strong]) == 2
        assert "losses.gamma.power: Input should be a valid number" in capsys.readouterr().err
    finally:
        sys.path.remove(str(place))
        for name in [name for name in sys.modules if name.partition(".")[0] == "mylab"]:
            del sys.modules[name]


@pytest.mark.slow
def test_migration_from_other_trainers(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (place / "train_realesrgan_x4plus.yml").write_text(yaml.safe_dump(PAIRS))
    tuned = place / "runs" / "tuned" / "models"
    tuned.mkdir(parents=True)
    sizes = {"scale": 4, "num_feat": 4, "num_block": 1, "num_grow_ch": 2}
    save_safetensors(tuned / "net_g_best.safetensors", RRDBNet(**sizes).state_dict(), architecture("rrdbnet", sizes))
    for words in commands((GUIDES / "migrate.md").read_text()):
        arguments = ours(words)
        if ">" in words:
            there = words.index(">")
            assert words[:2] == ["sr", "convert"]
            capfd.readouterr()
            assert cli.main(words[1:there]) == 0
            Path(words[there + 1]).write_text(capfd.readouterr().out)
            continue
        assert arguments is not None
        if arguments[0] == "train":
            continue  # CycleGAN's nets are built by tests/test_translation.py; here the line is only parsed
        assert cli.main(scaled(arguments)) == 0, f"{' '.join(words)}\n{capfd.readouterr().err[-2000:]}"
    assert torch.load(place / "back.pth", weights_only=True)["params_ema"]

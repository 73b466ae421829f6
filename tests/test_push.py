"""`sr push`: the model card and the upload, against a stub of the Hugging Face Hub."""

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import yaml

import sr
from sr.cli import main
from tests.helpers import models


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The calls that would reach the Hub."""
    calls: list[Any] = []

    class Api:
        def create_repo(self, repo: str, **how: Any) -> None:
            calls.append((repo, how))

        def create_commit(self, repo: str, parts: list[Any], **how: Any) -> None:
            calls.append((repo, {part.path_in_repo: part.path_or_fileobj for part in parts}))

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "a token")
    return calls


def test_a_run(recipe, photos: Path, tmp_path: Path, hub: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    file = recipe(validation={"every": 1, "sets": {"own": {"hr": str(photos)}}}, train={"total_steps": 1})
    result = sr.train(file)
    capsys.readouterr()
    assert main(["push", str(result.folder), "user/name", "--licence", "cc-by-4.0", "--private"]) == 0
    (repo, how), (_, sent) = hub
    assert (repo, how["private"]) == ("user/name", True)
    assert sent["model.safetensors"] == str(result.best)
    card = sent["README.md"].decode()
    assert yaml.safe_load(card.split("---")[1])["license"] == "cc-by-4.0"
    assert "-m hf:user/name" in card
    assert "| data | photos |" in card
    assert str(tmp_path) not in card
    assert f"| own | {result.metrics['own']['psnr_y']:.4f} |" in card
    assert "uploaded to https://huggingface.co/user/name" in capsys.readouterr().out


def test_a_dry_run_and_a_missing_token_send_nothing(
    tmp_path: Path, hub: list[Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "small.safetensors"
    models.saved(file, "compact")
    assert main(["push", str(file), "user/name", "--dry-run", "--data", "my photographs"]) == 0
    shown = capsys.readouterr()
    assert "| architecture | compact (num_feat: 8, num_conv: 2, scale: 4), " in shown.out
    assert "| data | my photographs |" in shown.out
    assert f"{file} (0.0 MB) -> user/name/model.safetensors" in shown.out
    assert "names no licence; state one with --licence" in shown.err
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert main(["push", str(file), "user/name"]) == 2
    assert "nothing was uploaded: there is no token" in capsys.readouterr().err
    assert hub == []


def test_what_cannot_be_pushed(tmp_path: Path, hub: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "small.safetensors"
    models.saved(file, "compact")
    assert main(["export", str(file), "-o", str(tmp_path / "other.pth")]) == 0
    (tmp_path / "empty").mkdir()
    for source, repo, message in (
        (file, "name", "write user/name"),
        (tmp_path / "other.pth", "user/name", "was not written by sr train; convert it with `sr export"),
        (tmp_path / "empty", "user/name", "give the folder of a run"),
    ):
        assert main(["push", str(source), repo]) == 2
        assert message in capsys.readouterr().err
    assert hub == []


def test_a_failed_upload(
    tmp_path: Path, hub: list[Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **how: Any) -> None:
        raise OSError("403 Forbidden")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuse)
    models.saved(tmp_path / "small.safetensors", "compact")
    assert main(["push", str(tmp_path / "small.safetensors"), "user/name"]) == 2
    assert "user/name: the upload failed (403 Forbidden); check the name" in capsys.readouterr().err

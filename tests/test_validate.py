"""Validation: sets paired and checked, the same table on any number of ranks, failures that reach every rank."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sr import bicubic, validate
from sr.errors import UserError
from sr.images import write_rgb
from sr.metrics.psnr import psnr
from sr.validate import STRIP_SIDE, Results, ValSet, evaluate, strip, val_set


def picture(seed: int, height: int, width: int) -> np.ndarray:
    ramp = np.linspace(0, 200, width)[None, :, None] + np.zeros((height, 1, 3))
    return (ramp + np.random.default_rng(seed).integers(0, 50, (height, width, 3))).astype(np.uint8)


@pytest.fixture
def hr(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"img {n}.png" for n in range(3)]
    for n, path in enumerate(paths):
        write_rgb(path, picture(n, 41 + n, 50))
    return paths


def enlarge(lq: Tensor) -> Tensor:
    return bicubic.resize(lq, scale=2)


def test_made_lr_is_rounded_and_gt_is_cut_to_the_scale(hr):
    seen: list[Tensor] = []
    results = evaluate(lambda lq: seen.append(lq) or enlarge(lq), [val_set("set", hr=hr, scale=2)], scale=2)
    assert [tuple(x.shape) for x in seen] == [(1, 3, 20, 25), (1, 3, 21, 25), (1, 3, 21, 25)]
    torch.testing.assert_close(seen[0] * 255, (seen[0] * 255).round(), atol=1e-4, rtol=0)
    gt = torch.from_numpy(picture(0, 41, 50)[:40] / 255).permute(2, 0, 1).float()
    assert results.rows[0].scores["psnr_y"] == pytest.approx(psnr(enlarge(seen[0])[0], gt, border=2))
    assert [row.name for row in results.rows] == ["img 0", "img 1", "img 2"]
    expected = np.mean([row.scores["ssim_y"] for row in results.rows])
    assert results.means["set"]["ssim_y"] == pytest.approx(expected)


@pytest.mark.parametrize("ending", ["", "x2", "_x2", "_LR"])
def test_pairs_by_stem(tmp_path, hr, ending):
    lr = [tmp_path / "lr" / f"{path.stem}{ending}.png" for path in hr]
    lr[0].parent.mkdir()
    for n, path in enumerate(lr):
        write_rgb(path, np.full(((41 + n) // 2, 25, 3), 10 * n, np.uint8))
    paired = val_set("set", hr=hr, lr=lr[::-1], scale=2)
    assert [item[1:] for item in paired.items] == list(zip(hr, lr, strict=True))
    values: list[float] = []
    evaluate(lambda lq: values.append(lq.mean().item()) or enlarge(lq), [paired], scale=2)
    assert values == pytest.approx([0, 10 / 255, 20 / 255])


def test_pictures_of_one_stem_are_told_apart(tmp_path, hr):
    twin = tmp_path / "more" / hr[0].name
    twin.parent.mkdir()
    write_rgb(twin, picture(7, 40, 40))
    results = evaluate(enlarge, [val_set("set", hr=[*hr, twin], scale=2)], scale=2, pictures=4)
    assert [row.name for row in results.rows] == [str(hr[0]), "img 1", "img 2", str(twin)]
    assert len(results.pictures) == 4


def test_wrong_sets(tmp_path, hr):
    with pytest.raises(UserError, match="no pictures"):
        val_set("set", hr=[], scale=2)
    other = tmp_path / "other.png"
    write_rgb(other, picture(9, 20, 25))
    with pytest.raises(UserError, match="no partner"):
        val_set("set", hr=hr[:1], lr=[other], scale=2)
    wrong = tmp_path / "lr" / hr[0].name
    wrong.parent.mkdir()
    write_rgb(wrong, picture(9, 21, 25))
    with pytest.raises(UserError, match=r"is 25x21, but img 0\.png of 50x41 at scale 2 needs 25x20"):
        val_set("set", hr=hr[:1], lr=[wrong], scale=2)
    with pytest.raises(UserError, match="share a name"):
        val_set("set", hr=hr[:1], lr=[wrong, wrong], scale=2)
    write_rgb(other, picture(9, 14, 50))
    with pytest.raises(UserError, match="50x14 is too small to measure"):
        val_set("set", hr=[other], scale=2)


def test_wrong_scale_of_the_model(hr):
    with pytest.raises(UserError, match=r"img 0.png: the model made 25x20 where 50x40 is right"):
        evaluate(lambda lq: lq, [val_set("set", hr=hr, scale=2)], scale=2)


def on_ranks(monkeypatch, world: int, run, sets: list[ValSet]) -> list[Results | Exception]:
    """`evaluate` on ranks that are threads."""
    local, meet, board = threading.local(), threading.Barrier(world, timeout=60), [None] * world
    outcomes: list = [None] * world

    def gather(value):
        board[local.rank] = value
        meet.wait()
        return list(board)

    def work(rank: int) -> None:
        local.rank = rank
        try:
            outcomes[rank] = evaluate(run, sets, scale=2, pictures=1)
        except Exception as error:
            outcomes[rank] = error

    monkeypatch.setattr(validate, "rank", lambda: local.rank)
    monkeypatch.setattr(validate, "world", lambda: world)
    monkeypatch.setattr(validate, "gather", gather)
    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


@pytest.mark.parametrize("world", [2, 5])
def test_same_table_on_every_rank(monkeypatch, hr, world):
    sets = [val_set("one", hr=hr, scale=2), val_set("two", hr=hr[:1], scale=2)]
    alone = evaluate(enlarge, sets, scale=2, pictures=1)
    assert list(alone.pictures) == ["one/img 0", "two/img 0"]
    for results in on_ranks(monkeypatch, world, enlarge, sets):
        assert isinstance(results, Results)
        assert results.rows == alone.rows
        assert results.means == alone.means
        assert all(np.array_equal(results.pictures[name], alone.pictures[name]) for name in alone.pictures)


def test_a_failure_on_one_rank_reaches_all(monkeypatch, hr):
    def run(lq: Tensor) -> Tensor:
        if lq.shape[-2] == 20:
            raise RuntimeError("out of memory")
        return enlarge(lq)

    first, second = on_ranks(monkeypatch, 2, run, [val_set("set", hr=hr, scale=2)])
    assert isinstance(first, RuntimeError)
    assert isinstance(second, UserError)
    assert "rank 0 (RuntimeError: out of memory)" in str(second)


def test_strip_shows_three_columns_of_the_centre():
    gt = torch.zeros(3, 900, 100)
    gt[0, 450] = 1
    sheet = strip(torch.zeros(3, 225, 25), gt * 0.5, gt)
    assert sheet.dtype == np.uint8
    assert sheet.shape == (STRIP_SIDE + 16, 3 * 100 + 2 * 4, 3)
    centre = sheet[16 + STRIP_SIDE // 2 - 1 :][:4]
    assert centre[..., :100, 0].max() == 0
    assert centre[..., 104:204, 0].max() == 128
    assert centre[..., 208:, 0].max() == 255

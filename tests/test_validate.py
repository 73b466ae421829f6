"""Validation: sets paired and checked, the same table on any number of ranks, failures that reach every rank."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sr.core.errors import UserError
from sr.data.source import Sample
from sr.evaluate.metrics.psnr import psnr
from sr.evaluate.validate import Results, ValidationFailed, ValSet, evaluate, measure, source_set, val_set
from sr.evaluate.validate.sheet import STRIP_SIDE, captions, cells, sheet, zoomed
from sr.images import bicubic, color, write_rgb


def image(seed: int, height: int, width: int) -> np.ndarray:
    ramp = np.linspace(0, 200, width)[None, :, None] + np.zeros((height, 1, 3))
    return (ramp + np.random.default_rng(seed).integers(0, 50, (height, width, 3))).astype(np.uint8)


@pytest.fixture
def hr(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"img {n}.png" for n in range(3)]
    for n, path in enumerate(paths):
        write_rgb(path, image(n, 41 + n, 50))
    return paths


def enlarge(lq: Tensor) -> Tensor:
    return bicubic.resize(lq, scale=2)


def test_made_lr_is_rounded_and_gt_is_cut_to_the_scale(hr):
    seen: list[Tensor] = []
    results = evaluate(lambda lq: seen.append(lq) or enlarge(lq), [val_set("set", hr=hr, scale=2)], scale=2)
    assert [tuple(x.shape) for x in seen] == [(1, 3, 20, 25), (1, 3, 21, 25), (1, 3, 21, 25)]
    torch.testing.assert_close(seen[0] * 255, (seen[0] * 255).round(), atol=1e-4, rtol=0)
    gt = torch.from_numpy(image(0, 41, 50)[:40] / 255).permute(2, 0, 1).float()
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
    assert [item.place for item in paired.items] == list(map(str, hr))
    values: list[float] = []
    evaluate(lambda lq: values.append(lq.mean().item()) or enlarge(lq), [paired], scale=2)
    assert values == pytest.approx([0, 10 / 255, 20 / 255])


def test_images_with_the_same_stem_are_distinguished(tmp_path, hr):
    twin = tmp_path / "more" / hr[0].name
    twin.parent.mkdir()
    write_rgb(twin, image(7, 40, 40))
    results = evaluate(enlarge, [val_set("set", hr=[*hr, twin], scale=2)], scale=2, images=4)
    assert [row.name for row in results.rows] == [str(hr[0]), "img 1", "img 2", str(twin)]
    assert len(results.images) == 4


def test_wrong_sets(tmp_path, hr):
    with pytest.raises(UserError, match="no images"):
        val_set("set", hr=[], scale=2)
    other = tmp_path / "other.png"
    write_rgb(other, image(9, 20, 25))
    with pytest.raises(UserError, match="no partner"):
        val_set("set", hr=hr[:1], lr=[other], scale=2)
    wrong = tmp_path / "lr" / hr[0].name
    wrong.parent.mkdir()
    write_rgb(wrong, image(9, 21, 25))
    with pytest.raises(UserError, match=r"is 25x21, but img 0\.png of 50x41 at scale 2 needs 25x20"):
        val_set("set", hr=hr[:1], lr=[wrong], scale=2)
    with pytest.raises(UserError, match="have the same name"):
        val_set("set", hr=hr[:1], lr=[wrong, wrong], scale=2)
    write_rgb(other, image(9, 14, 50))
    with pytest.raises(UserError, match="50x14 is too small to measure"):
        val_set("set", hr=[other], scale=2)


def test_wrong_scale_of_the_model(hr):
    with pytest.raises(UserError, match=r"img 0.png: the model returns 25x20 of 3 channels, not 50x40 of 3 channels"):
        evaluate(lambda lq: lq, [val_set("set", hr=hr, scale=2)], scale=2)


def on_ranks(monkeypatch, world: int, run, sets: list[ValSet]) -> list[Results | Exception]:
    """`evaluate` on ranks that are threads."""
    local, meet, board = threading.local(), threading.Barrier(world, timeout=60), [None] * world
    outcomes: list = [None] * world

    def gather(value):
        board[local.rank] = value
        meet.wait()
        everyone = list(board)
        meet.wait()
        return everyone

    def work(rank: int) -> None:
        local.rank = rank
        try:
            outcomes[rank] = evaluate(run, sets, scale=2, images=1)
        except Exception as error:
            outcomes[rank] = error

    monkeypatch.setattr(measure, "rank", lambda: local.rank)
    monkeypatch.setattr(measure, "world", lambda: world)
    monkeypatch.setattr(measure, "gather", gather)
    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


@pytest.mark.parametrize("world", [2, 5])
def test_same_table_on_every_rank(monkeypatch, hr, world):
    sets = [val_set("one", hr=hr, scale=2), val_set("two", hr=hr[:1], scale=2)]
    alone = evaluate(enlarge, sets, scale=2, images=1)
    assert list(alone.images) == ["one/img 0", "two/img 0"]
    for results in on_ranks(monkeypatch, world, enlarge, sets):
        assert isinstance(results, Results)
        assert results.rows == alone.rows
        assert results.means == alone.means
        assert all(np.array_equal(results.images[name], alone.images[name]) for name in alone.images)


def test_a_failure_on_one_rank_reaches_all(monkeypatch, hr):
    def run(lq: Tensor) -> Tensor:
        if lq.shape[-2] == 20:
            raise RuntimeError("out of memory")
        return enlarge(lq)

    first, second = on_ranks(monkeypatch, 2, run, [val_set("set", hr=hr, scale=2)])
    assert isinstance(first, ValidationFailed)
    assert isinstance(first.__cause__, RuntimeError)
    assert isinstance(second, ValidationFailed)
    assert "rank 0: RuntimeError: out of memory" in str(second)


def test_strip_shows_three_columns_of_the_centre():
    gt = torch.zeros(3, 900, 100)
    gt[0, 450] = 1
    strip = sheet([cells(torch.zeros(3, 225, 25), gt * 0.5, gt)], captions(4))
    assert strip.dtype == np.uint8
    assert strip.shape == (STRIP_SIDE + 16, 3 * 100 + 2 * 4, 3)
    centre = strip[16 + STRIP_SIDE // 2 - 1 :][:4]
    assert centre[..., :100, 0].max() == 0
    assert centre[..., 104:204, 0].max() == 128
    assert centre[..., 208:, 0].max() == 255


def test_a_strip_enlarges_the_detail_of_largest_contrast():
    target = np.zeros((200, 400, 3), np.uint8)
    target[150:160, 300:310] = 255
    given, output, detail = zoomed([target // 4, target // 2, target])
    assert detail.shape == output.shape == given.shape == (400, 400, 3)
    assert (detail > 0).mean() == pytest.approx(100 / 96**2, rel=0.1), "the square is whole, and enlarged"
    assert (output == detail // 2).all()
    assert (given == detail // 4).all()


def test_a_sheet_has_a_row_for_each_image_and_room_for_the_largest():
    sizes = [(20, 30), (40, 10)]
    rows = [[np.full((*size, 3), 50 * column, np.uint8) for column in range(3)] for size in sizes]
    made = sheet(rows, ("input", "output", "target"))
    assert made.shape == (16 + 20 + 4 + 40, 3 * 30 + 2 * 4, 3)
    assert (made[16:36, 34:64] == 50).all()
    assert (made[40:, 34:44] == 50).all()
    assert (made[40:, 44:68] == 255).all()  # white beside the narrow cell and in the gap
    assert (made[40:, 68:78] == 100).all()
    assert (made[:16] < 128).any(), "captions are written"


@pytest.mark.parametrize(("channels", "shown"), [(1, [128, 128, 128]), (2, [128, 128, 128]), (5, [128, 128, 128])])
def test_images_of_any_number_of_channels_are_shown(channels, shown):
    image = torch.full((channels, 4, 4), 128 / 255)
    for cell in cells(image[:1], image, image)[1:]:
        assert cell.shape == (4, 4, 3)
        assert (cell == shown).all()


# ---- sources ---------------------------------------------------------------------------------------------------------


class Pairs:
    """Three pairs in two shards: a is grey level 10 n, b 100 + 10 n, of c channels each."""

    counts = (2, 1)

    def __init__(self, channels: tuple[int, int] = (3, 3), sides: tuple[int, int] = (24, 24)) -> None:
        self.channels, self.sides = channels, sides

    def read(self, shard: int, index: int) -> Sample:
        number, side = 2 * shard + index, self.sides
        a, b = (np.full((*side, count), 0, np.uint8) for count in self.channels)
        return Sample(lq=a + 10 * number, gt=b + 100 + 10 * number)

    def name(self, shard: int, index: int) -> str:
        return f"shard-{shard}.tar: street {index}"


@pytest.mark.parametrize(("direction", "first"), [("a_to_b", 0), ("b_to_a", 100)])
def test_a_source_is_measured_completely_in_order_and_direction(direction, first):
    seen: list[float] = []
    pairs = source_set("set", Pairs(), direction=direction)
    results = evaluate(lambda x: seen.append(x.mean().item() * 255) or x, [pairs], scale=1, metrics=["l1"])
    assert seen == pytest.approx([first, first + 10, first + 20])
    assert [row.scores["l1"] for row in results.rows] == pytest.approx([100 / 255] * 3)
    assert [row.name for row in results.rows] == ["shard-0.tar: street 0", "street 1", "shard-1.tar: street 0"]


def test_a_source_is_resized_and_its_whole_image_counts():
    sizes: list[tuple[int, ...]] = []

    def run(x: Tensor) -> Tensor:
        sizes.append(tuple(x.shape))
        x = torch.full_like(x, 110 / 255)
        x[..., 0, :] = 1  # an error at the very edge: of one row in 16
        return x

    pairs = source_set("set", Pairs(), size=16)
    results = evaluate(run, [pairs], scale=1, metrics=["l1"], images=2)
    assert sizes == [(1, 3, 16, 16)] * 3
    assert results.rows[1].scores["l1"] == pytest.approx((255 - 110) / 255 / 16)
    assert results.sheets["set"].shape == (16 + 2 * 16 + 4, 3 * 16 + 2 * 4, 3)
    assert list(results.images) == ["set/shard-0.tar: street 0", "set/street 1"]


def test_inputs_are_measured_too_if_comparable():
    pairs = source_set("set", Pairs((1, 3)))
    results = evaluate(lambda x: x.expand(1, 3, -1, -1) + 90 / 255, [pairs], scale=1, metrics=["l1"], inputs=True)
    assert results.means["set"]["l1"] == pytest.approx(10 / 255)
    assert results.given_means["set"]["l1"] == pytest.approx(100 / 255)
    more = source_set("set", Pairs((4, 3)))
    results = evaluate(lambda x: x[:, :3], [more], scale=1, metrics=["l1"], inputs=True)
    assert results.given_means == {}


def test_lab_is_measured_in_rgb_and_against_grey():
    photo = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    codes = color.lab_codes((photo * 255).byte().permute(1, 2, 0).numpy())

    class Photo(Pairs):
        counts = (1,)

        def read(self, shard: int, index: int) -> Sample:
            return Sample(lq=codes[..., :1], gt=codes[..., 1:])

    ab = torch.from_numpy(codes[..., 1:]).permute(2, 0, 1)[None] / 255
    runs = {"right": lambda x: ab, "grey": lambda x: torch.full_like(ab, 0.5), "red": lambda x: torch.ones_like(ab)}
    pairs, metrics = source_set("set", Photo(), colours="lab"), ["chroma", "l1", "psnr_rgb"]
    means = {
        name: evaluate(run, [pairs], scale=1, metrics=metrics, images=1, inputs=True) for name, run in runs.items()
    }
    assert means["right"].means["set"]["chroma"] == 0
    assert means["grey"].means["set"] == means["red"].given_means["set"]
    assert means["red"].means["set"]["chroma"] > means["grey"].means["set"]["chroma"] > 10
    shown = means["red"].images["set/street 0"][16:, :16].astype(int)
    assert (shown.max(-1) - shown.min(-1)).max() <= 1, "the input is shown without colour"


def test_sources_that_cannot_be_measured():
    for source, settings, message in [
        (object(), {}, "its source has no pairs"),
        (Pairs(sides=(8, 40)), {}, r"street 0: 40x8 is too small"),
        (Pairs((3, 2)), {}, r"the model returns 24x24 of 3 channels, not 24x24 of 2 channels"),
    ]:
        with pytest.raises(UserError, match=message):
            evaluate(lambda x: x, [source_set("set", source, **settings)], scale=1, metrics=["l1"])

    class Alone(Pairs):
        def read(self, shard: int, index: int) -> Sample:
            return Sample(gt=super().read(shard, index).gt)

    for direction in ("a_to_b", "b_to_a"):
        with pytest.raises(UserError, match=r"shard-0.tar: street 0: has no partner.*; remove it"):
            evaluate(lambda x: x, [source_set("set", Alone(), direction=direction)], scale=1)
    seen = evaluate(lambda x: bicubic.resize(x, scale=2), [source_set("set", Alone(), scale=2)], scale=2)
    assert seen.means["set"]["ssim_y"] == pytest.approx(1)  # super-resolution makes the partner


def test_draws_depend_on_the_image_alone(monkeypatch):
    def run(x: Tensor) -> Tensor:
        return torch.rand_like(x)

    torch.manual_seed(1)
    before = torch.get_rng_state()
    alone = evaluate(run, [source_set("set", Pairs())], scale=1, metrics=["l1"])
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again = evaluate(run, [source_set("other", Pairs())], scale=1, metrics=["l1"])
    assert [row.scores for row in again.rows] == [row.scores for row in alone.rows]
    assert alone.rows[0].scores != alone.rows[1].scores


def test_a_metric_that_one_rank_lacks_is_left_out_on_all(monkeypatch):
    monkeypatch.setattr(measure, "gather", lambda value: [value, {"l1": "not here"}] if value == {} else [value])
    results = evaluate(lambda x: x, [source_set("set", Pairs())], scale=1, metrics=["l1", "psnr_rgb"])
    assert results.left_out == {"l1": "not here"}
    assert list(results.means["set"]) == ["psnr_rgb"]

"""Receptive fields and the tiles chosen from them: tiled equals whole for every network of the table."""

import importlib.util
from typing import Any

import pytest
import torch
from tiles_table import NETS, model_of
from torch import Tensor, nn

from sr.inference import memory, tile_policy
from sr.inference.predictor import Predictor
from sr.inference.receptive_field import BOUND, ReceptiveField, cached_field, measure_field, probe, probes
from sr.nets import GENERATORS
from sr.nets.io.load import Model
from tests.helpers.tiers import slow


def test_every_net_is_here():
    kinds = {"basicsr.*" if name.startswith("basicsr.") else name.split()[0] for name in NETS}
    assert kinds == set(GENERATORS) - {"spandrel", "spandrel.*"}  # which is the nets of others, out of files


def difference(model: Model, image: Tensor, **how: Any) -> float:
    made = Predictor(model, **how)([image])[0]
    with torch.no_grad():
        whole = model.net(image[None])[0].clamp(0, 1)
    assert made.shape == whole.shape
    return (made - whole).abs().max().item() * 255


def memory_for(monkeypatch: pytest.MonkeyPatch, pixels: int) -> None:
    for name in ("pixels_that_fit", "pixels_that_fit_surely"):
        monkeypatch.setattr(tile_policy, name, lambda *_, **__: pixels)


QUICK = [("rrdbnet", None), ("unet", None), ("resnet_9blocks", None), ("basicsr.SwinIR", None), ("rrdbnet x2", 96)]
REST = [*((name, None) for name in NETS), ("rrdbnet", 96), ("basicsr.SwinIR", 96)]


@pytest.mark.parametrize(("name", "tile"), QUICK + slow(case for case in REST if case not in QUICK))
def test_tiled_equals_whole(name, tile, monkeypatch):
    """Edges and corners included, with an overlap that the program chose, and tiles that it chose or the user."""
    memory_for(monkeypatch, 100 * 67)
    monkeypatch.setattr(tile_policy, "TILE", 64)
    if name.startswith("basicsr") and importlib.util.find_spec("basicsr") is None:
        pytest.skip("basicsr is an extra")
    model = model_of(name)
    image = probe(260, 3)[0, :, :, :67]
    messages: list[str] = []
    change = difference(model, image, say=messages.append, tile=tile)
    if "depends on the whole image" in messages[0]:  # its tiles make another image
        assert name.startswith(("rcan", "unet", "resnet"))
    else:
        assert change < 1


def fail(sentence: str) -> None:
    raise AssertionError(sentence)


@pytest.mark.parametrize("radius", [0, 3, 14, 25])
def test_the_field_of_a_known_kernel(radius):
    net = nn.Conv2d(1, 1, 2 * radius + 1, padding=radius, bias=False)
    nn.init.constant_(net.weight, 1 / (2 * radius + 1) ** 2)
    with torch.no_grad():
        found = measure_field(net, channels=1, scale=1)
    assert found.pixels is not None
    assert radius * 0.9 <= found.pixels <= radius
    assert found.beyond <= BOUND


class Dimmed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x.mean()


def test_a_net_that_sees_the_whole():
    found = measure_field(Dimmed(), channels=3, scale=1)
    assert found.pixels is None
    assert found.beyond > BOUND
    model = Model(Dimmed(), 1, 1, "dimmed")
    assert difference(model, probe(300, 3)[0], say=fail) == 0


def test_a_gate_that_opens_in_the_light():
    """Channel attention that is shut at the mean of most images."""

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool = nn.AdaptiveAvgPool2d(1)

        def forward(self, x: Tensor) -> Tensor:
            return x + (self.pool(x) - 0.8).relu()

    assert Predictor(Model(Gated(), 1, 1, "gated")).policy.field.pixels is None


def test_a_net_of_large_sides_is_not_run():
    assert measure_field(fail, channels=3, scale=1, multiple=256).pixels is None


def test_tiles_of_a_net_that_sees_the_whole_are_reported_once():
    messages: list[str] = []
    run = Predictor(Model(Dimmed(), 1, 1, "dimmed"), tile=48, say=messages.append)
    image = probe(96, 3)[0]
    for _ in range(2):
        run([image])
    assert [message.partition(":")[0] for message in messages] == [
        "dimmed depends on the whole image",
        "tiles of 48x48 with an overlap of 24, which compute 2.25 times the pixels of the image",
        messages[2],
    ]
    assert "leave out --tile and --overlap" in messages[2]


class Moving(nn.Module):
    """Adds what is 50 pixels to the left where all of a neighbourhood has contrast, as in moire, else nothing."""

    def forward(self, x: Tensor) -> Tensor:
        contrast = nn.functional.max_pool2d(x, 5, 1, 2) + nn.functional.max_pool2d(-x, 5, 1, 2)
        dense = -nn.functional.max_pool2d(-contrast, 15, 1, 7) > 0.3
        return x + dense * nn.functional.pad(x, (50, 0, 0, 0))[..., : x.shape[-1]]


def test_the_worst_probe_counts():
    """A field that only one kind of content shows."""
    net = Moving()
    fields = [_field_of(net, image) for image in probes(128, 360, 3)]
    assert min(fields) < 20
    assert max(fields) > 40
    assert max(fields) * 0.9 <= (measure_field(net, channels=3, scale=1).pixels or 0) <= max(fields) * 1.1


def _field_of(net: nn.Module, image: Tensor, side: int = 160) -> int:
    change = (net(image)[..., side:] - net(image[..., side:])).abs().amax((0, 1, 2))
    touched = torch.nonzero(change > BOUND)
    return int(touched.max()) + 1 if len(touched) else 0


def test_probes_of_any_size_and_number_of_channels():
    for height, width, channels in ((13, 29, 1), (128, 72, 4)):
        for image in probes(height, width, channels):
            assert image.shape == (1, channels, height, width)
            assert 0 <= image.min() <= image.max() <= 1
            assert image.std() > 0.02


# ---- the cache -------------------------------------------------------------------------------------------------------


class Blur(nn.Module):
    """Averages over `radius` pixels in each direction; counts its calls."""

    def __init__(self, radius: int) -> None:
        super().__init__()
        self.radius, self.calls = radius, 0
        self.weight = nn.Parameter(torch.full((3, 1, 2 * radius + 1, 2 * radius + 1), 1 / (2 * radius + 1) ** 2))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return nn.functional.conv2d(x, self.weight, padding=self.radius, groups=3)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "sr" / "receptive_fields"


def field_of(net: nn.Module) -> ReceptiveField:
    return Predictor(Model(net, 1, 1, "blur")).policy.field


def test_a_measured_field_is_kept_for_the_same_weights(cache):
    first = field_of(Blur(9))
    again = Blur(9)
    assert (field_of(again), again.calls) == (first, 0)
    assert len(list(cache.iterdir())) == 1
    other = Blur(3)
    assert field_of(other) != first
    assert other.calls > 0
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pixels": 3}', '{"pixels": -3, "beyond": 0}', "\0" * 9])
def test_a_damaged_entry_is_measured_again(cache, content):
    first = field_of(Blur(3))
    (entry,) = cache.iterdir()
    entry.write_text(content)
    assert field_of(Blur(3)) == first
    again = Blur(3)
    assert (field_of(again), again.calls) == (first, 0)


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    tmp_path.joinpath("file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert cached_field("key", lambda: ReceptiveField(3, 0.0)) == ReceptiveField(3, 0.0)


# ---- tiles from memory, and tiles that differ ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rrdbnet", "compact", "srresnet"])
def test_what_surely_fits_is_no_more_than_what_fits(name, monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1e9)
    net, state = model_of(name).net, torch.random.get_rng_state()
    surely = memory.pixels_that_fit_surely(net, 3, torch.device("cpu"))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert 0 < surely <= memory.pixels_that_fit(net, 3, torch.device("cpu"))


def test_attention_over_the_image_is_not_counted_on_small_ones():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.scores = nn.Sequential(nn.Linear(1, 1), nn.Softmax(-1))

        def forward(self, x):
            pixels = x.flatten(2).mean(1)
            return x + self.scores((pixels[..., None] * pixels[:, None])[..., None]).mean()

    assert memory.pixels_that_fit_surely(Attention(), 3, torch.device("cpu")) == 0


def test_tiles_from_memory_are_reported(cache, monkeypatch):
    memory_for(monkeypatch, 200 * 200)
    monkeypatch.setattr(tile_policy, "TILE", 64)
    messages: list[str] = []
    assert difference(Model(Blur(9), 1, 1, "blur"), probe(500, 3)[0], say=messages.append) < 0.25
    assert len(messages) == 1
    assert messages[0].endswith(" times the pixels of the image")
    assert float(messages[0].split()[-7]) < 1.3


def test_a_field_that_was_measured_too_small_is_noticed(cache, monkeypatch):
    memory_for(monkeypatch, 200 * 200)
    monkeypatch.setattr(tile_policy.TilePolicy, "field", ReceptiveField(2, 0.0))
    messages: list[str] = []
    rings = probes(500, 500, 3)[1][0]
    assert difference(Model(Blur(30), 1, 1, "blur"), rings, say=messages.append) < 1
    assert "computing the image again with an overlap of" in messages[1]

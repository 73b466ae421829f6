"""The same parameters give the same images as the reference implementation."""

import numpy as np
import pytest
import torch
from scipy import stats
from skimage import data

from sr.core.errors import UserError
from sr.degrade import noise, shot
from sr.degrade.canvas import pack
from sr.degrade.filters import filter2d
from sr.degrade.jpeg import jpeg
from sr.degrade.kernels import BellKernel, SincKernel, synthesize
from sr.degrade.resize import Plan, resized
from sr.degrade.sharpen import Sharpen
from sr.nets.io.basicsr import basicsr


def reference(module):
    try:
        return basicsr(module)
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def photo():
    """An odd-sized crop of a photo, [3, 150, 171]."""
    return torch.from_numpy(data.coffee()[100:250, 200:371].copy()).permute(2, 0, 1).contiguous() / 255


@pytest.mark.parametrize("isotropic", [True, False])
@pytest.mark.parametrize("beta", [0.5, 1.0, 2.6])
@pytest.mark.parametrize(("plateau", "name"), [(False, "bivariate_generalized_Gaussian"), (True, "bivariate_plateau")])
def test_bell_kernels(isotropic, beta, plateau, name):
    expected = getattr(reference("data.degradations"), name)(13, 1.3, 0.4, 0.7, beta, isotropic=isotropic)
    shape = {"sigma_y": 1.3} if isotropic else {"sigma_y": 0.4, "rotation": 0.7}
    [got] = synthesize([BellKernel(13, 1.3, beta=beta, plateau=plateau, **shape)], 13)
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-12)


@pytest.mark.parametrize(("size", "cutoff"), [(7, 3.1), (13, 1.5), (21, 0.63)])
def test_sinc_kernel(size, cutoff):
    expected = reference("data.degradations").circular_lowpass_kernel(cutoff, size)
    [got] = synthesize([SincKernel(size, cutoff)], size)
    np.testing.assert_allclose(got.numpy(), expected, atol=2e-7)


def test_batched_kernels_are_centered_single_kernels():
    shapes = [
        SincKernel(7, 2.0),
        BellKernel(21, 1.0, 2.0, 0.3),
        BellKernel(9, 1.5, 1.5, beta=0.7, plateau=True),
        SincKernel(15, 1.1),
        BellKernel(1, 1, 1),
    ]
    made = synthesize(shapes, 21)
    for kernel, shape in zip(made, shapes, strict=True):
        margin = (21 - shape.size) // 2
        [alone] = synthesize([shape], shape.size)
        torch.testing.assert_close(kernel, torch.nn.functional.pad(alone, [margin] * 4), atol=1e-15, rtol=0)


@pytest.mark.parametrize("size", [7, 21])
def test_filter(photo, size):
    """Uses an asymmetric kernel, so that flips and transpositions are detected."""
    kernel = torch.rand(size, size, generator=torch.Generator().manual_seed(size))
    kernel /= kernel.sum()
    expected = reference("utils.img_process_util").filter2D(photo[None], kernel[None])[0]
    [got] = filter2d([photo], kernel[None])
    torch.testing.assert_close(got, expected, atol=5e-6, rtol=0)


@pytest.mark.parametrize("side", [150, 60, 26])
def test_sharpen(photo, side):
    """A pixel at the threshold of the mask may fall on either side, which slightly changes its surroundings."""
    photo = photo[:, :side].contiguous()
    expected = reference("utils.img_process_util").USMSharp()(photo[None])[0]
    error = (Sharpen().sharpen([photo])[0] - expected).abs()
    assert error.max() < 0.25 / 255
    assert error.median() < 1e-5


@pytest.mark.parametrize("quality", [5.0, 30.0, 49.9, 50.0, 63.7, 95.0])
def test_jpeg(photo, quality):
    """Coefficients at a rounding boundary may round either way, which changes their block."""
    codec = reference("utils.diffjpeg").DiffJPEG(differentiable=False)
    error = (jpeg([photo], [quality])[0] - codec(photo[None], torch.tensor([quality]))[0]).abs()
    assert (error > 1e-5).float().mean() < 0.005


class Fixed:
    """A draw whose fields have the same seed."""

    def field(self):
        return torch.Generator().manual_seed(3)


@pytest.mark.parametrize("gray", [False, True])
def test_noise(photo, gray, monkeypatch):
    module, gray_batch = reference("data.degradations"), torch.tensor([float(gray)])
    torch.manual_seed(3)
    expected = photo + module.generate_gaussian_noise_pt(photo[None], 9.0, gray_batch)[0]
    [got] = noise.gaussian([photo], [9.0], [Fixed()], gray=gray)
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)

    torch.manual_seed(3)
    expected = photo + module.generate_poisson_noise_pt(photo[None], 0.7, gray_batch)[0]
    sampler = lambda levels, photons, draw: torch.poisson(levels / 255 * photons, generator=draw.field())  # noqa: E731
    monkeypatch.setattr(noise, "_counts", sampler)
    [got] = noise.poisson([photo], [0.7], [Fixed()], gray=gray)
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("levels", "photons"), [(1, 1), (2, 2), (3, 4), (64, 64), (65, 128), (256, 256)])
def test_photons_are_levels_rounded_up_to_a_power_of_two(levels, photons):
    image = torch.arange(300).remainder(levels).float()[None, None]
    plain = torch.zeros(1, 90, 90)
    both = pack([image, plain])
    assert noise._photons(both.whole, both.inside).tolist() == [photons, 1]


@pytest.mark.parametrize("photons", [1, 8, 256])
def test_counts_are_poisson(photons):
    """Chi-square test of the frequencies of counts that are expected at least 20 times."""
    many = 200_000
    for level in (0, 1, 40, 137, 255):
        drawn = shot.counts(torch.full((many,), float(level)), photons, seed=level)
        assert drawn.dtype == torch.float32
        seen = np.bincount(drawn.long().numpy(), minlength=600)
        expected = stats.poisson.pmf(np.arange(600), level / 255 * photons) * many
        usual = expected >= 20
        terms = (seen[usual] - expected[usual]) ** 2 / expected[usual]
        assert seen[~usual].sum() <= expected[~usual].sum() + 5 * np.sqrt(expected[~usual].sum()) + 1
        assert terms.sum() < stats.chi2.ppf(1 - 1e-6, usual.sum())


def test_tables_of_counts_hold_the_probabilities():
    """Decodes Walker's table: the share of its 2^32 cells that gives each count."""
    bits, table = shot._table(64)
    half = 1 << 31 - bits
    rows = table.view(256, -1)[[0, 3, 128, 255]].long()
    keep, alias = (rows >> bits) + half, rows & (1 << bits) - 1
    cells = keep.double().scatter_add(1, alias, (2 * half - keep).double()) / 2.0**32
    torch.testing.assert_close(
        cells, torch.from_numpy(shot._probabilities(64, 1 << bits))[[0, 3, 128, 255]], atol=1e-8, rtol=0
    )


@pytest.mark.parametrize("mode", ["area", "bilinear", "bicubic"])
@pytest.mark.parametrize("factor", [0.15, 0.4, 0.77, 1.0, 1.31])
def test_interpolation_matches_torch(photo, mode, factor):
    expected = torch.nn.functional.interpolate(photo[None], scale_factor=factor, mode=mode)[0]
    torch.testing.assert_close(resized([photo], [Plan(mode, factor=factor)])[0], expected, atol=2e-5, rtol=0)
    expected = torch.nn.functional.interpolate(photo[None], size=(91, 40), mode=mode)[0]
    torch.testing.assert_close(resized([photo], [Plan(mode, size=(91, 40))])[0], expected, atol=2e-5, rtol=0)

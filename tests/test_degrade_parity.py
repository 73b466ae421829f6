"""The same parameters give the same pictures as the reference implementation."""

import numpy as np
import pytest
import torch
from skimage import data

from sr.degrade import kernels, noise
from sr.degrade.filters import filter2d
from sr.degrade.jpeg import jpeg
from sr.degrade.sharpen import Sharpen
from sr.errors import UserError
from sr.nets.basicsr import basicsr


def reference(module):
    try:
        return basicsr(module)
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def photo():
    """An odd-sized piece of a photograph, [3, 150, 171]."""
    return torch.from_numpy(data.coffee()[100:250, 200:371].copy()).permute(2, 0, 1).contiguous() / 255


@pytest.mark.parametrize("isotropic", [True, False])
@pytest.mark.parametrize("beta", [0.5, 1.0, 2.6])
@pytest.mark.parametrize(("plateau", "name"), [(False, "bivariate_generalized_Gaussian"), (True, "bivariate_plateau")])
def test_bell_kernels(isotropic, beta, plateau, name):
    expected = getattr(reference("data.degradations"), name)(13, 1.3, 0.4, 0.7, beta, isotropic=isotropic)
    shape = {"sigma_y": 1.3} if isotropic else {"sigma_y": 0.4, "rotation": 0.7}
    got = kernels.bell(13, sigma_x=1.3, beta=beta, plateau=plateau, **shape)
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-12)


@pytest.mark.parametrize(("size", "cutoff"), [(7, 3.1), (13, 1.5), (21, 0.63)])
def test_sinc_kernel(size, cutoff):
    expected = reference("data.degradations").circular_lowpass_kernel(cutoff, size)
    np.testing.assert_allclose(kernels.sinc(size, cutoff).numpy(), expected, atol=2e-7)


@pytest.mark.parametrize("size", [7, 21])
def test_filter(photo, size):
    """With a lopsided kernel, so that a flipped or transposed one shows."""
    kernel = torch.rand(size, size, generator=torch.Generator().manual_seed(size))
    kernel /= kernel.sum()
    expected = reference("utils.img_process_util").filter2D(photo[None], kernel[None])[0]
    torch.testing.assert_close(filter2d(photo, kernel), expected, atol=5e-6, rtol=0)


def test_sharpen(photo):
    """A pixel right at the mask's threshold may fall on either side, which moves its surroundings a little."""
    expected = reference("utils.img_process_util").USMSharp()(photo[None])[0]
    error = (Sharpen().sharpen(photo) - expected).abs()
    assert error.max() < 0.25 / 255
    assert error.median() < 1e-5


@pytest.mark.parametrize("quality", [5.0, 30.0, 49.9, 50.0, 63.7, 95.0])
def test_jpeg(photo, quality):
    """Coefficients right at a rounding border may fall on either side, and take their block along."""
    codec = reference("utils.diffjpeg").DiffJPEG(differentiable=False)
    error = (jpeg(photo, quality) - codec(photo[None], torch.tensor([quality]))[0]).abs()
    assert (error > 1e-5).float().mean() < 0.005


@pytest.mark.parametrize("gray", [False, True])
def test_noise(photo, gray):
    module, gray_batch = reference("data.degradations"), torch.tensor([float(gray)])
    torch.manual_seed(3)
    expected = module.generate_gaussian_noise_pt(photo[None], 9.0, gray_batch)[0]
    got = noise.gaussian(photo, sigma=9.0, gray=gray, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(got.expand(3, -1, -1), expected, atol=1e-6, rtol=0)

    torch.manual_seed(3)
    expected = module.generate_poisson_noise_pt(photo[None], 0.7, gray_batch)[0]
    got = noise.poisson(photo, scale=0.7, gray=gray, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(got.expand(3, -1, -1), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("levels", "photons"), [(1, 1), (2, 2), (3, 4), (64, 64), (65, 128), (256, 256)])
def test_photons_are_the_levels_rounded_up_to_a_power_of_two(levels, photons):
    picture = torch.arange(300).remainder(levels).float()[None, None]
    assert noise._photons(picture) == photons

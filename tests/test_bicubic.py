import pytest
import torch

from sr.core.errors import UserError
from sr.images.bicubic import resize
from sr.nets.io.basicsr import basicsr


@pytest.fixture
def image():
    return torch.rand(3, 60, 77, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("scale", [0.15, 0.25, 1 / 3, 0.7, 1.7, 2, 3, 4])
def test_equals_the_reference(image, scale):
    """Limited by the reference, which computes coordinates in float32."""
    try:
        expected = basicsr("utils.matlab_functions").imresize(image, scale)
    except UserError as error:
        pytest.skip(str(error))
    got = resize(image, scale=scale)
    assert got.shape == expected.shape
    torch.testing.assert_close(got, expected, atol=2e-5, rtol=0)


def test_size_means_the_ratio_of_the_sides(image):
    torch.testing.assert_close(resize(image, size=(30, 11)), resize(resize(image, size=(30, 77)), size=(30, 11)))
    torch.testing.assert_close(resize(image[..., :76], size=(15, 19)), resize(image[..., :76], scale=0.25))


def test_batches_are_resized_image_by_image(image):
    batch = torch.stack([image, 1 - image])
    torch.testing.assert_close(resize(batch, scale=0.25)[1], resize(1 - image, scale=0.25), atol=0, rtol=0)


def test_constant_images_stay_constant():
    torch.testing.assert_close(resize(torch.full((1, 9, 5), 0.3), scale=0.3), torch.full((1, 3, 2), 0.3))


def test_without_antialias_pixels_are_sampled():
    image = torch.eye(9)[None]
    assert resize(image, scale=1 / 3, antialias=False).equal(torch.eye(3)[None])


def test_size_and_scale_exclude_each_other(image):
    with pytest.raises(ValueError, match="either"):
        resize(image, size=(3, 3), scale=2)
    with pytest.raises(ValueError, match="either"):
        resize(image)

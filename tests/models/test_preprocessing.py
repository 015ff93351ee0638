"""The one way from an image to an input, against torchvision's published steps done by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from iresnet_models import ModelSpec
from iresnet_models.errors import InputError
from iresnet_models.preprocessing import load_image, noise_pixels, normalised, preprocessing, to_pixels


def photo(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (256, 256), (90, 70)])
def test_resize_crop_scale_normalise(size: tuple[int, int]) -> None:
    image = photo(*size)
    spec = ModelSpec("iresnet", 50)
    width, height = size
    if width < height:
        resized = image.resize((256, int(256 * height / width)), Image.Resampling.BILINEAR)
    else:
        resized = image.resize((int(256 * width / height), 256), Image.Resampling.BILINEAR)
    left, top = round((resized.width - 224) / 2), round((resized.height - 224) / 2)
    pixels = np.asarray(resized.crop((left, top, left + 224, top + 224)), dtype=np.float64) / 255
    expected = ((pixels - np.array(spec.mean)) / np.array(spec.std)).transpose(2, 0, 1)
    found = preprocessing(spec)(image)
    assert found.shape == (3, 224, 224)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_pixels_become_the_same_inputs_bit_for_bit() -> None:
    spec = ModelSpec("iresnet", 50)
    images = [photo(300, 200), photo(256, 256)]
    pixels = torch.stack([to_pixels(spec)(image) for image in images])
    assert (pixels.shape, pixels.dtype) == ((2, 224, 224, 3), torch.uint8)
    assert torch.equal(normalised(pixels, spec), torch.stack([preprocessing(spec)(image) for image in images]))


def test_noise_follows_from_its_seed() -> None:
    spec = ModelSpec("iresnet", 18, image_size=32, resize=32)
    noise = noise_pixels(spec, 4, seed=1)
    assert (noise.shape, noise.dtype) == ((4, 32, 32, 3), torch.uint8)
    assert torch.equal(noise, noise_pixels(spec, 4, seed=1))
    assert not torch.equal(noise, noise_pixels(spec, 4, seed=2))
    assert abs(float(noise.double().mean()) - 127.5) < 4


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_images_of_any_mode_become_rgb(mode: str, tmp_path: Path) -> None:
    suffix = "tiff" if mode == "CMYK" else "png"
    photo(40, 30).convert(mode).save(tmp_path / f"image.{suffix}")
    image = load_image(tmp_path / f"image.{suffix}")
    assert image.mode == "RGB"
    assert preprocessing(ModelSpec("iresnet", 18, image_size=32, resize=32))(image).shape == (3, 32, 32)


def test_exif_orientation_is_obeyed(tmp_path: Path) -> None:
    image = photo(40, 20)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees to see it upright
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert load_image(tmp_path / "turned.jpg").size == (20, 40)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n broken"])
def test_an_unreadable_image_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"broken\.png cannot be read"):
        load_image(path)


def test_a_truncated_image_is_named(tmp_path: Path) -> None:
    photo(300, 300).save(tmp_path / "whole.jpg")
    (tmp_path / "half.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:5000])
    with pytest.raises(InputError, match=r"half\.jpg cannot be read"):
        load_image(tmp_path / "half.jpg")

"""The one way from an image to an input, against torchvision's published steps done by hand."""

from __future__ import annotations

import dataclasses
import errno
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from iresnet_models import ModelSpec
from iresnet_models.errors import InputError
from iresnet_models.preprocessing import (
    inputs_of,
    load_image,
    noise_pixels,
    normalised,
    pixels_of,
    preprocessing,
    preprocessing_of,
    to_pixels,
)
from iresnet_models.spec import Interpolation, Preprocessing


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


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(300, 200), (200, 300), (256, 256), (91, 70), (70, 91), (257, 256), (1, 150), (225, 224)])
def test_arrays_are_torchvision_s_tensors_bit_for_bit(size: tuple[int, int], interpolation: Interpolation) -> None:
    spec = Preprocessing(resize=231, image_size=224, interpolation=interpolation, mean=(0.4, 0.5, 0.6), std=(0.3, 0.2, 0.1))
    steps = [
        v2.Resize(spec.resize, interpolation=InterpolationMode(interpolation), antialias=True),
        v2.CenterCrop(spec.image_size),
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(list(spec.mean), list(spec.std)),
    ]
    image = photo(*size)
    inputs = inputs_of(pixels_of(image, spec)[None], spec)
    assert (inputs.dtype, inputs.flags.c_contiguous) == (np.float32, True)
    np.testing.assert_array_equal(inputs[0], v2.Compose(steps)(image).numpy())


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


def loaded(path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    image = load_image(path)
    assert image.mode == "RGB"
    return np.asarray(image)


def test_colours_greys_and_bits_are_what_was_stored(tmp_path: Path) -> None:
    colours = np.asarray(photo(40, 30))
    greys, bits = colours[:, :, 0], colours[:, :, 0] > 127
    Image.fromarray(colours).save(tmp_path / "rgb.png")
    Image.fromarray(greys).save(tmp_path / "grey.png")
    Image.fromarray(bits).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(loaded(tmp_path / "rgb.png"), colours)
    np.testing.assert_array_equal(loaded(tmp_path / "grey.png"), np.stack([greys] * 3, axis=2))
    np.testing.assert_array_equal(loaded(tmp_path / "bits.png"), np.stack([bits * 255] * 3, axis=2))


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK", "YCbCr"])
def test_jpegs_are_as_the_official_evaluation_reads_them(mode: str, tmp_path: Path) -> None:
    """Networks are trained on these: not one bit may differ from PIL's own reading."""
    if mode == "YCbCr":
        photo(64, 48).save(tmp_path / "image.jpg", subsampling=2, progressive=True)
    else:
        photo(64, 48).convert(mode).save(tmp_path / "image.jpg")
    with Image.open(tmp_path / "image.jpg") as image:
        np.testing.assert_array_equal(loaded(tmp_path / "image.jpg"), np.asarray(image.convert("RGB")))


def adobe_jpeg(path: Path, stored: tuple[int, int, int, int], transform: int) -> None:
    """A JPEG of 8 × 8 pixels and four channels, written by hand: each channel holds one value."""

    def segment(marker: int, content: bytes) -> bytes:
        return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content

    def bits(value: int) -> str:  # its length by a code of four bits, the value, then the end of the block: "0"
        length = abs(value).bit_length()
        return f"{length:04b}" + (f"{value if value > 0 else value + 2**length - 1:0{length}b}" if length else "") + "0"

    scan = "".join(bits(value - 128) for value in stored)
    scan += "1" * (-len(scan) % 8)
    channels = (1, 2, 3, 4)
    path.write_bytes(
        b"\xff\xd8"
        + segment(0xEE, b"Adobe" + struct.pack(">HHHB", 100, 0, 0, transform))
        + segment(0xDB, bytes([0] + [8] * 64))  # the mean of a block is an eighth of its first coefficient
        + segment(0xC0, struct.pack(">BHHB", 8, 8, 8, 4) + b"".join(bytes([channel, 0x11, 0]) for channel in channels))
        + segment(0xC4, bytes([0x00, 0, 0, 0, 9, *[0] * 12, *range(9)]))
        + segment(0xC4, bytes([0x10, 1, *[0] * 15, 0]))
        + segment(0xDA, bytes([4]) + b"".join(bytes([channel, 0]) for channel in channels) + bytes([0, 63, 0]))
        + int(scan, 2).to_bytes(len(scan) // 8, "big").replace(b"\xff", b"\xff\x00")
        + b"\xff\xd9"
    )


@pytest.mark.parametrize("transform", [0, 2], ids=["cmyk", "ycck"])
def test_an_adobe_jpeg_stores_255_minus_the_ink(transform: int, tmp_path: Path) -> None:
    stored = (200, 90, 140, 230)
    adobe_jpeg(tmp_path / "image.jpg", stored, transform)
    with Image.open(tmp_path / "image.jpg") as image:
        assert image.mode == "CMYK"
    light, key = np.array(stored[:3], dtype=np.float64), stored[3] / 255
    if transform == 2:  # the colours are stored as those of a JPEG film, which is the negative
        y, cb, cr = light
        light = 255 - np.array([y + 1.402 * (cr - 128), y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128), y + 1.772 * (cb - 128)])
    np.testing.assert_allclose(loaded(tmp_path / "image.jpg"), np.broadcast_to(light * key, (8, 8, 3)), atol=1.5)


PALETTE = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [10, 20, 30]], dtype=np.uint8)
INDICES = np.arange(24, dtype=np.uint8).reshape(4, 6) % 4


def on_white(colours: np.ndarray[Any, Any], alpha: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    share = alpha[:, :, None] / 255
    return colours * share + 255 * (1 - share)


@pytest.mark.parametrize(
    "transparent", [None, 2, bytes([255, 128, 0, 60]), bytes([255] * 4)], ids=["none", "one", "many", "opaque"]
)
def test_palettes(transparent: int | bytes | None, tmp_path: Path) -> None:
    image = Image.fromarray(INDICES).convert("P")
    image.putdata(INDICES.ravel().tolist())
    image.putpalette(PALETTE.tobytes())
    image.save(tmp_path / "image.png", **({} if transparent is None else {"transparency": transparent}))
    with Image.open(tmp_path / "image.png") as stored:
        assert stored.mode == "P"
    alphas = np.full(4, 255)
    if isinstance(transparent, int):
        alphas[transparent] = 0
    elif transparent is not None:
        alphas = np.frombuffer(transparent, dtype=np.uint8)
    np.testing.assert_allclose(loaded(tmp_path / "image.png"), on_white(PALETTE[INDICES], alphas[INDICES]), atol=1)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_lies_on_white(mode: str, tmp_path: Path) -> None:
    image = photo(40, 30).convert(mode)
    alpha = np.random.default_rng(1).integers(0, 256, (30, 40), dtype=np.uint8)
    alpha[0, :] = 0
    image.putalpha(Image.fromarray(alpha))
    image.save(tmp_path / "image.png")
    pixels = np.asarray(image)
    colours = pixels[:, :, :3] if mode == "RGBA" else np.stack([pixels[:, :, 0]] * 3, axis=2)
    found = loaded(tmp_path / "image.png")
    np.testing.assert_allclose(found, on_white(colours, alpha), atol=1)
    assert (found[0] == 255).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_an_opaque_image_keeps_its_colours_exactly(mode: str, tmp_path: Path) -> None:
    image = photo(40, 30).convert(mode)
    image.save(tmp_path / "image.png")
    pixels = np.asarray(image)
    colours = pixels[:, :, :3] if mode == "RGBA" else np.stack([pixels[:, :, 0]] * 3, axis=2)
    np.testing.assert_array_equal(loaded(tmp_path / "image.png"), colours)


def test_a_transparent_colour_of_an_image_without_alpha_is_white(tmp_path: Path) -> None:
    colours = PALETTE[INDICES]
    Image.fromarray(colours).save(tmp_path / "image.png", transparency=(0, 0, 255))
    expected = np.where((colours == (0, 0, 255)).all(axis=2, keepdims=True), 255, colours)
    np.testing.assert_array_equal(loaded(tmp_path / "image.png"), expected)


GREYS = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)


def deep_png(path: Path, kind: int, values: np.ndarray[Any, Any]) -> None:
    """A PNG of 16 bits, written by hand; kind 0 is grey and 2 RGB."""
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
    size = struct.pack(">II", values.shape[1], values.shape[0])
    chunks = ((b"IHDR", size + bytes([16, kind, 0, 0, 0])), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    sealed = [struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(sealed))


@pytest.mark.parametrize("kind", ["png", "little.tif", "big.tif", "pgm", "int32.tif"])
def test_greys_of_16_bits_keep_their_upper_8(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"image.{kind}"
    if kind == "png":
        deep_png(path, 0, GREYS)
    elif kind == "pgm":
        path.write_bytes(b"P5 32 32 65535\n" + GREYS.astype(">u2").tobytes())
    elif kind == "big.tif":
        Image.frombytes("I;16B", (32, 32), GREYS.astype(">u2").tobytes()).save(path)
    else:
        Image.fromarray(GREYS if kind == "little.tif" else GREYS.astype(np.int32)).save(path)
    np.testing.assert_array_equal(loaded(path), np.stack([GREYS // 256] * 3, axis=2))


def test_colours_of_16_bits_keep_their_upper_8(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 65536, (20, 30, 3), dtype=np.uint16)
    deep_png(tmp_path / "image.png", 2, colours)
    np.testing.assert_array_equal(loaded(tmp_path / "image.png"), colours // 256)


@pytest.mark.parametrize("most", [1.0, 255.0])
def test_greys_in_floating_point(most: float, tmp_path: Path) -> None:
    values = np.linspace(0, most, 600, dtype=np.float32).reshape(20, 30)
    Image.fromarray(values).save(tmp_path / "image.tif")
    expected = np.round(values.astype(np.float64) * 255 / most)
    np.testing.assert_allclose(loaded(tmp_path / "image.tif"), np.stack([expected] * 3, axis=2), atol=1)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.array([[-0.5, 1.0]], dtype=np.float32), r"reach from -0\.5 to 1, and only those from 0 to 1 or 0 to 255"),
        (np.array([[0.0, 256.0]], dtype=np.float32), "from 0 to 256"),
        (np.array([[0.0, np.nan]], dtype=np.float32), "nan"),
        (np.array([[0, 65536]], dtype=np.int32), "from 0 to 65536, and only those from 0 to 65535"),
        (np.array([[-1, 255]], dtype=np.int32), "from -1 to 255"),
    ],
    ids=["negative", "large", "nan", "int32", "negative-int"],
)
def test_greys_of_no_known_meaning_are_refused(values: np.ndarray[Any, Any], reason: str, tmp_path: Path) -> None:
    Image.fromarray(values).save(tmp_path / "image.tif")
    with pytest.raises(InputError, match=rf"image\.tif cannot be read \(its greys .*{reason}"):
        load_image(tmp_path / "image.tif")


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_an_animation_is_its_first_frame(suffix: str, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (16, 12), colour) for colour in ("red", "blue", "lime")]
    lossless = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(tmp_path / f"image.{suffix}", save_all=True, append_images=frames[1:], **lossless)
    with Image.open(tmp_path / f"image.{suffix}") as image:
        assert getattr(image, "n_frames", 1) == 3
    np.testing.assert_array_equal(loaded(tmp_path / f"image.{suffix}"), np.full((12, 16, 3), (255, 0, 0)))


UPRIGHT = {
    1: lambda stored: stored,
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored.swapaxes(0, 1), 2),
    8: np.rot90,
    99: lambda stored: stored,
}
"""What EXIF's orientations mean: 6, say, is a camera that was turned, whose picture has to be turned right."""


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_obeyed(orientation: int, suffix: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo(40, 20).save(tmp_path / f"turned.{suffix}", exif=exif)
    np.testing.assert_array_equal(loaded(tmp_path / f"turned.{suffix}"), UPRIGHT[orientation](np.asarray(photo(40, 20))))


def test_exif_orientation_of_a_jpeg_and_of_16_bits(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    photo(40, 20).save(tmp_path / "turned.jpg", exif=exif)
    assert load_image(tmp_path / "turned.jpg").size == (20, 40)
    Image.fromarray(GREYS).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(loaded(tmp_path / "turned.png")[:, :, 0], np.rot90(GREYS // 256, -1))


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n broken"], ids=["empty", "text", "broken"])
def test_an_unreadable_image_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"broken\.png cannot be read \(it is empty, damaged, or no image"):
        load_image(path)


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "tif", "bmp", "webp", "ppm"])
def test_a_truncated_image_is_named(suffix: str, tmp_path: Path) -> None:
    photo(300, 300).save(tmp_path / f"whole.{suffix}")
    half = tmp_path / f"half.{suffix}"
    whole = (tmp_path / f"whole.{suffix}").read_bytes()
    half.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=rf"half\.{suffix} cannot be read") as caught:
        load_image(half)
    assert str(caught.value).count("half") == 1


def test_a_decompression_bomb_is_refused(tmp_path: Path) -> None:
    """A kilobyte that says it is 30,000 pixels wide and high."""
    deep_png(tmp_path / "bomb.png", 0, np.zeros((1, 1), dtype=np.uint16))
    content = bytearray((tmp_path / "bomb.png").read_bytes())
    content[16:24] = struct.pack(">II", 30_000, 30_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    (tmp_path / "bomb.png").write_bytes(content)
    with pytest.raises(InputError, match=r"bomb\.png cannot be read .*decompression bomb"):
        load_image(tmp_path / "bomb.png")


def test_folders_and_absent_and_forbidden_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(InputError, match=r"folder\.png cannot be read \("):
        load_image(tmp_path / "folder.png")
    with pytest.raises(InputError, match=r"absent\.png cannot be read \(No such file or directory\)"):
        load_image(tmp_path / "absent.png")

    (tmp_path / "secret.png").touch()

    def forbid(path: Path, *_arguments: object) -> None:  # root, who may run the tests, may read everything
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("builtins.open", forbid)
    with pytest.raises(InputError, match=r"secret\.png cannot be read \(Permission denied\)"):
        load_image(tmp_path / "secret.png")


def test_a_lack_of_memory_is_no_fault_of_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo(4, 4).save(tmp_path / "image.png")

    def fail(*_arguments: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image.Image, "convert", fail)
    with pytest.raises(MemoryError):
        load_image(tmp_path / "image.png")


@pytest.mark.parametrize("size", [(500, 375), (333, 501), (224, 224), (1001, 223), (97, 131), (232, 233)], ids=str)
@pytest.mark.parametrize("weights", ["IMAGENET1K_V1", "IMAGENET1K_V2"])
def test_pixels_are_those_of_torchvisions_own_transforms(weights: str, size: tuple[int, int]) -> None:
    """Bit for bit; they divide by 255 then, where v2 multiplies by 1/255."""
    from torchvision.models import ResNet50_Weights

    preset = ResNet50_Weights[weights].transforms()
    spec = preprocessing_of(preset)
    assert spec.resize == {"IMAGENET1K_V1": 256, "IMAGENET1K_V2": 232}[weights]
    image = Image.fromarray(np.random.default_rng(size).integers(0, 256, (*size, 3), dtype=np.uint8))
    theirs, ours = preset(image), preprocessing(spec)(image)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (spec.mean, spec.std))
    assert torch.equal((theirs * std + mean).mul(255).round().to(torch.uint8), to_pixels(spec)(image).permute(2, 0, 1))
    assert float((theirs - ours).abs().max()) < 1e-6
    other = dataclasses.replace(spec, resize=488 - spec.resize)
    assert not torch.equal(to_pixels(other)(image), to_pixels(spec)(image))


def test_a_crop_of_two_sides_is_taken_and_a_resize_of_two_refused() -> None:
    from torchvision.transforms._presets import ImageClassification

    preset = ImageClassification(crop_size=(40, 24), resize_size=48)  # type: ignore[arg-type]
    preset.crop_size = [40, 24]
    assert preprocessing_of(preset).image_size == (40, 24)
    preset.resize_size = [48, 60]
    with pytest.raises(InputError, match="torchvision's for classifiers"):
        preprocessing_of(preset)


@pytest.mark.parametrize("name", ["resnet50.a1_in1k", "resnet50.tv2_in1k"])
def test_pixels_are_those_of_timms_own_transform(name: str) -> None:
    timm = pytest.importorskip("timm", reason="timm is an extra")
    told = timm.data.resolve_model_data_config(timm.create_model(name))
    transform, size = timm.data.create_transform(**told, is_training=False), told["input_size"][-1]
    resize = math.floor(size / told["crop_pct"])
    spec = Preprocessing(image_size=size, resize=resize, interpolation=told["interpolation"], mean=told["mean"], std=told["std"])
    for extent in ((500, 375), (333, 501), (97, 131)):
        image = Image.fromarray(np.random.default_rng(extent).integers(0, 256, (*extent, 3), dtype=np.uint8))
        assert float((transform(image) - preprocessing(spec)(image)).abs().max()) < 1e-6

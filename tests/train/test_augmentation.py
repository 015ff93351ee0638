from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from iresnet_data import digits_spec, training_set
from iresnet_models import ModelSpec
from iresnet_models.preprocessing import preprocessing
from iresnet_train.augmentation import augmented


@pytest.fixture
def photograph() -> Image.Image:
    return Image.fromarray(np.random.RandomState(0).randint(0, 256, (90, 120, 3), dtype=np.uint8)).resize((300, 240))


def test_the_official_augmentation_is_that_of_torchvisions_recipe(photograph: Image.Image) -> None:
    spec = ModelSpec("iresnet", 50)
    ours = augmented("crop-flip", spec, 224)
    reference = transforms.Compose(
        [
            transforms.RandomResizedCrop(224),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
        ]
    )
    for seed in range(6):
        torch.manual_seed(seed)
        expected = reference(photograph)
        torch.manual_seed(seed)
        torch.testing.assert_close(ours(photograph), expected, rtol=0, atol=1e-6)


def test_digits_are_moved_a_little_but_never_flipped() -> None:
    spec = digits_spec()
    digits = training_set("digits", spec, augmented("affine", spec, 32))
    plain = preprocessing(spec)
    torch.manual_seed(0)
    nearer = 0
    for index in range(200):
        image, original = digits[index][0], digits.images[index]
        assert isinstance(original, Image.Image)
        expected = plain(original)
        assert image.shape == (3, 32, 32)
        assert image.dtype == torch.float32
        assert not torch.equal(image, expected)
        distances = [float((image - other).square().mean()) for other in (expected, expected.flip(2))]
        nearer += distances[0] < distances[1]
    assert nearer > 180
    assert torch.equal(image[0], image[1])


def test_the_size_is_that_of_training(photograph: Image.Image) -> None:
    for name in ("crop-flip", "trivial", "affine"):
        assert augmented(name, ModelSpec("iresnet", 50), 176)(photograph).shape == (3, 176, 176)  # type: ignore[arg-type]

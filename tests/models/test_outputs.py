"""Named outputs: which there are, and that a folded network's are the values of the network that was trained."""

from __future__ import annotations

import pytest
import torch
from support import fill_golden

from iresnet_models import ModelSpec
from iresnet_models.deployed import DeployedNetwork, deployed, values_of, with_probabilities
from iresnet_models.errors import InputError
from iresnet_models.folding import fold_by_plan
from iresnet_models.folding_decisions import plan_fold
from iresnet_models.network import network_from_spec
from iresnet_models.outputs import OUTPUTS, named_outputs, output_shape, require_had
from iresnet_models.spec import NetworkSpec

FAMILIES = [("iresnet", 18), ("resnet", 18), ("resstage", 34), ("iresnet", 50), ("resgroupfix", 50), ("iresgroup", 50)]


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ([], ("logits",)),
        (["logits"], ("logits",)),
        (["layer4", "embedding"], ("logits", "layer4", "embedding")),
        (["probabilities", "logits"], ("logits", "probabilities")),
    ],
)
def test_the_logits_are_always_there_and_first(given: list[str], found: tuple[str, ...]) -> None:
    assert named_outputs(given) == found


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["layer5"], "There is no output 'layer5'; there are logits, probabilities, embedding, layer1, layer2, layer3, layer4"),
        ([""], "There is no output ''"),
        (["layer1", "layer1"], "The output layer1 is named more than once"),
        (["logits", "logits"], "The output logits is named more than once"),
    ],
)
def test_other_names_are_refused(given: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        named_outputs(given)


def test_only_networks_of_ours_have_places_inside() -> None:
    spec = NetworkSpec("mobilenet", None)
    require_had(("logits", "probabilities"), spec)
    with pytest.raises(InputError, match="where its embedding and layer2 would be is not known; ask for logits and probabilities"):
        require_had(("logits", "embedding", "layer2"), spec)


@pytest.mark.parametrize(("arch", "depth"), FAMILIES)
def test_a_fold_gives_the_values_of_the_network_that_was_trained(arch: str, depth: int) -> None:
    """In float64, with negative scales, scales of the stream's channels, and channels that are cut out or always let through."""
    network = network_from_spec(ModelSpec(arch, depth, num_classes=10, image_size=33, resize=33)).double()
    fill_golden(network)
    network.eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, module in network.named_modules():  # some BatchNorms of a stream let a channel through always, or never
            if isinstance(module, torch.nn.BatchNorm2d) and (name.endswith("bn0") or "layer4" in name):
                module.bias[:2] = torch.tensor([40.0, -40.0])
    images = torch.randn(4, 3, 33, 33, generator=generator, dtype=torch.float64)
    scales = [0.5 + torch.rand(blocks[-1].last_bn.num_features, generator=generator).double() for blocks in network.stages]
    folded = fold_by_plan(network, plan_fold(network, sample=images.float(), scales=scales), torch.float64)
    names = OUTPUTS[2:]
    with torch.no_grad():
        wanted, found = dict(zip(names, values_of(network, images, names), strict=True)), folded.values(images)
        for name in names:
            reading = folded.readings[name]
            shape = (1, -1, *[1] * (found[name].dim() - 2))
            value = found[name] * reading.gain.view(shape) + reading.offset.view(shape)
            assert tuple(value.shape[1:]) == output_shape(name, network.spec, 33, 33)
            torch.testing.assert_close(value, wanted[name], rtol=1e-9, atol=1e-9 * float(wanted[name].abs().max()))
    if network.spec.family.resstage:
        assert any(bool((reading.gain != 1).any()) for reading in folded.readings.values()), "nothing had to be read back"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_deployed_networks_give_what_is_named_in_float32(dtype: torch.dtype) -> None:
    network = network_from_spec(ModelSpec("iresnet", 18, num_classes=10, image_size=32, resize=32))
    fill_golden(network)
    images, names = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1)), ("logits", "layer2", "probabilities")
    plan = plan_fold(network.eval(), sample=images)
    made = deployed(network, plan, dtype, outputs=names)
    assert isinstance(made, DeployedNetwork)
    with torch.no_grad():
        logits, layer2, probabilities = made(images)
        exact = dict(zip(names, values_of(network.double(), images.double(), names), strict=True))
    torch.testing.assert_close(probabilities, logits.softmax(1))
    close = 1e-5 if dtype is torch.float32 else 0.1
    for value, name in ((logits, "logits"), (layer2, "layer2"), (probabilities, "probabilities")):
        assert value.dtype is torch.float32
        assert float((value - exact[name]).norm() / exact[name].norm()) < close
    assert deployed(network.float(), plan).__class__.__name__ == "FoldedNetwork", "the logits alone need nothing around them"


def test_any_classifier_gives_probabilities_under_the_names_that_its_weights_have() -> None:
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 4))
    made, images = with_probabilities(module), torch.rand(2, 3, 2, 2)
    assert made.state_dict().keys() == module.state_dict().keys()
    logits, probabilities = made(images)
    torch.testing.assert_close(logits, module(images))
    torch.testing.assert_close(probabilities, logits.softmax(1))
    assert torch.equal(values_of(made, images, ("probabilities",))[0], probabilities), "by name, whatever else there is"

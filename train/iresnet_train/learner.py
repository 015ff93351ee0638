"""A network that is being trained, with its optimizer, on its device and in its precision."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD, AdamW, Optimizer

from iresnet_models.errors import InputError, UnavailableError
from iresnet_models.network import Network
from iresnet_models.spec import ModelSpec
from iresnet_train.activation_checkpointing import checkpoint_activations
from iresnet_train.augmentation import mixing
from iresnet_train.averaging import WeightAverage
from iresnet_train.config import TrainConfig
from iresnet_train.distributed import World
from iresnet_train.metrics import Evaluation, correct
from iresnet_train.randomness import seed_step
from iresnet_train.tuning import freeze, parameter_groups, still_modules

_CHANNELS_LAST_FROM = 112
"""Pixels from which channels-last order trains faster on a CPU (an EPYC): 11 % at 112, 16 % at 224, not at 32 and 64."""

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


MOMENTS = {"sgd": ("momentum_buffer",), "adamw": ("exp_avg", "exp_avg_sq", "step")}
"""What an optimizer keeps of each weight: of its shape, but for the number of steps."""


@dataclass(frozen=True)
class StepOutcome:
    """Of one step, over all processes. `loss` is the mean of what was minimised; `stop`: one of them was asked to stop."""

    loss: float
    counted: Evaluation
    stop: bool


class Learner:
    """Takes a training step in two halves, so that a bad loss can be stopped before it reaches the weights.

    `class_weights`: what an image of each class counts (classes); None where all count 1.
    """

    def __init__(self, config: TrainConfig, network: Network, world: World, class_weights: Tensor | None = None) -> None:
        self._config = config
        self._world = world
        self.device = world.device
        self.precision = _precision(config, self.device)
        last = config.channels_last
        if last is None:
            last = self.device.type == "cuda" or config.train_crop_size >= _CHANNELS_LAST_FROM
        self._layout = torch.channels_last if last else torch.contiguous_format
        self.model = network.to(self.device).to(memory_format=self._layout)
        freeze(self.model, config)
        if config.activation_checkpointing:
            checkpoint_activations(self.model)
        self._module = self._wrapped()
        self._still = still_modules(self.model, config)
        self._class_weights = None if class_weights is None else class_weights.to(self.device)
        self._forward: Callable[[Tensor], Tensor] = torch.compile(self._module) if config.compile else self._module
        self._mix = mixing(config.mixup, config.cutmix, self.spec.num_classes)
        self._optimizer = _optimizer(parameter_groups(self.model, config), config)
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        self.average = None if config.ema_decay is None else WeightAverage(self.model, config.ema_decay)

    @property
    def spec(self) -> ModelSpec:
        return self.model.spec

    def backward(self, images: Tensor, labels: Tensor, *, step: int, planned: int | None = None, stop: bool = False) -> StepOutcome:
        """Leaves the gradient of the mean loss over all processes' images in the network, and says what was counted.

        `step` counts from the run's beginning. `planned`: images of all processes together, None for these alone; those that
        could not be read count as ones without a gradient. `stop`: this process was asked to stop.
        """
        self.model.train()
        for module in self._still:
            module.eval()
        self._optimizer.zero_grad()
        parts = self._config.accumulate
        if len(images) < 2 * parts:
            raise InputError(
                f"Of a step's images only {len(images)} can be read here, and {2 * parts} are needed;", "check the data."
            )
        scale = self._world.size / (len(images) if planned is None else planned)  # DDP averages over the processes
        totals = torch.zeros(5, dtype=torch.float64, device=self.device)
        totals[4] = stop
        for part, (x, y) in enumerate(zip(images.tensor_split(parts), labels.tensor_split(parts), strict=True)):
            last = part == parts - 1
            seed_step(self._config.seed, step, part, self._world.rank, self.device)
            with nullcontext() if last or not isinstance(self._module, DistributedDataParallel) else self._module.no_sync():
                loss = self._loss(x, y, totals)
                # Read while the device goes on with the backward pass, so that it never waits for the host.
                reading = _Reading(self._world.sum(totals)) if last else None
                self._scaler.scale(loss * scale).backward()  # type: ignore[no-untyped-call]
        assert reading is not None
        *counted, asked = reading.values()
        evaluation = Evaluation.of(counted)
        return StepOutcome(evaluation.loss, evaluation, asked > 0)

    def _loss(self, images: Tensor, labels: Tensor, totals: Tensor) -> Tensor:
        """The sum of the losses of these images; `totals` grows by what was counted."""
        images = images.to(self.device, memory_format=self._layout, non_blocking=True)
        labels = labels.to(self.device, non_blocking=True)
        inputs, targets = (images, labels) if self._mix is None else self._mix(images, labels)
        with torch.autocast(self.device.type, _DTYPES.get(self.precision), enabled=self.precision in _DTYPES):
            logits = self._forward(inputs)
            loss = cross_entropy(
                logits.float(),
                targets,
                self._class_weights,
                reduction="sum",
                label_smoothing=self._config.label_smoothing,
            )
        totals[:4] += torch.stack([*correct(logits.detach(), labels), loss.detach().double()])
        return loss

    def update(self, lr: float, step: int = 0, *, restart_average: bool = False) -> bool:
        """Moves the weights along the gradients, and their average with them; False, and nothing moved, if one is not finite.

        That shows only where `clip_norm` has the gradients looked at. In fp16 the scaler leaves out such a step by itself.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = lr * group["lr_share"]
        if self._config.clip_norm is not None:
            self._scaler.unscale_(self._optimizer)
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), self._config.clip_norm)
            if self.precision != "fp16" and not torch.isfinite(norm):
                return False
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if self.average is not None and (step + 1) % self._config.ema_every == 0:
            self.average.update(self.model, restart=restart_average)
        return True

    def predict(self, images: Tensor) -> Tensor:
        """Logits of a batch in float32, as the exported network is to give them."""
        return self._predicted(images, None)

    def predict_by_average(self, images: Tensor) -> Tensor:
        """The same, with the average of the weights."""
        assert self.average is not None
        return self._predicted(images, self.average.values)

    def _predicted(self, images: Tensor, weights: dict[str, Tensor] | None) -> Tensor:
        self.model.eval()
        images = images.to(self.device, memory_format=self._layout, non_blocking=True)
        with torch.no_grad():
            logits: Tensor = self.model(images) if weights is None else functional_call(self.model, weights, (images,))
        return logits

    def align_statistics(self) -> None:
        """Gives every process the first one's BatchNorm statistics, and its average of them: those that are saved.

        The weights are the same everywhere. Statistics are not: after a step they hold what each process saw of it.
        """
        self._world.align(list(self.model.buffers()))
        if self.average is not None:
            self._world.align([self.average.values[name] for name, _ in self.model.named_buffers()])

    def statistics(self) -> list[Tensor]:
        """Copies of the BatchNorm statistics, for `restore_statistics`: a bad batch reaches them before its loss is known."""
        return [buffer.clone() for buffer in self.model.buffers()]

    def restore_statistics(self, statistics: list[Tensor]) -> None:
        for buffer, value in zip(self.model.buffers(), statistics, strict=True):
            buffer.copy_(value)

    def is_finite(self) -> bool:
        """Whether every weight and statistic is a finite number."""
        return all(bool(value.isfinite().all()) for value in self.model.state_dict().values() if value.is_floating_point())

    def exported(self) -> Network:
        """The network that is to be saved: with the weights of the last step, or with their average."""
        if not self._config.export_ema or self.average is None:
            return self.model
        with torch.device("meta"):
            network = Network(self.spec)
        network.load_state_dict(self.average.values, assign=True)
        return network

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on, apart from data; tensors are the live ones."""
        known = {name: self._optimizer.state.get(value) for name, value in self.model.named_parameters() if value.requires_grad}
        kinds = MOMENTS[self._config.optimizer]
        moments = {kind: {name: (found or {}).get(kind) for name, found in known.items()} for kind in kinds}
        return {
            "model": self.model.state_dict(),
            "moments": {  # none before the first step
                kind: {} if any(value is None for value in values.values()) else values for kind, values in moments.items()
            },
            "scaler": self._scaler.state_dict(),
            "average": None if self.average is None else self.average.values,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """What `state` was; `iresnet_train.saved` has seen that it fits this network."""
        self.model.load_state_dict(state["model"])
        for kind, moments in state["moments"].items():
            for name, weight in self.model.named_parameters():
                if name in moments:
                    # In the weight's own layout, whatever that of the file is.
                    like = moments[name] if kind == "step" else weight
                    made = torch.empty_like(like, requires_grad=False, device=self.device)
                    self._optimizer.state[weight][kind] = made.copy_(moments[name])
        if state["scaler"]:
            self._scaler.load_state_dict(self._scaler.state_dict() | state["scaler"])
        if self.average is not None:
            for key, value in self.average.values.items():
                value.copy_(state["average"][key])

    def _wrapped(self) -> nn.Module:
        if self._config.sync_bn and self.device.type != "cuda":
            raise UnavailableError("Synchronised BatchNorm needs GPUs;", "leave out --sync-bn.")
        if self._world.size == 1:
            return self.model
        if self._config.sync_bn:
            self.model = nn.SyncBatchNorm.convert_sync_batchnorm(self.model)  # type: ignore[no-untyped-call]
        devices = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(self.model, device_ids=devices, gradient_as_bucket_view=True)


class _Reading:
    """Numbers on their way from the device to the host."""

    def __init__(self, values: Tensor) -> None:
        self._values = values
        self._done: torch.cuda.Event | None = None
        if values.is_cuda:
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._done.record()

    def values(self) -> list[float]:
        if self._done is not None:
            self._done.synchronize()
        return [float(value) for value in self._values.tolist()]


def _precision(config: TrainConfig, device: torch.device) -> str:
    if config.precision != "auto":
        return config.precision
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"


def _optimizer(groups: list[dict[str, Any]], config: TrainConfig) -> Optimizer:
    if config.optimizer == "adamw":
        return AdamW(groups, config.lr, betas=(config.momentum, 0.999), fused=True)
    return SGD(groups, config.lr, momentum=config.momentum, nesterov=config.nesterov, fused=True)

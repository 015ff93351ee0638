"""`train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from iresnet_export.cli import train_options as options
from iresnet_export.cli.config_file import ON_COMMAND_LINE, toml_of
from iresnet_export.cli.console import say, write_report
from iresnet_export.cli.options import Device, JsonFile, integers
from iresnet_export.cli.places import require_outside_run
from iresnet_export.cli.training_progress import training_bar
from iresnet_export.errors import InputError, InterruptedRunError, PreemptedError
from iresnet_train.torchrun import is_first

if TYPE_CHECKING:
    from iresnet_train import TrainConfig


def train(
    data: options.TrainData = None,
    config: options.ConfigFile = None,
    val_data: options.ValData = None,
    val_split: options.ValSplit = None,
    workers: options.Workers = None,
    loader: options.LoaderOption = None,
    max_corrupt: options.MaxCorrupt = None,
    arch: options.TrainArch = None,
    depth: options.TrainDepth = None,
    groups: options.Groups = None,
    dropout: options.Dropout = None,
    zero_init_residual: options.ZeroInit = False,
    pretrained: options.Pretrained = None,
    which: options.PretrainedWhich = None,
    freeze_until: options.FreezeUntil = None,
    freeze_bn: options.FreezeBn = False,
    result_path: options.ResultPath = None,
    force: options.Replace = False,
    resume: options.ResumeFlag = False,
    auto_resume: options.AutoResume = False,
    checkpoint_every: options.CheckpointEvery = None,
    log: options.Log = None,
    preset: options.Preset = None,
    epochs: options.Epochs = None,
    patience: options.Patience = None,
    batch_size: options.BatchSize = None,
    accumulate: options.Accumulate = None,
    optimizer: options.OptimizerName = None,
    lr: options.LearningRate = None,
    layer_decay: options.LayerDecay = None,
    lr_schedule: options.LrSchedule = None,
    lr_steps: options.LrSteps = None,
    lr_reduce_factor: options.LrReduceFactor = None,
    warmup_epochs: options.WarmupEpochs = None,
    momentum: options.Momentum = None,
    nesterov: options.Nesterov = None,
    weight_decay: options.WeightDecay = None,
    norm_weight_decay: options.NormWeightDecay = None,
    clip_norm: options.ClipNorm = None,
    class_weights: options.ClassWeights = None,
    balanced_sampling: options.BalancedSampling = False,
    augmentation: options.AugmentationName = None,
    random_erasing: options.RandomErasing = None,
    mixup: options.Mixup = None,
    cutmix: options.Cutmix = None,
    label_smoothing: options.LabelSmoothing = None,
    ema_decay: options.EmaDecay = None,
    ema_every: options.EmaEvery = None,
    export_ema: options.ExportEma = None,
    train_crop_size: options.TrainCropSize = None,
    val_resize: options.ValResize = None,
    val_crop_size: options.ValCropSize = None,
    seed: options.Seed = None,
    precision: options.Precision = None,
    channels_last: options.ChannelsLast = None,
    compile: options.Compile = False,
    sync_bn: options.SyncBn = False,
    activation_checkpointing: options.ActivationCheckpointing = False,
    deterministic: options.Deterministic = False,
    on_nan: options.OnNan = None,
    device: Device = "auto",
    json: JsonFile = None,
) -> None:
    """Train a network, alone or under torchrun; leaves log.csv, train.json, config.toml, last.pt and best.pt in its folder.

    Image folders are trained by the official recipe (90 epochs, SGD, learning rate 0.1 for batches of 256), the embedded digits
    by a short one. --preset finetune takes --pretrained weights to few photos of classes of your own. A run that was killed goes on
    exactly with --resume, which knows its settings.
    """
    overrides = {name: value for name, value in locals().items() if name not in ON_COMMAND_LINE}
    said = toml_of(_said(overrides))
    if resume and auto_resume:
        raise InputError(
            "--resume goes on with a run that has to be there, --auto-resume with one that may be;", "give one of them."
        )
    from iresnet_export.system.environment import environment
    from iresnet_models.files import read_json
    from iresnet_train import train as train_network

    overrides |= {
        "overwrite": force,
        "resume": "yes" if resume else "auto" if auto_resume else "no",
        "log": tuple(log) if log else None,
        "lr_steps": None if lr_steps is None else integers(lr_steps, "--lr-steps"),
    }
    with training_bar() as progress:
        settings = _config(**overrides)
        require_outside_run(json, settings.folder)
        try:
            result = train_network(settings, progress, environment=environment(), said=said)
        except PreemptedError as stopped:
            if is_first():
                raise
            raise typer.Exit(stopped.exit_status) from None
        except KeyboardInterrupt:
            raise InterruptedRunError(
                f"Training was ended at once, without saving. What was saved before is in {settings.folder}; --resume goes on."
            ) from None
    if not is_first():
        return
    if json is not None:
        write_report(json, read_json(result.report, "The report of the run"))
    say(
        f"Best: {result.val_acc1:.2f} % top-1 on the held-out images, after epoch {result.best_epoch} of {result.epochs}; "
        f"{result.seconds:.0f} s, {result.images_per_second:.0f} images/s."
    )
    say(f"{result.best}: the best network; {result.last}: the last; {result.log}: a line an epoch; {result.report}: the report.")
    from iresnet_export.cli.pasting import export_of

    say(f"Next: {export_of(result.best, settings.data)}")


_THREE_WAYS = ("nesterov", "export_ema", "channels_last")
"""Flags that say no as well as yes; the others say yes, or nothing."""


def _said(values: dict[str, Any]) -> dict[str, Any]:
    """Those of the options' values that differ from an option that was not given."""
    unsaid = {name for name, value in values.items() if value is None or (value is False and name not in _THREE_WAYS)}
    unsaid |= {"device"} if values["device"] == "auto" else set()
    return {name: value for name, value in values.items() if name not in unsaid}


def _config(**said: Any) -> TrainConfig:
    """What the options ask for: a preset with what was said in place of its values, or the settings of the run that goes on."""
    from iresnet_train import config_for
    from iresnet_train.presets import recipe_of, require_preset

    if said["resume"] == "yes" and not said["overwrite"]:
        from iresnet_models.pretrained import weights_file
        from iresnet_train.resumption import config_of_run

        preset = said["preset"]
        usual = require_preset("digits" if said["data"] == "digits" else preset or "official")
        place = said["result_path"] or Path("runs") / f"{said['arch'] or usual.arch}{said['depth'] or usual.depth}"
        recipe = {} if preset is None else recipe_of(preset, said)
        own = {name: value for name, value in _said(said).items() if name != "preset"}
        if "pretrained" in own:
            own["pretrained"] = weights_file(own["pretrained"], fetch=False)
        config = config_of_run(place, **(recipe | own))
        if config is not None:
            return config
        if said["data"] is None:
            raise InputError(
                f"{place} holds no saved state to go on from.", "Name the run's --result-path, or begin one, with --data."
            )
    if said["data"] is None:
        raise InputError(
            "Nothing says what to train on.",
            "Name --data: `digits`, or a folder with train/ and val/, or one of classes, with --val-split 0.2.",
        )
    return config_for(**said)

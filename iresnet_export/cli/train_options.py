"""The options of `train`, each named as the field of TrainConfig that it sets; without it the preset's value stays."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, get_args

import typer

from iresnet_export.cli.config_file import defaults_from_file
from iresnet_export.cli.options import digits_or_folder, offering
from iresnet_models.spec import BLOCKS, FAMILIES, Which
from iresnet_train import config
from iresnet_train.presets import PRESETS

NETWORK, DATA, PLACE = "Network", "Data", "Where it goes, and going on"
RECIPE, COMPUTING = "Recipe (each replaces the preset's value)", "How it is computed"

TrainData = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="`digits`, `synthetic`, a folder with train/ and val/ and in each a folder for every class, or shards (.tar); with "
        "--val-split a folder of classes.",
        autocompletion=digits_or_folder,
        show_default=False,
    ),
]
ValData = Annotated[
    str | None,
    typer.Option("--val-data", help="The held-out part, where it is elsewhere.", rich_help_panel=DATA, show_default=False),
]
ValSplit = Annotated[
    float | None,
    typer.Option(
        "--val-split",
        help="Of a folder of classes without train/ and val/: the share of each class that is held out, by what its files hold.",
        rich_help_panel=DATA,
        show_default=False,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        help="Processes (for DALI threads) that load images, for each that trains. Default: its share of the cores, up to 8; "
        "none for digits.",
        rich_help_panel=DATA,
        show_default=False,
    ),
]
LoaderOption = Annotated[
    str | None,
    typer.Option(
        "--loader",
        help="`torch`, or `dali`: JPEGs decoded and cropped on the GPU (extra `dali`). Default: torch.",
        rich_help_panel=DATA,
        show_default=False,
        autocompletion=offering(*get_args(config.LoaderName)),
    ),
]
MaxCorrupt = Annotated[
    int | None,
    typer.Option(
        "--max-corrupt",
        help="Images that may be unreadable, and are named and skipped. Default: 0.",
        rich_help_panel=DATA,
        show_default=False,
    ),
]
TrainArch = Annotated[
    str | None,
    typer.Option(
        "--arch",
        help="Family. Default: iresnet.",
        rich_help_panel=NETWORK,
        show_default=False,
        autocompletion=offering(*FAMILIES),
    ),
]
TrainDepth = Annotated[
    int | None,
    typer.Option(
        "--depth",
        help="Depth. Default: 50; 18 for digits.",
        rich_help_panel=NETWORK,
        show_default=False,
        autocompletion=offering(*BLOCKS),
    ),
]
Groups = Annotated[
    int | None, typer.Option("--groups", help="Groups of a group family. Default: 64.", rich_help_panel=NETWORK, show_default=False)
]
Dropout = Annotated[
    float | None,
    typer.Option("--dropout", help="Dropout before the classifier. Default: 0.", rich_help_panel=NETWORK, show_default=False),
]
ZeroInit = Annotated[bool, typer.Option("--zero-init-residual", help="Start every block as its shortcut.", rich_help_panel=NETWORK)]
Pretrained = Annotated[
    Path | None,
    typer.Option(
        "--pretrained",
        help="A checkpoint to start from, or published weights such as torchvision:resnet50.",
        rich_help_panel=NETWORK,
        show_default=False,
    ),
]
PretrainedWhich = Annotated[
    Which | None,
    typer.Option(
        "--which",
        help="Of its weights: their average over training, or the raw ones. Default: the average where there is one.",
        rich_help_panel=NETWORK,
        show_default=False,
    ),
]
FreezeUntil = Annotated[
    str | None,
    typer.Option(
        "--freeze-until",
        help="Keep the --pretrained weights of all parts up to this one: `stem`, `layer1` to `layer4` (all but the classifier). "
        "Default: none.",
        rich_help_panel=NETWORK,
        show_default=False,
        autocompletion=offering(*get_args(config.FrozenPart)),
    ),
]
FreezeBn = Annotated[
    bool,
    typer.Option(
        "--freeze-bn", help="Keep the --pretrained statistics of all BatchNorms; frozen parts do.", rich_help_panel=NETWORK
    ),
]
ResultPath = Annotated[
    Path | None,
    typer.Option(
        "--result-path", help="Folder of the run. Default: runs/<arch><depth>.", rich_help_panel=PLACE, show_default=False
    ),
]
Replace = Annotated[bool, typer.Option("--force", help="Replace a run that is there.", rich_help_panel=PLACE)]
ResumeFlag = Annotated[bool, typer.Option("--resume", help="Go on with the run that is there, exactly.", rich_help_panel=PLACE)]
AutoResume = Annotated[bool, typer.Option("--auto-resume", help="The same where there is one, else begin.", rich_help_panel=PLACE)]
CheckpointEvery = Annotated[
    str | None,
    typer.Option(
        "--checkpoint-every",
        help="Steps (500) or minutes (10m) between saved states. Default: 10m.",
        rich_help_panel=PLACE,
        show_default=False,
    ),
]
Log = Annotated[
    list[str] | None,
    typer.Option(
        "--log",
        help="Each epoch also for `tensorboard`, `mlflow` or `wandb` (extras of these names). May be repeated.",
        rich_help_panel=PLACE,
        show_default=False,
        autocompletion=offering(*get_args(config.LogName)),
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="A TOML file of options, such as batch-size = 32; the command line wins. Each run leaves one, config.toml.",
        is_eager=True,
        callback=defaults_from_file,
        show_default=False,
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        "--preset",
        help="`official`, `modern`, `digits`, or `finetune` (needs --pretrained). Default: what suits the data.",
        rich_help_panel=RECIPE,
        show_default=False,
        autocompletion=offering(*PRESETS),
    ),
]
Epochs = Annotated[int | None, typer.Option("--epochs", rich_help_panel=RECIPE, show_default=False)]
Patience = Annotated[
    int | None,
    typer.Option(
        "--patience",
        help="End after so many epochs without a better held-out accuracy. Default: none; 10 for finetune.",
        rich_help_panel=RECIPE,
        show_default=False,
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option("--batch-size", help="Images of a step, over all processes.", rich_help_panel=RECIPE, show_default=False),
]
Accumulate = Annotated[
    int | None,
    typer.Option(
        "--accumulate",
        help="Parts in which each process takes its images of a step. Default: 1.",
        rich_help_panel=RECIPE,
        show_default=False,
    ),
]
OptimizerName = Annotated[
    str | None,
    typer.Option(
        "--optimizer",
        help="`sgd` or `adamw`. Default: sgd; adamw for finetune.",
        rich_help_panel=RECIPE,
        show_default=False,
        autocompletion=offering(*get_args(config.Optimizer)),
    ),
]
LayerDecay = Annotated[
    float | None,
    typer.Option(
        "--layer-decay",
        help="From the classifier down, the learning rate of each part is this share of the next one's. Default: 1; finetune: 0.7.",
        rich_help_panel=RECIPE,
        show_default=False,
    ),
]
ClassWeights = Annotated[
    str | None,
    typer.Option(
        "--class-weights",
        help="`balanced`: images of rare classes count more. Default: none.",
        rich_help_panel=RECIPE,
        show_default=False,
        autocompletion=offering(*get_args(config.ClassWeights)),
    ),
]
BalancedSampling = Annotated[
    bool, typer.Option("--balanced-sampling", help="An epoch takes each class equally often.", rich_help_panel=RECIPE)
]
LearningRate = Annotated[
    float | None, typer.Option("--lr", help="Learning rate for the whole batch.", rich_help_panel=RECIPE, show_default=False)
]
LrSchedule = Annotated[
    str | None,
    typer.Option(
        "--lr-schedule",
        help="`steps` or `cosine`.",
        rich_help_panel=RECIPE,
        show_default=False,
        autocompletion=offering(*get_args(config.Schedule)),
    ),
]
LrSteps = Annotated[
    str | None,
    typer.Option(
        "--lr-steps", help="Epochs after which the rate falls, such as 30,60,80.", rich_help_panel=RECIPE, show_default=False
    ),
]
LrReduceFactor = Annotated[
    float | None,
    typer.Option("--lr-reduce-factor", help="What it falls to. Default: 0.1 of it.", rich_help_panel=RECIPE, show_default=False),
]
WarmupEpochs = Annotated[int | None, typer.Option("--warmup-epochs", rich_help_panel=RECIPE, show_default=False)]
Momentum = Annotated[float | None, typer.Option("--momentum", rich_help_panel=RECIPE, show_default=False)]
Nesterov = Annotated[bool | None, typer.Option("--nesterov/--no-nesterov", rich_help_panel=RECIPE, show_default=False)]
WeightDecay = Annotated[float | None, typer.Option("--weight-decay", rich_help_panel=RECIPE, show_default=False)]
NormWeightDecay = Annotated[
    float | None,
    typer.Option("--norm-weight-decay", help="Of BatchNorms. Default: the same.", rich_help_panel=RECIPE, show_default=False),
]
ClipNorm = Annotated[
    float | None,
    typer.Option("--clip-norm", help="Largest norm of the gradient. Default: none.", rich_help_panel=RECIPE, show_default=False),
]
AugmentationName = Annotated[
    str | None,
    typer.Option(
        "--augmentation",
        help="`crop-flip`, `trivial` (and TrivialAugment) or `affine`.",
        rich_help_panel=RECIPE,
        show_default=False,
        autocompletion=offering(*get_args(config.Augmentation)),
    ),
]
RandomErasing = Annotated[
    float | None, typer.Option("--random-erasing", help="Probability.", rich_help_panel=RECIPE, show_default=False)
]
Mixup = Annotated[float | None, typer.Option("--mixup", help="Alpha; 0: off.", rich_help_panel=RECIPE, show_default=False)]
Cutmix = Annotated[float | None, typer.Option("--cutmix", help="Alpha; 0: off.", rich_help_panel=RECIPE, show_default=False)]
LabelSmoothing = Annotated[float | None, typer.Option("--label-smoothing", rich_help_panel=RECIPE, show_default=False)]
EmaDecay = Annotated[
    float | None,
    typer.Option("--ema-decay", help="Keep a moving average of the weights; 0: none.", rich_help_panel=RECIPE, show_default=False),
]
EmaEvery = Annotated[
    int | None, typer.Option("--ema-every", help="Steps between its updates.", rich_help_panel=RECIPE, show_default=False)
]
ExportEma = Annotated[
    bool | None,
    typer.Option(
        "--export-ema/--no-export-ema", help="best.pt and last.pt hold the average.", rich_help_panel=RECIPE, show_default=False
    ),
]
TrainCropSize = Annotated[int | None, typer.Option("--train-crop-size", help="Pixels.", rich_help_panel=RECIPE, show_default=False)]
ValResize = Annotated[int | None, typer.Option("--val-resize", help="Pixels.", rich_help_panel=RECIPE, show_default=False)]
ValCropSize = Annotated[int | None, typer.Option("--val-crop-size", help="Pixels.", rich_help_panel=RECIPE, show_default=False)]
Seed = Annotated[int | None, typer.Option("--seed", help="Default: 0.", rich_help_panel=RECIPE, show_default=False)]
Precision = Annotated[
    str | None,
    typer.Option(
        "--precision",
        help="`fp32`, `bf16`, `fp16`, or `auto` for bf16 on GPUs that have it.",
        rich_help_panel=COMPUTING,
        show_default=False,
        autocompletion=offering(*get_args(config.TrainingPrecision)),
    ),
]
ChannelsLast = Annotated[
    bool | None,
    typer.Option(
        "--channels-last/--no-channels-last",
        help="Default: on GPUs, and on CPUs from 112 pixels.",
        rich_help_panel=COMPUTING,
        show_default=False,
    ),
]
Compile = Annotated[bool, typer.Option("--compile", help="Compile the network (torch.compile).", rich_help_panel=COMPUTING)]
SyncBn = Annotated[bool, typer.Option("--sync-bn", help="BatchNorm over the images of all GPUs.", rich_help_panel=COMPUTING)]
ActivationCheckpointing = Annotated[
    bool, typer.Option("--activation-checkpointing", help="Less memory, for one more forward pass.", rich_help_panel=COMPUTING)
]
Deterministic = Annotated[
    bool, typer.Option("--deterministic", help="The same bits every time on a GPU too.", rich_help_panel=COMPUTING)
]
OnNan = Annotated[
    str | None,
    typer.Option(
        "--on-nan",
        help="`stop`, or `skip` to leave out steps whose loss is not finite (fp16).",
        rich_help_panel=COMPUTING,
        show_default=False,
        autocompletion=offering(*get_args(config.OnNan)),
    ),
]

"""What can go wrong in a run, and what is said of it: images that cannot be read, losses that are not finite, requests to stop."""

from __future__ import annotations

import hashlib
import logging
import math
import os
from pathlib import Path

from iresnet_models.errors import CheckFailedError, InputError, PreemptedError
from iresnet_train.config import TrainConfig
from iresnet_train.distributed import World
from iresnet_train.run_folder import RunFolder
from iresnet_train.shards import is_pattern

log = logging.getLogger("iresnet_train")


class UnreadableImages:
    """Images that could not be read, by the message that names them; each counts once, and `most` are skipped.

    `known`: hashes of the messages, without the folders of the data: these may move, and are not written to a state.
    """

    def __init__(self, config: TrainConfig, world: World) -> None:
        self._most, self._world = config.max_corrupt, world
        self._folders = _folders(config)
        self._found: list[str] = []
        self.known: list[str] = []

    def note(self, reason: str) -> None:
        """Logs an image that was not known yet; one too many raises InputError."""
        place = reason
        for folder, short in self._folders:
            place = place.replace(folder, short)
        digest = hashlib.sha256(place.encode()).hexdigest()[:16]
        if digest in self.known:
            return
        self.known.append(digest)
        self._found.append(reason)
        if not self._most:
            raise InputError(f"{reason} Or let training skip some, with --max-corrupt.")
        if len(self.known) > self._most:
            raise InputError(f"{len(self.known)} images cannot be read, more than --max-corrupt {self._most}. The last: {reason}")
        if self._world.is_first:
            log.warning("Skipped, %d of at most %d: %s", len(self.known), self._most, reason)

    def share(self) -> None:
        """Adds what the other processes found."""
        for reason in [reason for found in self._world.gather(self._found) for reason in found]:
            self.note(reason)


def _folders(config: TrainConfig) -> list[tuple[str, str]]:
    """Where the data lie, as images' messages begin their paths, and what stands for it; of nested folders the inner one first."""
    found = []
    for data, short in ((config.data, ""), (config.val_data, "held out: ")):
        if data is not None:
            folder = Path(data.partition("{")[0] + "0").parent if is_pattern(data) else Path(data)
            found.append((f"{folder}{os.sep}", short))
    return sorted(found, key=lambda pair: -len(pair[0]))


def not_finite(loss: float) -> str:
    """What became of a step that cannot be taken: its loss is no number, or, if that is finite, its gradient."""
    return "The gradient was no longer finite" if math.isfinite(loss) else f"The loss became {loss}"


def diverged(what: str, lr: float, config: TrainConfig, precision: str, run: RunFolder, *, spoiled: bool) -> CheckFailedError:
    """The error of a run in which `what`, at a learning rate of `lr`. `spoiled`: it reached the weights."""
    end = (
        "The weights of now are of no use and were not saved; training was stopped"
        if spoiled
        else "Training was stopped before it reached the weights"
    )
    saved = (
        f"{run.last_checkpoint} and {run.best_checkpoint} stay as they were after epoch {run.records[-1].epoch}"
        if run.records
        else "no epoch was finished, so that there is no checkpoint"
    )
    if precision == "fp16" and not spoiled:
        cause = "float16 reaches only to 65,504: say --precision bf16, or leave out such steps with --on-nan skip"
    elif config.pretrained is not None:
        cause = "the weights that training started from may be damaged, or the learning rate too high for them: try a third of it"
    else:
        cause = "mostly the learning rate is too high for the network and the batch size: try a third of it, or --warmup-epochs"
    return CheckFailedError(f"{what}, at a learning rate of {lr:.3g}. {end}, and {saved}. The cause: {cause}.")


def preempted(signal_name: str | None, epoch: int, step: int, run: RunFolder) -> PreemptedError:
    """The error, which is none, of a run that was asked to stop."""
    return PreemptedError(
        f"Training was stopped by {signal_name or 'a signal to another process'} after step {step} of epoch {epoch}, and its state "
        f"is saved in {run.states.folder}. Go on with the same command and --resume (or --auto-resume)."
    )

"""What can go wrong in a run, and what is said of it: images that cannot be read, losses that are not finite, requests to stop."""

from __future__ import annotations

import hashlib
import logging

from iresnet_models.errors import CheckFailedError, InputError, PreemptedError
from iresnet_train.config import TrainConfig
from iresnet_train.distributed import World
from iresnet_train.run_folder import RunFolder

log = logging.getLogger("iresnet_train")


class UnreadableImages:
    """Images that could not be read, by the message that names them; each counts once, and `most` are skipped.

    `known`: hashes of the messages, which name places and are not written to a state.
    """

    def __init__(self, most: int, world: World) -> None:
        self._most, self._world = most, world
        self._found: list[str] = []
        self.known: list[str] = []

    def note(self, reason: str) -> None:
        """Logs an image that was not known yet; one too many raises InputError."""
        digest = hashlib.sha256(reason.encode()).hexdigest()[:16]
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


def not_finite(loss: float, where: str, lr: float, config: TrainConfig, precision: str, run: RunFolder) -> CheckFailedError:
    """The error of a loss, or of a gradient whose loss was finite, that is not a number."""
    what = "The gradient was no longer finite" if loss - loss == 0 else f"The loss became {loss}"
    saved = (
        f"{run.last_checkpoint} and {run.best_checkpoint} stay as they were after epoch {run.records[-1].epoch}"
        if run.records
        else "no epoch was finished, so that nothing was saved"
    )
    if precision == "fp16":
        cause = "float16 reaches only to 65,504: say --precision bf16, or leave out such steps with --on-nan skip"
    elif config.pretrained is not None:
        cause = "the weights that training started from may be damaged, or the learning rate too high for them: try a third of it"
    else:
        cause = "mostly the learning rate is too high for the network and the batch size: try a third of it, or --warmup-epochs"
    return CheckFailedError(
        f"{what} {where}, at a learning rate of {lr:.3g}. Training was stopped before it reached the weights, and {saved}. "
        f"The cause: {cause}."
    )


def preempted(signal_name: str | None, epoch: int, step: int, run: RunFolder) -> PreemptedError:
    """The error, which is none, of a run that was asked to stop."""
    return PreemptedError(
        f"Training was stopped by {signal_name or 'a signal to another process'} after step {step} of epoch {epoch}, and its state "
        f"is saved in {run.states.folder}. Go on with the same command and --resume (or --auto-resume)."
    )

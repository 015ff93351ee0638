"""What can go wrong in a run, and what is said of it: images that cannot be read, losses that are not finite, requests to stop."""

from __future__ import annotations

import errno
import hashlib
import logging
import math
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch.distributed as dist
from PIL.Image import Image

from iresnet_data.datasets import LabelledImages, file_content
from iresnet_data.shards import ShardMember, is_pattern
from iresnet_models.errors import (
    CheckFailedError,
    InputError,
    IResNetError,
    PreemptedError,
    UnavailableError,
    first_line,
    is_out_of_memory,
)
from iresnet_models.preprocessing import load_image
from iresnet_train.config import TrainConfig
from iresnet_train.distributed import World
from iresnet_train.preemption import stopped
from iresnet_train.run_folder import RunFolder
from iresnet_train.telling import going_on
from iresnet_train.torchrun import processors

_NAMED = 5
"""Unreadable images that are named."""

_LOOK_FOR = 20.0
"""Seconds that looking for more of them takes at most."""

_AT_ONCE = 256

log = logging.getLogger("iresnet_train")


class UnreadableImages:
    """Images that could not be read, by the message that names them; each counts once, and `most` are skipped.

    `known`: hashes of the messages, without the folders of the data: these may move, and are not written to a state. `sets`: where
    to look for more of them when there are too many, so that all are named at once.
    """

    def __init__(self, config: TrainConfig, world: World, sets: Sequence[LabelledImages] = ()) -> None:
        self._most, self._world = config.max_corrupt, world
        self._folders = _folders(config)
        self._found: list[str] = []
        self.known: list[str] = []
        self.sets = sets

    def note(self, reason: str) -> None:
        """Logs an image that was not known yet; one too many raises InputError, which names others that cannot be read either."""
        place = reason
        for folder, short in self._folders:
            place = place.replace(folder, short)
        digest = hashlib.sha256(place.encode(errors="surrogateescape")).hexdigest()[:16]
        if digest in self.known:
            return
        self.known.append(digest)
        self._found.append(reason)
        if len(self.known) > self._most:
            raise InputError(self._all(reason))
        if self._world.is_first:
            log.warning("Skipped, %d of at most %d: %s", len(self.known), self._most, reason)

    def share(self) -> None:
        """Adds what the other processes found."""
        for reason in [reason for found in self._world.gather(self._found) for reason in found]:
            self.note(reason)

    def _all(self, last: str) -> str:
        """What is wrong with the data, as far as a look at all of them shows in a short time."""
        reasons, looked_at, images = unreadable(self.sets)
        if len(reasons) < 2 and not self._most:
            return f"{last} Or let training skip some, with --max-corrupt."
        count = max(len(reasons), len(self.known))
        named = [reason.removesuffix(" Remove it or replace it.") for reason in reasons[:_NAMED] or [last]]
        more = f" And {count - len(named)} more." if count > len(named) else ""
        looked = f" (of {looked_at:,} that were looked at, out of {images:,})" if looked_at < images else ""
        return (
            f"{count} images cannot be read{looked}, more than --max-corrupt {self._most}: {' '.join(named)}{more} "
            f"Remove or replace them, or let training skip them, with --max-corrupt {count}."
        )


def unreadable(sets: Sequence[LabelledImages], seconds: float = _LOOK_FOR) -> tuple[list[str], int, int]:
    """Why images of `sets` cannot be read, each once; how many were looked at in so many seconds, and how many there are."""
    sources = [source for images in sets for source in images.images if not isinstance(source, Image)]

    def reason(source: str | ShardMember) -> str | None:
        try:
            name, content = file_content(source)
            load_image(Path(name), content)
        except InputError as error:
            return str(error)
        return None

    until, looked_at, found = time.monotonic() + seconds, 0, []
    with ThreadPoolExecutor(processors()) as pool:
        for first in range(0, len(sources), _AT_ONCE):
            if time.monotonic() > until:
                break
            part = sources[first : first + _AT_ONCE]
            found += [said for said in pool.map(reason, part) if said is not None]
            looked_at += len(part)
    return list(dict.fromkeys(found)), looked_at, len(sources)


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
        cause, remedy = "float16 reaches only to 65,504", "say --precision bf16, or leave out such steps with --on-nan skip."
    elif config.pretrained is not None:
        cause = "the weights that training started from may be damaged, or the learning rate too high for them"
        remedy = "try a third of it."
    else:
        cause = "mostly the learning rate is too high for the network and the batch size"
        remedy = "try a third of it, or --warmup-epochs."
    return CheckFailedError(f"{what}, at a learning rate of {lr:.3g}. {end}, and {saved}. The cause: {cause}:", remedy)


def preempted(names: Sequence[str | None], where: str, config: TrainConfig, run: RunFolder) -> PreemptedError:
    """The error, which is none, of a run that was asked to stop; `names`: the signal that each process got, if it did."""
    name = next((name for name in names if name is not None), None)
    return stopped(name)(
        f"Training was stopped by {name or 'a signal'} {where}, and its state is saved in {run.states.folder}.",
        f"Go on with: {going_on(config)}",
    )


@contextmanager
def lacks_named(config: TrainConfig, world: World, workers: int) -> Iterator[None]:
    """What libraries raise where memory, shared memory, files or processes are lacking, as errors that say what to do."""
    try:
        yield
    except (RuntimeError, OSError, MemoryError) as error:
        if isinstance(error, IResNetError):
            raise
        lack = _lack(error, config, world, workers)
        if lack is None:
            raise
        raise lack from error


def _lack(error: Exception, config: TrainConfig, world: World, workers: int) -> UnavailableError | None:
    text = str(error)
    number = error.errno if isinstance(error, OSError) else None
    said = first_line(error)[:300]
    if "shared memory" in text or "shm" in text or "Bus error" in text or "unable to mmap" in text:
        return UnavailableError(
            f"The {workers} processes that load images have too little shared memory in /dev/shm ({said}).",
            "Say --workers 0 (or fewer), or give more: in a container by --shm-size 8g or --ipc host.",
        )
    if number in (errno.EMFILE, errno.ENFILE) or "Too many open files" in text or "ancdata" in text:
        return UnavailableError(
            f"There are too many open files ({said}).", "Say --workers 0 (or fewer), or allow more: ulimit -n 65536."
        )
    if "DataLoader worker" in text and ("killed by signal" in text or "exited unexpectedly" in text):
        return UnavailableError(
            f"A process that loads images was ended from outside ({said}), mostly since memory ran out.",
            f"Say fewer --workers than {workers}, or free some memory.",
        )
    if number == errno.EAGAIN or "can't start new thread" in text:
        return UnavailableError(
            f"No more processes or threads may be started ({said}).", f"Say fewer --workers than {workers}, or raise ulimit -u."
        )
    if is_out_of_memory(error):
        share = -(-config.batch_size // world.size)
        return UnavailableError(
            f"There is not enough memory for steps of {share} images of {config.train_crop_size} pixels on {world.device.type} "
            f"({said}).",
            f"Take each step in parts, with --accumulate {2 * config.accumulate} or more, or use a smaller --batch-size, "
            "--activation-checkpointing or a smaller network; a run that goes on keeps its batches, and needs another machine.",
        )
    if world.size > 1 and (isinstance(error, dist.DistError) or "Connection closed by peer" in text or "Connection reset" in text):
        return UnavailableError(
            f"Another process of this run has ended, and this one cannot go on without it ({said}).", "See what that one said."
        )
    return None

"""The training loop, from a configuration to checkpoints."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset

from iresnet_models.errors import CheckFailedError, InputError
from iresnet_models.spec import ModelSpec
from iresnet_train.augmentation import augmented
from iresnet_train.config import TrainConfig
from iresnet_train.data import evaluation_set, spec_for, training_set
from iresnet_train.determinism import algorithms, computation, exactness
from iresnet_train.distributed import World, joined_world, processors
from iresnet_train.learner import Learner, StepOutcome
from iresnet_train.loader import Loader, TrainingLoader
from iresnet_train.metrics import evaluate_each
from iresnet_train.preemption import StopRequest, stop_requests
from iresnet_train.records import EpochRecord, Position, Progress, TrainingResult
from iresnet_train.run_folder import RunFolder
from iresnet_train.stopwatch import Stopwatch, advice
from iresnet_train.trouble import UnreadableImages, diverged, not_finite, preempted

_MOST_WORKERS = 8
_MOST_SKIPPED = 100
"""Steps of an epoch that `on_nan="skip"` leaves out before the run counts as diverged."""

_log = logging.getLogger("iresnet_train")


def train(
    config: TrainConfig, progress: Callable[[Progress], None] | None = None, *, environment: dict[str, Any] | None = None
) -> TrainingResult:
    """Trains a network as `config` says, alone or as one of torchrun's processes, and calls `progress` after every step.

    Leaves log.csv (a line an epoch), train.json (with `environment`), last.pt, best.pt (of the highest accuracy on the held-out
    images) and the states to go on from in `config.folder`. On a CPU, a seed gives the same weights bit by bit, resumed or not.
    Raises CheckFailedError before a loss that is not finite reaches the weights, and PreemptedError after SIGTERM or SIGUSR1,
    with the state saved. Remarks go to the logger "iresnet_train".
    """
    with joined_world(config.device) as world, algorithms(deterministic=config.deterministic), stop_requests() as stop:
        run = RunFolder(config, environment, writes=world.is_first)
        torch.manual_seed(config.seed)
        spec = spec_for(config.data, config.arch, config.depth, **config.model_fields())
        training = Training(config, spec, world, run, progress or (lambda now: None))
        with run.opened(spec):
            training.begin()
            for epoch in range(training.at.epoch, config.epochs):
                training.train_epoch(epoch, stop)
                training.evaluate_epoch(epoch)
            training.finish()
        return training.result()


class Training:
    """The parts of a run, and what is done with them in an epoch. `at`: how far it is."""

    def __init__(
        self, config: TrainConfig, spec: ModelSpec, world: World, run: RunFolder, progress: Callable[[Progress], None]
    ) -> None:
        self._config, self._world, self._run, self._progress = config, world, run, progress
        self._unreadable = UnreadableImages(config, world)
        self._workers = min(_MOST_WORKERS, processors()) if config.workers is None else config.workers
        self._images, self._held_out = self._loaders(spec)
        self._learner = Learner(config, spec, world)
        self.at = Position()

    def _loaders(self, spec: ModelSpec) -> tuple[TrainingLoader, Loader]:
        """Of the training part, augmented and shuffled, and of this process's share of the held-out part."""
        config, world = self._config, self._world
        common: dict[str, Any] = {"workers": self._workers, "pin_memory": world.device.type == "cuda"}
        size = config.train_crop_size
        images = training_set(config.data, spec, augmented(config.augmentation, spec, size, config.random_erasing))
        held_out = evaluation_set(config.val_data or config.data, spec)
        least = 2 * config.accumulate
        batches = None
        if config.loader == "dali":
            from iresnet_train.dali import DaliBatches

            batches = partial(
                DaliBatches, spec=spec, size=size, seed=config.seed, device=world.device, threads=self._workers or processors()
            )
        training = TrainingLoader(images, config.batch_size, world, seed=config.seed, least=least, batches=batches, **common)
        if not training.steps or config.batch_size < least * world.size:
            raise InputError(
                f"{config.data} has {len(images)} training images, to be taken in batches of {config.batch_size} by {world.size} "
                f"process(es); each needs at least {least} of a batch. Use a larger --batch-size, fewer processes, or more images."
            )
        share = Subset(held_out, range(world.rank, len(held_out), world.size))
        batch_size = -(-config.batch_size // world.size)
        return training, Loader(share, batch_size, on_unreadable=self._unreadable.note, **common)

    def begin(self) -> None:
        """At the beginning, or where the newest saved state leaves off."""
        config, run = self._config, self._run
        found = (run.states.newest(), run.leavings()) if self._world.is_first and config.resume != "no" else (None, [])
        state, leavings = self._world.from_first(found)
        if state is None:
            if config.resume == "yes":
                raise InputError(
                    f"{config.folder} holds no saved state to go on from. Leave out --resume, or name another --result-path."
                )
            if leavings:
                raise InputError(
                    f"{config.folder} holds a run ({', '.join(leavings)}), but no state that this program can go on from. Say "
                    "--force to replace it, or name another --result-path."
                )
            run.begin(self.at, [])
            return
        if differences := config.differences(state["config"]):
            raise InputError(
                f"{config.folder} holds a run of other settings: {'; '.join(differences)}. Resume it with its own, or begin "
                "another one in another --result-path (with --pretrained from its weights)."
            )
        if state["learner"] is not None:  # else the run was finished
            self._learner.restore(state["learner"])
        self._unreadable.known = list(state["unreadable"])
        self.at = Position.from_json(state["position"])
        run.begin(self.at, [EpochRecord(**values) for values in state["records"]], state["unsaved"])
        exact = exactness(self._computation(), state["computation"], fixed=self._world.device.type == "cpu" or config.deterministic)
        if self._world.is_first:
            _log.info("Resumed after step %d of epoch %d, %s.", self.at.step, self.at.epoch + 1, exact)

    def train_epoch(self, epoch: int, stop: StopRequest) -> None:
        """Takes the steps of an epoch that are left."""
        config, learner, at, steps = self._config, self._learner, self.at, self._images.steps
        watch = Stopwatch(at)
        for batch in watch.waiting(self._images.epoch(epoch, at.step)):
            for reason in batch.unreadable:
                self._unreadable.note(reason)
            if batch.images is None or batch.labels is None:
                raise InputError(f"None of a step's images can be read; mend the data. The last: {batch.unreadable[-1]}")
            step, planned = self._steps_done, self._images.planned(at.step)
            lr = self._learning_rate(at.step)
            statistics = learner.statistics() if config.on_nan == "skip" else None
            outcome = learner.backward(batch.images, batch.labels, step=step, planned=planned, stop=stop.name is not None)
            if math.isfinite(outcome.loss) and learner.update(lr, step, restart_average=epoch < config.warmup_epochs):
                at.counted += outcome.counted
            else:
                self._skip_or_raise(f"{not_finite(outcome.loss)} at step {at.step + 1} of {steps} of epoch {epoch + 1}", statistics)
            at.step += 1
            watch.lap()
            self._progress(self._described(outcome, lr))
            if outcome.stop:
                self._save_state()
                self._run.require_state()
                self._world.gather(None)  # torchrun ends all processes when the first of them does: let the one that saves finish
                raise preempted(stop.name, epoch + 1, at.step, self._run)
            if self._run.due(self._steps_done, epoch_ends=at.step == steps):
                self._save_state()
        self._unreadable.share()

    def evaluate_epoch(self, epoch: int) -> None:
        """Finds what an epoch was worth, and saves the network."""
        learner, at = self._learner, self.at
        if not at.counted.images:
            raise CheckFailedError(f"No step of epoch {epoch + 1} had a finite loss. Use a lower learning rate.")
        speed, share = at.counted.images / at.seconds, at.data_seconds / at.seconds
        if self._world.is_first and (remark := advice(at, self._workers, processors())) is not None:
            _log.warning(remark)
        watch, lr = Stopwatch(at), self._learning_rate(at.step - 1)
        learner.align_statistics()
        predictions = [learner.predict] if learner.average is None else [learner.predict, learner.predict_by_average]
        validated, *averages = evaluate_each(predictions, self._held_out, self._world.sum)
        averaged = averages[0] if averages else None
        if not math.isfinite(validated.loss):
            what = f"The loss on the held-out images became {validated.loss} after epoch {epoch + 1}"
            raise self._diverged(what, lr, spoiled=True)
        self._unreadable.share()
        watch.lap()
        record = EpochRecord(
            epoch=epoch + 1,
            train_loss=at.counted.loss,
            train_acc1=at.counted.top1,
            train_acc5=at.counted.top5,
            val_loss=validated.loss,
            val_acc1=validated.top1,
            val_acc5=validated.top5,
            lr=lr,
            seconds=at.seconds,
            images_per_second=speed,
            data_wait_share=share,
            ema_val_acc1=None if averaged is None else averaged.top1,
            ema_val_acc5=None if averaged is None else averaged.top5,
        )
        self._run.save_epoch(learner.exported(), record)
        self.at = Position(epoch + 1)

    def finish(self) -> None:
        """Notes that the run is finished, in place of the states to go on from; these stay where a file could not be written."""
        self._run.require_files()
        self._run.save_state(self._steps_done, self.at, {"learner": None} | self._extra())
        self._run.require_state()
        self._run.states.prune(1)

    def result(self) -> TrainingResult:
        run, records = self._run, self._run.records
        best = run.best
        assert best is not None
        return TrainingResult(
            best=run.best_checkpoint,
            last=run.last_checkpoint,
            log=run.log,
            report=run.report,
            val_acc1=run.accuracy(best),
            best_epoch=best.epoch,
            epochs=len(records),
            seconds=sum(record.seconds for record in records),
            images_per_second=sum(record.images_per_second for record in records) / len(records),
        )

    @property
    def _steps_done(self) -> int:
        """Of the whole run."""
        return self.at.epoch * self._images.steps + self.at.step

    def _learning_rate(self, step: int) -> float:
        """Of a step of this epoch, from 0."""
        return self._config.learning_rate(self.at.epoch + (step + 0.5) / self._images.steps)

    def _save_state(self) -> None:
        if not self._learner.is_finite():
            what = f"Weights or statistics were no longer finite after step {self.at.step} of epoch {self.at.epoch + 1}"
            raise self._diverged(what, self._learning_rate(self.at.step - 1), spoiled=True)
        self._run.save_state(self._steps_done, self.at, {"learner": self._learner.state()} | self._extra())

    def _extra(self) -> dict[str, Any]:
        return {"unreadable": self._unreadable.known, "computation": self._computation()}

    def _computation(self) -> dict[str, Any]:
        return computation(self._world, self._learner.precision, self._config.loader)

    def _skip_or_raise(self, what: str, statistics: list[Tensor] | None) -> None:
        """Leaves a step out, or stops."""
        lr = self._learning_rate(self.at.step)
        if statistics is None or self.at.skipped >= _MOST_SKIPPED:
            raise self._diverged(what, lr, spoiled=False)
        self._learner.restore_statistics(statistics)
        self.at.skipped += 1
        if self._world.is_first:
            _log.warning("%s, at a learning rate of %.3g: this step is left out.", what, lr)

    def _diverged(self, what: str, lr: float, *, spoiled: bool) -> CheckFailedError:
        return diverged(what, lr, self._config, self._learner.precision, self._run, spoiled=spoiled)

    def _described(self, outcome: StepOutcome, lr: float) -> Progress:
        config, at, steps, records = self._config, self.at, self._images.steps, self._run.records
        left = (config.epochs - at.epoch) * steps - at.step
        memory = torch.cuda.max_memory_allocated() / 1e9 if self._world.device.type == "cuda" else None
        return Progress(
            epoch=at.epoch + 1,
            epochs=config.epochs,
            step=at.step,
            steps=steps,
            loss=outcome.loss,
            lr=lr,
            images_per_second=at.counted.images / at.seconds,
            val_acc1=self._run.accuracy(records[-1]) if records else None,
            eta_seconds=left * at.seconds / at.step,
            data_wait_share=at.data_seconds / at.seconds,
            gpu_memory_gb=memory,
        )

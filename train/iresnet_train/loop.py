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

from iresnet_data.datasets import evaluation_set, spec_for, training_set
from iresnet_models.errors import CheckFailedError, InputError, PreemptedError
from iresnet_models.network import network_from_spec
from iresnet_models.spec import ModelSpec
from iresnet_train.augmentation import augmented
from iresnet_train.config import TrainConfig
from iresnet_train.determinism import algorithms, computation, exactness
from iresnet_train.distributed import World, joined_world
from iresnet_train.initial import initial_network
from iresnet_train.layout import require_layout
from iresnet_train.learner import Learner, StepOutcome
from iresnet_train.loader import Loader, TrainingLoader
from iresnet_train.metrics import evaluate_each
from iresnet_train.preemption import StopRequest, stop_requests
from iresnet_train.records import EpochRecord, Position, Progress, TrainingResult
from iresnet_train.resumption import remember_data, require_same_run, spec_of
from iresnet_train.run_folder import RunFolder
from iresnet_train.sampling import class_weights
from iresnet_train.saved import SavedState
from iresnet_train.stopwatch import Stopwatch, advice
from iresnet_train.telling import beginning, epoch_line
from iresnet_train.torchrun import processors
from iresnet_train.trouble import UnreadableImages, diverged, lacks_named, not_finite, preempted

_MOST_WORKERS = 8
_MOST_SKIPPED = 100
"""Steps of an epoch that `on_nan="skip"` leaves out before the run counts as diverged."""

_log = logging.getLogger("iresnet_train")


def train(
    config: TrainConfig,
    progress: Callable[[Progress], None] | None = None,
    *,
    environment: dict[str, Any] | None = None,
    said: str | None = None,
) -> TrainingResult:
    """Trains a network as `config` says, alone or as one of torchrun's processes, and calls `progress` after every step.

    Leaves log.csv (a line an epoch), train.json (with `environment`), last.pt, best.pt (of the highest accuracy on the held-out
    images), the states to go on from, and `said` in config.toml, in `config.folder`. On a CPU, a seed gives the same weights bit by
    bit, resumed or not.
    Raises CheckFailedError before a loss that is not finite reaches the weights; PreemptedError after SIGTERM, SIGUSR1 or SIGHUP,
    and InterruptedRunError after Ctrl-C, with the state saved. A run that is refused leaves what is there as it was. Remarks go to
    the logger "iresnet_train".
    """
    with joined_world(config.device) as world, algorithms(deterministic=config.deterministic), stop_requests() as stop:
        run = RunFolder(config, environment, said, writes=world.is_first)
        workers = min(_MOST_WORKERS, processors()) if config.workers is None else config.workers
        with lacks_named(config, world, workers), run.claimed():
            saved = world.from_first(run.saved() if world.is_first else None)
            if saved is not None:
                require_same_run(config, saved, first=world.is_first)
            torch.manual_seed(config.seed)
            require_layout(config)
            spec = spec_for(config.data, config.arch, config.depth, val_split=config.val_split, **config.model_fields())
            if saved is not None:
                spec = spec_of(saved, spec, config)
            training = Training(config, spec, world, workers, run, stop, progress or (lambda now: None), saved)
            with run.reported(training.spec):
                training.begin()
                while not training.is_done:
                    epoch = training.at.epoch
                    training.train_epoch(epoch)
                    training.evaluate_epoch(epoch)
                training.finish()
        return training.result()


class Training:
    """The parts of a run, and what is done with them in an epoch. `at`: how far it is."""

    def __init__(
        self,
        config: TrainConfig,
        spec: ModelSpec,
        world: World,
        workers: int,
        run: RunFolder,
        stop: StopRequest,
        progress: Callable[[Progress], None],
        saved: SavedState | None = None,
    ) -> None:
        self._config, self._world, self._run, self._progress = config, world, run, progress
        self._stop, self._workers, self._saved = stop, workers, saved
        self._unreadable = UnreadableImages(config, world)
        # DALI has threads in place of processes, and at least one.
        self._threads = workers or processors() if config.loader == "dali" else workers
        # A run that goes on has its weights from its state.
        network = initial_network(config, spec, tell=world.is_first) if saved is None else network_from_spec(spec)
        self._images, self._held_out = self._loaders(network.spec)
        balanced = config.class_weights == "balanced"
        weights = class_weights(self._unreadable.sets[0].labels, spec.num_classes) if balanced else None
        self._learner = Learner(config, network, world, weights)
        self.at = Position()

    @property
    def spec(self) -> ModelSpec:
        return self._learner.spec

    @property
    def is_done(self) -> bool:
        return self.at.epoch == self._config.epochs or self._is_stalled

    @property
    def _is_stalled(self) -> bool:
        """Whether as many epochs as `patience` says were no better than the best one before."""
        best, patience = self._run.best, self._config.patience
        return best is not None and patience is not None and self.at.epoch - best.epoch >= patience

    def _loaders(self, spec: ModelSpec) -> tuple[TrainingLoader, Loader]:
        """Of the training part, augmented and shuffled, and of this process's share of the held-out part."""
        config, world = self._config, self._world
        common: dict[str, Any] = {"workers": self._workers, "pin_memory": world.device.type == "cuda"}
        size = config.train_crop_size
        images = training_set(config.data, spec, augmented(config.augmentation, spec, size, config.random_erasing))
        held_out = evaluation_set(config.val_data or config.data, spec)
        self._unreadable.sets = (images, held_out)
        least = 2 * config.accumulate
        planned: dict[str, Any] = {"seed": config.seed, "least": least, "balanced": config.balanced_sampling}
        if config.loader == "dali":
            from iresnet_train.dali import DaliBatches

            planned["batches"] = partial(
                DaliBatches, spec=spec, size=size, seed=config.seed, device=world.device, threads=self._threads
            )
        training = TrainingLoader(images, config.batch_size, world, **planned, **common)
        if not training.steps or config.batch_size < least * world.size:
            raise InputError(
                f"{config.data} has {len(images)} training images, to be taken in batches of {config.batch_size} by {world.size} "
                f"process(es); each needs at least {least} of a batch.",
                "Use a larger --batch-size, fewer processes, or more images.",
            )
        share = Subset(held_out, range(world.rank, len(held_out), world.size))
        batch_size = -(-config.batch_size // world.size)
        return training, Loader(share, batch_size, on_unreadable=self._unreadable.note, **common)

    def begin(self) -> None:
        """At the beginning, or where the newest saved state leaves off."""
        config, saved = self._config, self._saved
        if saved is not None:
            if saved.position.step > self._images.steps:
                raise InputError(
                    f"{config.folder} holds a run that took {saved.position.step} steps of an epoch, and {config.data} has images "
                    f"for {self._images.steps}.",
                    "Name the data that it was begun with.",
                )
            self._learner.restore(saved.learner)
            self._unreadable.known = list(saved.unreadable)
            self.at = saved.position
            self._run.resume(saved)
        if not self._world.is_first:
            return
        remember_data(config)
        device = self._computation()["device"]
        _log.info(beginning(self._learner.model, config, self._unreadable.sets, device, self._learner.precision))
        if saved is not None:
            fixed = self._world.device.type == "cpu" or config.deterministic
            exact = exactness(self._computation(), saved.computation, fixed=fixed)
            if self.is_done:
                more = self._stopped_early() if self._is_stalled else "more --epochs go on with it."
                _log.info("This run of %d epochs is finished; %s", config.epochs, more)
                return
            _log.info("Resumed after step %d of epoch %d, %s.", self.at.step, self.at.epoch + 1, exact)

    def train_epoch(self, epoch: int) -> None:
        """Takes the steps of an epoch that are left."""
        config, learner, at, steps = self._config, self._learner, self.at, self._images.steps
        watch = Stopwatch(at)
        for batch in watch.waiting(self._images.epoch(epoch, at.step)):
            for reason in batch.unreadable:
                self._unreadable.note(reason)
            if batch.images is None or batch.labels is None:
                raise InputError("None of a step's images can be read;", f"check the data. The last: {batch.unreadable[-1]}")
            step, planned = self._steps_done, self._images.planned(at.step)
            lr = self._learning_rate(at.step)
            statistics = learner.statistics() if config.on_nan == "skip" else None
            outcome = learner.backward(batch.images, batch.labels, step=step, planned=planned, stop=self._stop.name is not None)
            self._run.start()
            self._stop.saves = True
            if math.isfinite(outcome.loss) and learner.update(lr, step, restart_average=epoch < config.warmup_epochs):
                at.counted += outcome.counted
            else:
                self._skip_or_raise(f"{not_finite(outcome.loss)} at step {at.step + 1} of {steps} of epoch {epoch + 1}", statistics)
            at.step += 1
            watch.lap()
            self._progress(self._described(outcome, lr))
            if outcome.stop:
                raise self._stopped(f"after step {at.step} of epoch {epoch + 1}")
            if self._run.due(self._steps_done, epoch_ends=at.step == steps):
                self._save_state()
        self._unreadable.share()

    def evaluate_epoch(self, epoch: int) -> None:
        """Finds what an epoch was worth, and saves the network."""
        learner, at = self._learner, self.at
        if not at.counted.images:
            raise CheckFailedError(f"No step of epoch {epoch + 1} had a finite loss.", "Use a lower learning rate.")
        speed, share = at.counted.images / at.seconds, at.data_seconds / at.seconds
        if self._world.is_first and (remark := advice(at, self._threads, processors())) is not None:
            _log.warning(remark)
        watch, lr = Stopwatch(at), self._learning_rate(at.step - 1)
        learner.align_statistics()
        predictions = [learner.predict] if learner.average is None else [learner.predict, learner.predict_by_average]
        validated, *averages = evaluate_each(predictions, self._stop.until(self._held_out), self._all_counted)
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
        if self._world.is_first:
            best = self._run.best
            assert best is not None
            _log.info(epoch_line(self._run.records, self._run.accuracy, best, self._config.epochs, self._gpu_memory()))
        self.at = Position(epoch + 1)
        if self._is_stalled and self._world.is_first:
            _log.info("Training ends here; %s", self._stopped_early())

    def _stopped_early(self) -> str:
        return f"the {self._config.patience} epochs up to {self.at.epoch} brought no better accuracy (--patience)."

    def finish(self) -> None:
        """Saves the end, from which more epochs go on, in place of the states before; these stay where a file is not written."""
        self._run.require_files()
        self._run.save_state(self._steps_done, self.at, {"learner": self._learner.state()} | self._extra())
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

    def _all_counted(self, tallies: Tensor) -> Tensor:
        """The sum over the processes; where one of them was asked to stop, all save and stop before it is complete."""
        asked = tallies.new_full((1, tallies.shape[1]), float(self._stop.name is not None))
        *counted, stop = self._world.sum(torch.cat([tallies, asked]))
        if bool(stop.any()):
            raise self._stopped(f"in the evaluation of epoch {self.at.epoch + 1}")
        return torch.stack(counted)

    def _stopped(self, where: str) -> PreemptedError:
        """Saves the state; the error that says so."""
        self._save_state()
        self._run.require_state()
        # torchrun ends all processes when the first of them does: let the one that saves finish.
        return preempted(self._world.gather(self._stop.name), where, self._config, self._run)

    def _save_state(self) -> None:
        if not self._learner.is_finite():
            what = f"Weights or statistics were no longer finite after step {self.at.step} of epoch {self.at.epoch + 1}"
            raise self._diverged(what, self._learning_rate(self.at.step - 1), spoiled=True)
        self._run.save_state(self._steps_done, self.at, {"learner": self._learner.state()} | self._extra())

    def _extra(self) -> dict[str, Any]:
        return {"unreadable": self._unreadable.known, "computation": self._computation()}

    def _computation(self) -> dict[str, Any]:
        images = {"images": len(self._unreadable.sets[0])}
        return images | computation(self._world, self._learner.precision, self._config.loader)

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
            gpu_memory_gb=self._gpu_memory(),
        )

    def _gpu_memory(self) -> float | None:
        """The most that was taken, in 10⁹ bytes."""
        device = self._world.device
        return torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None

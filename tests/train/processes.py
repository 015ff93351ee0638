"""Runs training in processes of their own, which a test may kill: forked from one that has imported torch once.

Reads one job a line from stdin (JSON: {"kind": ..., ...}), forks a child for it, and answers with the child's exit status.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import torch
from torch import nn

from iresnet_models.errors import IResNetError
from iresnet_train import Progress, TrainConfig, loop, train
from iresnet_train.distributed import joined_world
from iresnet_train.learner import Learner
from iresnet_train.metrics import Evaluation, evaluate_each


def train_job(job: dict[str, Any]) -> None:
    """Trains `config`; after `kill_after` steps this process is sent `signal`, `delay` seconds later."""
    config = job["config"]
    told = 0

    def progress(now: Progress) -> None:
        nonlocal told
        told += 1
        if told == job.get("kill_after"):
            number = signal.Signals[job["signal"]]
            if job.get("delay"):
                threading.Timer(job["delay"], os.kill, (os.getpid(), number)).start()
            else:
                os.kill(os.getpid(), number)

    def counting(*arguments: Any) -> list[Evaluation]:
        if job.get("evaluation_signal") and os.environ.get("RANK", "0") == "0":
            os.kill(os.getpid(), signal.Signals[job["evaluation_signal"]])
        found = evaluate_each(*arguments)
        if os.environ.get("RANK", "0") == "0":
            with Path(config["result_path"], "evaluated.txt").open("a") as file:
                file.write(" ".join(str(evaluation.images) for evaluation in found) + "\n")
        return found

    loop.evaluate_each = counting  # type: ignore[attr-defined]
    paths = {key: Path(config[key]) for key in ("result_path",) if config.get(key)}
    train(TrainConfig(**(config | paths | {"lr_steps": tuple(config["lr_steps"])})), progress)


def gradients_job(job: dict[str, Any]) -> None:
    """This process's part of one step with frozen BatchNorm statistics; the first process saves the gradients."""
    config = TrainConfig(**(job["config"] | {"lr_steps": tuple(job["config"]["lr_steps"])}))
    with joined_world("cpu") as world:
        torch.manual_seed(0)
        from iresnet_models import ModelSpec, network_from_spec

        learner = Learner(config, network_from_spec(ModelSpec("iresnet", 18, num_classes=3, image_size=32, resize=32)), world)
        for module in learner.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.train = lambda mode=True, module=module: module  # type: ignore[method-assign,misc]
                module.training = False
        generator = torch.Generator().manual_seed(1)
        images, labels = torch.randn(job["images"], 3, 32, 32, generator=generator), torch.arange(job["images"]) % 3
        own_images, own_labels = world.share(images), world.share(labels)  # type: ignore[type-var]
        outcome = learner.backward(own_images, own_labels, step=0, planned=job["images"])  # type: ignore[arg-type]
        learner.update(0.1)
        if world.is_first:
            found = {name: value.grad for name, value in learner.model.named_parameters()}
            weights = learner.model.state_dict()
            torch.save(
                {"gradients": found, "weights": weights, "loss": outcome.loss, "images": outcome.counted.images}, job["output"]
            )


def averages_job(job: dict[str, Any]) -> None:
    """Two steps on images of this process's own; saves its average of the weights, before and after statistics are aligned."""
    config = TrainConfig(**(job["config"] | {"lr_steps": tuple(job["config"]["lr_steps"])}))
    with joined_world("cpu") as world:
        torch.manual_seed(0)
        from iresnet_models import ModelSpec, network_from_spec

        learner = Learner(config, network_from_spec(ModelSpec("iresnet", 18, num_classes=3, image_size=32, resize=32)), world)
        generator = torch.Generator().manual_seed(world.rank)
        for step in range(2):
            learner.backward(torch.randn(4, 3, 32, 32, generator=generator), torch.arange(4) % 3, step=step, planned=8)
            learner.update(0.1, step)
        assert learner.average is not None
        found = {"before": {name: value.clone() for name, value in learner.average.values.items()}}
        learner.align_statistics()
        torch.save(found | {"after": learner.average.values}, f"{job['output']}-{world.rank}.pt")


def main() -> None:
    torch.set_num_threads(1)
    for line in sys.stdin:
        job = json.loads(line)
        size = job.get("processes", 1)
        children = [child for rank in range(size) if (child := forked(job, rank, size))]
        statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        print(json.dumps(statuses), flush=True)  # noqa: T201 - the answer


def forked(job: dict[str, Any], rank: int, size: int) -> int:
    """Forks the process of `rank`; gives its id to the parent, and never returns in the child."""
    child = os.fork()
    if child:
        return child
    if size > 1:
        os.environ.update(
            RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(job["port"])
        )
    status = 4
    signal.alarm(300)  # a process that waits for ever fails its test
    try:
        {"train": train_job, "gradients": gradients_job, "averages": averages_job}[job["kind"]](job)
        status = 0
    except IResNetError as error:
        status = error.exit_status
        print(error, file=sys.stderr)  # noqa: T201
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main()

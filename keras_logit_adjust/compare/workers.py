"""A comparison by several workers on this machine."""

import dataclasses
import os
import sys

import keras

from keras_logit_adjust import _checks
from keras_logit_adjust.compare.run import options_of
from keras_logit_adjust.tf_distribute import launch


def workers_to_start(config, workers=None):
    """How many processes a command has to start, None where it is one device's or has been started as a worker itself.

    Args:
        config: a `Config`.
        workers: of `--workers`. Without it, workers that `TF_CONFIG` does not place are started here.
    """
    if workers is None and config.strategy == "multi_worker" and not os.environ.get("TF_CONFIG"):
        return config.devices
    return workers


def compare_on_workers(config, methods, seeds, output, workers):
    """Run `keras-logit-adjust compare` as several processes that share every batch; the first shows what comes out.

    Args:
        config: a `Config` without a strategy, or with "multi_worker".
        methods: as in `compare`.
        seeds: as in `compare`.
        output: as in `compare`.
        workers: how many processes.

    Raises:
        ValueError: for another strategy or backend.
        WorkerLostError: where a worker was killed or failed.
    """
    _checks.check_integer(workers, "workers", minimum=1)
    if config.strategy not in (None, "multi_worker") or config.devices not in (None, workers):
        raise ValueError(
            "--workers N stands for N processes with --strategy multi_worker --devices N. Received: --workers "
            f"{workers}, --strategy {config.strategy}, --devices {config.devices}."
        )
    if keras.backend.backend() != "tensorflow":
        raise ValueError(f"--workers needs Keras's tensorflow backend. Received: backend {keras.backend.backend()!r}.")
    config = dataclasses.replace(config, strategy="multi_worker", devices=workers)
    words = [*options_of(config, methods, seeds), *(["--output", str(output)] if output else [])]
    status = launch.run_workers([sys.executable, "-m", "keras_logit_adjust", "compare", *words], workers)
    if status:
        raise SystemExit(status)

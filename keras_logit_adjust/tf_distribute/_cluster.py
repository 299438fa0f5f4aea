"""The workers of a training, the number of this worker, and the error for a lost worker."""

import contextlib
import json
import os

_GATHERED = ("float16", "float32", "float64", "int32", "int64")  # the types that TensorFlow can gather
_KINDS = ("chief", "worker")
_HINT = (
    'TF_CONFIG=\'{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}\', with '
    "the same cluster on every machine and a different index on each"
)


class WorkerLostError(RuntimeError):
    """`fit` raises it: another worker of the job was killed, failed, or cannot be reached any more."""


def multi_worker_strategy():
    """`tf.distribute.MultiWorkerMirroredStrategy()`, after a check of `TF_CONFIG`, without which it trains alone.

    Call it before anything else of TensorFlow. It waits until all workers of the cluster have started.

    Returns:
        The strategy.

    Raises:
        ValueError: if `TF_CONFIG` is missing, is not JSON, or contradicts itself.

    Example:

    >>> import os
    >>> os.environ.pop("TF_CONFIG", None)
    >>> try:
    ...     multi_worker_strategy()
    ... except ValueError as error:
    ...     print(str(error).split(".")[0])
    Several workers need the environment variable TF_CONFIG, which is missing
    """
    import tensorflow as tf

    check_tf_config()
    return tf.distribute.MultiWorkerMirroredStrategy()


def check_tf_config():
    """Raise if `TF_CONFIG` does not describe several workers; returns (addresses, index) of this worker."""
    text = os.environ.get("TF_CONFIG")
    if not text:
        raise ValueError(
            f"Several workers need the environment variable TF_CONFIG, which is missing. Set {_HINT}; on one machine "
            "use a MirroredStrategy."
        )
    try:
        config = json.loads(text)
        cluster, task = config["cluster"], config["task"]
        kind, index = task["type"], int(task["index"])
        addresses = [address for name in _KINDS for address in cluster.get(name, [])]
        own = cluster[kind]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _contradiction(f"{type(error).__name__}: {error}", text) from error
    rules = {
        f"a task of type {kind!r} does not train; that is for {' or '.join(_KINDS)}": kind in _KINDS,
        f"the task has index {index}, and the cluster {len(own)} of type {kind!r}": 0 <= index < len(own),
        "two workers have the same address": len(set(addresses)) == len(addresses),
    }
    if broken := [what for what, holds in rules.items() if not holds]:
        raise _contradiction(broken[0], text)
    return addresses, addresses.index(own[index])


def _contradiction(what, text):
    return ValueError(f"TF_CONFIG contradicts itself or is broken: {what}. It must be like {_HINT}. Received: {text}")


def is_chief(strategy=None):
    """Whether this process writes files and shows progress: the only process, or the first of several.

    Args:
        strategy: a `tf.distribute` strategy; by default the current one.

    Example:

    >>> is_chief()
    True
    """
    import tensorflow as tf

    strategy = strategy or tf.distribute.get_strategy()
    if not has_workers(strategy):
        return True
    resolver = strategy.cluster_resolver
    first = "chief" if "chief" in resolver.cluster_spec().jobs else "worker"
    return (resolver.task_type, resolver.task_id) == (first, 0)


def has_workers(strategy):
    """Whether a strategy spans several processes."""
    return len(worker_addresses(strategy)) > 1


def worker_addresses(strategy):
    """The addresses of all workers that train; `[]` if there is only this process."""
    resolver = strategy.cluster_resolver
    jobs = {} if resolver is None else resolver.cluster_spec().as_dict()
    return [address for kind in _KINDS for address in jobs.get(kind, [])]


def check_not_alone(strategy):
    """Raise if a strategy of several workers has found no others, which happens without `TF_CONFIG`."""
    if not worker_addresses(strategy):
        raise ValueError(
            "This MultiWorkerMirroredStrategy has no other workers: TF_CONFIG was missing when it was made. "
            f"`kla.tf_distribute.multi_worker_strategy()` checks that. Set {_HINT}; on one machine use a "
            "MirroredStrategy."
        )


def check_same_everywhere(strategy, number, *, rule):
    """Raise if an integer is not the same on all workers."""
    import tensorflow as tf

    if not has_workers(strategy):
        return
    with naming_a_lost_worker(strategy, lambda: "before the first step"):
        mine = tf.function(lambda: strategy.run(lambda: tf.constant([number])), autograph=False)()
        found = strategy.gather(mine, axis=0).numpy().tolist()
    if len(set(found)) > 1:
        raise ValueError(f"{rule} Received, in order of the workers: {found}.")


def gather(strategy, values):
    """The values of all replicas, joined along the first axis, on every worker."""
    import tensorflow as tf

    if strategy.num_replicas_in_sync == 1:
        return values
    dtype = strategy.experimental_local_results(values)[0].dtype
    if dtype.name not in _GATHERED:
        sent = tf.int64 if dtype.is_integer or dtype.is_bool else tf.float32
        cast = tf.function(lambda: strategy.run(lambda part: tf.cast(part, sent), args=(values,)), autograph=False)
        values = cast()
    return tf.cast(strategy.gather(values, axis=0), dtype)


@contextlib.contextmanager
def naming_a_lost_worker(strategy, place):
    """Turn TensorFlow's errors for a lost worker into `WorkerLostError`; `place()` says how far training was."""
    import tensorflow as tf

    try:
        yield
    except (
        tf.errors.UnavailableError,
        tf.errors.AbortedError,
        tf.errors.CancelledError,
        tf.errors.DeadlineExceededError,
        tf.errors.InternalError,
        tf.errors.UnknownError,
    ) as error:
        if not has_workers(strategy):
            raise
        raise WorkerLostError(
            f"A worker of this job cannot be reached any more, {place()}. "
            f"Workers: {worker_addresses(strategy)} (TensorFlow: {type(error).__name__}). "
            "Start all of them again: with the same `backup_dir` they continue from the last checkpoint."
        ) from error

"""Several workers on this machine: processes that find each other through `TF_CONFIG`."""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import tempfile
import threading
import time

from keras_logit_adjust.tf_distribute._cluster import WorkerLostError

_LAUNCHED = "KERAS_LOGIT_ADJUST_LAUNCHED"
_GRACE_SECONDS = 60  # for the others to end by themselves, once one has
_TAIL = 2000  # characters


def run_workers(command, workers):
    """Run a command as several workers of one job, until all have ended; none is left behind.

    The first is the chief, and its output is shown. Where one fails or is killed, the others have a minute to end.

    Args:
        command: program and arguments of each.
        workers: how many.

    Returns:
        The exit status of the chief.

    Raises:
        WorkerLostError: where another worker failed, with the end of what it wrote, or one was killed.
    """
    addresses = [f"localhost:{port}" for port in _free_ports(workers)]
    processes = []
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as files:
        logs = [pathlib.Path(folder) / f"worker{index}.log" for index in range(workers)]
        try:
            for index, log in enumerate(logs):
                output = files.enter_context(log.open("wb")) if index else None
                processes.append(_start(command, addresses, index, output))
            failed = _wait(processes)
        finally:
            for process in processes:
                process.kill()
                process.wait()
        return _outcome(processes, logs, failed)


def end_with_launcher():
    """End this process when the one that started it as a worker is gone, however that was ended."""
    if os.environ.get(_LAUNCHED):
        threading.Thread(target=_end_when_closed, daemon=True).start()


def _end_when_closed():
    os.read(0, 1)  # nothing is ever written: it returns when the other end is closed
    os._exit(1)


def _start(command, addresses, index, output):
    task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
    environment = {**os.environ, "TF_CONFIG": json.dumps(task), _LAUNCHED: "1"}
    errors = None if output is None else subprocess.STDOUT
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=output, stderr=errors)


def _free_ports(number):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("localhost", 0))
        return [each.getsockname()[1] for each in sockets]


def _wait(processes):
    """Wait for all, but not much longer than for the first; the number of the first to fail, or None."""
    deadline = failed = None
    while any(process.poll() is None for process in processes):
        if deadline is None and any(process.poll() is not None for process in processes):
            deadline = time.monotonic() + _GRACE_SECONDS
        if failed is None:
            failed = next((index for index, process in enumerate(processes) if process.poll()), None)
        if deadline is not None and time.monotonic() > deadline:
            break
        time.sleep(0.1)
    return (
        next((index for index, process in enumerate(processes) if process.poll()), None) if failed is None else failed
    )


def _outcome(processes, logs, failed):
    """The chief's exit status; raises where it has not said itself what failed."""
    chief = processes[0].returncode
    if failed is None or processes[failed].returncode == chief > 0:  # bad input is the same for all
        return chief
    status = processes[failed].returncode
    how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    tail = logs[failed].read_text(encoding="utf-8", errors="replace")[-_TAIL:].strip() if failed else ""
    raise WorkerLostError(f"Worker {failed} {how}." + (f" The end of its output:\n{tail}" if tail else ""))

"""Processes that a test starts, and that end with it whatever happens."""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time


class Process:
    """A Python program of this folder.

    Attributes:
        status: its exit status.
        output, errors: what it wrote.
        seconds: until it ended.
    """

    def __init__(self, command, folder):
        self._files = [folder / name for name in ("output", "errors")]
        self._begin = time.monotonic()
        command = [sys.executable, *map(str, command)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        with self._files[0].open("wb") as output, self._files[1].open("wb") as errors:
            self._process = subprocess.Popen(command, env=environment, stdout=output, stderr=errors)

    def has_ended(self):
        return self._process.poll() is not None

    def kill(self):
        self._process.kill()
        self._process.wait()

    def read(self):
        self.status, self.seconds = self._process.returncode, time.monotonic() - self._begin
        self.output, self.errors = (file.read_text(errors="replace") for file in self._files)
        return self


@contextlib.contextmanager
def started(*commands):
    """The processes of some commands, run side by side; killed at the end where they have not ended."""
    processes = []
    with contextlib.ExitStack() as folders:
        try:
            for command in commands:
                folder = folders.enter_context(tempfile.TemporaryDirectory())
                processes.append(Process(command, pathlib.Path(folder)))
            yield processes
        finally:
            for process in processes:
                process.kill()


def ended(processes, timeout):
    """Wait for all; raises where they take longer than `timeout` seconds."""
    left, deadline = list(processes), time.monotonic() + timeout
    while left:
        for process in [process for process in left if process.has_ended()]:
            process.read()
            left.remove(process)
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(left)} of {len(processes)} processes run for longer than {timeout} s")
        time.sleep(0.05)
    return processes


def run(*commands, timeout):
    with started(*commands) as processes:
        return ended(processes, timeout)


def found_by(script, *, timeout):
    """What a script of this folder prints as JSON in its last line."""
    (process,) = run([pathlib.Path(__file__).with_name(script)], timeout=timeout)
    assert process.status == 0, process.errors[-3000:]
    return json.loads(process.output.strip().splitlines()[-1])


def free_ports(number):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("localhost", 0))
        return [each.getsockname()[1] for each in sockets]

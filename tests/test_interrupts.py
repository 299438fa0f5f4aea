"""Ctrl-C from the first moment of a command: no traceback, whether the backend is there or not."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

import keras_logit_adjust as kla
from keras_logit_adjust import _interrupts

SLOW = "import time; print('importing', flush=True); time.sleep(60)"


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is no signal there")
def test_ctrl_c_while_the_backend_is_imported_shows_no_traceback(tmp_path):
    (tmp_path / "keras.py").write_text(SLOW)
    paths = os.pathsep.join([str(tmp_path), str(pathlib.Path(kla.__file__).parents[1])])
    command, pipe = [sys.executable, "-m", "keras_logit_adjust", "compare"], subprocess.PIPE
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what is ignored here, a child ignores
    try:
        process = subprocess.Popen(
            command, env={**os.environ, "PYTHONPATH": paths}, stdout=pipe, stderr=pipe, text=True
        )
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=20) == ("", "")
    assert process.returncode == -signal.SIGINT


ENDED_AT_ONCE = """
import os, signal, sys, threading
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)  # as a shell does for what it starts in the background
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # `nohup` has it ignored, and so in whatever these tests start
sys.argv, sys.orig_argv = ["keras-logit-adjust", "compare"], []
from keras_logit_adjust import cli
from keras_logit_adjust.cli import run

def wait(options):
    os.kill(os.getpid(), getattr(signal, os.environ["KLA_SIGNAL"]))
    threading.Event().wait(20)

class Parser:
    def parse_args(self, arguments):
        return type("Options", (), {"run": staticmethod(wait)})

run.make_parser = Parser
sys.exit(cli.main([]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals there")
@pytest.mark.slow
@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", -signal.SIGHUP)])
def test_a_command_stops_where_its_shell_ignores_the_signal(name, status):
    program = [sys.executable, "-c", ENDED_AT_ONCE]
    environment = {**os.environ, "KLA_SIGNAL": name}
    found = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=100)
    assert (found.returncode, found.stdout, found.stderr) == (status, "", "")


@pytest.mark.parametrize(
    ("argv", "started", "expected"),
    [
        (["-m"], ["python", "-m", "keras_logit_adjust", "compare"], True),
        ([str(pathlib.Path(kla.__file__).with_name("__main__.py"))], ["python", "-m", "keras_logit_adjust"], True),
        (["/usr/bin/keras-logit-adjust"], ["python", "/usr/bin/keras-logit-adjust"], True),
        (["train.py"], ["python", "train.py"], False),
        (["-m"], ["python", "-m", "pytest"], False),
        ([], [], False),
    ],
)
def test_only_a_command_of_the_package_is_ended_at_once(argv, started, expected, monkeypatch):
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys, "orig_argv", started)
    begin = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_IGN}
    handlers, before = dict(begin), signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(signal, "getsignal", handlers.get)
    monkeypatch.setattr(signal, "signal", handlers.__setitem__)
    _interrupts.end_at_once()
    assert handlers == (dict.fromkeys(begin, signal.SIG_DFL) if expected else begin)
    _interrupts.raise_again()
    expected_handlers = {**begin, signal.SIGTERM: _interrupts._terminate} if expected else begin
    assert handlers == expected_handlers
    monkeypatch.undo()
    assert signal.getsignal(signal.SIGINT) is before


def test_a_handler_of_the_programs_own_stays(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["keras-logit-adjust"])
    handlers = dict.fromkeys((signal.SIGINT, signal.SIGTERM), print)
    monkeypatch.setattr(signal, "getsignal", handlers.get)
    monkeypatch.setattr(signal, "signal", handlers.__setitem__)
    _interrupts.end_at_once()
    _interrupts.raise_again()
    assert set(handlers.values()) == {print}

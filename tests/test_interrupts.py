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


@pytest.mark.parametrize(
    ("argv", "started", "expected"),
    [
        (["-m"], ["python", "-m", "keras_logit_adjust", "compare"], True),
        (["/usr/bin/keras-logit-adjust"], ["python", "/usr/bin/keras-logit-adjust"], True),
        (["train.py"], ["python", "train.py"], False),
        (["-m"], ["python", "-m", "pytest"], False),
        ([], [], False),
    ],
)
def test_only_a_command_of_the_package_is_ended_at_once(argv, started, expected, monkeypatch):
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys, "orig_argv", started)
    handler, before = [signal.default_int_handler], signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(signal, "getsignal", lambda number: handler[-1])
    monkeypatch.setattr(signal, "signal", lambda number, new: handler.append(new))
    _interrupts.end_at_once()
    assert (handler[-1] is signal.SIG_DFL) == expected
    _interrupts.raise_again()
    assert handler[-1] is signal.default_int_handler
    monkeypatch.undo()
    assert signal.getsignal(signal.SIGINT) is before

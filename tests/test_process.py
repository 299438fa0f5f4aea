"""What a command does to its process: its standard error is silent for a while, and whole again after it."""

import logging
import os

from keras_logit_adjust import _process


def test_a_logger_made_while_it_is_silent_writes_into_no_other_file(tmp_path, capfd):
    with _process.silent():
        handler = logging.StreamHandler()  # it keeps the stream of this moment, as absl's loggers do
        os.write(2, b"from C++\n")
    with open(tmp_path / "results.txt", "w") as file:  # takes the lowest descriptor that is free
        handler.emit(logging.makeLogRecord({"msg": "later"}))
        file.flush()
        assert (tmp_path / "results.txt").read_text() == ""
    shown = capfd.readouterr().err
    assert "later" in shown and "from C++" not in shown

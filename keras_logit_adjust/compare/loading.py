"""The data of one seed after the other: the data of all seeds may not fit in memory."""

import pathlib

from keras_logit_adjust._checks import ArgumentError


class Loader:
    """Loads the data of a seed, and releases them before it loads the data of another seed.

    Args:
        config: a `Config`.
    """

    def __init__(self, config):
        self._config, self._last, self._files = config, None, None

    def __call__(self, seed):
        """The `LongTailDataset` of a seed."""
        if self._last is None or self._last.seed != seed:
            self._last = None
            self._check_files()
            self._last = self._config.load(seed)
        return self._last

    def _check_files(self):
        """Raise if a file has changed since the first seed was loaded."""
        files = {name: _state(getattr(self._config, name)) for name in ("train", "test")}
        for name, state in (self._files or files).items():
            if files[name] != state:
                raise self.changed(name)
        self._files = files

    def changed(self, name):
        """The error for a file that has changed."""
        return ArgumentError(
            name,
            f"`{name}` must not change until all seeds are trained. {getattr(self._config, name)} has "
            "changed: give the same command again. Runs that were trained on the same data are kept.",
        )


def _state(path):
    """Numbers that differ after a file is replaced; None if there is no file."""
    if path is None or not pathlib.Path(path).is_file():
        return None
    found = pathlib.Path(path).stat()
    return found.st_ino, found.st_size, found.st_mtime_ns

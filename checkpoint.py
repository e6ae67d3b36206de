"""The record of a run and the state of each model in training, from which a stopped run continues.

Besides results, a run's folder holds `run.json`, with what was settled when the run began and what has been done since,
and a `state*.npz` for each model in training. Both are replaced atomically (`files.py`), so a kill leaves the old or
the new one. Keras's `BackupAndRestore` writes weights in place and the epoch into another file: a kill may leave half.
"""

import contextlib
import fcntl
import glob
import itertools
import json
import os
import platform
import subprocess
import time
from importlib.metadata import version
from zipfile import BadZipFile

import numpy as np

import files
from flags import HERE, InputError

RECORD = "run.json"
LOCK = "lock"  # an empty file, because NFS cannot lock folders
FORMAT = 2


class StillRunning(InputError):
    """Another process works on a run."""


class Diverged(InputError):
    """A number of a model in training is not finite."""


class Run:
    """The folder of a run that this process, and no other, works on.

    Args:
        folder: its path.
        record: of a new run; None to continue a run from the record in its folder.

    Attributes:
        record: the content of `run.json`, a dict. Settled at the beginning: `script`, `started`, `asked` (flags as
            given), `flags` (as settled), `params` (as recorded), `score_file`, `params_file`, `digests` of each model's
            corpus, `machine`. Changing: `name` (None without one), `outcomes` of models, `appending` and `appended`
            (`append_once`), `finished`; and `epochs` in all three kinds of flags if the run is extended.

    Raises:
        StillRunning: another process works on it.
        InputError: the folder holds no run, or a damaged one.
    """

    def __init__(self, folder, record=None):
        self.folder, self.record = folder, record or read_record(folder)
        with files.saving(self.path(LOCK)):
            self._lock = open(self.path(LOCK), "a")  # held until the process ends
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                self.close()
                raise StillRunning(f"{folder}: this run is still going on; there is nothing to continue.") from error
        self.record = record or read_record(folder)  # read again, now that nobody else can change it

    @classmethod
    def create(cls, log_dir, script):
        """Begins a run in a new folder `<log_dir>/<script>_<unix time>`; the caller completes and saves its record."""
        started = time.time_ns()
        record = {"format": FORMAT, "script": script, "started": started}
        record |= {"outcomes": {}, "appending": {}, "appended": [], "finished": False}
        for second in itertools.count(started // 10**9):  # the next one that no other run has taken
            folder = os.path.join(log_dir, f"{script}_{second}")
            with files.saving(folder), contextlib.suppress(FileExistsError):
                os.makedirs(folder)
                return cls(folder, record)

    def close(self):
        """Releases the lock."""
        self._lock.close()

    def path(self, name):
        """The path of a file in the run's folder."""
        return os.path.join(self.folder, name)

    def save(self):
        """Writes the record."""
        files.write(self.path(RECORD), json.dumps(self.record, indent=1).encode())

    def append_once(self, key, *addition):
        """Appends an addition (see `files.append`) exactly once in the life of a run, however often the run is killed.

        `key` names the addition in the record.
        """
        if key in self.record["appended"]:
            return

        def note(offset):
            self.record["appending"][key] = offset
            self.save()

        files.append(*addition, offset=self.record["appending"].get(key), note=note)
        self.record["appended"].append(key)
        self.save()


def read_record(folder):
    """The record of the run in a folder (see `Run`); InputError if there is none or it is damaged."""
    path = os.path.join(folder, RECORD)
    try:
        with open(path, encoding="utf-8") as file:
            record = json.load(file)
        if record["format"] != FORMAT:
            raise ValueError(path)
        return record
    except FileNotFoundError as error:
        raise InputError(f"{folder}: is not the folder of a run: {RECORD} is missing.") from error
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"{path}: is damaged, or of another version of this program.") from error


def newest(log_dir, script, asked):
    """The folder of the newest unfinished run of a script with the flags `asked`; if all are finished, the newest."""
    paths = glob.glob(os.path.join(glob.escape(log_dir), f"{script}_*", RECORD))
    records = {folder: read_record(folder) for folder in map(os.path.dirname, paths)}
    matching = [folder for folder, record in records.items() if record["asked"] == asked]
    if not matching:
        raise InputError(f"{log_dir}: holds no run of {script}.py with these flags; name its folder after --resume.")
    return max(matching, key=lambda folder: (not records[folder]["finished"], records[folder]["started"]))


def save_state(path, history, seconds, arrays):
    """Writes rows of a model's history, its seconds of training so far and its `Trainer.state` into an `.npz` file."""
    with files.replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, history=np.array(history, "S"), seconds=seconds, **arrays)


def load_state(path):
    """(history, seconds, arrays) of a state, see `save_state`; InputError if it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = dict(archive)  # the archive has a checksum of each array
        return arrays.pop("history").astype(str).tolist(), float(arrays.pop("seconds")), arrays
    except (OSError, ValueError, LookupError, TypeError, AttributeError, EOFError, RuntimeError, BadZipFile) as error:
        raise InputError(f"{path}: is damaged, or not the state of a model; it cannot be continued.") from error


def machine():
    """What must not change for a continued run to give the same bytes: versions and cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    packages = {name: version(name) for name in ("tensorflow", "keras", "numpy")}
    return {"commit": commit(), "python": platform.python_version(), **packages, "cores": cores}


def commit():
    """The git commit of the project, with "+" if its files have changed since; None if it is not a git checkout."""
    describe = ["git", "--no-optional-locks", "-C", HERE, "describe", "--always", "--exclude=*", "--abbrev=40"]
    with contextlib.suppress(OSError):  # git is not installed
        return subprocess.run([*describe, "--dirty=+"], capture_output=True, text=True).stdout.strip() or None

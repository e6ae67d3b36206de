"""The record of a run and the state of each model in training, with which a stopped run goes on.

A run's folder holds, besides results, `run.json`, what was settled when the run began and what is done since, and a
`state*.npz` for each model in training. Both are replaced as a whole (`files.py`), so a kill leaves the old or the new
one. Keras's `BackupAndRestore` writes weights in place and the epoch into another file, so a kill may leave half.
"""

import fcntl
import glob
import itertools
import json
import os
import platform
import subprocess
import time
from importlib.metadata import version
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np

import files
from flags import HERE, InputError

RECORD = "run.json"
LOCK = "lock"  # an empty file, because NFS cannot lock folders
FORMAT = 2


class StillRunning(InputError):
    """Another process works on a run."""


class Run:
    """The folder of a run that this process, and no other, works on.

    Attributes:
        folder: its path.
        record: the content of `run.json`, a dict. Settled at the beginning: `script`, `started`, `asked` (flags as
            given), `flags` (as settled), `params` (as recorded), `score_file`, `params_file`, `digests` of each model's
            corpus, `machine`. Changing: `name` (None without one), `outcomes` of models, `appending` and `appended`
            (`append_once`), `finished`; and `epochs` in all three kinds of flags if the run is extended.

    Raises:
        StillRunning: another process works on it.
    """

    def __init__(self, folder, record):
        self.folder, self.record = folder, record
        with files.saving(self.path(LOCK)):
            self._lock = open(self.path(LOCK), "a")  # held until the process ends
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                self.close()
                message = f"{folder}: this run is still going on; there is nothing to continue."
                raise StillRunning(message) from error

    @classmethod
    def create(cls, log_dir, script):
        """Begins a run in a new folder `<script>_<unix time>[_<n>]`; what is settled is still to be saved.

        Args:
            log_dir: the folder of runs; created if missing.
            script: name of the script.
        """
        started = time.time_ns()
        folder = stamp = os.path.join(log_dir, f"{script}_{started // 10**9}")
        with files.saving(folder):
            os.makedirs(log_dir, exist_ok=True)
            for attempt in itertools.count(2):
                try:
                    os.mkdir(folder)
                    break
                except FileExistsError:  # another run of the same second
                    folder = f"{stamp}_{attempt}"
        return cls(folder, {"format": FORMAT, "script": script, "started": started, **nothing_done()})

    @classmethod
    def reopen(cls, folder, script):
        """Opens a run to continue it; InputError if the folder holds none of this script, or a damaged one."""
        run = cls(folder, read_record(folder))
        run.record = read_record(folder)  # as it is now that nobody else changes it
        if run.record["script"] != script:
            run.close()
            raise InputError(f"{folder}: is a run of {run.record['script']}.py; continue it with that script.")
        return run

    def close(self):
        """Releases the lock."""
        self._lock.close()

    def path(self, name):
        """The path of a file in the run's folder."""
        return os.path.join(self.folder, name)

    def save(self):
        """Writes the record."""
        files.write(self.path(RECORD), json.dumps(self.record, indent=1).encode())

    def append_once(self, key, path, compose):
        """Appends to a file, once in the life of the run, however often it is killed meanwhile.

        Args:
            key: name of the addition in the record.
            path, compose: see `files.append`.
        """
        if key in self.record["appended"]:
            return

        def note(offset):
            self.record["appending"][key] = offset
            self.save()

        files.append(path, compose, self.record["appending"].get(key), note)
        self.record["appended"].append(key)
        self.save()


def nothing_done():
    """The part of a record that changes, at its beginning."""
    return {"outcomes": {}, "appending": {}, "appended": [], "finished": False}


def read_record(folder):
    """The record of the run in a folder (see `Run`); InputError if there is none or it is damaged."""
    path = os.path.join(folder, RECORD)
    try:
        with open(path, encoding="utf-8") as file:
            record = json.load(file)
        if record["format"] == FORMAT:
            return record
    except FileNotFoundError as error:
        raise InputError(f"{folder}: is not the folder of a run: {RECORD} is missing.") from error
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"{path}: is damaged or not readable; the run cannot be continued.") from error
    raise InputError(f"{path}: is of another version of this program; the run cannot be continued.")


def is_active(folder):
    """Whether a process works on the run in a folder."""
    try:
        with open(os.path.join(folder, LOCK)) as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (BlockingIOError, FileNotFoundError) as error:
        return isinstance(error, BlockingIOError)
    return False


def newest(log_dir, script, asked):
    """The folder of the newest unfinished run of a script with the flags `asked`; if all are finished, the newest.

    Raises:
        InputError: there is none.
    """
    matching = []
    for path in glob.glob(os.path.join(glob.escape(log_dir), f"{script}_*", RECORD)):
        folder = os.path.dirname(path)
        record = read_record(folder)
        if record["asked"] == asked:
            matching.append((not record["finished"], record["started"], folder))
    if not matching:
        raise InputError(
            f"{log_dir}: holds no run of {script}.py with these flags to continue; "
            "name its folder after --resume, or begin a run without --resume."
        )
    return max(matching)[2]


class State(NamedTuple):
    """The state of a model in training at the end of an epoch."""

    epoch: int = 0  # epochs that are done
    history: list = ()  # rows of the history file
    seconds: float = 0.0  # training time so far
    arrays: dict = None  # see `training.Trainer.state`


def save_state(path, state):
    """Writes a `State` into an `.npz` file."""
    about = json.dumps([state.epoch, state.history, state.seconds]).encode()
    with files.replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, about=np.frombuffer(about, np.uint8), **state.arrays)


def load_state(path):
    """Reads a `State`; InputError if it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = dict(archive)  # the archive has a checksum of each array
        return State(*json.loads(arrays.pop("about").tobytes()), arrays)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, EOFError, RuntimeError, BadZipFile) as error:
        raise InputError(f"{path}: is damaged, or not the state of a model; it cannot be continued.") from error


class Diverged(InputError):
    """A number of a model in training is not finite."""


def machine():
    """What a continued run must share with its beginning to end in the same bytes: versions and cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    packages = {name: version(name) for name in ("tensorflow", "keras", "numpy")}
    return {"commit": commit(), "python": platform.python_version(), **packages, "cores": cores}


def commit():
    """The git commit of the project, with "+" if its files have changed since; None if it is not a git checkout."""
    describe = ["git", "--no-optional-locks", "-C", HERE, "describe", "--always", "--exclude=*", "--abbrev=40"]
    try:
        done = subprocess.run([*describe, "--dirty=+"], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()

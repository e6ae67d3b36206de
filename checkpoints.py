"""What lets a run be killed at any moment and go on: its record, its progress, the state of each model in training.

A run's folder holds, besides results: `run.json`, the flags and all else that was settled when it began, which never
changes and whose lock says that the run is going on; `progress.json`, what is done; and a `state*.npz` for each model
that is begun and not finished. Each is replaced by a whole one (`files.py`): a kill leaves the old one or the new one.

Keras's own `BackupAndRestore` writes weights in place and the epoch into a second file, so a kill can leave half of
the one, or weights that are not of the epoch; it begins an epoch again at its first batch, and knows neither scores nor
histories. `ModelCheckpoint` writes in place as well, and keeps no epoch. `tests/test_checkpoints.py` shows it.
"""

import contextlib
import fcntl
import hashlib
import io
import json
import os
import signal
import time
import zipfile
from types import SimpleNamespace

import numpy as np

from data_utils import InputError
from files import Unsaved, append, replacing, seal, sha256, unseal, write
from training import keras, tf

SAVE_SECONDS = 3.0  # the most work between two states, give or take one call of TensorFlow
ORPHAN_SECONDS = 3.0  # the workers of a run that was killed end within this time
RECORD, PROGRESS = "run.json", "progress.json"
FORMAT = 1

# --- a run ----------------------------------------------------------------------------------------------


class Run:
    """The folder of a run that this process holds, until it ends.

    Attributes:
        folder: its name.
        record: the content of `run.json`, a dict: `id`, `script`, `started`, `asked` (flags as they were given),
            `flags` (as they were settled), `score_file`, `params_file`, `corpora` (a digest for each model).
    """

    def __init__(self, folder, record, lock):
        self.folder, self.record, self.lock = folder, record, lock

    @classmethod
    def create(cls, folder, record):
        """Begins a run in a new folder."""
        record = {"format": FORMAT, "id": os.urandom(8).hex(), "started": time.time_ns(), **record}
        progress = {"begun": [], "outcomes": {}, "appending": {}, "appended": [], "finished": False}
        write(os.path.join(folder, PROGRESS), seal(progress))
        path = os.path.join(folder, RECORD)
        with replacing(path) as temporary:
            with open(temporary, "wb") as file:
                file.write(seal(record))
            lock = hold(temporary, fcntl.LOCK_SH)  # before anyone can see it
        return cls(folder, record, lock)

    @classmethod
    def reopen(cls, folder, script):
        """Takes a run up again.

        Raises:
            InputError: there is none, it is another script's, it is damaged, or it is going on.
        """
        path = os.path.join(folder, RECORD)
        if not os.path.exists(path):
            raise InputError(f"{folder}: holds no run to continue: there is no file {RECORD} in it.")
        record = read_record(folder)
        if record["script"] != script:
            raise InputError(f"{folder}: is a run of {record['script']}.py; continue it with that script.")
        give_up = time.monotonic() + ORPHAN_SECONDS
        # All processes of a run share the lock; it is free for one alone when none of them is left.
        while (lock := hold(path, fcntl.LOCK_EX)) is None:
            if time.monotonic() > give_up:
                raise InputError(f"{folder}: this run is still going on; there is nothing to continue.")
            time.sleep(0.1)
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            run = cls(folder, record, lock)
            run.progress()
        except BlockingIOError as error:
            os.close(lock)
            raise InputError(f"{folder}: this run has just been continued by another process.") from error
        except InputError:
            os.close(lock)
            raise
        return run

    def close(self):
        """Lets the run go."""
        os.close(self.lock)

    def path(self, name):
        """The name of a file in the run's folder."""
        return os.path.join(self.folder, name)

    def progress(self):
        """What is done so far, a dict: models `begun`, `outcomes` by model, files `appended` to, `finished`."""
        return unseal(self.path(PROGRESS), "record of a run's progress")

    @contextlib.contextmanager
    def changing_progress(self):
        """Gives `progress()` to be changed, while the run's other processes wait, and saves it."""
        try:
            folder = os.open(self.folder, os.O_RDONLY)
        except OSError as error:
            raise Unsaved(self.path(PROGRESS), error.strerror) from error
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            progress = self.progress()
            yield progress
            write(self.path(PROGRESS), seal(progress))
        finally:
            os.close(folder)

    def append_once(self, key, path, compose):
        """Does what `append` does once in the life of the run, however often it is killed meanwhile.

        First the file with the addition is made, under a name that only this run uses; then what is about to happen
        is noted; then the file takes its place. Where there is a note, it has done so if that name is gone and the
        addition is to be found: the same rows of another run would be found as well, but then the name is still there.

        Args:
            key: names the addition in the run's progress.
        """
        token = f"_{self.record['id']}"
        progress = self.progress()
        if key in progress["appended"]:
            return
        real = os.path.realpath(path)
        temporary = os.path.join(os.path.dirname(real), f".tmp{token}_{os.path.basename(real)}")
        if not (key in progress["appending"] and not os.path.exists(temporary) and self._holds(real, progress, key)):

            def note(added):
                with self.changing_progress() as progress:
                    progress["appending"][key] = added.decode()

            try:
                append(path, compose, token, note)
            except Unsaved:
                with contextlib.suppress(InputError), self.changing_progress() as progress:
                    progress["appending"].pop(key, None)
                raise
        with self.changing_progress() as progress:
            progress["appending"].pop(key, None)
            progress["appended"].append(key)

    @staticmethod
    def _holds(path, progress, key):
        """Whether a file has an addition in it."""
        try:
            with open(path, "rb") as file:
                return progress["appending"][key].encode() in file.read()
        except FileNotFoundError:
            return False


def hold(path, mode):
    """Opens a file and takes its lock in a mode; returns the descriptor, or None where another has it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
        return descriptor
    except BlockingIOError:
        os.close(descriptor)
        return None


def read_record(folder):
    """The record of the run in a folder; see `Run`."""
    path = os.path.join(folder, RECORD)
    record = unseal(path, "record of a run")
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise InputError(f"{path}: is of another version of this program; the run cannot be continued.")
    return record


def newest(log_dir, script, asked):
    """The folder of the newest unfinished run of a script with these flags; else of the newest one.

    Raises:
        InputError: there is none.
    """
    found, damaged = [], []
    for name in os.listdir(log_dir) if os.path.isdir(log_dir) else []:
        folder = os.path.join(log_dir, name)
        if not name.startswith(f"{script}_") or not os.path.exists(os.path.join(folder, RECORD)):
            continue
        try:
            record = read_record(folder)
            if record["asked"] == asked and record["script"] == script:
                done = unseal(os.path.join(folder, PROGRESS), "record of a run's progress")["finished"]
                found.append((not done, record["started"], folder))
        except InputError as error:
            damaged.append(str(error))
    if found:
        return max(found)[2]
    if damaged:
        raise InputError(damaged[0])
    raise InputError(
        f"{log_dir}: holds no run of {script}.py with just these flags to continue; "
        "name its folder after --resume, or begin one without --resume."
    )


def digest_of(corpus):
    """A digest of all that a model sees of its corpus."""
    digest = hashlib.sha256(json.dumps([list(corpus.tasks), corpus.vocabulary, corpus.memory_size]).encode())
    for examples in (corpus.training, corpus.validation, corpus.testing):
        for array in (examples.statements, examples.slots, examples.query, examples.answer, examples.task):
            digest.update(str((array.shape, array.dtype)).encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


# --- signals --------------------------------------------------------------------------------------------

STOP_SIGNALS = {signal.SIGINT, signal.SIGTERM}


class Stopped(KeyboardInterrupt):
    """A signal asked this process to end."""

    def __init__(self, number):
        super().__init__(number)
        self.number = number


# One process, one state: `number` is the signal that came, `at_once` says whether it ends what is being done.
_signals = SimpleNamespace(number=None, at_once=True)


def take_signals(worker=False):
    """From now on SIGINT and SIGTERM raise `Stopped`: at once, or where `check_signals` is called next.

    Args:
        worker: always wait for `check_signals`; else a second signal does not.

    Returns:
        A function that gives the signals back to who had them before.
    """

    def take(number, frame):
        again = _signals.number is not None
        _signals.number = number
        if not worker and (_signals.at_once or again):
            raise Stopped(number)

    before = {number: signal.signal(number, take) for number in STOP_SIGNALS}
    _signals.number, _signals.at_once = None, not worker

    def give_back():
        for number, handler in before.items():
            signal.signal(number, handler)
        _signals.number = None

    return give_back


@contextlib.contextmanager
def signals_wait(wait=True):
    """Within the block, signals wait for `check_signals`, or with `wait=False` do not."""
    before, _signals.at_once = _signals.at_once, not wait
    try:
        if not wait:
            check_signals()
        yield
    finally:
        _signals.at_once = before


def check_signals():
    """Raises `Stopped` if a signal has come."""
    if _signals.number is not None:
        raise Stopped(_signals.number)


# --- a model in training --------------------------------------------------------------------------------


class Checkpoint(keras.callbacks.Callback):
    """Saves the state of a model in training, and ends it when a signal has come.

    The state is saved with every report, and when some seconds have passed. It is all that the next step depends on:
    weights, the optimizer's variables, the network's random generators, the epoch's mean loss so far and the number of
    steps; order, noise and dropout of any step follow from its number (`training.batches`).

    Args:
        run: the `Run`.
        name: what tells the files of this model from others' of the run.
        corpus_digest: `digest_of` the model's corpus.
        interval: epochs between two reports.
        epochs: of the whole training.

    Attributes:
        history: the text of the history file.
        seconds: how long the model was in training when this process took it up.
    """

    def __init__(self, run, name, corpus_digest, interval, epochs):
        super().__init__()
        self.run, self.name, self.interval, self.epochs = run, name, interval, epochs
        self.path, self.history_path = run.path(f"state{name}.npz"), run.path(f"history{name}.csv")
        self.identity = {"format": FORMAT, "run": run.record["id"], "model": name, "corpus": corpus_digest}
        self.history, self.seconds, self.loss = "", 0.0, None
        self.known = name in run.progress()["begun"]
        self.begin = self.saved = time.monotonic()

    def variables(self):
        """A dict from name to variable; Keras's own names differ with what else the process has made."""
        trainer = self.model
        groups = {
            "trainer": [trainer.vector],
            "optimizer": trainer.optimizer.variables,
            "network": trainer.network.non_trainable_variables,
            "loss": trainer.loss_tracker.variables,
        }
        return {f"{group}/{i}": v for group, members in groups.items() for i, v in enumerate(members)}

    def restore(self, trainer, epoch_steps):
        """Brings a trainer into the saved state, if there is one.

        Args:
            trainer: the `training.Trainer`.
            epoch_steps: the number of steps of an epoch.

        Returns:
            The number of steps that are done.

        Raises:
            InputError: the state is damaged, not of this model, or missing though one was saved.
        """
        self.set_model(trainer)
        if not os.path.exists(self.path):
            if self.known:
                raise InputError(f"{self.path}: the state of a model in training is missing; it cannot be continued.")
            return 0
        meta, arrays = read_state(self.path)
        variables = self.variables()
        if {key: meta.get(key) for key in self.identity} != self.identity:
            raise InputError(f"{self.path}: is the state of another model, run or version; it cannot be continued.")
        expected = {name: (tuple(v.shape), v.dtype) for name, v in variables.items()}
        if {name: (array.shape, array.dtype.name) for name, array in arrays.items()} != expected:
            raise InputError(f"{self.path}: its arrays are not those of this network; it cannot be continued.")
        for name, variable in variables.items():
            variable.assign(arrays[name])
        self.history, self.seconds = meta["history"], meta["seconds"]
        self.write_history()  # which may have gone beyond the state
        steps = int(trainer.optimizer.iterations)
        if steps % epoch_steps:  # else what it has is the loss of the epoch before
            self.loss = [v.numpy() for v in trainer.loss_tracker.variables]
        return steps

    def save(self):
        """Saves the state.

        Raises:
            InputError: a number is not finite; the state from before remains.
        """
        arrays = {name: variable.numpy() for name, variable in self.variables().items()}
        if not all(np.isfinite(array).all() for array in arrays.values()):
            self.model.fail("a weight is not finite", int(self.model.optimizer.iterations) - 1)
        self.write_history()
        meta = {**self.identity, "history": self.history, "seconds": self.elapsed()}
        write_state(self.path, meta, arrays)
        if not self.known:  # from now on a missing state is a loss
            with self.run.changing_progress() as progress:
                progress["begun"].append(self.name)
            self.known = True
        self.saved = time.monotonic()

    def write_history(self):
        if self.history:
            write(self.history_path, self.history.encode(), durable=False)  # it follows from the state

    def elapsed(self):
        """Seconds of work on this model so far, that of processes before this one included."""
        return self.seconds + time.monotonic() - self.begin

    def due(self):
        return _signals.number is not None or time.monotonic() - self.saved > SAVE_SECONDS

    def on_epoch_begin(self, epoch, logs=None):
        if self.loss is not None:  # of the first part of this epoch; Keras has just set it to zero
            for variable, value in zip(self.model.loss_tracker.variables, self.loss, strict=True):
                variable.assign(value)
            self.loss = None

    def between(self):
        """Called in mid-epoch, every `training.SLICE` questions."""
        if self.due():
            self.save()
            check_signals()

    def on_epoch_end(self, epoch, logs=None):
        last = epoch + 1 == self.epochs
        if last or (epoch + 1) % self.interval == 0 or self.due():
            self.save()
        if not last:  # after the last epoch the model is as good as finished
            check_signals()

    def finish(self, outcome):
        """Notes what the finished model scored (a dict) and how long it took, and removes its state."""
        with self.run.changing_progress() as progress:
            progress["outcomes"][self.name] = {**outcome, "seconds": self.elapsed()}
            times = [f"model{name}.keras,{done['seconds']:.1f}\n" for name, done in progress["outcomes"].items()]
            write(self.run.path("times.csv"), ("Model,Seconds\n" + "".join(times)).encode(), durable=False)
        with contextlib.suppress(FileNotFoundError):
            os.remove(self.path)


def write_state(path, meta, arrays):
    """Saves a state: a line with a checksum, then an `.npz` archive."""
    archive = io.BytesIO()
    np.savez(archive, meta=np.frombuffer(json.dumps(meta).encode(), np.uint8), **arrays)
    content = archive.getvalue()
    write(path, f"{sha256(content)}\n".encode() + content)


def read_state(path):
    """The (meta, arrays) of a state.

    Raises:
        InputError: it cannot be read, is damaged, or is something else.
    """
    try:
        with open(path, "rb") as file:
            checksum, _, content = file.read().partition(b"\n")
        if checksum.decode() == sha256(content):
            with np.load(io.BytesIO(content), allow_pickle=False) as archive:
                arrays = dict(archive)
            meta = json.loads(arrays.pop("meta").tobytes())
            return meta, arrays
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, EOFError, AttributeError, zipfile.BadZipFile):  # one with a right checksum: no state
        pass
    raise InputError(f"{path}: is damaged, or no state of a model in training; it cannot be continued.")


def save_model(network, path):
    """Saves a network in Keras's format, whole or not at all."""
    folder, name = os.path.split(path)
    try:
        with replacing(path) as temporary:
            network.save(temporary)
    except (RuntimeError, ValueError) as error:  # h5py and zipfile have words of their own for a full disk
        raise Unsaved(path, str(error)) from error


def versions():
    """What a continued run must have in common with its beginning to end in the same bytes."""
    return {"tensorflow": tf.__version__, "keras": keras.__version__, "numpy": np.__version__}

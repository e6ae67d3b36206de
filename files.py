"""Files that are written whole or not at all, and those that several processes append to.

Nothing here imports TensorFlow.
"""

import contextlib
import csv
import fcntl
import hashlib
import io
import json
import os
import shutil
import stat
import time

from data_utils import InputError

SCORE_COLUMNS = ("Task", "Testing Accuracy", "Training Accuracy", "Validation Accuracy")

# --- whole files ----------------------------------------------------------------------------------------


class Unsaved(InputError):
    """A file could not be written: the disk is full, the folder is gone, ..."""

    def __init__(self, path, reason):
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self):
        return f"{self.path}: not saved: {self.reason}."


@contextlib.contextmanager
def replacing(path, token="", durable=True, ready=None):
    """Gives the name of a file to write, which takes the place of `path` in one moment when the block has ended well.

    Args:
        path: the file; its folder must be there.
        token: part of the temporary name, where several processes may write at once.
        durable: wait until the content is on the disk, so that a power cut does no more harm than a kill.
        ready: called when the new file is complete and not yet in its place.

    Raises:
        Unsaved: it could not be written; `path` is as it was and nothing is left beside it.
    """
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".tmp{token}_{name}")  # the same each time: what a kill left is overwritten
    try:
        yield temporary
        if durable:
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
        if ready:
            ready()
        os.replace(temporary, path)
    except OSError as error:
        raise Unsaved(path, error.strerror or str(error)) from error
    finally:
        with contextlib.suppress(OSError):
            os.remove(temporary)


def write(path, content, **options):
    """Replaces a file by one with some content (bytes), as `replacing` does."""
    with replacing(path, **options) as temporary, open(temporary, "wb") as file:
        file.write(content)


def copy_file(source, path):
    """Copies a file, whole or not at all."""
    with replacing(path) as temporary:
        shutil.copyfile(source, temporary)


@contextlib.contextmanager
def locked(path):
    """Holds the lock of the file that is at `path` now, made if there is none, and gives it, open for reading.

    Whoever waits for a lock may get that of a file that has been replaced meanwhile: then it is the next one's turn.
    """
    made = not os.path.exists(path)
    while True:
        with open(path, "a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_at(path, file):
                continue
            file.seek(0)
            try:
                yield file
            finally:
                if made and _is_at(path, file) and not os.fstat(file.fileno()).st_size:
                    with contextlib.suppress(OSError):
                        os.remove(path)  # what was to replace it could not be written
            return


def _is_at(path, file):
    """Whether an open file is the one that has this name now."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def append(path, compose, token=None, ready=None):
    """Adds to the end of a file that others read and write meanwhile: they see all of it or nothing.

    Args:
        path: the file. What is no regular file (a terminal, a pipe) is simply written to.
        compose: a function from the bytes that are there to the bytes to add.
        token: see `replacing`; default: the number of this process.
        ready: called with the bytes to add, when the file with them is complete and not yet in its place.

    Raises:
        Unsaved: it could not be written, and is as it was.
    """
    path = os.path.realpath(path)
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            with open(path, "wb") as file:
                file.write(compose(b""))
            return
        with locked(path) as file:
            there = file.read()
            added = compose(there)
            before = os.fstat(file.fileno())
            notify = (lambda: ready(added)) if ready else None
            with replacing(path, token=token or os.getpid(), ready=notify) as temporary:
                with open(temporary, "wb") as new:
                    new.write(there + added)
                os.chmod(temporary, stat.S_IMODE(before.st_mode))
                with contextlib.suppress(PermissionError):
                    os.chown(temporary, before.st_uid, before.st_gid)
    except OSError as error:
        raise Unsaved(path, error.strerror) from error


def seal(content):
    """JSON bytes of content that say whether they are still what was written."""
    text = json.dumps(content, sort_keys=True)
    return json.dumps({"sha256": sha256(text.encode()), "content": content}, indent=1).encode() + b"\n"


def unseal(path, what):
    """The content of a file that `seal` made.

    Raises:
        InputError: it is missing, damaged or something else.
    """
    try:
        with open(path, "rb") as file:
            sealed = json.loads(file.read())
        if sealed["sha256"] == sha256(json.dumps(sealed["content"], sort_keys=True).encode()):
            return sealed["content"]
    except OSError as error:
        raise InputError(f"{path}: the {what} cannot be read: {error.strerror}.") from error
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    raise InputError(f"{path}: is damaged, changed by hand or no {what}; the run cannot be continued.")


def sha256(content):
    return hashlib.sha256(content).hexdigest()


# --- what runs write ---------------------------------------------------------------------------------


def new_run_folder(log_dir, name):
    """Makes a folder `<name>_<unix time>[_<n>]` that no other run has, however many start at once."""
    stamp = f"{name}_{int(time.time())}"
    try:
        os.makedirs(log_dir, exist_ok=True)
    except OSError as error:
        raise Unsaved(log_dir, error.strerror) from error
    for attempt in range(1, 10_000):
        folder = os.path.join(log_dir, stamp if attempt == 1 else f"{stamp}_{attempt}")
        try:
            os.mkdir(folder)
            return folder
        except FileExistsError:
            continue
        except OSError as error:
            raise Unsaved(folder, error.strerror) from error
    raise InputError(f"{log_dir}: holds thousands of runs of this second already.")


def check_writable(path, flag):
    """Raises InputError unless a file can be written, or appended to, at path."""
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        raise InputError(f"{path}: the folder {folder} does not exist; make it or change {flag}.")
    if not os.access(path if os.path.exists(path) else folder, os.W_OK) or os.path.isdir(path):
        raise InputError(f"{path}: cannot be written; change {flag}.")
    if os.path.isfile(path) and not os.access(os.path.dirname(os.path.realpath(path)), os.W_OK):
        raise InputError(f"{path}: is replaced by a longer file, which its folder does not allow; change {flag}.")


def check_log_dir(log_dir):
    """Raises InputError unless log_dir is a folder to write in, or could be made in one."""
    place = log_dir if os.path.exists(log_dir) else os.path.dirname(os.path.abspath(log_dir))
    if not log_dir or not os.path.isdir(place) or not os.access(place, os.W_OK):
        raise InputError(f"{log_dir!r}: expected a folder to write in, or to make in another; change --log_dir.")


def check_score_file(path):
    """Raises InputError where an existing file at path is no score file that rows could be appended to."""
    check_writable(path, "--output_file")
    if os.path.isfile(path):
        with open(path, encoding="utf-8", errors="replace") as file:
            header = file.readline().rstrip("\r\n")
        if header != ",".join(SCORE_COLUMNS) and os.path.getsize(path):
            raise InputError(f"{path}, line 1: expected {','.join(SCORE_COLUMNS)}, found another file.")


def csv_bytes(rows, columns=SCORE_COLUMNS, after=b""):
    """Rows as they are added to a CSV file that has some bytes already: after a header where it is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if not after:
        writer.writerow(columns)
    elif not after.endswith(b"\n"):  # an editor left it out
        text.write("\n")
    writer.writerows(rows)
    return text.getvalue().encode()


def append_scores(path, rows):
    """Appends rows to a score file, as `append_rows` does."""
    append_rows(path, SCORE_COLUMNS, rows)


def append_rows(path, columns, rows):
    """Appends rows to a CSV file, all or none, while others read it and append to it."""
    append(path, lambda there: csv_bytes(rows, columns, there))


def params_bytes(values, after=b""):
    """NAME=value lines as they are added to a file that has some bytes already: after an empty line."""
    text = "".join(f"{name}={value}\n" for name, value in values.items())
    return ("\n" + text if after else text).encode()

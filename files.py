"""Files that are replaced as a whole, and files that several processes append to under a lock."""

import contextlib
import fcntl
import os
import re

from flags import InputError


class Unsaved(InputError):
    """A file could not be written: the disk is full, its folder is gone, ..."""


@contextlib.contextmanager
def saving(path):
    """Turns an OSError of its block into an `Unsaved` that names `path`."""
    try:
        yield
    except OSError as error:
        raise Unsaved(f"{path}: not saved: {str(error.strerror or error).rstrip('.')}.") from error


@contextlib.contextmanager
def replacing(path):
    """Yields a temporary path and atomically replaces `path` with it on success.

    A reader, a kill or a full disk never meets half a file. What a kill leaves is overwritten by the next attempt.

    Raises:
        Unsaved: the file could not be written; `path` is as it was and nothing is left beside it.
    """
    directory, name = os.path.split(path)
    temporary = os.path.join(directory, f".tmp_{name}")
    try:
        with saving(path):
            yield temporary
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())  # a power cut after the rename must not find an empty file
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            os.remove(temporary)


def write(path, content):
    """Atomically replaces a file by one with the given bytes.

    Raises:
        Unsaved: see `replacing`.
    """
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(content)


def append(path, compose, offset=None, note=lambda offset: None):
    """Appends to a file in place, under a lock, all or nothing.

    The folder need not be writable, and `tail -f` sees what is added.

    Args:
        path: the file; created if missing.
        compose: a function from the last byte of the file (b"" where it is empty) to the bytes to add.
        offset: the size of the file before an earlier attempt that may have been killed; what that attempt wrote is
            completed, not written twice.
        note: called with the size of the file before anything is written.

    Raises:
        Unsaved: the file could not be written, and is as it was.
    """
    with saving(path), open(path, "ab+", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)

        def addition_at(place):
            file.seek(max(0, place - 1))
            return compose(file.read(min(1, place)))

        size = file.seek(0, os.SEEK_END)
        start = size if offset is None else min(offset, size)
        addition = addition_at(start)
        present = file.read(len(addition))
        if present == addition:
            return
        if not addition.startswith(present):  # of others; the earlier attempt wrote nothing
            start, addition = size, addition_at(size)
        note(start)
        try:
            file.truncate(start)
            while addition:
                addition = addition[file.write(addition) :]
        except OSError:
            file.truncate(start)
            raise


def check_appendable(path, flag, first_line=".*", expected=None):
    """Raises InputError unless a regular file can be created or appended to at `path`; changes nothing.

    Args:
        path: the file.
        flag: the flag that named it, for the message.
        first_line: a pattern that the first line of an existing file must match, if it has one.
        expected: that line in words.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))  # does not wait for the other end of a pipe
        problem = None if os.path.isfile(path) else "it is not a regular file"
    except FileNotFoundError:
        folder = os.path.dirname(os.path.realpath(path))
        problem = None if os.access(folder, os.W_OK) else f"the folder {folder} does not exist or is not writable"
    except OSError as error:
        problem = error.strerror
    if problem:
        raise InputError(f"{path}: cannot be written: {problem}; change {flag}.")
    if os.path.isfile(path):
        with open(path, encoding="utf-8", errors="replace") as file:
            line = file.readline(1000)
        if line and not re.fullmatch(first_line, line.rstrip("\r\n")):
            raise InputError(f"{path}, line 1: expected {expected}, found another kind of file; change {flag}.")

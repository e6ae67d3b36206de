"""Atomic replacement of files, and files that several processes append to under a lock."""

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

    Readers never see half a file, even after a kill or on a full disk. The next attempt overwrites what a kill leaves.

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
    """Atomically replaces a file by one with the given bytes; see `replacing`."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(content)


def append(path, content, header=b"", offset=None, note=lambda offset: None):
    """Appends to a file in place, under a lock, all or nothing.

    The folder need not be writable, and `tail -f` sees what is added. An unfinished last line is ended first.

    Args:
        path: the file; created if missing.
        content: the bytes to add.
        header: bytes that precede them in an empty file.
        offset: the size of the file before an earlier attempt that may have been killed; what that attempt wrote is
            completed, not written twice.
        note: called with the size of the file before anything is written.

    Raises:
        Unsaved: the file could not be written, and is as it was.
    """
    with saving(path), open(path, "ab+", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        old = file.read()

        def extended(text):
            return (text.removesuffix(b"\n") + b"\n" if text else header) + content

        whole = extended(old[:offset])
        if old.startswith(whole):
            return
        if not whole.startswith(old):  # what follows is by others; the earlier attempt wrote nothing
            offset, whole = None, extended(old)
        start = len(old[:offset])
        addition = whole[start:]
        note(start)
        try:
            file.truncate(start)
            while addition:
                addition = addition[file.write(addition) :]
        except OSError:
            file.truncate(start)
            raise


def check_first_line(path, flag, pattern, expected):
    """Raises an InputError that names `flag` if a file's first line does not match `pattern`, in words `expected`."""
    if os.path.isfile(path):
        with saving(path), open(path, encoding="utf-8", errors="replace") as file:
            line = file.readline(1000)
        if line and not re.fullmatch(pattern, line.rstrip("\r\n")):
            raise InputError(f"{path}, line 1: expected {expected}, found another kind of file; change {flag}.")

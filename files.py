"""Files that are replaced as a whole, and files that several processes append to under a lock."""

import contextlib
import fcntl
import os

from flags import InputError


class Unsaved(InputError):
    """A file could not be written: the disk is full, its folder is gone, ..."""

    @classmethod
    def at(cls, path, error):
        """The error that an OSError, or another error of a writer, caused at `path`."""
        return cls(f"{path}: not saved: {str(getattr(error, 'strerror', None) or error).rstrip('.')}.")


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
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())  # a power cut after the rename must not find an empty file
        os.replace(temporary, path)
    except OSError as error:
        raise Unsaved.at(path, error) from error
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
    try:
        with open(path, "ab+", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            size = file.seek(0, os.SEEK_END)
            if offset is not None and offset < size:
                addition = compose(_byte_before(file, offset))
                file.seek(offset)
                present = file.read(len(addition))
                if present == addition:
                    return
                if addition.startswith(present):  # only a part was written before the kill
                    file.truncate(offset)
                    size = offset
            note(size)
            try:
                addition = compose(_byte_before(file, size))
                while addition:
                    addition = addition[file.write(addition) :]
            except OSError:
                file.truncate(size)
                raise
    except OSError as error:
        raise Unsaved.at(path, error) from error


def _byte_before(file, offset):
    """The byte before an offset, or b"" at the beginning."""
    if offset == 0:
        return b""
    file.seek(offset - 1)
    return file.read(1)


def check_appendable(path, flag):
    """Raises InputError unless a regular file can be created or appended to at `path`; changes nothing.

    Args:
        path: the file.
        flag: the flag that named it, for the message.
    """
    folder, name = os.path.split(os.path.abspath(path))
    try:
        if os.path.lexists(path):
            os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))  # does not wait for the other end of a pipe
            problem = None if os.path.isfile(path) else "it is not a regular file"
        elif not (os.path.isdir(folder) and os.access(folder, os.W_OK)):
            problem = f"the folder {folder} does not exist or is not writable"
        else:
            problem = "its name is too long" if len(os.fsencode(name)) > os.pathconf(folder, "PC_NAME_MAX") else None
    except OSError as error:
        problem = error.strerror
    if problem:
        raise InputError(f"{path}: cannot be written: {problem}; change {flag}.")

"""Where stories come from: a given folder, the published archive (fetched and checked), or the simulator."""

import hashlib
import io
import os
import tarfile
import tempfile
from pathlib import Path

from six.moves.http_client import HTTPException
from six.moves.urllib.request import urlopen

import babi_simulator
import movie_utils
from data_utils import TREE, parse_text
from flags import HERE, TASKS, InputError

DATA = os.path.join(HERE, "data")  # beside the scripts, wherever the command is started
PUBLISHED = os.path.join(DATA, TREE, "en")
SIMULATED = os.path.join(DATA, "simulated", "en")
SIMULATED_QUESTIONS = 1000  # per task and split, as in the published corpus
SOURCES = (  # (address, SHA-256) of archives with the same texts
    (
        "http://www.thespermwhale.com/jaseweston/babi/tasks_1-20_v1-2.tar.gz",
        "0364ebde659f14d11bc21744516c5ec49d3d06cb692733f66680771244998898",
    ),
    ("http://parl.ai/downloads/babi/babi.tar.gz", "f7f0bee187efca0d81c3daac1b162cda4eb7f9505dee5ad6846eabbed3dbf92e"),
)
FILMS = os.path.join(DATA, "movieqa")
SIMULATED_FILMS = os.path.join(DATA, "simulated", "movieqa")
FILM_SOURCE = (
    "http://parl.ai/downloads/wikimovies/wikimovies.tar.gz",
    "ed062b49922b602ebee6073f58951bf38c4772a8b53d46682f3ff80ed57de948",
)
SILENCE = 5  # seconds without a byte after which a host is given up


def find_corpus(data_dir=None):
    """Finds the folder of bAbI files to read: the given one, else the published corpus, else a simulated one.

    Fetches the published corpus if it is missing. If no host delivers it, writes a simulated corpus; the next call
    tries the hosts again. What happens is printed. Any number of processes may do this at once.

    Args:
        data_dir: a folder, which is returned as it is; None to find one.

    Returns:
        (folder, whether its stories are simulated).

    Raises:
        InputError: the data folder cannot be written, or Python cannot unpack archives safely.
    """

    def simulate(folder):
        babi_simulator.write_files(folder, TASKS, SIMULATED_QUESTIONS, SIMULATED_QUESTIONS, seed=0)

    return _find(data_dir, "the bAbI tasks (16 MB)", PUBLISHED, SOURCES, f"{TREE}/*", SIMULATED, simulate)


def find_films(data_dir=None):
    """Finds the folder of questions about films: the given one, else WikiMovies, else a simulated one.

    Args, Returns and Raises: see `find_corpus`.
    """
    simulate = movie_utils.write_simulated_world
    return _find(data_dir, "WikiMovies", FILMS, [FILM_SOURCE], os.path.basename(FILMS), SIMULATED_FILMS, simulate)


def _find(data_dir, name, folder, sources, parts, simulated, simulate):
    """See `find_corpus`.

    Args:
        data_dir: the given folder or None.
        name: of what is fetched.
        folder: where it belongs.
        sources: (address, SHA-256) of archives with it.
        parts: a pattern of what is moved from an unpacked archive to beside `folder`; `folder` itself is moved last.
        simulated: the folder for simulated files, which `simulate(folder)` writes.
    """
    if data_dir is not None:
        return data_dir, is_simulated(data_dir)
    try:
        if not _has_files(folder):
            print(f"{os.path.relpath(folder)} is missing: fetching {name}.", flush=True)
            os.makedirs(DATA, exist_ok=True)
            if not any(_fetch(url, sha256, folder, parts) for url, sha256 in sources):
                folder = simulated
                if not _has_files(folder):
                    with tempfile.TemporaryDirectory(prefix=".simulating-", dir=DATA) as temporary:
                        simulate(os.path.join(temporary, "files"))
                        _put_in_place(os.path.join(temporary, "files"), folder)
                    print(f"No host delivers it: {os.path.relpath(folder)} is simulated instead.", flush=True)
    except OSError as error:
        reason = f"{error.filename or DATA}: {error.strerror or error}"
        raise InputError(f"{reason} (--data_dir names a folder to read instead).") from error
    return folder, is_simulated(folder)


def is_simulated(folder):
    """Whether a folder has the marker of simulated files."""
    return os.path.exists(os.path.join(folder, babi_simulator.MARKER))


def simulated_questions(task_id, questions, split="test"):
    """A list of `questions` simulated questions of a task, as `data_utils.Question`."""
    stories = babi_simulator.stories(task_id, questions, split=split)
    return parse_text([line for lines in stories for line in lines], "simulated stories")


def _has_files(folder):
    return os.path.isdir(folder) and bool(os.listdir(folder))


def _fetch(url, sha256, folder, parts):
    """Puts the content of an archive in place, see `_find`; returns False if its host does not deliver it."""
    content = _download(url, sha256)
    if content is None:
        return _has_files(folder)  # perhaps another process was luckier
    if not hasattr(tarfile, "data_filter"):
        raise InputError("Python cannot unpack archives safely: update it to 3.10.12, 3.11.4 or newer.")
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=DATA) as temporary:
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            tar.extractall(temporary, filter="data")  # no member outside the folder, no device, no outward link
        for path in sorted(Path(temporary).rglob(parts), key=lambda path: path.name == os.path.basename(folder)):
            _put_in_place(path, os.path.join(os.path.dirname(folder), path.name))
    return True


def _download(url, sha256):
    """The bytes at an address, or None if the host does not deliver bytes with the right checksum."""
    try:
        with urlopen(url, timeout=SILENCE) as response:
            content = response.read()
        if hashlib.sha256(content).hexdigest() == sha256:
            return content
        problem = "its checksum is wrong"
    except (OSError, HTTPException) as error:
        problem = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    print(f"{url}: not fetched: {problem}.", flush=True)
    return None


def _put_in_place(path, target):
    """Moves a complete file or folder to its place; keeps what another process put there first."""
    os.makedirs(os.path.dirname(target), exist_ok=True)
    try:
        os.rename(path, target)
    except OSError:
        if not os.path.exists(target):
            raise

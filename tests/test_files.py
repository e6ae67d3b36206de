"""Files that are replaced as a whole, and files that several processes append to."""

import csv
import fcntl
import multiprocessing
import os
import pickle
import resource
from argparse import ArgumentTypeError
from concurrent.futures import ThreadPoolExecutor, TimeoutError
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers import HEADER, as_ordinary_user, temporary_files

import files
import flags
import scores

ROWS = [["1", "0.5000", "0.6000", "0.7000"], ["2", "0.1000", "0.2000", "0.3000"]]
LINES = "1,0.5000,0.6000,0.7000\n2,0.1000,0.2000,0.3000\n"
OLD = f"{HEADER}\n9,0.1000,0.2000,0.3000\n"

ignore_fork = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # these children only write files
fork = multiprocessing.get_context("fork")


def append(path, rows=ROWS, **options):
    """Appends rows to a score file; see `files.append`."""
    files.append(path, scores.csv_bytes(rows, ()), scores.csv_bytes([]), **options)


@contextmanager
def no_file_larger_than(size):
    """Lets writes beyond a size fail, as they do where a disk is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def in_ordinary_users_process(work):
    """Runs a function in a process that may not write everywhere; returns its exit status."""

    def target():
        as_ordinary_user()
        work()

    process = fork.Process(target=target)
    process.start()
    process.join()
    return process.exitcode


# --- replaced ---------------------------------------------------------------------------------------------


def test_a_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "file"
    for content in (b"old", b"new and longer"):
        with files.replacing(str(path)) as temporary:
            Path(temporary).write_bytes(content[:2])
            assert path.exists() == (content != b"old")
            Path(temporary).write_bytes(content)
        assert path.read_bytes() == content and os.listdir(tmp_path) == ["file"]
    files.write(str(path), b"bytes")
    assert path.read_bytes() == b"bytes" and os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ZeroDivisionError(), KeyboardInterrupt()])
def test_a_file_that_cannot_be_replaced_stays(error, tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    expected = files.Unsaved if isinstance(error, OSError) else type(error)
    with pytest.raises(expected) as caught, files.replacing(str(path)) as temporary:
        Path(temporary).write_text("new")
        raise error
    if expected is files.Unsaved:
        assert str(caught.value) == f"{path}: not saved: No space left on device."
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file"]


def test_a_full_disk_keeps_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with no_file_larger_than(100), pytest.raises(files.Unsaved, match="not saved: File too large"):
        files.write(str(path), b"x" * 1000)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]


def test_what_a_kill_left_is_overwritten(tmp_path):
    path = tmp_path / "file"

    def write_and_die():
        with files.replacing(str(path)) as temporary:
            Path(temporary).write_text("half")
            os._exit(9)

    process = fork.Process(target=write_and_die)
    process.start()
    process.join()
    assert process.exitcode == 9 and not path.exists() and len(temporary_files(tmp_path)) == 1
    files.write(str(path), b"whole")
    assert path.read_bytes() == b"whole" and os.listdir(tmp_path) == ["file"]


def test_an_unsaved_file_is_reported_by_worker_processes_too():
    error = files.Unsaved("scores.csv", "No space left on device")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is files.Unsaved and str(copy) == str(error)


# --- appended to ------------------------------------------------------------------------------------------


def test_rows_are_appended_after_those_in_the_file(tmp_path):
    path = tmp_path / "scores.csv"
    append(path)
    assert path.read_text() == f"{HEADER}\n{LINES}"
    append(path, ROWS[:1])
    assert path.read_text() == f"{HEADER}\n{LINES}{LINES.splitlines()[0]}\n"
    path.write_text(OLD.rstrip("\n"))  # an editor left out the last line end
    append(path)
    assert path.read_text() == OLD + LINES
    path.write_text("")
    append(path)
    assert path.read_text() == f"{HEADER}\n{LINES}"


def test_a_reader_of_the_open_file_sees_what_is_appended(tmp_path):
    """As `tail -f` does, which a replaced file would leave behind."""
    path = tmp_path / "scores.csv"
    path.write_text(OLD)
    with open(path) as reader:
        assert reader.read() == OLD
        append(path)
        assert reader.read() == LINES


def test_mode_and_links_of_a_file_stay(tmp_path):
    path, link = tmp_path / "scores.csv", tmp_path / "link.csv"
    path.write_text("")
    path.chmod(0o640)
    link.symlink_to(path)
    append(link)
    assert link.is_symlink() and path.read_text() == f"{HEADER}\n{LINES}" and path.stat().st_mode & 0o777 == 0o640


@ignore_fork
def test_the_folder_need_not_be_writable(tmp_path, monkeypatch):
    folder = tmp_path / "closed"
    folder.mkdir()
    path = folder / "scores.csv"
    path.write_text(OLD)
    path.chmod(0o666)
    folder.chmod(0o555)
    monkeypatch.chdir(folder)  # pytest's folders are closed to other users

    def work():
        with pytest.raises(OSError):
            open("another", "w")
        flags.output_path("scores.csv")
        scores.check_score_file("scores.csv")
        append("scores.csv")

    assert in_ordinary_users_process(work) == 0
    assert path.read_text() == OLD + LINES


@pytest.mark.parametrize("room", [0, 1, len(LINES) // 2, len(LINES) - 1])
def test_a_failed_write_leaves_the_file_as_it_was(room, tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text(OLD)
    with no_file_larger_than(len(OLD) + room), pytest.raises(files.Unsaved, match="scores.csv: not saved: File too"):
        append(path)
    assert path.read_text() == OLD
    append(path)
    assert path.read_text() == OLD + LINES


@pytest.mark.parametrize("old", ["", OLD, OLD.rstrip("\n")], ids=["empty", "rows", "no line end"])
@pytest.mark.parametrize("written", [0, 1, 30, None])
def test_a_killed_append_is_completed_and_not_repeated(old, written, tmp_path):
    """However much of it was written."""
    path = tmp_path / "scores.csv"
    path.write_text(old)
    notes = []
    append(path, note=notes.append)
    whole = path.read_bytes()
    assert notes == [len(old)]
    os.truncate(path, len(whole) if written is None else len(old) + written)
    for _ in range(2):
        append(path, offset=len(old), note=notes.append)
        assert path.read_bytes() == whole


@pytest.mark.parametrize("old", ["", OLD], ids=["empty", "rows"])
@pytest.mark.parametrize("is_written", [False, True], ids=["before the write", "after the write"])
def test_others_may_append_before_a_killed_append_is_completed(old, is_written, tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text(old)
    if is_written:
        append(path)
    append(path, [["3", "0.0", "0.0", "0.0"]])
    append(path, offset=len(old))
    rows = list(csv.reader(path.read_text().splitlines()))
    assert rows[0] == HEADER.split(",") and rows.count(rows[0]) == 1
    assert sorted(rows[1:]) == sorted([*ROWS, ["3", "0.0", "0.0", "0.0"], *list(csv.reader(old.splitlines()))[1:]])


def test_a_file_that_became_shorter_is_appended_to(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text(OLD)
    append(path, offset=len(OLD) + 500)
    assert path.read_text() == OLD + LINES


def test_the_offset_is_noted_before_anything_is_written(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text(OLD)

    def note(offset):
        assert (offset, path.read_text()) == (len(OLD), OLD)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        append(path, note=note)
    assert path.read_text() == OLD


def test_appending_waits_for_the_lock(tmp_path):
    path = tmp_path / "scores.csv"
    with open(path, "w") as file, ThreadPoolExecutor(1) as pool:
        fcntl.flock(file, fcntl.LOCK_EX)
        waiting = pool.submit(append, path)
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.3)
        file.write(OLD)
        file.flush()
        fcntl.flock(file, fcntl.LOCK_UN)
        waiting.result(timeout=60)
    assert path.read_text() == OLD + LINES


@ignore_fork
def test_many_processes_that_append_at_once_lose_nothing(tmp_path):
    """All begin with a file that does not exist; the rows of each addition stay together."""
    processes, count = 16, 40
    barrier, path = fork.Barrier(processes), tmp_path / "scores.csv"

    def work(process):
        rows = [[str(process), *["0.1234"] * 3] for _ in range(count)]
        barrier.wait(timeout=60)
        for _ in range(3):
            flags.output_path(str(path))
            append(path, rows)

    running = [fork.Process(target=work, args=(process,)) for process in range(processes)]
    for process in running:
        process.start()
    for process in running:
        process.join(timeout=60)
    assert [process.exitcode for process in running] == [0] * processes
    header, *rows = csv.reader(path.read_text().splitlines())
    assert ",".join(header) == HEADER
    groups = [{row[0] for row in rows[i : i + count]} for i in range(0, len(rows), count)]
    assert sorted(map(int, (name for (name,) in groups))) == sorted(list(range(processes)) * 3)


# --- names that can be written ----------------------------------------------------------------------------


def test_a_check_leaves_no_file_behind_and_none_changed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("scores.csv", str(tmp_path / "scores.csv"), "x" * 255):
        flags.output_path(path)
    assert os.listdir(tmp_path) == []
    Path("scores.csv").write_text(OLD)
    Path("link.csv").symlink_to("scores.csv")
    for path in ("scores.csv", "link.csv"):
        flags.output_path(path)
    assert Path("scores.csv").read_text() == OLD


def refused_names(folder):
    """Names that cannot be written, by what is wrong with them."""
    os.mkfifo(folder / "fifo")
    (folder / "loop").symlink_to("loop")
    (folder / "dangling").symlink_to("missing/scores.csv")
    (folder / "file").write_text("")
    return {
        "FIFO": "fifo",
        "symlink loop": "loop",
        "symlink to a missing folder": "dangling",
        "name of 256 bytes": "x" * 256,
        "path of 5000 bytes": "x/" * 2500,
        "missing folder": "missing/scores.csv",
        "folder": ".",
        "file instead of a folder": "file/scores.csv",
        "device": "/dev/null",
    }


def test_names_that_cannot_be_written_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = refused_names(tmp_path)
    before = sorted(os.listdir())
    for problem, name in names.items():
        try:
            flags.output_path(name)
        except ArgumentTypeError as error:
            message = str(error)
        else:
            pytest.fail(f"{problem}: not refused")
        assert "cannot be written: " in message, problem
        assert "\n" not in message and name in message, problem
        assert sorted(os.listdir()) == before, problem
    with (
        open(os.open("fifo", os.O_RDONLY | os.O_NONBLOCK)),
        pytest.raises(ArgumentTypeError, match="fifo: cannot"),
    ):
        flags.output_path("fifo")  # with a reader, it can be opened


@ignore_fork
def test_files_and_folders_without_permission_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(0o755)
    Path("scores.csv").write_text(OLD)
    os.chmod("scores.csv", 0o444)
    os.mkdir("closed", 0o555)

    def check():
        for path in ("scores.csv", "closed/scores.csv", "new.csv"):
            with pytest.raises(ArgumentTypeError, match="cannot be written: .*(not writable|Permission denied)"):
                flags.output_path(path)

    if os.geteuid():
        tmp_path.chmod(0o555)
    assert in_ordinary_users_process(check) == 0
    tmp_path.chmod(0o755)

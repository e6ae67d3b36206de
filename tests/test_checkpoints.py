"""Runs that are stopped, killed or short of space: what they say, what they leave, and how they go on."""

import contextlib
import csv
import gc
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import threading
import time
import zipfile
from pathlib import Path

import keras
import kill_runs
import numpy as np
import pytest

import checkpoints
import files
import joint
import runs
import single
import training
from checkpoints import Checkpoint, Run
from data_utils import InputError
from files import Unsaved

HEADER = ",".join(files.SCORE_COLUMNS)
ROWS = [[1, "0.5000", "0.6000", "0.7000"], [2, "0.1000", "0.2000", "0.3000"]]
TEXT = f"{HEADER}\n1,0.5000,0.6000,0.7000\n2,0.1000,0.2000,0.3000\n"
DROPOUT = "--keep_prob 0.7 --state_dropout 0.1 --word_dropout 0.1 --time_noise 0.1"

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of fork: those children only write files
fork = multiprocessing.get_context("fork")


def run(script, *flags):
    """Runs a script's main as its command line would, in this process; returns the status."""
    words = [word for flag in flags for word in str(flag).split()]
    try:
        runs.command(lambda: script.main(words))
    except SystemExit as ended:
        return ended.code
    return 0


@pytest.fixture
def flags(small_corpus, tmp_path, monkeypatch):
    """Flags of a run of a moment, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoints, "SAVE_SECONDS", 1e9)  # saves are counted, however slow the machine is
    return (
        f"--data_dir {small_corpus} --embedding_size 8 --feature_size 9 --batch_size 4 --epochs 6 --random_state 7 "
        "--evaluation_interval 2 --task_id 1,2 --output_file scores.csv"
    )


def folder_of_run(place="."):
    (folder,) = Path(place).glob("logs/*_*/")
    return folder


def csv_files(place="."):
    """Score files and histories, which have to be equal, by name."""
    folder = folder_of_run(place)
    paths = {path.name: path for path in folder.glob("history*.csv")}
    paths |= {"scores": Path(place, "scores.csv"), "scores of the run": folder / "scores.csv"}
    return {name: path.read_bytes() for name, path in paths.items()}


@pytest.fixture
def uninterrupted(flags, tmp_path, monkeypatch):
    """A function that gives `csv_files` of a run that nothing happens to."""

    def make(*more, script=single):
        place = tmp_path / "uninterrupted"
        place.mkdir()
        monkeypatch.chdir(place)
        assert run(script, flags, *more) == 0
        monkeypatch.chdir(tmp_path)
        found = csv_files(place)
        shutil.rmtree(place)
        return found

    return make


def at_save(monkeypatch, number, do, name="save"):
    """Has something done after a save, counted from 1."""
    original, count = getattr(Checkpoint, name), [0]

    def then(self, *arguments):
        result = original(self, *arguments)
        count[0] += 1
        if count[0] == number:
            do()
        return result

    monkeypatch.setattr(Checkpoint, name, then)


def nothing_temporary(place="."):
    return not [path for path in Path(place).rglob(".tmp*") if path.is_file()]


def one_sentence(capsys, *words):
    out, error = capsys.readouterr()
    assert error.count("\n") == 1 and error.endswith("\n"), error
    for word in words:
        assert str(word) in error
    return error


# Stopped and continued --------------------------------------------------------------------------


def test_a_signal_ends_a_run_that_can_be_continued(flags, uninterrupted, monkeypatch, capsys):
    expected, command = uninterrupted(), flags
    for number, save in ((signal.SIGINT, 2), (signal.SIGTERM, 2)):  # in the first task, in the second
        before = signal.getsignal(number)
        with monkeypatch.context() as patch:
            at_save(patch, save, lambda number=number: os.kill(os.getpid(), number))
            assert run(single, command) == 128 + number
        assert signal.getsignal(number) == before
        error = one_sentence(capsys, "stopped; continue with: python ", f" --resume {folder_of_run()}")
        command = error.split("python ")[1].partition(" ")[2]
    assert (folder_of_run() / "state_task2.npz").exists() and not (folder_of_run() / "state_task1.npz").exists()
    assert run(single, command) == 0
    assert csv_files() == expected
    assert not list(folder_of_run().glob("state*")) and nothing_temporary()


@pytest.mark.parametrize(
    ("more", "compiled"),
    [(f"--reader simple_gru {DROPOUT}", False), ("--optimizer sgd --linear_start 4", True)],
    ids=["plain", "compiled"],
)
def test_a_run_continues_in_mid_epoch(more, compiled, flags, uninterrupted, monkeypatch, capsys):
    """Every few batches a state, and the run stopped again and again."""
    monkeypatch.setattr(training, "worth_compiling", lambda *_: compiled)
    monkeypatch.setattr(training, "SLICE", 4)
    more += " --task_id 1"
    expected = uninterrupted(more)
    monkeypatch.setattr(checkpoints, "SAVE_SECONDS", 0)
    steps = []
    for save in (4, 3):
        with monkeypatch.context() as patch:
            at_save(patch, save, lambda: os.kill(os.getpid(), signal.SIGTERM))
            assert run(single, flags, more, "--resume" if steps else "") == 143
        _, arrays = checkpoints.read_state(str(folder_of_run() / "state_task1.npz"))
        steps.append(int(arrays["optimizer/0"]))
    assert steps == [4, 7]  # an epoch has three
    assert run(single, flags, more, "--resume") == 0
    assert csv_files() == expected


def test_a_run_continues_between_two_reports(flags, uninterrupted, monkeypatch):
    """The loss of the epoch before is no part of that of the next."""
    expected = uninterrupted()
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "SAVE_SECONDS", 0)
        at_save(patch, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))  # after epoch 3; there are reports of 2 and 4
        assert run(single, flags) == 143
    assert run(single, flags, "--resume") == 0
    assert csv_files() == expected


def test_stopped_before_it_begins(flags, monkeypatch, capsys):
    monkeypatch.setattr(training, "load", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    assert run(single, flags) == 143
    one_sentence(capsys, "stopped; nothing was begun")
    assert os.listdir() == []


def test_a_pool_is_stopped_as_a_terminal_does_it(flags, capsys):
    """The signal goes to the workers too; each saves its state."""

    def interrupt():
        while not list(Path().glob("logs/*/state*_seed8.npz")) or not list(Path().glob("logs/*/state*_seed7.npz")):
            time.sleep(0.01)
        for process in multiprocessing.active_children():
            os.kill(process.pid, signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    status = run(single, flags, "--restarts 2 --workers 2 --task_id 1 --epochs 100000")
    thread.join()
    assert status == 130
    one_sentence(capsys, "stopped; continue with")
    assert len(list(folder_of_run().glob("state*"))) == 2 and nothing_temporary()
    assert not multiprocessing.active_children()
    assert run(single, "--resume", folder_of_run(), "--hops 2") == 2  # nobody holds it any more
    one_sentence(capsys, "has --hops 3, not 2")


def stopped(flags, monkeypatch, save=5):
    """Stops a run at a save, in its second task if it has two; returns its folder."""
    with monkeypatch.context() as patch:
        at_save(patch, save, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert run(single, flags) == 143
    return max(Path().glob("logs/*_*/"), key=lambda path: path.stat().st_mtime)


def test_which_run_is_continued(flags, monkeypatch, capsys):
    assert run(single, flags, "--resume") == 2
    one_sentence(capsys, "logs: holds no run of single.py with just these flags")
    flags += " --task_id 1"
    first = stopped(flags, monkeypatch, save=1)
    second = stopped(flags, monkeypatch, save=1)
    other = stopped(flags + " --hops 2", monkeypatch, save=1)
    capsys.readouterr()
    assert run(single, flags, "--resume --workers 1") == 0  # the newest with these flags
    assert f"{second}: continued; 0 of 1 models are finished" in capsys.readouterr().out
    assert run(single, flags, "--resume") == 0
    assert f"{first}: continued" in capsys.readouterr().out
    assert run(single, flags, "--resume") == 0
    assert f"{second}: this run is finished" in capsys.readouterr().out
    assert run(single, flags, "--resume --learning_rate 0.5") == 2
    one_sentence(capsys, "holds no run of single.py with just these flags")
    assert run(single, f"--resume {other} --hops 3") == 2
    one_sentence(capsys, f"{other}: this run has --hops 2, not 3")
    assert run(joint, f"--resume {other}") == 2
    one_sentence(capsys, f"{other}: is a run of single.py")
    assert run(single, "--resume logs") == 2
    one_sentence(capsys, "logs: holds no run to continue")
    before = Path("scores.csv").read_bytes()
    assert run(single, f"--resume {first} --hops 3 --random_state 7") == 0
    assert "this run is finished; its scores are in" in capsys.readouterr().out
    assert Path("scores.csv").read_bytes() == before


def test_a_run_that_is_going_on_is_left_alone(flags, monkeypatch, capsys):
    folder = stopped(flags + " --task_id 1", monkeypatch, save=1)
    monkeypatch.setattr(checkpoints, "ORPHAN_SECONDS", 0.2)
    capsys.readouterr()
    going_on = Run.reopen(str(folder), "single")
    assert run(single, "--resume", folder) == 2
    one_sentence(capsys, f"{folder}: this run is still going on")
    going_on.close()
    assert run(single, "--resume", folder) == 0


def test_stories_that_changed_end_the_run(flags, small_corpus, tmp_path, monkeypatch, capsys):
    shutil.copytree(small_corpus, tmp_path / "mine")
    folder = stopped(flags + " --data_dir mine", monkeypatch)
    for path in (tmp_path / "mine").glob("qa2*_train.txt"):
        path.write_text(path.read_text().replace("milk", "wine"))
    capsys.readouterr()
    assert run(single, "--resume", folder) == 2
    one_sentence(capsys, "mine: task 2: the stories have changed")
    shutil.move(tmp_path / "mine", tmp_path / "gone")
    assert run(single, "--resume", folder) == 2
    one_sentence(capsys, "mine")
    assert run(single, "--resume", folder, "--data_dir", small_corpus) == 0  # the same stories in another place


# Damage -----------------------------------------------------------------------------------------


def damages(content):
    """Contents that are not the one that was saved."""
    yield b""
    yield content[: len(content) // 2]
    yield content[:-1]
    yield content + b"x"
    yield b"Task,Testing Accuracy\n"
    yield bytes(range(256)) * 9
    random = np.random.default_rng(0)
    for place in random.integers(len(content), size=20):
        yield content[:place] + bytes([content[place] ^ 1 << int(random.integers(8))]) + content[place + 1 :]


@pytest.mark.parametrize("name", ["state_task2.npz", "run.json", "progress.json"])
def test_a_damaged_file_is_one_sentence(name, flags, monkeypatch, capsys):
    folder = stopped(flags, monkeypatch)
    path = folder / name
    content = path.read_bytes()
    capsys.readouterr()
    read = {
        "state_task2.npz": lambda: checkpoints.read_state(str(path)),
        "run.json": lambda: checkpoints.read_record(str(folder)),
        "progress.json": lambda: Run(str(folder), {}, None).progress(),
    }[name]
    meaning = repr(read())
    for damaged in damages(content):
        path.write_bytes(damaged)
        try:
            assert repr(read()) == meaning  # white space of JSON
        except InputError as error:
            assert str(path) in str(error) and "\n" not in str(error)
    path.write_bytes(content[:-9])
    everything = {p: p.read_bytes() for p in Path().rglob("*") if p.is_file()}
    for resume in (["--resume", folder], [flags, "--resume"]):
        assert run(single, *resume) == 2
        one_sentence(capsys, path)
    path.unlink()
    assert run(single, "--resume", folder) == 2
    one_sentence(capsys, folder)
    del everything[path]
    assert {p: p.read_bytes() for p in Path().rglob("*") if p.is_file()} == everything
    path.write_bytes(content)
    assert run(single, "--resume", folder) == 0


def test_another_models_state_is_one_sentence(flags, monkeypatch, capsys):
    first, second = (stopped(flags + " --task_id 1", monkeypatch, save=1) for _ in range(2))
    shutil.copy(first / "state_task1.npz", second)
    capsys.readouterr()
    assert run(single, "--resume", second) == 2
    one_sentence(capsys, second / "state_task1.npz", "is the state of another model, run or version")
    meta, arrays = checkpoints.read_state(str(first / "state_task1.npz"))
    checkpoints.write_state(str(first / "state_task1.npz"), meta, {**arrays, "trainer/0": np.zeros(3, np.float32)})
    assert run(single, "--resume", first) == 2
    one_sentence(capsys, first / "state_task1.npz", "its arrays are not those of this network")


def test_other_files_that_are_damaged_are_one_sentence(flags, monkeypatch, capsys):
    folder = stopped(flags, monkeypatch)
    shutil.copy("scores.csv", "kept.csv")
    Path("scores.csv").write_text("Name,Age\nAnna,7\n")
    (folder / "model_task1.keras").rename(folder / "elsewhere")
    capsys.readouterr()
    assert run(single, "--resume", folder) == 2
    one_sentence(capsys, "scores.csv, line 1")
    shutil.copy("kept.csv", "scores.csv")
    assert run(single, "--resume", folder) == 2
    one_sentence(capsys, folder / "model_task1.keras", "missing")
    Path("recipe").write_bytes(b"--epochs \xff\n")
    assert run(single, "@recipe --resume") == 2
    one_sentence(capsys, "recipe")


# Appending --------------------------------------------------------------------------------------


@pytest.fixture
def new_run(tmp_path):
    (tmp_path / "run").mkdir()
    made = Run.create(str(tmp_path / "run"), {"script": "single"})
    yield made
    made.close()


def add_rows(run, path):
    run.append_once("scores 0", str(path), lambda there: files.csv_bytes(ROWS, after=there))


def killed_at(number, do):
    """Does something in another process that is killed before its n-th call to the system; returns whether it was."""

    def act():
        calls = [0]

        def watched(function):
            def call(*arguments, **options):
                calls[0] += 1
                if calls[0] == number:
                    os._exit(9)
                return function(*arguments, **options)

            return call

        for name in ("replace", "fsync", "remove", "chmod", "chown", "stat", "fstat", "open"):
            setattr(os, name, watched(getattr(os, name)))
        do()
        os._exit(0)

    process = fork.Process(target=act)
    process.start()
    process.join()
    return process.exitcode == 9


@pytest.mark.parametrize("meanwhile", ["nothing", "others", "twins"])
def test_rows_are_appended_once_wherever_the_run_is_killed(meanwhile, new_run, tmp_path):
    """And whatever others append before it goes on, be it the same rows."""
    number, added, killed = 0, [[3, "0.0", "0.0", "0.0"]] if meanwhile == "others" else ROWS, True
    fresh = Path(new_run.path("progress.json")).read_bytes()
    while killed:
        number += 1
        Path(new_run.path("progress.json")).write_bytes(fresh)
        path = tmp_path / f"{number}.csv"
        path.write_text(f"{HEADER}\n9,1,1,1\n")
        killed = killed_at(number, lambda: add_rows(new_run, path))  # noqa: B023
        there = path.read_text()
        assert there in (f"{HEADER}\n9,1,1,1\n", f"{HEADER}\n9,1,1,1\n" + TEXT.partition("\n")[2])
        if meanwhile != "nothing":
            files.append_scores(path, added)
        for _ in range(2):
            add_rows(new_run, path)
        rows = list(csv.reader(path.read_text().splitlines()))
        wanted = [[*map(str, row)] for row in ROWS + (added if meanwhile != "nothing" else [])]
        assert sorted(rows[2:]) == sorted(wanted), number
        assert nothing_temporary(tmp_path)
    assert number > 15


def test_many_processes_begin_and_append_at_once(tmp_path):
    """32 runs at once, and a reader who never sees half a row."""
    count, together, path = 32, fork.Barrier(33), tmp_path / "scores.csv"

    def begin(number):
        together.wait(timeout=60)
        folder = files.new_run_folder(tmp_path / "logs", "single")
        run = Run.create(folder, {"script": "single"})
        rows = [[number, *["0.1234"] * 3] for _ in range(40)]
        run.append_once("scores 0", str(path), lambda there: files.csv_bytes(rows, after=there))

    running = [fork.Process(target=begin, args=(number,)) for number in range(count)]
    for process in running:
        process.start()
    together.wait(timeout=60)
    reads = 0
    while any(process.is_alive() for process in running):
        text = path.read_text() if path.exists() else ""
        reads += 1
        assert text == "" or text.endswith("\n")
        assert all(line == HEADER or line.endswith(",0.1234" * 3) for line in text.splitlines())
    assert [process.exitcode for process in running] == [0] * count and reads > 10
    header, *rows = csv.reader(path.read_text().splitlines())
    assert ",".join(header) == HEADER
    assert [rows[i][0] for i in range(0, len(rows), 40)] == [rows[i + 39][0] for i in range(0, len(rows), 40)]
    assert sorted(int(row[0]) for row in rows) == sorted(list(range(count)) * 40)
    assert len(list((tmp_path / "logs").glob("single_*/run.json"))) == count
    assert nothing_temporary(tmp_path)


def test_what_is_no_file_is_written_to(new_run):
    add_rows(new_run, "/dev/null")
    assert new_run.progress()["appended"] == ["scores 0"]


def test_a_score_file_keeps_its_mode_and_its_name(new_run, tmp_path):
    path, link = tmp_path / "scores.csv", tmp_path / "link.csv"
    path.write_text("")
    path.chmod(0o640)
    link.symlink_to(path)
    add_rows(new_run, link)
    assert link.is_symlink() and path.read_text() == TEXT and path.stat().st_mode & 0o777 == 0o640


# No space, no folder ----------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A file system of two megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place]).returncode:
        pytest.skip("only root can mount a small file system")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def fill(place):
    """Leaves no room."""
    with contextlib.suppress(OSError), open(place / "filler", "ab", buffering=0) as file:
        for size in (1 << 16, 1 << 10, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"x" * size)


@pytest.mark.parametrize("save", [1, 2, 5, "model", "scores"])
def test_a_full_disk_is_one_sentence_and_the_run_goes_on(save, small_disk, flags, uninterrupted, monkeypatch, capsys):
    expected = uninterrupted()
    monkeypatch.chdir(small_disk)
    with monkeypatch.context() as patch:
        if save == "model":
            patch.setattr(training, "score", lambda *_, score=training.score: (fill(small_disk), score(*_))[1])
        elif save == "scores":
            at_save(patch, 1, lambda: fill(small_disk), "finish")
        else:
            at_save(patch, save, lambda: fill(small_disk))
        capsys.readouterr()
        assert run(single, flags) == 2
    error = one_sentence(capsys, "not saved: No space left on device", "continue with: python")
    assert f"{int(save in (5, 'scores'))} finished models" in error
    assert nothing_temporary()
    assert Path("scores.csv").exists() == (save == 5)
    assert run(single, flags, "--resume") == 2  # still full
    one_sentence(capsys, "No space left on device")
    os.remove("filler")
    assert run(single, flags, "--resume") == 0
    assert csv_files() == expected and nothing_temporary()


def test_a_full_disk_before_it_begins_is_one_sentence(small_disk, flags, monkeypatch, capsys):
    monkeypatch.chdir(small_disk)
    fill(small_disk)
    assert run(single, flags) == 2
    one_sentence(capsys, "No space left on device")
    assert nothing_temporary()


def test_full_where_the_score_file_is(small_disk, flags, uninterrupted, monkeypatch, capsys):
    expected = uninterrupted()
    fill(small_disk)
    (small_disk / "filler").write_bytes(b"x" * 100)  # room for some rows of others, then none
    files.append_scores(small_disk / "scores.csv", [[9, 1, 1, 1]])
    before = (small_disk / "scores.csv").read_bytes()
    fill(small_disk)
    flags = flags.replace("scores.csv", str(small_disk / "scores.csv"))
    capsys.readouterr()
    assert run(single, flags) == 2
    one_sentence(capsys, small_disk / "scores.csv", "No space left", "1 finished models are in")
    assert (small_disk / "scores.csv").read_bytes() == before and nothing_temporary(small_disk)
    os.remove(small_disk / "filler")
    assert run(single, flags, "--resume") == 0
    added = (small_disk / "scores.csv").read_bytes().removeprefix(before)
    assert added == expected["scores"].partition(b"\n")[2]


def test_a_folder_that_becomes_read_only(small_disk, flags, uninterrupted, monkeypatch, capsys):
    expected = uninterrupted()
    monkeypatch.chdir(small_disk)

    def remount(mode):
        subprocess.run(["mount", "-o", f"remount,{mode}", small_disk], check=True)

    with monkeypatch.context() as patch:
        at_save(patch, 5, lambda: remount("ro"))
        capsys.readouterr()
        assert run(single, flags) == 2
    one_sentence(capsys, "Read-only file system", "1 finished models and the state of 1 unfinished are in")
    remount("rw")
    assert run(single, flags, "--resume") == 0
    assert csv_files() == expected and nothing_temporary()


@pytest.mark.parametrize("save", [1, 3, 5])
def test_a_folder_that_is_deleted(save, flags, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        at_save(patch, save, lambda: shutil.rmtree("logs"))
        assert run(single, flags) == 2
    error = one_sentence(capsys, "the folder logs/single_", "is gone, and with it all")
    assert ("scores.csv" in error) == (save > 3)
    assert "No such file" in error
    if save > 3:
        assert [row[0] for row in Path("scores.csv").read_text().splitlines()[1:]] == ["1"]
    assert not os.path.exists("logs") and nothing_temporary()


def test_output_that_cannot_be_printed(flags, uninterrupted, monkeypatch, capsys):
    expected = uninterrupted()
    with monkeypatch.context() as patch:
        patch.setattr(runs, "print_sizes", lambda corpus: open("/dev/full", "w").write("x" * 9999))
        patch.setattr(os, "dup2", lambda *_: None)  # pytest's output is not to be lost
        assert run(single, flags) == 2
    one_sentence(capsys, "No space left on device")
    assert run(single, flags, "--resume") == 0
    assert csv_files() == expected


# Numbers, memory, what Keras has ----------------------------------------------------------------


def test_numbers_that_run_away_keep_the_last_good_state(flags, monkeypatch, capsys):
    """With the rate as it is first, and then at such a rate that the loss is soon not finite."""
    rate = training.Rate.__call__
    wild = f"{flags} --optimizer sgd --max_grad_norm 1e30 --epochs 30"

    def explode(self, step):
        return keras.ops.where(step >= 16, 1e30, rate(self, step))

    monkeypatch.setattr(training.Rate, "__call__", explode)  # the sixth epoch of task 1
    for more in ("", "--resume"):
        assert run(single, wild, more) == 2
        error = one_sentence(capsys, "in epoch 6, batch 3, at learning rate 1e+30", "with a lower --learning_rate")
        assert str(folder_of_run()) in error
        _, arrays = checkpoints.read_state(str(folder_of_run() / "state_task1.npz"))
        assert int(arrays["optimizer/0"]) == 12 and all(np.isfinite(a).all() for a in arrays.values())


def test_nothing_is_left_behind_and_memory_does_not_grow(flags):
    """A thousand epochs, a hundred of them evaluated and saved."""

    def resident():
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20

    def left():
        gc.collect()
        return threading.active_count(), len(os.listdir("/proc/self/fd"))

    assert run(single, flags) == 0
    threads, descriptors = left()
    sizes = []

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch % 100 == 99:
                sizes.append(resident())

    watch, train = Watch(), training.train
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "train", lambda f, c, s, callbacks, point: train(f, c, s, [*callbacks, watch], point))
        assert run(single, flags, "--task_id 1 --epochs 1000 --evaluation_interval 10 --log_dir long") == 0
    assert len(sizes) == 10 and sizes[-1] - sizes[1] < 8, sizes  # MB in 800 epochs
    assert left() <= (threads, descriptors)
    assert nothing_temporary()


def little_training(backup, epochs, begin=None):
    """A model trained with Keras's own means; returns its weights."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    inputs = np.arange(30, dtype=np.float32).reshape(10, 3) / 30
    model.fit(inputs, inputs[:, :2] ** 2, epochs=epochs, shuffle=False, verbose=0, callbacks=[backup])
    return model.get_weights()


def test_keras_backup_does_not_hold_to_it(tmp_path, monkeypatch):
    """Killed between its two files, it goes on with weights of one epoch and the number of another, or not at all."""
    expected = little_training(keras.callbacks.BackupAndRestore(str(tmp_path / "whole")), 6)
    dumps = json.dumps

    class Killed(BaseException):
        pass

    def kill(content, *arguments, **options):
        if isinstance(content, dict) and content.get("epoch") == 4:
            raise Killed
        return dumps(content, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(json, "dumps", kill)
        with pytest.raises(Killed):
            little_training(keras.callbacks.BackupAndRestore(str(tmp_path / "backup"), delete_checkpoint=False), 6)
    with contextlib.suppress(ValueError):  # of the second file, which is opened before it is written, nothing is left
        continued = little_training(keras.callbacks.BackupAndRestore(str(tmp_path / "backup")), 6)
        assert not np.array_equal(continued[0], expected[0])


def test_keras_checkpoint_does_not_hold_to_it(tmp_path, monkeypatch):
    """A model is written in place: what a kill leaves is no longer the old one."""
    path = str(tmp_path / "model.keras")
    little_training(keras.callbacks.ModelCheckpoint(path), 1)
    kept = Path(path).read_bytes()
    class Killed(BaseException):
        pass

    def kill(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(zipfile.ZipFile, "writestr", kill)
        with pytest.raises(Killed):
            little_training(keras.callbacks.ModelCheckpoint(path), 1)
    assert Path(path).read_bytes() != kept
    network = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    checkpoints.save_model(network, path)
    kept = Path(path).read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(zipfile.ZipFile, "writestr", kill)
        with pytest.raises(Killed):
            checkpoints.save_model(network, path)
    assert Path(path).read_bytes() == kept and nothing_temporary(tmp_path)


def test_a_file_that_cannot_be_replaced_stays(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(Unsaved, match="not saved: "), files.replacing(str(path)) as temporary:
        Path(temporary).write_text("new")
        raise OSError(28, "No space left on device")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file"]


# Killed for real --------------------------------------------------------------------------------


def test_killed_runs_end_as_if_they_had_not_been(tmp_path):
    """The short form of `kill_runs.py`."""
    cases = ["single, bow", "joint, gru"]
    equal, failures, *_ = kill_runs.kill_runs(tmp_path, 5, seed=1, cases=cases, say=lambda line: None)
    assert not failures, failures[0]
    assert equal == 5

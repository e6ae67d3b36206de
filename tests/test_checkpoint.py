"""Runs that are stopped, killed or short of disk space: what they say, what they leave, and how they continue."""

import contextlib
import errno
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import h5py
import keras
import kill_runs
import numpy as np
import pytest
from helpers import HEADER, ROOT, all_files, read_csv, run, run_folder, temporary_files, words_of

import babi_simulator
import checkpoint
import experiment
import files
import joint
import single
import training
from checkpoint import Run
from flags import InputError

ROWS = [["1", "0.5000", "0.6000", "0.7000"], ["2", "0.1000", "0.2000", "0.3000"]]
LINES = "1,0.5000,0.6000,0.7000\n2,0.1000,0.2000,0.3000\n"


class Killed(BaseException):
    """Takes the place of a kill: nothing catches it."""


@pytest.fixture
def small(small_corpus, tmp_path, monkeypatch):
    """Flags of a run that takes a moment, in a folder of its own: two models, each saved after epochs 2, 4 and 6."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(experiment, "SAVE_SECONDS", 1e9)  # however slow the machine, only reports are saved

    def train_in_this_process(jobs, finished, *_):
        for job in jobs:
            yield finished.get(job.name) or experiment.train_model(job)

    monkeypatch.setattr(experiment, "train_models", train_in_this_process)
    sizes = "--embedding_size 8 --feature_size 9 --hops 1 --batch_size 4 --epochs 6 --evaluation_interval 2"
    return f"--data_dir {small_corpus} {sizes} --random_state 7 --task_id 1,2 --output_file scores.csv --pictures False"


def weights(model_file):
    """The bytes of the weights in a Keras file; the names beside them depend on the process."""
    arrays = []
    with zipfile.ZipFile(model_file) as archive, h5py.File(archive.open("model.weights.h5")) as file:
        file.visititems(lambda name, item: arrays.append(item[()].tobytes() if hasattr(item, "shape") else b""))
    return b"".join(arrays)


def results(place="."):
    """What must not depend on interruptions, by name: score files, histories, weights of models."""
    folder = run_folder(Path(place, "logs"))
    paths = {path.name: path for path in folder.glob("history*.csv")}
    paths |= {"scores": Path(place, "scores.csv"), "own scores": folder / "scores.csv"}
    contents = {name: path.read_bytes() for name, path in paths.items()}
    for path in folder.glob("model*.keras"):
        contents[path.name] = weights(path)
    return {n: kill_runs.without_seconds(c) if n.startswith("history") else c for n, c in contents.items()}


@pytest.fixture(scope="module")
def known_results():
    """`uninterrupted` results by arguments."""
    return {}


@pytest.fixture
def uninterrupted(small, tmp_path, monkeypatch, known_results):
    """A function that returns the `results` of a run that nothing interrupts."""

    def train(*more):
        if more not in known_results:
            (tmp_path / "uninterrupted").mkdir()
            monkeypatch.chdir(tmp_path / "uninterrupted")
            run(single, small, *more)
            known_results[more] = results()
            monkeypatch.chdir(tmp_path)
            shutil.rmtree("uninterrupted")
        return known_results[more]

    return train


@contextlib.contextmanager
def at_call(module, name, number, do, before=False):
    """Does something after, or before, the n-th call of a function of a module."""
    function, calls = getattr(module, name), 0

    def call(*arguments, **options):
        nonlocal calls
        calls += 1
        if before and calls == number:
            do()
        result = function(*arguments, **options)
        if not before and calls == number:
            do()
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, name, call)
        yield


def saved_epochs(path):
    """The number of epochs whose state is saved in a file."""
    return len(checkpoint.load_state(path)[0])


def kill():
    raise Killed


STOPPED = {}  # by arguments of `stopped`: the folder in which a run was stopped, and its files


def stopped(*arguments, save=1):
    """Runs single.py until it is killed after a save of a state, or copies an equal run; returns its folder."""
    key, here = (*arguments, save), os.getcwd()
    if key in STOPPED and not os.path.exists("logs"):
        place, contents = STOPPED[key]
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.replace(place.encode(), here.encode()) if path.name == "run.json" else content)
        return run_folder()
    with at_call(checkpoint, "save_state", save, kill), pytest.raises(Killed):
        run(single, *arguments)
    STOPPED.setdefault(key, (here, all_files()))
    return max(Path("logs").iterdir(), key=lambda path: path.stat().st_mtime)


def refusal(*arguments, script=single):
    """The sentence with which a command refuses to continue a run; nothing is changed."""
    before = all_files()
    with pytest.raises(InputError) as caught:
        run(script, *arguments)
    assert all_files() == before and "\n" not in str(caught.value)
    return str(caught.value)


# --- stopped and continued --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "more",
    [
        "--keep_prob 0.7 --state_dropout 0.1 --word_dropout 0.1 --time_noise 0.1",
        "--optimizer sgd --linear_start 4 --tying adjacent --gates 2 --keep best --patience 2 --focus 0.5",
    ],
    ids=["dropout", "linear start"],
)
def test_a_run_that_is_stopped_twice_ends_in_the_same_bytes(more, small, uninterrupted, monkeypatch):
    expected = uninterrupted(more, "--task_id 1")
    monkeypatch.setattr(experiment, "SAVE_SECONDS", 0)  # a save after every epoch, so also between reports
    folder = stopped(small, more, "--task_id 1", save=3)
    assert saved_epochs(folder / "state_task1.npz") == 3
    with at_call(checkpoint, "save_state", 2, kill), pytest.raises(Killed):
        run(single, small, more, "--task_id 1 --resume")
    assert saved_epochs(folder / "state_task1.npz") == 5
    run(single, small, more, "--task_id 1 --resume")
    assert results() == expected and not temporary_files()


def test_a_run_that_is_stopped_in_each_of_its_models_ends_in_the_same_bytes(small, uninterrupted, capsys):
    expected = uninterrupted()
    folder = stopped(small, save=2)
    with at_call(checkpoint, "save_state", 3, kill), pytest.raises(Killed):
        run(single, f"--resume {folder}")
    assert saved_epochs(folder / "state_task2.npz") == 4
    assert [row["Task"] for row in read_csv("scores.csv")] == ["1"]
    capsys.readouterr()
    run(single, f"--resume {folder}")
    assert capsys.readouterr().out.startswith(f"{folder}: continued; 1 of 2 models are finished.\n")
    assert results() == expected and not temporary_files()


def test_a_run_that_is_killed_before_any_of_its_writes_ends_in_the_same_bytes(small):
    """The first write makes the run; a kill before it leaves nothing to continue. Every second one is tried."""
    small += " --task_id 1 --epochs 2"
    run(single, small)
    expected, names = results(), sorted(os.listdir(run_folder()))
    for write in range(2, 100, 2):
        shutil.rmtree("logs")
        os.remove("scores.csv")
        with at_call(os, "replace", write, kill, before=True):
            try:
                run(single, small)
                break
            except Killed:
                pass
        run(single, small, "--resume")
        assert results() == expected and not temporary_files(), write
        assert sorted(os.listdir(run_folder())) == names, write
    assert write > 9


def test_a_run_is_continued_under_another_name_of_its_folder(small, uninterrupted, tmp_path, monkeypatch):
    """Its rows still reach each file once, and the files are where they were."""
    expected = uninterrupted()
    folder = stopped(small, save=5)  # in the second task
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    run(single, f"--resume {tmp_path / folder}")
    assert os.listdir() == []
    monkeypatch.chdir(tmp_path)
    assert results() == expected


def test_patience_that_has_ended_a_training_ends_it_once(small, uninterrupted):
    more = "--task_id 1 --keep best --patience 1 --learning_rate 1e-6"  # of which validation takes no notice
    expected = uninterrupted(more)
    folder = stopped(small, more, save=2)
    run(single, f"--resume {folder}")
    assert results() == expected and saved_epochs(folder / "state_task1.npz") == 4


def test_a_run_is_extended_to_the_same_bytes_as_a_longer_one(small, uninterrupted, capsys):
    more = "--keep best --learning_rate 0.05"
    expected, short = uninterrupted(more), f"{small} {more} --epochs 2"
    run(single, short)
    folder = Path("logs", run_folder().name)
    rows = Path("scores.csv").read_bytes()
    assert "this run has --epochs 2, not 1" in refusal(f"--resume {folder} --epochs 1")
    capsys.readouterr()
    with at_call(checkpoint, "save_state", 3, kill), pytest.raises(Killed):
        run(single, f"--resume {folder} --epochs 6 --log_dir logs")
    assert capsys.readouterr().out.startswith(f"{folder}: extended from 2 to 6 epochs; 0 of 2 models are finished.\n")
    run(single, f"--resume {folder}")
    assert Path("scores.csv").read_bytes().startswith(rows)  # rows of the shorter run stay, the others follow
    new_rows = Path("scores.csv").read_bytes().removeprefix(rows)
    assert {**expected, "scores": None} == {**results(), "scores": None}
    assert new_rows == expected["scores"].removeprefix(f"{HEADER}\n".encode())
    run(single, f"--resume {folder} --epochs 6")
    assert "this run is finished" in capsys.readouterr().out


def test_runs_that_cannot_be_extended_are_refused(small):
    small += " --task_id 1 --epochs 2"
    run(single, small)
    folder = Path("logs", run_folder().name)
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**record, "appended": []}))  # killed before it noted its rows
    assert "stopped while writing its scores; continue it without --epochs" in refusal(f"--resume {folder} --epochs 4")
    (folder / "state_task1.npz").unlink()
    assert "state_task1.npz: the state of a finished model is missing" in refusal(f"--resume {folder} --epochs 4")


def test_runs_of_an_earlier_version_are_continued(small, uninterrupted):
    """Without the flags and versions that came later."""
    expected = uninterrupted("--task_id 1")
    folder = stopped(small, "--task_id 1")
    record = json.loads((folder / "run.json").read_text())
    for name, values in {"flags": ("keep", "patience", "name"), "machine": ("commit", "python")}.items():
        for value in values:
            del record[name][value]
    (folder / "run.json").write_text(json.dumps(record))
    run(single, f"--resume {folder}")
    assert results() == expected


def test_which_run_is_continued(small, capsys):
    assert "logs: holds no run of single.py with these flags" in refusal(small, "--resume")
    small += " --task_id 1"
    first, second = stopped(small), stopped(small)
    other = stopped(small, "--hops 2")
    capsys.readouterr()
    run(single, small, "--resume --workers 1")  # the newest with these flags
    assert f"{second}: continued; 0 of 1 models are finished" in capsys.readouterr().out
    run(single, small, "--resume")
    assert f"{first}: continued" in capsys.readouterr().out
    run(single, small, "--resume")  # all are finished
    assert f"{second}: this run is finished; its scores are in" in capsys.readouterr().out
    assert "holds no run of single.py with these flags" in refusal(small, "--resume --learning_rate 0.5")
    assert f"{other}: this run has --hops 2, not 3; leave --hops out" in refusal(f"--resume {other} --hops 3")
    assert f"{other}: is a run of single.py" in refusal(f"--resume {other}", script=joint)
    assert "logs: is not the folder of a run: run.json is missing" in refusal("--resume logs")
    before = Path("scores.csv").read_bytes()
    run(single, f"--resume {first} --hops 1 --random_state 7")
    assert "this run is finished" in capsys.readouterr().out
    assert Path("scores.csv").read_bytes() == before


def test_two_processes_cannot_continue_one_run(small):
    folder = stopped(small, "--task_id 1")
    other_process = Run(str(folder))
    assert f"{folder}: this run is still going on" in refusal(f"--resume {folder}")
    assert "still going on" in refusal(small, "--task_id 1 --resume")
    other_process.close()
    run(single, f"--resume {folder}")


def test_stories_that_have_changed_are_refused(small, small_corpus):
    shutil.copytree(small_corpus, "mine")
    folder = stopped(small, "--data_dir mine", save=4)
    for path in Path("mine").glob("qa2*_train.txt"):
        path.write_text(path.read_text().replace("milk", "wine"))
    assert "mine: the stories have changed" in refusal(f"--resume {folder}")
    shutil.move("mine", "moved")
    assert "mine" in refusal(f"--resume {folder}")
    run(single, f"--resume {folder} --data_dir {small_corpus}")  # the same stories elsewhere


def test_other_versions_and_cores_are_noted(small, capsys, monkeypatch):
    folder = stopped(small, "--task_id 1")
    monkeypatch.setattr(checkpoint, "machine", lambda: {"tensorflow": "1", "keras": "1", "numpy": "1", "cores": 1})
    capsys.readouterr()
    run(single, f"--resume {folder}")
    assert capsys.readouterr().out.count("digits may differ.") >= 3


def test_the_commit_has_a_mark_if_files_have_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "HERE", str(tmp_path))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert checkpoint.commit() is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    if not shutil.which("git"):
        pytest.skip("needs git")
    (tmp_path / "file").write_text("1")
    for words in (["init", "-q"], ["add", "file"], ["commit", "-q", "-m", "1"]):
        subprocess.run([*git, *words], check=True)
    commit = checkpoint.commit()
    assert len(commit) == 40
    (tmp_path / "file").write_text("2")
    assert checkpoint.commit() == f"{commit}+"
    monkeypatch.setenv("PATH", "")
    assert checkpoint.commit() is None


# --- signals ----------------------------------------------------------------------------------------------


def start(script, *arguments):
    """Starts a script in a process group of its own."""
    words = [sys.executable, str(ROOT / script), *words_of(arguments)]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return subprocess.Popen(words, start_new_session=True, **pipes)


def test_a_signal_ends_a_run_while_tensorflow_computes(tmp_path, monkeypatch):
    """An epoch, which is one call of TensorFlow, takes a minute here."""
    monkeypatch.chdir(tmp_path)
    babi_simulator.write_files("sim", [1], 1000, 10, seed=0)
    sizes = "--batch_size 1 --hops 10 --embedding_size 1000 --feature_size 1000"
    process = start("single.py", f"--data_dir sim {sizes} --random_state 3")
    while not process.stdout.readline().startswith("device: "):
        pass
    time.sleep(3)  # building and tracing take less
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - begin < 10
    folder = run_folder()
    script = ROOT / "single.py"
    expected = f"\nsingle.py: stopped; continue with: python {script} --resume {Path('logs') / folder.name}\n"
    assert (process.returncode, errors) == (130, expected)


def test_a_signal_ends_the_processes_of_a_run(small):
    """As a terminal does it, it goes to all of them; the main process answers."""
    more = "--task_id 1 --restarts 2 --workers 2 --epochs 100000 --evaluation_interval 10"
    process = start("single.py", small, more)
    while len(list(Path().glob("logs/*/state*.npz"))) < 2 and process.poll() is None:
        time.sleep(0.05)
    begin = time.monotonic()
    os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=60)  # to the end of the last process, which has the pipes too
    assert time.monotonic() - begin < 10
    assert process.returncode == 143 and errors.count("\n") == 2
    assert "stopped; continue with: python" in errors
    for name in ("state_task1_seed7.npz", "state_task1_seed8.npz"):
        assert saved_epochs(run_folder() / name) >= 1
    assert "this run has --hops 1, not 3" in refusal(f"--resume {run_folder()} --hops 3")  # nobody holds the run


# --- damage -----------------------------------------------------------------------------------------------


def damaged_contents(content):
    """Contents other than the one that was saved: parts of it, other bytes, single flipped bits."""
    yield b""
    yield content[: len(content) // 2]
    yield content[:-1]
    yield b"Task,Testing Accuracy\n"
    yield bytes(range(256)) * 9
    random = np.random.default_rng(0)
    for place in random.integers(len(content), size=300):
        yield content[:place] + bytes([content[place] ^ 1 << int(random.integers(8))]) + content[place + 1 :]


def test_a_damaged_state_is_one_sentence(tmp_path):
    path = tmp_path / "state.npz"
    arrays = {"trainer/0": np.arange(90, dtype=np.float32), "optimizer/0": np.array(7)}
    state = ([["1", "0.5"], ["2", ""]], 2.5, arrays)
    checkpoint.save_state(str(path), *state)
    assert repr(checkpoint.load_state(str(path))) == repr(state)
    refused = 0
    for content in damaged_contents(path.read_bytes()):
        path.write_bytes(content)
        try:
            loaded = checkpoint.load_state(str(path))  # the bit means nothing, such as one of a date
        except InputError as error:
            refused += 1
            assert str(path) in str(error) and "\n" not in str(error)
        else:
            assert loaded[:2] == state[:2]
            for name, array in loaded[2].items():
                np.testing.assert_array_equal(array, arrays[name])
    assert refused > 150


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff", b"{}", b"[" * 10**5])
def test_a_damaged_record_is_one_sentence(content, tmp_path):
    path = tmp_path / "run.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match="run.json: is (damaged|of another version)"):
        checkpoint.read_record(str(tmp_path))


def test_a_run_with_a_damaged_or_missing_file_is_not_continued(small):
    folder = stopped(small, save=5)
    for path in (folder / "state_task2.npz", folder / "run.json"):
        content = path.read_bytes()
        path.write_bytes(content[:-9])
        for arguments in (f"--resume {folder}", f"{small} --resume"):
            assert str(path) in refusal(arguments)
        path.unlink()
        assert str(folder) in refusal(f"--resume {folder}")
        path.write_bytes(content)
    run(single, f"--resume {folder}")


def test_a_missing_state_never_restarts_a_model(small):
    folder = stopped(small, "--task_id 1", save=2)  # after the history of the first save is written
    (folder / "state_task1.npz").unlink()
    assert "state_task1.npz: the state of this model is missing" in refusal(f"--resume {folder}")


def test_runs_of_other_versions_are_refused(small):
    folder = stopped(small, "--task_id 1")
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**record, "format": record["format"] + 1}))
    assert "or of another version" in refusal(f"--resume {folder}")


def test_a_score_file_that_became_another_file_is_refused_unless_the_flag_names_another(small, uninterrupted):
    expected = uninterrupted()
    folder = stopped(small)
    Path("scores.csv").write_text("Name,Age\nAnna,7\n")
    assert "scores.csv, line 1: expected Task," in refusal(f"--resume {folder}")
    run(single, f"--resume {folder} --output_file other.csv")
    assert Path("other.csv").read_bytes() == expected["scores"]
    assert Path("scores.csv").read_text() == "Name,Age\nAnna,7\n"


def test_a_bad_recipe_is_one_sentence(small, capsys):
    Path("recipe").write_bytes(b"--epochs \xff\n")
    with pytest.raises(SystemExit):
        run(single, "@recipe --resume")
    assert "recipe: expected UTF-8" in capsys.readouterr().err


# --- rows reach the score file once -----------------------------------------------------------------------


@pytest.fixture
def a_run(tmp_path):
    new_run = Run.create(str(tmp_path / "logs"), "single")
    new_run.save()
    yield new_run
    new_run.close()


def add_rows(a_run, path):
    import scores

    a_run.append_once("scores", str(path), scores.csv_bytes(ROWS, ()), scores.csv_bytes([]))


@pytest.mark.parametrize("old", ["", f"{HEADER}\n9,1,1,1\n"], ids=["no file", "rows"])
@pytest.mark.parametrize(
    ("write", "before", "part", "others"),
    [
        (1, True, 0, False),  # before the offset is noted
        (1, False, 0, False),  # before the rows are written
        (1, False, 0, True),  # the same, and another run appends before this one continues
        (1, False, 20, False),  # in the middle of the rows
        (2, True, 0, False),  # before it is noted that they are written
        (2, True, 0, True),
        (2, False, 0, False),
        (2, False, 0, True),
    ],
)
def test_rows_are_appended_once_wherever_the_run_is_killed(old, write, before, part, others, a_run, tmp_path):
    path = tmp_path / "scores.csv"
    if old:
        path.write_text(old)
    with at_call(files, "write", write, kill, before=before), pytest.raises(Killed):
        add_rows(a_run, path)
    if part:
        addition = LINES if old else f"{HEADER}\n{LINES}"
        path.write_text(old + addition[:part])
    if others:
        files.append(path, b"3,0,0,0\n", f"{HEADER}\n".encode())
    a_run.record = checkpoint.read_record(a_run.folder)  # as the process that continues it reads it
    for _ in range(2):
        add_rows(a_run, path)
    rows = path.read_text().splitlines()
    assert rows[0] == HEADER and rows.count(HEADER) == 1
    expected = [*LINES.splitlines(), *old.splitlines()[1:], *["3,0,0,0"] * others]
    assert sorted(rows[1:]) == sorted(expected)


# --- no space, no folder ----------------------------------------------------------------------------------


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
    """Leaves no space on a disk."""
    with contextlib.suppress(OSError), open(place / "filler", "ab", buffering=0) as file:
        for size in (1 << 16, 1 << 10, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"x" * size)


@pytest.mark.parametrize(
    ("module", "name", "call", "tasks"),
    [
        (checkpoint, "save_state", 1, ["--task_id 1"]),
        (checkpoint, "save_state", 5, []),
        (training, "score", 1, ["--task_id 1"]),
        (experiment, "finish", 1, ["--task_id 1"]),
    ],
    ids=["first state", "second model", "model", "scores"],
)
def test_a_full_disk_is_one_sentence_and_the_run_continues(
    module, name, call, tasks, small_disk, small, uninterrupted, monkeypatch
):
    expected = uninterrupted(*tasks)
    small = " ".join([small, *tasks])
    monkeypatch.chdir(small_disk)
    with at_call(module, name, call, lambda: fill(small_disk)), pytest.raises(InputError) as caught:
        run(single, small)
    message = str(caught.value)
    assert "not saved: " in message and "once that is fixed, continue with: python" in message
    assert not temporary_files()
    own_scores = run_folder() / "scores.csv"
    assert not own_scores.exists() or own_scores.read_bytes() in (b"", *_prefixes(expected["own scores"]))
    with pytest.raises(InputError, match="not saved: "):  # the disk is still full
        run(single, small, "--resume")
    os.remove("filler")
    run(single, small, "--resume")
    assert results() == expected and not temporary_files()


def _prefixes(content):
    """Score files with the header and the first rows of another."""
    lines = content.splitlines(True)
    return [b"".join(lines[:number]) for number in range(2, len(lines) + 1)]


def test_a_full_disk_before_a_run_begins_is_one_sentence(small_disk, small, monkeypatch):
    monkeypatch.chdir(small_disk)
    fill(small_disk)
    with pytest.raises(InputError, match="not saved: No space left on device"):
        run(single, small)
    assert not temporary_files()


def test_a_full_disk_leaves_the_score_file_as_it_was(small_disk, small, uninterrupted):
    expected = uninterrupted()
    scores_file = small_disk / "scores.csv"
    scores_file.write_text(f"{HEADER}\n" + "9,1.0000,1.0000,1.0000\n" * 175)
    before = scores_file.read_bytes()
    assert len(before) == 4085  # a few bytes fit into its page of 4096 bytes
    fill(small_disk)
    small = small.replace("scores.csv", str(scores_file))
    with pytest.raises(InputError, match=f"{scores_file}: not saved: No space left .* continue with"):
        run(single, small)
    assert scores_file.read_bytes() == before
    os.remove(small_disk / "filler")
    run(single, small, "--resume")
    assert scores_file.read_bytes().removeprefix(before) == expected["scores"].partition(b"\n")[2]


def test_a_disk_that_becomes_read_only_is_one_sentence(small, uninterrupted, monkeypatch):
    """The error is the operating system's, but raised by hand: a run's open lock keeps a disk from being remounted."""
    expected = uninterrupted()

    def read_only(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with (
        monkeypatch.context() as patch,
        at_call(
            checkpoint,
            "save_state",
            5,
            lambda: [patch.setattr(m, "open", read_only, False) for m in (files, checkpoint)],
        ),
    ):
        with pytest.raises(InputError, match="Read-only file system; once that is fixed, continue with: python"):
            run(single, small)
    run(single, small, "--resume")
    assert results() == expected and not temporary_files()


@pytest.mark.parametrize("save", [1, 5])
def test_a_folder_that_is_deleted_is_one_sentence(save, small):
    with at_call(checkpoint, "save_state", save, lambda: shutil.rmtree("logs")):
        with pytest.raises(InputError, match="logs/single_.*: not saved: No such file"):
            run(single, small)
    assert not os.path.exists("logs")
    tasks = [row["Task"] for row in read_csv("scores.csv")] if os.path.exists("scores.csv") else []
    assert tasks == ([] if save == 1 else ["1"])


# --- numbers, memory, what Keras has ----------------------------------------------------------------------


def test_numbers_that_are_not_finite_keep_the_last_good_state(small, monkeypatch):
    """A resumed run diverges at the same step."""
    rate = training.Rate.__call__

    def explode(self, step):
        return keras.ops.where(step >= 16, 1e30, rate(self, step))  # in the sixth epoch of task 1

    monkeypatch.setattr(training.Rate, "__call__", explode)
    wild = f"{small} --optimizer sgd --max_grad_norm 1e30 --epochs 30 --task_id 1"
    for resume in ("", "--resume"):
        with pytest.raises(InputError, match=r"in epoch 6, batch \d, at learning rate 1e\+30; .* --learning"):
            run(single, wild, resume)
        history, _, arrays = checkpoint.load_state(run_folder() / "state_task1.npz")
        assert len(history) == 4 and all(np.isfinite(array).all() for array in arrays.values())


def test_memory_does_not_grow_and_nothing_is_left_open(small, monkeypatch):
    """Over hundreds of epochs, a tenth of which are reported and saved."""

    def resident():
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20

    def left_open():
        gc.collect()
        return threading.active_count(), len(os.listdir("/proc/self/fd"))

    run(single, small, "--task_id 1")
    before, sizes = left_open(), []

    save_state = checkpoint.save_state

    def save_and_measure(path, history, *state):
        save_state(path, history, *state)
        if len(history) % 50 == 0:
            sizes.append(resident())

    monkeypatch.setattr(checkpoint, "save_state", save_and_measure)
    run(single, small, "--task_id 1 --epochs 300 --evaluation_interval 10 --log_dir long")
    assert len(sizes) == 6 and sizes[-1] - sizes[0] < 6, sizes  # MB
    assert all(now <= then for now, then in zip(left_open(), before, strict=True))
    assert not temporary_files()


def test_keras_backup_is_not_atomic(tmp_path, monkeypatch):
    """Killed between its two files, it continues with the weights of one epoch and the number of another."""

    def train(backup):
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        model.compile(keras.optimizers.SGD(0.1), "mse")
        inputs = np.arange(30, dtype=np.float32).reshape(10, 3) / 30
        model.fit(inputs, inputs[:, :2] ** 2, epochs=6, shuffle=False, verbose=0, callbacks=[backup])
        return model.get_weights()

    backup = keras.callbacks.BackupAndRestore
    expected = train(backup(str(tmp_path / "whole")))
    dumps = json.dumps

    def killed_dumps(content, *arguments, **options):
        if isinstance(content, dict) and content.get("epoch") == 4:
            raise Killed
        return dumps(content, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(json, "dumps", killed_dumps)
        with pytest.raises(Killed):
            train(backup(str(tmp_path / "killed"), delete_checkpoint=False))
    with contextlib.suppress(ValueError):  # the second file is empty, as it is opened before it is written
        assert not np.array_equal(train(backup(str(tmp_path / "killed")))[0], expected[0])

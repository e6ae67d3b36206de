"""Pictures of runs: what stands in them, files that come whole, damaged input, the command."""

import errno
import os
import struct
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pictures
import single
from babi_simulator import TASKS
from data_utils import InputError

HISTORY = "epoch,loss,training,validation,training 1,training 2,validation 1,validation 2\n" + "".join(
    f"{epoch},{2000 / epoch:.4f},{0.5 + epoch / 1000},{0.4 + epoch / 1000},0.9,0.5,0.8,{epoch / 200}\n"
    for epoch in range(20, 201, 20)
)
SCORES = "Task,Testing Accuracy,Training Accuracy,Validation Accuracy\n" + "".join(
    f"{task},{1 - task / 100:.4f},1.0000,0.9000\n" for task in TASKS
)


@pytest.fixture
def run_folder(tmp_path):
    """The folder of a joint run."""
    (tmp_path / "history.csv").write_text(HISTORY)
    (tmp_path / "scores.csv").write_text(SCORES)
    return tmp_path


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are drawn, in a list that grows; they are saved as always."""
    figures, save = [], pictures._save
    monkeypatch.setattr(pictures, "_save", lambda figure, path: (figures.append(figure), save(figure, path)))
    return figures


def texts(figure):
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text)]


def size(path):
    """(width, height) of a PNG file."""
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n") and content.endswith(b"IEND\xaeB\x60\x82")
    return struct.unpack(">II", content[16:24])


# What is drawn ----------------------------------------------------------------------------------


def test_run_has_both_pictures_and_the_same_when_drawn_again(run_folder):
    names = pictures.draw(run_folder)
    assert names == [str(run_folder / "curves.png"), str(run_folder / "tasks.png")]
    assert size(run_folder / "curves.png") == (960, 720)
    width, height = size(run_folder / "tasks.png")
    assert width == 960 and 700 < height < 1200
    first = [open(name, "rb").read() for name in names]
    assert all(10_000 < len(content) < 200_000 for content in first)
    assert pictures.draw(str(run_folder)) == names
    assert [open(name, "rb").read() for name in names] == first
    assert sorted(os.listdir(run_folder)) == ["curves.png", "history.csv", "scores.csv", "tasks.png"]


def test_curves_are_the_history(run_folder, drawn):
    pictures.curves(run_folder / "history.csv", run_folder / "curves.png")
    above, below = drawn[0].axes
    np.testing.assert_allclose(above.lines[0].get_ydata(), [2000 / epoch for epoch in range(20, 201, 20)], atol=1e-4)
    by_task, (training, validation) = below.lines[:-2], below.lines[-2:]
    assert training.get_xdata().tolist() == list(range(20, 201, 20))
    np.testing.assert_allclose(training.get_ydata(), np.linspace(52, 70, 10))
    np.testing.assert_allclose(validation.get_ydata(), np.linspace(42, 60, 10))
    np.testing.assert_allclose([line.get_ydata()[-1] for line in by_task], [80, 100])
    assert {"loss 10", "training 70.00 %", "validation 60.00 %"} <= set(texts(drawn[0]))
    assert training.get_linestyle() != validation.get_linestyle()  # apart without colours too


def test_tasks_are_the_scores_beside_published_ones(run_folder, drawn):
    pictures.tasks(run_folder / "scores.csv", run_folder / "tasks.png")
    axes = drawn[0].axes[0]
    np.testing.assert_allclose([bar.get_width() for bar in axes.patches], [100 - task for task in TASKS])
    memn2n, original = (line.get_xdata() for line in axes.lines[:2])
    assert (memn2n[2], original[2]) == pytest.approx((76.6, 66))  # of task 3
    assert 100 - np.mean(memn2n) == pytest.approx(12.4, abs=0.05) and 100 - np.mean(original) == pytest.approx(20.45)
    assert "Mean error 10.50 %, failed tasks: 15 of 20" in texts(drawn[0])
    assert pictures.NO_SCORES not in texts(drawn[0])


@pytest.mark.parametrize("regime", pictures.BESIDE)
def test_published_systems_have_all_tasks(regime):
    for accuracies in pictures.read_published(regime).values():
        assert list(accuracies) == list(TASKS) and all(0 <= accuracy <= 1 for accuracy in accuracies.values())


def test_simulated_scores_are_marked_as_such(run_folder, drawn):
    (run_folder / "scores.csv").write_text(SCORES.replace("\n7,", "\n7 (simulated),"))
    pictures.draw(run_folder)
    assert all(pictures.NO_SCORES in texts(figure) for figure in drawn) and len(drawn) == 2


def test_unfinished_run_has_curves_and_is_marked_by_its_flags(run_folder, drawn):
    (run_folder / "scores.csv").unlink()
    assert pictures.draw(run_folder) == [str(run_folder / "curves.png")]
    assert pictures.NO_SCORES not in texts(drawn[0])
    (run_folder / "params.csv").write_text("seed=1\nsimulated=True\n")
    pictures.draw(run_folder)
    assert pictures.NO_SCORES in texts(drawn[1])


@pytest.mark.parametrize("rows", [1, 2, 1000])
def test_curves_of_any_length(tmp_path, rows):
    text = "epoch,loss,training,validation\n" + "".join(f"{n},1.5,1.0000,1.0000\n" for n in range(1, rows + 1))
    (tmp_path / "history.csv").write_text(text)
    pictures.curves(tmp_path / "history.csv", tmp_path / "curves.png")
    assert size(tmp_path / "curves.png") == (960, 720)


def test_pictures_of_a_real_run(small_corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    single.main(
        ["--data_dir", str(small_corpus), "--task_id", "1,2", "--epochs", "4", "--evaluation_interval", "2"]
        + ["--random_state", "0"]
    )
    (folder,) = (tmp_path / "logs").iterdir()
    names = [os.path.basename(name) for name in pictures.draw(folder)]
    assert names == ["curves_task1.png", "curves_task2.png", "tasks.png"]
    assert all(size(folder / name)[0] == 960 for name in names)


# Bad input --------------------------------------------------------------------------------------

HEADER = "epoch,loss,training,validation\n"
BAD_HISTORY = {  # content, the line at fault, words of the sentence
    "empty": ("", 1, "expected epoch,loss,training,validation"),
    "another file": (SCORES, 1, "expected epoch,loss,training,validation"),
    "no report": (HEADER, None, "expected at least one row"),
    "cut": (HEADER + "20,50.1,0.5,0.5\n40,4", 3, "expected 4 cells, found 2"),
    "word": (HEADER + "20,high,0.5,0.5\n", 2, "expected a number, found 'high'"),
    "no accuracy": (HEADER + "20,50.1,0.5,1.5\n", 2, "expected a number from 0 to 1, found '1.5'"),
    "not finite": (HEADER + "20,50.1,0.5,0.5\n40,nan,0.5,0.5\n", 3, "found 'nan'"),
    "other bytes": (b"\xff\xfe\0\1", None, "found other bytes"),
}


@pytest.mark.parametrize("name", BAD_HISTORY)
def test_bad_history_is_one_sentence(tmp_path, name):
    content, line, expected = BAD_HISTORY[name]
    path = tmp_path / "history.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as error:
        pictures.curves(path, tmp_path / "curves.png")
    sentence = str(error.value)
    assert sentence.startswith(f"{path}, line {line}: " if line else f"{path}: ") and expected in sentence
    assert sentence.endswith(".") and len(sentence.splitlines()) == 1
    assert os.listdir(tmp_path) == ["history.csv"]


@pytest.mark.parametrize("task", ["0", "21", "x", "", "1 simulated"])
def test_bad_task_in_scores_is_one_sentence(tmp_path, task):
    (tmp_path / "scores.csv").write_text(SCORES.replace("\n3,", f"\n{task},"))
    with pytest.raises(InputError, match="scores.csv, line 4: expected a task from 1 to 20"):
        pictures.tasks(tmp_path / "scores.csv", tmp_path / "tasks.png")


@settings(derandomize=True, database=None, deadline=None)
@given(content=st.binary() | st.text().map(lambda text: (HEADER + text).encode()), scores=st.booleans())
def test_any_bytes_are_numbers_or_one_sentence(tmp_path_factory, content, scores):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(content)
    try:
        (pictures.read_scores if scores else pictures.read_history)(path)
    except InputError as error:
        assert str(error).startswith(str(path)) and len(str(error).splitlines()) == 1


@pytest.mark.parametrize("how", ["a folder stands there", "disk full", "no folder"])
def test_picture_that_cannot_be_written(run_folder, monkeypatch, how):
    png = run_folder / "curves.png"
    if how == "a folder stands there":
        png.mkdir()
    elif how == "no folder":
        png = run_folder / "gone" / "curves.png"
    else:
        png.write_bytes(b"an earlier picture")
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        monkeypatch.setattr(pictures.os, "replace", lambda *paths: (_ for _ in ()).throw(full))
    before = sorted(os.listdir(run_folder))
    with pytest.raises(InputError, match=r"curves.png: cannot be written: [A-Z].*\.$"):
        pictures.curves(run_folder / "history.csv", png)
    assert sorted(os.listdir(run_folder)) == before
    if how == "disk full":
        assert png.read_bytes() == b"an earlier picture"


def test_missing_matplotlib_is_one_sentence(run_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(InputError, match="pip install -r requirements.txt"):
        pictures.draw(run_folder)


# The command ------------------------------------------------------------------------------------


def command(*arguments):
    done = subprocess.run([sys.executable, pictures.__file__, *map(str, arguments)], capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def test_command(run_folder):
    assert command(run_folder) == (0, f"{run_folder}/curves.png\n{run_folder}/tasks.png\n", "")
    status, output, errors = command(run_folder / "none")
    assert (status, output) == (2, "") and errors.startswith("pictures.py: ") and errors.count("\n") == 1
    assert command("-h")[0] == 0 and command()[0] == 2


def test_importing_it_imports_no_matplotlib():
    code = "import sys, pictures; print([m for m in ('matplotlib', 'tensorflow') if m in sys.modules])"
    where = os.path.dirname(pictures.__file__)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=where)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")

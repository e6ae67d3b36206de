"""plots.py: the contents of pictures, complete files, input that cannot be drawn, the command."""

import errno
import os
import struct
import subprocess
import sys

import numpy as np
import pytest

import files
import plots
import scores
from flags import TASKS, InputError

COLUMNS = scores.history_columns([1, 2])
HISTORY = scores.csv_bytes(
    [
        [epoch, f"{2000 / epoch:.4f}"]
        + ([0.5 + epoch / 1000, 0.4 + epoch / 1000, 0.9, 0.5, 0.8, epoch / 200] if epoch % 20 == 0 else [""] * 6)
        + [0.01, 0.5]
        for epoch in range(1, 201)
    ],
    COLUMNS,
)
SCORES = scores.csv_bytes(scores.rows([(task, 1 - task / 100, 1.0, 0.9) for task in TASKS]))


@pytest.fixture
def run_folder(tmp_path):
    """The folder of a joint run."""
    (tmp_path / "history.csv").write_bytes(HISTORY)
    (tmp_path / "scores.csv").write_bytes(SCORES)
    return tmp_path


@pytest.fixture
def figures(monkeypatch):
    """The list of the figures that are saved."""
    saved, save = [], plots._save
    monkeypatch.setattr(plots, "_save", lambda figure, path: (saved.append(figure), save(figure, path)))
    return saved


def texts(figure):
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text)]


def size(path):
    """(width, height) of a PNG file."""
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n") and content.endswith(b"IEND\xaeB\x60\x82")
    return struct.unpack(">II", content[16:24])


# Runs -------------------------------------------------------------------------------------------


def test_run_has_both_pictures_and_the_same_when_drawn_again(run_folder):
    names = plots.draw(run_folder)
    assert names == [str(run_folder / "curves.png"), str(run_folder / "tasks.png")]
    assert size(run_folder / "curves.png") == (960, 720)
    width, height = size(run_folder / "tasks.png")
    assert width == 960 and 700 < height < 1200
    first = [open(name, "rb").read() for name in names]
    assert all(10_000 < len(content) < 200_000 for content in first)
    assert plots.draw(str(run_folder)) == names
    assert [open(name, "rb").read() for name in names] == first
    assert sorted(os.listdir(run_folder)) == ["curves.png", "history.csv", "scores.csv", "tasks.png"]


def test_curves_show_each_loss_and_the_accuracies_of_reports(run_folder, figures):
    plots.curves(run_folder / "history.csv", run_folder / "curves.png")
    loss_axes, accuracy_axes = figures[0].axes
    (loss,) = loss_axes.lines
    np.testing.assert_allclose(loss.get_ydata(), [2000 / epoch for epoch in range(1, 201)], atol=1e-4)
    by_task, (training, validation) = accuracy_axes.lines[:-2], accuracy_axes.lines[-2:]
    assert training.get_xdata().tolist() == list(range(20, 201, 20))
    np.testing.assert_allclose(training.get_ydata(), np.linspace(52, 70, 10))
    np.testing.assert_allclose(validation.get_ydata(), np.linspace(42, 60, 10))
    np.testing.assert_allclose([line.get_ydata()[-1] for line in by_task], [80, 100])
    assert {"loss 10", "training 70.00 %", "validation 60.00 %"} <= set(texts(figures[0]))
    assert training.get_linestyle() != validation.get_linestyle()  # apart without colours too


def test_tasks_show_the_scores_beside_published_ones(run_folder, figures):
    plots.tasks(run_folder / "scores.csv", run_folder / "tasks.png")
    axes = figures[0].axes[0]
    np.testing.assert_allclose([bar.get_width() for bar in axes.patches], [100 - task for task in TASKS])
    memn2n, original = (line.get_xdata() for line in axes.lines[:2])
    assert (memn2n[2], original[2]) == pytest.approx((76.6, 66))  # of task 3
    assert 100 - np.mean(memn2n) == pytest.approx(12.4, abs=0.05) and 100 - np.mean(original) == pytest.approx(20.45)
    assert "Mean error 10.50 %, failed tasks: 15 of 20" in texts(figures[0])
    assert "three supporting facts   3" in texts(figures[0])
    assert plots.NOT_BABI not in texts(figures[0])


def test_simulated_scores_are_marked(run_folder, figures):
    (run_folder / "scores.csv").write_bytes(SCORES.replace(b"\n7,", b"\n7 (simulated),"))
    plots.draw(run_folder)
    assert len(figures) == 2 and all(plots.NOT_BABI in texts(figure) for figure in figures)


def test_curves_of_an_unfinished_run_are_marked_by_its_flags(run_folder, figures):
    (run_folder / "scores.csv").unlink()
    assert plots.draw(run_folder) == [str(run_folder / "curves.png")]
    assert plots.NOT_BABI not in texts(figures[0])
    (run_folder / "params.csv").write_text("seed=1\nsimulated=True\n")
    plots.draw(run_folder)
    assert plots.NOT_BABI in texts(figures[1])


def test_curves_mark_the_end_of_the_linear_start(run_folder, figures):
    for linear_start in (30, 0, 200):
        (run_folder / "params.csv").write_text(f"linear_start={linear_start}\n")
        plots.draw(run_folder)
    marked, *unmarked = [figure for figure in figures if len(figure.axes) == 2]
    assert "end of the linear start" in texts(marked)
    for axes in marked.axes:
        assert any(np.array_equal(line.get_xdata(), [30, 30]) for line in axes.lines)
    assert not any("end of the linear start" in texts(figure) for figure in unmarked)


def test_pictures_of_several_seeds_are_those_of_the_chosen_one(run_folder):
    (run_folder / "history_seed3.csv").write_bytes(HISTORY)
    assert [os.path.basename(name) for name in plots.draw(run_folder)] == ["curves.png", "tasks.png"]


@pytest.mark.parametrize("epochs", [1, 2, 1000])
@pytest.mark.parametrize("interval", [1, 5])
def test_curves_of_any_length(tmp_path, epochs, interval, figures):
    rows = [
        [epoch, 1.5, *([1.0] * 6 if epoch % interval == 0 or epoch == 1000 else [""] * 6), 0.01, 0.5]
        for epoch in range(1, epochs + 1)
    ]
    (tmp_path / "history.csv").write_bytes(scores.csv_bytes(rows, COLUMNS))
    plots.curves(tmp_path / "history.csv", tmp_path / "curves.png")
    assert size(tmp_path / "curves.png") == (960, 720)
    assert len(figures[0].axes[0].lines[0].get_xdata()) == epochs
    assert ("no report yet" in texts(figures[0])) == (epochs < interval)


# Attention --------------------------------------------------------------------------------------


def test_attention_is_a_row_per_statement_and_a_column_per_hop(tmp_path, figures, recwarn):
    weights, empty = np.array([[0.5, 0.25], [0.125, 0.75], [0, 0]]), np.array([0.375, 0])
    statements = [r"Mary paid $\frac{ and 5$.", "x" * 500, "a\ttab and 東京"]
    plots.attention(tmp_path / "attention.png", statements, weights, empty, "Where is Mary? " * 20)
    axes = figures[0].axes[0]
    np.testing.assert_array_equal(axes.images[0].get_array(), [*weights, empty])
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == [statements[0], "x" * 57 + "...", "a tab and 東京", "(empty slots)"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["hop 1", "hop 2"]
    assert {"0.50", "0.75", "0.38"} <= set(texts(figures[0]))
    width, height = size(tmp_path / "attention.png")
    assert width < 1000 and height < 1000 and not list(recwarn)


@pytest.mark.parametrize("name", ["a.jpg", os.path.join("nowhere", "a.png"), "folder.png"])
def test_a_name_that_no_picture_can_have_is_refused(tmp_path, name):
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(InputError, match="ends in .png, in a folder that exists; change --save_attention"):
        plots.check_picture(str(tmp_path / name), "--save_attention")
    plots.check_picture(str(tmp_path / "a.png"), "--save_attention")


# Files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["a folder stands there", "disk full", "no folder"])
def test_a_picture_that_cannot_be_written_is_one_sentence(run_folder, monkeypatch, fault):
    png = run_folder / "curves.png"
    if fault == "a folder stands there":
        png.mkdir()
    elif fault == "no folder":
        png = run_folder / "gone" / "curves.png"
    else:
        png.write_bytes(b"an earlier picture")

        def fail(*paths):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(files.os, "replace", fail)
    before = sorted(os.listdir(run_folder))
    with pytest.raises(InputError, match=r"curves.png: not saved: [A-Z].*\.$"):
        plots.curves(run_folder / "history.csv", png)
    assert sorted(os.listdir(run_folder)) == before
    if fault == "disk full":
        assert png.read_bytes() == b"an earlier picture"


def test_bad_files_draw_nothing(run_folder):
    (run_folder / "scores.csv").write_bytes(SCORES.replace(b"\n3,", b"\n33,"))
    with pytest.raises(InputError, match="scores.csv: expected rows of Task,Testing Accuracy"):
        plots.draw(run_folder)
    assert sorted(os.listdir(run_folder)) == ["history.csv", "scores.csv"]


# The command ------------------------------------------------------------------------------------


def command(*arguments):
    done = subprocess.run([sys.executable, plots.__file__, *map(str, arguments)], capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def test_command(run_folder):
    assert command(run_folder) == (0, f"{run_folder}/curves.png\n{run_folder}/tasks.png\n", "")
    status, output, errors = command(run_folder / "none")
    assert (status, output) == (2, "") and errors.startswith("plots.py: ") and errors.count("\n") == 1
    assert command("-h")[0] == 0 and command()[0] == 2

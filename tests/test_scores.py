"""scores.py: score files and histories, what is read back from them, failed tasks, summaries."""

import csv
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import files
import scores
from flags import TASKS, InputError

HEADER = b"Task,Testing Accuracy,Training Accuracy,Validation Accuracy"
ACCURACIES = [(task, 1 - task / 100, 1.0, 0.9) for task in TASKS]

# Pieces of score files, whole or broken, and any other bytes.
contents = st.one_of(
    st.binary(max_size=200),
    st.lists(st.sampled_from([HEADER, b"1,0.5000,0.5000,0.5000", b"2,0.5", b"\n", b"\r\n", b"\xff"])).map(b"".join),
)
cases = settings(derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))


# Failed tasks -----------------------------------------------------------------------------------


def test_a_task_fails_with_an_error_above_five_percent():
    assert not scores.is_failed(0.95) and not scores.is_failed(1 - 0.05) and not scores.is_failed(1.0)
    assert scores.is_failed(0.9499) and scores.is_failed(0.0)
    assert not scores.is_failed(0.94996)  # 0.9500 in a score file
    assert scores.count_failed([0.95, 0.949, 1.0, 0.3]) == 2
    assert scores.is_failed(np.array([0.95, 0.9])).tolist() == [False, True]


# Summaries --------------------------------------------------------------------------------------


def test_summary_names_tasks_and_marks_failed_ones_in_80_columns():
    lines = scores.summary(ACCURACIES).splitlines()
    assert lines[5].split() == "5 three arg relations 0.9500 1.0000 0.9000".split()
    assert lines[6].split() == "6 yes no questions 0.9400 1.0000 0.9000 failed".split()
    assert lines[-1] == "mean test error 10.50 %, failed tasks (error above 5 %): 15 of 20"
    assert sum(line.endswith("  failed") for line in lines) == 15
    assert len(lines) == 22 and max(map(len, lines)) <= 80


def test_summary_of_one_task():
    assert scores.summary([(7, 0.5, 0.75, 1.0)]).splitlines() == [
        "task             test  training  validation",
        "   7 counting  0.5000    0.7500      1.0000  failed",
        "mean test error 50.00 %, failed tasks (error above 5 %): 1 of 1",
    ]


def test_summary_of_restarts_fits_in_80_columns():
    text = scores.restarts_summary([10.0, 12.0, 11.0])
    assert text == "mean test error of 3 seeds: 11.00 ± 1.00 %\n  10.00 12.00 11.00"
    assert max(map(len, scores.restarts_summary([10.0] * 50).splitlines())) <= 80


# Score files ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "cell"),
    [
        ({}, "3"),
        ({"simulated": True}, "3 (simulated)"),
        ({"seed": 0}, "3 (seed 0)"),
        ({"seed": 12, "chosen": True}, "3 (seed 12 chosen)"),
        ({"simulated": True, "seed": 2**31 - 1, "chosen": True}, "3 (simulated seed 2147483647 chosen)"),
    ],
)
def test_rows_are_read_as_they_were_written(tmp_path, options, cell):
    rows = scores.rows([(3, 0.25, 1.0, 2 / 3)], **options)
    assert rows == [[cell, "0.2500", "1.0000", "0.6667"]]
    defaults = {"simulated": False, "seed": None, "chosen": False}
    (tmp_path / "scores.csv").write_bytes(scores.csv_bytes(rows))
    expected = scores.Score(3, **(defaults | options), test=0.25, training=1.0, validation=0.6667)
    assert scores.read_rows(tmp_path / "scores.csv") == [expected]


def test_of_several_seeds_the_chosen_one_counts_and_of_several_rows_the_last(tmp_path):
    rows = scores.rows(ACCURACIES[:2], simulated=True)
    rows += scores.rows([(2, 0.1, 0, 0)], seed=0) + scores.rows([(2, 0.2, 0, 0)], seed=1, chosen=True)
    rows += scores.rows([(1, 0.7, 0, 0)])
    (tmp_path / "scores.csv").write_bytes(scores.csv_bytes(rows))
    assert scores.read_scores(tmp_path / "scores.csv") == ({1: 0.7, 2: 0.2}, True)


@cases
@given(contents, st.lists(st.sampled_from(ACCURACIES), min_size=1, max_size=4))
def test_rows_stand_whole_after_any_bytes(tmp_path_factory, content, accuracies):
    path = tmp_path_factory.getbasetemp() / "rows.csv"
    path.write_bytes(content)
    rows = scores.rows(accuracies)
    for _ in range(2):
        files.append(path, scores.csv_bytes(rows, ()), scores.csv_bytes([]))
    result = path.read_bytes()
    assert result.startswith(content) and result.endswith(b"\n")
    addition = result[len(content) :].decode()
    assert addition.startswith("\n") == bool(content and not content.endswith(b"\n"))
    header = [] if content else [list(scores.COLUMNS)]
    assert list(csv.reader(addition.removeprefix("\n").splitlines())) == header + rows * 2


@cases
@given(contents)
@example(b"")
@example(b"\nsomething else\n")
@example(HEADER)
@example(HEADER + b"\r\n")
@example(HEADER + b"\xff\n")
@example(HEADER + b" too\n")
def test_only_score_files_and_empty_files_are_accepted(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "scores.csv"
    path.write_bytes(content)
    try:
        scores.check_score_file(str(path))
    except InputError as error:
        assert str(error).startswith(f"{path}, line 1: ") and len(str(error).splitlines()) == 1
        assert re.split(b"[\r\n]", content)[0] != HEADER
    else:
        assert content == b"" or re.split(b"[\r\n]", content)[0] == HEADER
    assert path.read_bytes() == content


# Histories --------------------------------------------------------------------------------------


def test_history_has_a_loss_for_each_epoch_and_accuracies_for_each_report(tmp_path):
    columns = scores.history_columns([1, 7])
    by_task = ["training 1", "training 7", "validation 1", "validation 7"]
    assert columns[4:] == [*by_task, "learning rate", "seconds"]
    rows = [[1, "9.5", *[""] * 6, "0.01", "2.5"], [2, "7.25", *["0.5000"] * 6, "0.005", "1.5"]]
    (tmp_path / "history.csv").write_bytes(scores.csv_bytes(rows, columns))
    history = scores.read_history(tmp_path / "history.csv")
    assert list(history) == columns
    np.testing.assert_array_equal(history["epoch"], [1, 2])
    np.testing.assert_array_equal(history["loss"], [9.5, 7.25])
    for name in columns[2:8]:
        np.testing.assert_array_equal(history[name], [np.nan, 0.5])
    np.testing.assert_array_equal(history["learning rate"], [0.01, 0.005])
    np.testing.assert_array_equal(history["seconds"], [2.5, 1.5])
    earlier = scores.csv_bytes([row[:8] for row in rows], columns[:8])  # of a version without the last two columns
    (tmp_path / "history.csv").write_bytes(earlier)
    assert list(scores.read_history(tmp_path / "history.csv")) == columns[:8]


BAD_HISTORY = {
    "empty": b"",
    "score file": scores.csv_bytes(scores.rows(ACCURACIES)),
    "no rows": b"epoch,loss,training,validation\n",
    "cut": b"epoch,loss,training,validation\n20,50.1,0.5,0.5\n40,4",
    "word": b"epoch,loss,training,validation\n20,high,0.5,0.5\n",
    "other bytes": b"\xff\xfe\0\1",
}


@pytest.mark.parametrize("name", BAD_HISTORY)
def test_a_bad_history_is_one_sentence(tmp_path, name):
    path = tmp_path / "history.csv"
    path.write_bytes(BAD_HISTORY[name])
    with pytest.raises(InputError) as error:
        scores.read_history(path)
    expected = "expected rows of epoch,loss,training,validation, found another file or a damaged one."
    assert str(error.value) == f"{path}: {expected}"


@pytest.mark.parametrize("cell", ["0", "21", "x", "", "1 simulated", "1 ()", "1 (chosen)", "9" * 5000])
def test_a_bad_task_is_one_sentence(tmp_path, cell):
    (tmp_path / "scores.csv").write_bytes(scores.csv_bytes([[cell, 1, 1, 1]]))
    with pytest.raises(InputError, match="scores.csv: expected rows of Task,Testing Accuracy"):
        scores.read_rows(tmp_path / "scores.csv")


@settings(derandomize=True, database=None, deadline=None)
@given(
    contents | st.text().map(lambda text: f"epoch,loss,training,validation\n{text}".encode()),
    st.sampled_from([scores.read_scores, scores.read_history, scores.read_params]),
)
def test_any_bytes_are_read_or_one_sentence(tmp_path_factory, content, read):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(content)
    try:
        read(path)
    except InputError as error:
        assert str(error).startswith(str(path)) and len(str(error).splitlines()) == 1


# Published scores and imports -------------------------------------------------------------------


@pytest.mark.parametrize("regime", scores.PUBLISHED_SYSTEMS)
def test_published_systems_have_all_tasks(regime):
    for accuracies in scores.read_published(regime).values():
        assert list(accuracies) == list(TASKS) and all(0 <= accuracy <= 1 for accuracy in accuracies.values())


def test_neither_scores_nor_plots_import_tensorflow_or_matplotlib():
    code = "import sys, plots; print([m for m in ('matplotlib', 'tensorflow', 'keras') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=os.path.dirname(scores.__file__)
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")

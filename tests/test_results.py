"""results.py: rows of runs, what validation chose, tables."""

import csv
import re

import numpy as np
import pytest

import results
from data_utils import InputError
from results import COLUMNS, TASKS

HEADER = "Task,Testing Accuracy,Training Accuracy,Validation Accuracy\n"


def make_run(folder, rows, times="model.keras,10.0\n", **params):
    """A run's folder; rows: lines of its score file."""
    folder.mkdir()
    (folder / "scores.csv").write_text(HEADER + "".join(f"{row}\n" for row in rows))
    (folder / "times.csv").write_text("Model,Seconds\n" + times)
    values = {"command": "joint.py --data_dir '/a b/en' @x.flags --output_file=o.csv", "data_dir": "/a b/en/"} | params
    (folder / "params.csv").write_text("".join(f"{name}={value}\n" for name, value in values.items()))
    return folder


def row(experiment, seed, test, validation, chosen=""):
    """A row of results/runs.csv with the same accuracy for all tasks, or one for each."""
    made = dict.fromkeys(COLUMNS, "") | {"experiment": experiment, "data": "en", "split": "0", "seed": str(seed)}
    made.update(seconds="60", chosen=chosen, command=f"{experiment.split()[0]}.py")
    for split, values in (("test", test), ("training", 1.0), ("validation", validation)):
        for task, value in zip(TASKS, np.broadcast_to(values, 20), strict=True):
            made[f"{split} {task}"] = f"{value:.4f}"
    return made


def test_row_of_a_run(tmp_path):
    folder = make_run(tmp_path / "joint_1795388665_2", ["1,0.9,1.0,0.95", "2,0.5,0.6,0.7"], random_state=7)
    (made,) = results.rows_of(folder, "joint 1k")
    expected = {
        "experiment": "joint 1k",
        "data": "en",
        "seed": "7",
        "date": "2026-11-22",
        "seconds": "10",
        "command": "joint.py @x.flags",  # no word of where things are
        "test 1": "0.9",
        "training 2": "0.6",
        "validation 2": "0.7",
        "test 3": "",
    }
    assert {name: made[name] for name in expected} == expected


def test_rows_of_restarts(tmp_path):
    marks = ["1 (seed 5 chosen)", "1 (seed 6)", "2 (seed 5)", "2 (seed 6 chosen)"]
    times = "".join(f"model_task{t}_seed{s}.keras,{10 * t + s}\n" for t in (1, 2) for s in (5, 6))
    rows = [f"{mark},0.{n}000,1.0,1.0" for n, mark in enumerate(marks)]
    folder = make_run(tmp_path / "single_1795388665", rows, times, random_state=5)
    five, six = results.rows_of(folder, "single 1k", data="mine")
    found = [[made[name] for name in ("data", "seed", "chosen", "test 1", "test 2", "seconds")] for made in (five, six)]
    assert found == [["mine", "5", "1", "0.0000", "0.2000", "40"], ["mine", "6", "2", "0.1000", "0.3000", "42"]]


def test_simulated_runs_are_marked(tmp_path):
    folder = make_run(tmp_path / "joint_1795388665", ["1 (simulated),0.9,1.0,0.95"], random_state=7)
    assert results.rows_of(folder, "joint 1k")[0]["data"] == "en, simulated"


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("scores.csv", None, "No such file"),
        ("scores.csv", "Task,Score\n", "line 1"),
        ("scores.csv", HEADER + "one,1,1,1\n", "line 2"),
        ("scores.csv", HEADER + "1,1\n", "line 2"),
        ("params.csv", None, "params.csv"),
        ("scores.csv", HEADER + "1,abc,1,1\n", "line 2"),
        ("params.csv", "data_dir=en\n", "random_state"),
        ("times.csv", "nothing", "times.csv"),
        ("times.csv", "Model,Seconds\nmodel.keras,soon\n", "line 2"),
    ],
)
def test_foreign_or_damaged_run(tmp_path, name, content, word):
    folder = make_run(tmp_path / "joint_1", ["1,0.9,1.0,0.95"], random_state=7)
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)
    with pytest.raises(InputError, match=word):
        results.rows_of(folder, "joint 1k")


def test_one_model_for_all_tasks_is_chosen_as_a_whole():
    rows = [row("joint 1k", 0, 0.9, 0.7), row("joint 1k", 1, 0.8, 0.75), row("joint 1k", 2, 0.95, 0.6)]
    np.testing.assert_allclose(results.choose(rows), np.full(20, 20.0))


def test_models_of_one_task_are_chosen_task_by_task():
    one, other = " ".join(map(str, range(1, 11))), " ".join(map(str, range(11, 21)))
    rows = [row("single 1k", 0, 0.9, 0.7, chosen=one), row("single 1k", 1, 0.8, 0.75, chosen=other)]
    np.testing.assert_allclose(results.choose(rows), [10.0] * 10 + [20.0] * 10)


def test_models_of_one_task_from_several_runs_are_chosen_task_by_task():
    better = np.where(np.arange(20) < 10, 0.9, 0.5)
    rows = [row("single 1k", 0, 0.9, better), row("single 1k", 1, 0.8, 0.7)]
    np.testing.assert_allclose(results.choose(rows), [10.0] * 10 + [20.0] * 10)


def test_an_error_of_five_percent_is_no_failure():
    assert results.failed(results.choose([row("joint 1k", 0, 0.95, 0.95)])) == 0
    assert results.failed(results.choose([row("joint 1k", 0, 0.949, 0.95)])) == 20


def test_worth_compares_the_same_seeds():
    rows = [row("joint 1k", seed, 0.9, 0.8 + seed / 100) for seed in range(4)]
    rows += [row("joint 1k: no gates", seed, 0.7, 0.75 + seed / 100) for seed in (1, 2)]
    found = {}
    for made in rows:
        found.setdefault(made["experiment"], []).append(made)
    table = results.worth_table(found, "joint 1k")
    assert "| no gates | 2 | 18.50 | 23.50 | +5.00 ± 0.00 | 30.00 |" in table
    for made in found["joint 1k: no gates"]:
        made["split"] = "1"  # other validation questions
    with pytest.raises(InputError, match="no gates"):
        results.worth_table(found, "joint 1k")


def test_tables_go_where_the_file_asks_for_them(tmp_path):
    path = tmp_path / "README.md"
    path.write_text("before\n<!-- results: a -->\nold\n<!-- end -->\nafter\n")
    for _ in range(2):  # again changes nothing
        results.update(path, {"a": "| new |"})
        assert path.read_text() == "before\n<!-- results: a -->\n\n| new |\n\n<!-- end -->\nafter\n"
    with pytest.raises(InputError, match="'a'"):
        results.update(path, {"b": ""})


def test_command_appends_rows_and_prints_tables(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(results, "RUNS", str(tmp_path / "results" / "runs.csv"))
    lines = [f"{task},0.9000,1.0000,0.9500" for task in TASKS]
    for seed in (3, 4):
        folder = make_run(tmp_path / f"joint_179538866{seed}", lines, random_state=seed)
        results.main([str(folder), "--experiment", "joint 1k"])
    with open(results.RUNS, newline="") as file:
        assert [made["seed"] for made in csv.DictReader(file)] == ["3", "4"]
    with pytest.raises(SystemExit):
        results.main([str(folder), "--experiment", "joint 1k"])  # it is there already
    with open(results.RUNS, newline="") as file:
        assert len(list(csv.DictReader(file))) == 2
    capsys.readouterr()
    results.main([])
    out = capsys.readouterr().out
    assert "| joint 1k | en | 2 | 10.00 ± 0.00 | 10.00 | 20 | 10 s |" in out
    assert "Universal Transformer" in out  # beside what is published
    with pytest.raises(SystemExit) as ended:
        results.main([str(tmp_path)])
    assert ended.value.code == 2 and "--experiment" in capsys.readouterr().err


def test_the_readme_has_the_tables_of_the_results():
    made = results.tables(results.experiments())
    with open(results.README, encoding="utf-8") as file:
        text = file.read()
    wanted = re.findall(r"<!-- results: (.+?) -->", text)
    assert {"summary", "joint 1k", "single 1k"} <= set(wanted)
    for name in wanted:
        assert f"<!-- results: {name} -->\n\n{made[name]}\n\n<!-- end -->" in text

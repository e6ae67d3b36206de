"""tools/results.py: rows of runs, runs that do not belong to an experiment, chosen models, tables."""

import csv
import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

TOOLS = Path(__file__).resolve().parent.parent / "tools"
sys.path.insert(0, str(TOOLS))

import experiment  # noqa: E402
import results  # noqa: E402 (found in tools/)
from flags import TASKS, InputError  # noqa: E402
from results import COLUMNS  # noqa: E402

HEADER = "Task,Testing Accuracy,Training Accuracy,Validation Accuracy\n"
FULL_SCORES = [f"{task},0.9000,1.0000,0.9500" for task in TASKS]


def make_run(folder, rows, times="model.keras,10.0\n", **params):
    """Makes the folder of a run; `rows` are lines of its score file, `params` replace flags of joint.py."""
    folder.mkdir()
    (folder / "scores.csv").write_text(HEADER + "".join(f"{row}\n" for row in rows))
    (folder / "times.csv").write_text("Model,Seconds\n" + times)
    values = {"command": "joint.py --data_dir '/a b/en' @x.flags --output_file=o.csv", "data_dir": "/a b/en/"}
    values |= {"epochs": 100, "hops": 3} | params
    (folder / "params.csv").write_text("".join(f"{name}={value}\n" for name, value in values.items()))
    return folder


def make_row(experiment, seed, test, validation, chosen=""):
    """A row of results/runs.csv; accuracies are numbers, or arrays with one number per task."""
    row = dict.fromkeys(COLUMNS, "") | {"experiment": experiment, "data": "en", "split": "0", "seed": str(seed)}
    row.update(seconds="60", chosen=chosen, command=f"{experiment.split()[0]}.py")
    for split, values in (("test", test), ("training", 1.0), ("validation", validation)):
        for task, value in zip(TASKS, np.broadcast_to(values, 20), strict=True):
            row[f"{split} {task}"] = f"{value:.4f}"
    return row


@pytest.fixture
def runs_file(tmp_path, monkeypatch):
    """A runs.csv of its own, in place of the project's."""
    path = tmp_path / "results" / "runs.csv"
    monkeypatch.setattr(results, "RUNS", str(path))
    return path


@pytest.fixture
def experiment_flags(monkeypatch):
    """A function from a script's name and arguments to the flags that experiment.py records, as they are read back."""
    monkeypatch.chdir(TOOLS.parent)

    def recorded(script, arguments):
        module = importlib.import_module(script.removesuffix(".py"))
        parser = module.flag_parser()
        parser.prog = script
        values = experiment.params(parser.parse_args(arguments), [])
        return {name: str(value) for name, value in values.items()}

    return recorded


# Rows of runs -----------------------------------------------------------------------------------


def test_row_of_a_run(tmp_path):
    folder = make_run(tmp_path / "joint_1795388665_2", ["1,0.9,1.0,0.95", "2,0.5,0.6,0.7"], random_state=7, workers=2)
    (row,) = results.rows_of(folder, "joint 1k")
    expected = {
        "experiment": "joint 1k",
        "data": "en",
        "seed": "7",
        "date": "2026-11-22",
        "seconds": "10",
        "command": "joint.py @x.flags",  # without the paths of a machine
        "flags": "epochs=100 hops=3 script=joint.py",
        "test 1": "0.9000",
        "training 2": "0.6000",
        "validation 2": "0.7000",
        "test 3": "",
    }
    assert {name: row[name] for name in expected} == expected


def test_rows_of_restarts(tmp_path):
    cells = ["1 (seed 5 chosen)", "1 (seed 6)", "2 (seed 5)", "2 (seed 6 chosen)"]
    times = "".join(f"model_task{t}_seed{s}.keras,{10 * t + s}\n" for t in (1, 2) for s in (5, 6))
    rows = [f"{cell},0.{n}000,1.0,1.0" for n, cell in enumerate(cells)]
    folder = make_run(tmp_path / "single_1795388665", rows, times, random_state=5)
    five, six = results.rows_of(folder, "single 1k", data="mine")
    columns = ("data", "seed", "chosen", "test 1", "test 2", "seconds")
    assert [five[name] for name in columns] == ["mine", "5", "1", "0.0000", "0.2000", "40"]
    assert [six[name] for name in columns] == ["mine", "6", "2", "0.1000", "0.3000", "42"]


def test_simulated_runs_are_marked(tmp_path):
    folder = make_run(tmp_path / "joint_1795388665", ["1 (simulated),0.9,1.0,0.95"], random_state=7)
    assert results.rows_of(folder, "joint 1k")[0]["data"] == "en, simulated"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("scores.csv", None, "scores.csv: cannot be read: No such file"),
        ("scores.csv", "Task,Score\n", "scores.csv: expected rows of Task,Testing Accuracy"),
        ("scores.csv", HEADER + "one,1,1,1\n", "damaged"),
        ("scores.csv", HEADER + "1,1\n", "damaged"),
        ("params.csv", None, "params.csv"),
        ("scores.csv", HEADER + "1,abc,1,1\n", "damaged"),
        ("params.csv", "data_dir=en\n", "random_state"),
        ("times.csv", "nothing", "times.csv"),
        ("times.csv", "Model,Seconds\nmodel.keras,soon\n", "times.csv: expected rows of Model,Seconds"),
    ],
)
def test_missing_or_damaged_files_of_a_run(tmp_path, name, content, words):
    folder = make_run(tmp_path / "joint_1", ["1,0.9,1.0,0.95"], random_state=7)
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)
    with pytest.raises(InputError, match=words):
        results.rows_of(folder, "joint 1k")


# Runs that do not belong to an experiment -------------------------------------------------------


def test_runs_with_other_data_or_flags_are_refused(tmp_path, runs_file):
    results.add([make_run(tmp_path / "joint_1", FULL_SCORES, random_state=0)], "joint 1k", None)
    before = runs_file.read_bytes()
    simulated = [row.replace(",", " (simulated),", 1) for row in FULL_SCORES]
    others = {
        "data en, simulated (not en)": make_run(tmp_path / "joint_2", simulated, random_state=1, simulated=True),
        "data en-10k (not en)": make_run(tmp_path / "joint_3", FULL_SCORES, random_state=1, data_dir="/data/en-10k"),
        "--epochs 34 (not 100)": make_run(tmp_path / "joint_4", FULL_SCORES, random_state=1, epochs=34),
        "--epochs 10 (not 100), --hops 1 (not 3)": make_run(
            tmp_path / "joint_5", FULL_SCORES, random_state=1, epochs=10, hops=1
        ),
        "script single.py (not joint.py)": make_run(
            tmp_path / "single_6", FULL_SCORES, random_state=1, command="single.py"
        ),
    }
    free = {"random_state": 1, "workers": 8, "log_dir": "elsewhere", "command": "joint.py"}
    same = make_run(tmp_path / "joint_7", FULL_SCORES, **free)
    for description, folder in others.items():
        with pytest.raises(InputError) as error:
            results.add([same, folder], "joint 1k", None)
        assert str(error.value) == (
            f"{folder}: differs from the other rows of 'joint 1k': {description}; nothing is added."
        )
        assert runs_file.read_bytes() == before
    results.add([same], "joint 1k", None)
    assert runs_file.read_bytes().startswith(before) and len(results.experiments()["joint 1k"]) == 2


def test_a_flag_that_is_younger_than_the_rows_had_its_default(tmp_path, runs_file):
    results.add([make_run(tmp_path / "joint_1", FULL_SCORES, random_state=0)], "joint 1k", None)
    results.add([make_run(tmp_path / "joint_2", FULL_SCORES, random_state=1, gates=0)], "joint 1k", None)
    with pytest.raises(InputError, match=r"--gates 2 \(not 0\); nothing"):
        results.add([make_run(tmp_path / "joint_3", FULL_SCORES, random_state=2, gates=2)], "joint 1k", None)


def test_runs_that_differ_from_each_other_are_refused(tmp_path, runs_file):
    folders = [make_run(tmp_path / f"joint_{n}", FULL_SCORES, random_state=n, epochs=n) for n in (1, 2)]
    with pytest.raises(InputError, match=r"joint_2: .*--epochs 2 \(not 1\)"):
        results.add(folders, "joint 1k", None)
    assert not runs_file.exists()


def test_an_experiment_without_recorded_flags_takes_no_rows(tmp_path, runs_file):
    runs_file.parent.mkdir()
    row = make_row("joint 1k", 0, 0.9, 0.9)
    runs_file.write_bytes(results.scores.csv_bytes([row.values()], COLUMNS))
    with pytest.raises(InputError, match="flags of 'joint 1k' are not recorded"):
        results.add([make_run(tmp_path / "joint_1", FULL_SCORES, random_state=1)], "joint 1k", None)


def test_a_short_run_on_simulated_stories_is_refused_by_the_rows_of_the_project(tmp_path, monkeypatch):
    """A ten-epoch run with default flags on simulated stories is offered as `joint 1k`; so is one with fewer epochs."""
    runs = tmp_path / "runs.csv"
    runs.write_bytes(Path(results.RUNS).read_bytes())
    monkeypatch.setattr(results, "RUNS", str(runs))
    recorded = results.experiments()["joint 1k"][0]["flags"]
    flags = dict(word.split("=", 1) for word in shlex.split(recorded))
    del flags["script"]
    simulated = [row.replace(",", " (simulated),", 1) for row in FULL_SCORES]
    changed = flags | {"epochs": "10", "gates": "0", "optimizer": "adam", "epsilon": "0.1", "random_state": "99"}
    folder = make_run(tmp_path / "joint_1", simulated, **changed | {"data_dir": "/data/simulated"})
    with pytest.raises(InputError, match=r"data simulated, simulated \(not en\), --epochs 10 \(not 100\)"):
        results.add([folder], "joint 1k", None)
    folder = make_run(tmp_path / "joint_2", FULL_SCORES, **flags | {"epochs": "34", "random_state": "99"})
    with pytest.raises(InputError, match=r"'joint 1k': --epochs 34 \(not 100\); nothing is added"):
        results.add([folder], "joint 1k", None)
    assert runs.read_bytes() == Path(results.__file__).parent.parent.joinpath("results", "runs.csv").read_bytes()
    results.add([make_run(tmp_path / "joint_3", FULL_SCORES, **flags | {"random_state": "99"})], "joint 1k", None)


@pytest.mark.parametrize("experiment", ["joint 1k", "joint 1k, GRU", "joint 10k", "single 1k", "single 10k"])
def test_another_seed_of_a_recipe_belongs_to_its_experiment(experiment_flags, experiment):
    row = results.experiments()[experiment][0]
    script, recipe, *_ = shlex.split(row["command"])
    params = experiment_flags(script, [recipe, "--random_state", "99"])
    assert results.differences(row | {"flags": results.flags_cell(params)}, row) == []


# Chosen models ----------------------------------------------------------------------------------


def test_one_model_for_all_tasks_is_chosen_as_a_whole():
    rows = [make_row("joint 1k", 0, 0.9, 0.7), make_row("joint 1k", 1, 0.8, 0.75), make_row("joint 1k", 2, 0.95, 0.6)]
    np.testing.assert_allclose(results.choose(rows), np.full(20, 20.0))


def test_models_of_one_task_are_chosen_task_by_task():
    first, last = " ".join(map(str, range(1, 11))), " ".join(map(str, range(11, 21)))
    rows = [make_row("single 1k", 0, 0.9, 0.7, chosen=first), make_row("single 1k", 1, 0.8, 0.75, chosen=last)]
    np.testing.assert_allclose(results.choose(rows), [10.0] * 10 + [20.0] * 10)


def test_models_of_one_task_from_several_runs_are_chosen_task_by_task():
    validation = np.where(np.arange(20) < 10, 0.9, 0.5)
    rows = [make_row("single 1k", 0, 0.9, validation), make_row("single 1k", 1, 0.8, 0.7)]
    np.testing.assert_allclose(results.choose(rows), [10.0] * 10 + [20.0] * 10)


def test_an_error_of_five_percent_has_not_failed():
    assert results.count_failed(results.choose([make_row("joint 1k", 0, 0.95, 0.95)])) == 0
    assert results.count_failed(results.choose([make_row("joint 1k", 0, 0.949, 0.95)])) == 20


# Tables -----------------------------------------------------------------------------------------


def test_worth_compares_the_same_seeds():
    base = [make_row("joint 1k", seed, 0.9, 0.8 + seed / 100) for seed in range(4)]
    changed = [make_row("joint 1k: no gates", seed, 0.7, 0.75 + seed / 100) for seed in (1, 2)]
    by_name = {"joint 1k": base, "joint 1k: no gates": changed}
    table = results.worth_table(by_name, "joint 1k")
    assert "| no gates | 2 | 18.50 | 23.50 | +5.00 ± 0.00 | 30.00 |" in table
    for row in changed:
        row["split"] = "1"  # other validation questions
    with pytest.raises(InputError, match="no gates"):
        results.worth_table(by_name, "joint 1k")


def test_tables_replace_those_of_a_file(tmp_path):
    path = tmp_path / "README.md"
    path.write_text("before\n<!-- results: a -->\nold\n<!-- end -->\nafter\n")
    for _ in range(2):  # the second time changes nothing
        results.update(path, {"a": "| new |"})
        assert path.read_text() == "before\n<!-- results: a -->\n\n| new |\n\n<!-- end -->\nafter\n"
    with pytest.raises(InputError, match="'a'"):
        results.update(path, {"b": ""})


@pytest.mark.parametrize("path", results.PAGES, ids=os.path.basename)
def test_pages_have_the_tables_of_the_results(path):
    tables = results.tables(results.experiments())
    text = Path(path).read_text(encoding="utf-8")
    names = re.findall(r"<!-- results: (.+?) -->", text)
    assert "summary" in names
    for name in names:
        assert f"<!-- results: {name} -->\n\n{tables[name]}\n\n<!-- end -->" in text


# The command ------------------------------------------------------------------------------------


def test_command_adds_rows_and_prints_tables(tmp_path, runs_file, capsys):
    for seed in (3, 4):
        folder = make_run(tmp_path / f"joint_179538866{seed}", FULL_SCORES, random_state=seed)
        results.main([str(folder), "--experiment", "joint 1k"])
    with open(runs_file, newline="") as file:
        assert [row["seed"] for row in csv.DictReader(file)] == ["3", "4"]
    with pytest.raises(InputError, match="has a row of split 4 and seed 4 already; nothing is added"):
        results.main([str(folder), "--experiment", "joint 1k"])
    with open(runs_file, newline="") as file:
        assert len(list(csv.DictReader(file))) == 2
    capsys.readouterr()
    results.main([])
    out = capsys.readouterr().out
    assert "| joint 1k | en | 2 | 10.00 ± 0.00 | 10.00 | 20 | 10 s |" in out
    assert "Universal Transformer" in out  # beside published systems
    with pytest.raises(InputError, match="add --experiment"):
        results.main([str(tmp_path)])


def test_command_needs_no_tensorflow_and_ends_in_one_sentence(tmp_path):
    script = str(TOOLS / "results.py")
    command = [sys.executable, "-X", "importtime", script, "-h"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and not re.search(r"tensorflow|keras|matplotlib", done.stderr)
    done = subprocess.run([sys.executable, script, "none"], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        2, "results.py: added rows need the name of their experiment; add --experiment.\n",
    )  # fmt: skip

"""compare.py: the list of runs, differing flags, errors over seeds, paired differences, pictures, damaged runs."""

import csv
import json
import os
import re

import numpy as np
import pytest
from helpers import refusal, run

import checkpoint
import compare
import plots
import scores

pytest.importorskip("pandas", reason="compare.py needs pandas: pip install -r requirements-desk.txt")

FIRST, SECOND = ("joint_1", [0.9, 0.8, 0.94996]), ("joint_2", [0.91, 0.83, 0.92])  # test accuracies by seed
VALIDATION_LOSS = {0: 0.3, 1: 0.2, 2: 0.25}  # by seed; validation accuracy is the same for all


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def figures(monkeypatch):
    """The list of the figures that are saved."""
    saved = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: saved.append(figure))
    return saved


def write_run(name, by_seed, groups=((1, 2),), finished=True, log_dir="logs", digest="a", **settings):
    """Writes the folder of a run.

    Args:
        name: of the folder.
        by_seed: test accuracies in task 1 of each seed; those in other tasks are 1.
        groups: the tasks of each model.
        finished, log_dir: of the run.
        digest: of its data.
        **settings: its flags.
    """
    script = name.partition("_")[0]
    tasks = [task for group in groups for task in group]
    flags = {"random_state": 0, "restarts": len(by_seed), "data_dir": "/data", "memory_size": 50, "epochs": 9}
    flags |= {"task_id": tasks, "command": f"{script}.py --hops 3", "given": ["hops"]} | settings
    flags = {key: value for key, value in flags.items() if value is not None}
    record = {"flags": flags, "params": {**flags, "task_id": str(tasks)}, "digests": [digest] * len(groups)}
    the_run = checkpoint.Run.create(log_dir, script)
    the_run.record |= record
    for seed, test in enumerate(by_seed, flags["random_state"]):
        for group in groups:
            suffix = f"_task{group[0]}" * (len(group) == 1) + f"_seed{seed}" * (len(by_seed) > 1)
            rows = [[task, test if task == tasks[0] else 1.0, 1.0, 0.75] for task in group]
            outcome = dict(seed=seed, rows=rows, validation_loss=VALIDATION_LOSS.get(seed, 1.0), seconds=10.0 + seed)
            the_run.record["outcomes"][suffix] = outcome
            reports = [[epoch, 5 / epoch, 0.9, 0.7, *[0.5] * len(group), *[(epoch + seed) / 10] * len(group), 0.01, 2.5]
                       for epoch in (3, 6)]  # fmt: skip
            lines = [[1, 9.0, *[""] * (2 + 2 * len(group)), 0.01, 2.5], *reports]
            content = scores.csv_bytes(lines, scores.history_columns(group))
            with open(the_run.path(f"history{suffix}.csv"), "wb") as file:
                file.write(content)
    the_run.record["finished"] = finished
    the_run.save()
    the_run.close()
    os.rename(the_run.folder, f"{log_dir}/{name}")
    return f"{log_dir}/{name}"


def edit(folder, change):
    """Changes the record of a run by a function that is called with it."""
    record = checkpoint.read_record(folder)
    change(record)
    with open(f"{folder}/run.json", "w") as file:
        json.dump(record, file)


def two_runs(**settings):
    """The folders of two runs of three seeds each."""
    return f"{write_run(*FIRST)} {write_run(*SECOND, **settings)}"


def output(capsys, arguments):
    """What compare.py prints."""
    run(compare, arguments)
    out, err = capsys.readouterr()
    return out, err


def as_csv(capsys, arguments):
    """The rows that compare.py prints as CSV."""
    return list(csv.DictReader(output(capsys, f"{arguments} --csv")[0].splitlines()))


# --- comparison -----------------------------------------------------------------------------------------


def test_runs_beside_each_other(capsys):
    out, _ = output(capsys, two_runs(learning_rate=0.1, log_dir="logs", workers=2))
    flags, errors, differences, tasks = out.strip().split("\n\n")
    assert flags.splitlines()[0] == "Flags that differ" and flags.count("\n") == 2
    assert flags.splitlines()[2].split() == ["learning_rate", "0.1"]
    test = np.array([50 * (1 - np.array(by_seed)) for _, by_seed in (FIRST, SECOND)])  # task 2 has none
    for line, name, own in zip(errors.splitlines()[2:], ("joint_1", "joint_2"), test, strict=True):
        spread = f"{own.mean():.2f} ± {own.std(ddof=1):.2f}"
        assert " ".join(line.split()) == f"{name} 3 25.00 ± 0.00 {spread} {own[1]:.2f} 1 11"  # seed 1 is chosen
    pairs = test[1] - test[0]
    spread = f"{pairs.mean():+.2f} ± {pairs.std(ddof=1) / 3**0.5:.2f}"
    assert " ".join(differences.splitlines()[2].split()) == f"joint_2 3 +0.00 ± 0.00 {spread}"
    assert " ".join(tasks.splitlines()[3].split()) == "2 0.00 ± 0.00 0.00 ± 0.00"
    assert max(map(len, out.splitlines())) <= 80


def test_failed_tasks_follow_the_rule_of_score_files(capsys):
    first, second = write_run("joint_1", [0.94996]), write_run("joint_2", [0.94994])
    assert [float(row["failed"]) for row in as_csv(capsys, f"{first} {second}")] == [0, 1]


@pytest.mark.parametrize(
    "settings, pairs, reason",
    [
        ({}, 3, ""),
        ({"digest": "b", "memory_size": 20}, 3, ""),  # the same questions, encoded in another way
        ({"digest": "b"}, 0, "the data have changed"),
        ({"digest": "b", "data_dir": "/other"}, 0, "another --data_dir"),
        ({"digest": "b", "random_state": 1}, 0, "another --random_state"),
        ({"random_state": 2}, 1, ""),  # a validation file of its own: the split does not depend on the seed
        ({"random_state": 7}, 0, "no seed in common"),
    ],
)
def test_only_seeds_on_the_same_data_and_split_are_paired(capsys, settings, pairs, reason):
    _, row = as_csv(capsys, two_runs(**settings))
    assert (float(row["pairs"]), row["unpaired"]) == (pairs, reason)
    assert (row["test difference"] == "") == (pairs == 0) and (row["test standard error"] == "") == (pairs < 2)


def test_a_seed_counts_when_all_its_models_are_finished(capsys):
    whole = write_run("single_1", [0.8, 0.6], groups=((1,), (2,)))
    partial = write_run("single_2", [0.8, 0.6], groups=((1,), (2,)), finished=False)
    edit(partial, lambda record: record["outcomes"].pop("_task2_seed1"))
    one, two = as_csv(capsys, f"{whole} {partial}")
    assert (one["seeds"], float(one["test error"]), float(one["seconds"])) == ("2", 15, 21)
    assert (two["seeds"], float(two["test error"]), two["test deviation"]) == ("1", 10, "")
    assert two["state"] == "stopped, 3 of 4 models" and float(two["pairs"]) == 1
    begun = write_run("joint_1", [], finished=False, restarts=1)
    out, _ = output(capsys, f"{whole} {begun}")
    assert "no seed in common" in out


def test_runs_on_different_tasks_are_compared_on_those_they_share(capsys):
    wide = write_run("joint_1", [0.8], groups=((1, 2, 3),))
    narrow, other = write_run("joint_2", [0.8], groups=((1,),)), write_run("joint_3", [0.8], groups=((4,),))
    out, _ = output(capsys, f"{wide} {narrow}")
    assert "; only of tasks 1\n" in out and re.search(r"joint_1 +1 +25.00 +20.00", out)
    assert "no task in common" in refusal(compare, f"{wide} {narrow} {other}")


def test_questions_about_films_have_one_error_and_no_failed_tasks(capsys):
    films = write_run("wikimovies_1", [0.5], groups=(("movie_to_year", "movie_to_actor", "all"),), task_id=None)
    (row,) = as_csv(capsys, films)
    assert (float(row["test error"]), float(row["test movie_to_year"]), row["failed"]) == (0, 50, "")


def test_names_stand_for_runs(capsys):
    first = write_run("joint_1", [0.8])
    edit(first, lambda record: record.update(name="walks"))
    (row,) = as_csv(capsys, first)
    assert row["run"] == "walks"


def test_paths_stand_for_runs_whose_names_repeat(capsys):
    first, second = write_run("joint_1", [0.8]), write_run("joint_1", [0.7], log_dir="more")
    assert [row["run"] for row in as_csv(capsys, f"{first} {second}")] == [first, second]


def test_markdown_and_simulated_stories(capsys):
    out, _ = output(capsys, two_runs(hops=4, simulated=True) + " --markdown")
    assert "Flags that differ\n\n| flag | joint_1 | joint_2 |\n| --- | --- | --- |\n| hops |  | 4 |" in out
    assert plots.NOT_BABI in out


# --- the picture ----------------------------------------------------------------------------------------


def test_the_picture_overlays_curves_and_has_bars_of_deviation(figures, capsys):
    output(capsys, two_runs(simulated=True) + " --picture picture.png")
    from matplotlib.text import Text

    curve_axes, task_axes = figures[0].axes
    for line in curve_axes.lines:
        assert line.get_xdata().tolist() == [3, 6]
        np.testing.assert_allclose(line.get_ydata(), [40, 70])  # (epoch + seed) / 10, mean over seeds 0 to 2
    means, bars = task_axes.lines[0].get_xdata(), task_axes.collections[0].get_segments()
    np.testing.assert_allclose(means, [100 * np.mean(FIRST[1]), 100])
    deviation = 100 * np.std(FIRST[1], ddof=1)
    np.testing.assert_allclose(bars[0][:, 0], [means[0] - deviation, means[0] + deviation])
    texts = [text.get_text() for text in figures[0].findobj(Text)]
    assert "joint_1, finished seeds: 3" in texts and plots.NOT_BABI in texts and "two supporting facts   2" in texts


def test_a_picture_of_nothing_is_refused():
    begun = write_run("joint_1", [], finished=False, restarts=1)
    assert "nothing to draw yet" in refusal(compare, f"{begun} --picture picture.png")


# --- the list -------------------------------------------------------------------------------------------


def test_the_list_says_what_runs_are(capsys):
    edit(write_run("joint_1", [0.8]), lambda record: record.update(name="walks"))
    going_on = write_run("joint_2", [0.8], finished=False)
    edit(going_on, lambda record: record.update(outcomes={}))
    write_run("single_1", [0.8, 0.7], groups=((1,), (2,)), finished=False)
    os.mkdir("logs/study")  # not a run's folder
    with open(f"{write_run('joint_4', [0.8])}/run.json", "w") as file:
        file.write('{"format": 2, "script": ')
    the_run = checkpoint.Run(going_on, {})
    out, err = output(capsys, "--log_dir logs")
    the_run.close()
    assert re.search(r"joint_1 +walks +finished +25.00 +10.00 +1/2\n    --hops 3\n", out)
    assert re.search(r"joint_2 +epoch 6 of 9 *\n", out)
    assert re.search(r"single_1 +stopped, 4 of 4 models +25.00 +15.00 +1/2\n", out)
    assert [line.split(":")[0] for line in err.splitlines()] == ["logs/joint_4/run.json"]
    assert "stopped, epoch 6 of 9" in output(capsys, "")[0]
    assert refusal(compare, "logs/joint_4").startswith("logs/joint_4/run.json: is damaged")
    assert [row["flags"] for row in as_csv(capsys, "")] == ["--hops 3"] * 3


def test_an_empty_list(capsys):
    os.mkdir("empty")
    assert output(capsys, "--log_dir empty") == ("empty: no runs.\n", "")


# --- refused --------------------------------------------------------------------------------------------


def test_what_cannot_be_compared_is_refused_in_a_sentence(monkeypatch):
    two = two_runs()
    assert "change --log_dir" in refusal(compare, "--log_dir none")
    assert "none: is not the folder of a run" in refusal(compare, f"{two} none")
    assert "change --picture" in refusal(compare, f"{two} --picture a.jpg")
    edit("logs/joint_1", lambda record: record.pop("digests"))
    assert refusal(compare, two) == "logs/joint_1/run.json: is damaged."
    monkeypatch.setattr(compare.importlib.util, "find_spec", lambda name: None)
    assert "pip install -r requirements-desk.txt" in refusal(compare, two)

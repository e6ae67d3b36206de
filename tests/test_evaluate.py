"""evaluate.py: scores equal those of the run, ensembles, predictions, confusion tables, refused models."""

import csv
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import ROOT, read_csv, refusal, run, run_folder

import ask
import compare
import evaluate
import joint
import scores
import single

SMALL = "--embedding_size 8 --feature_size 9 --batch_size 4 --pictures False --log_dir"


@pytest.fixture(scope="module")
def runs(small_corpus, tmp_path_factory):
    """The folders of two short runs: `joint` on tasks 1 and 2, and `single` on task 2, with another vocabulary."""
    place = tmp_path_factory.mktemp("runs")
    small = f"--data_dir {small_corpus} {SMALL}"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        run(joint, f"{small} joint --task_id 1,2 --epochs 2 --random_state 0 --evaluation_interval 1")
        run(single, f"{small} single --task_id 2 --epochs 2 --random_state 1 --only_supporting True")
    return SimpleNamespace(**{name: run_folder(place / name) for name in ("joint", "single")})


@pytest.fixture
def models(runs):
    return SimpleNamespace(joint=str(runs.joint / "model.keras"), single=str(runs.single / "model_task2.keras"))


def evaluated(*paths, split="test", task_ids=None):
    """(queries, predictions) of models."""
    queries, models, _, _ = evaluate.load(paths, None, task_ids, split)
    return queries, evaluate.predict(queries, models)


# --- scores ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", evaluate.FILES)
@pytest.mark.parametrize("name", ["joint", "single"])
def test_scores_are_those_of_the_run(runs, models, name, split, capsys):
    run(evaluate, f"--model {getattr(models, name)} --split {split}")
    shown = {int(line.split()[0]): line for line in capsys.readouterr().out.splitlines() if line[:4].strip().isdigit()}
    rows = scores.read_rows(getattr(runs, name) / "scores.csv")
    assert [row.task for row in rows] == [*shown][: len(rows)] and len(rows) == (1 if name == "single" else 2)
    for row in rows:
        assert f" {getattr(row, split):.4f}" in shown[row.task]
        assert ("failed" in shown[row.task]) == (split == "test" and row.test < 0.95)


def test_the_shipped_model_has_its_scores(published, capsys):
    run(evaluate, f"--data_dir {published}/en")
    lines = capsys.readouterr().out.splitlines()
    rows = scores.read_rows(ROOT / "pretrained" / "joint_10k.scores.csv")
    assert [line.split()[-1 - line.endswith("failed")] for line in lines[2:-1]] == [f"{row.test:.4f}" for row in rows]
    assert lines[-1] == "mean test error 0.10 %, failed tasks (error above 5 %): 0 of 20"


def test_a_model_answers_only_its_tasks(models, capsys):
    run(evaluate, f"--model {models.single} {models.joint}")
    out = capsys.readouterr().out
    queries, both = evaluated(models.single, models.joint)
    assert {query.task for query in queries} == {1, 2}
    of_task_2 = np.array([query.task == 2 for query in queries])
    assert (both.models[0][~of_task_2] == -1).all() and (both.models[0][of_task_2] >= 0).all()
    assert (both.ensemble[~of_task_2] == both.models[1][~of_task_2]).all()
    assert "of 1  " in out and "of 2  ensemble" in out and "mean ± deviation of" not in out


# --- ensembles ------------------------------------------------------------------------------------------


def test_an_ensemble_is_the_mean_of_probabilities_word_by_word(models, runs, capsys):
    words = [ask.load_network(path).config["vocabulary"] for path in (models.joint, models.single)]
    assert words[0] != words[1]
    _, one = evaluated(models.joint, task_ids=[2])
    _, two = evaluated(models.single, task_ids=[2])
    queries, both = evaluated(models.single, models.joint, task_ids=[2])
    np.testing.assert_allclose(both.answer_probability, (one.answer_probability + two.answer_probability) / 2)
    for alone, together in ((two, both.models[0]), (one, both.models[1])):
        assert [both.words[i] for i in together] == [alone.words[i] for i in alone.ensemble]
    agreed = both.models[0] == both.models[1]
    assert (both.ensemble[agreed] == both.models[0][agreed]).all()
    run(evaluate, f"--model {models.joint} {models.single} --task_id 2")
    out = capsys.readouterr().out
    (joint_row,) = (row for row in scores.read_rows(runs.joint / "scores.csv") if row.task == 2)
    (single_row,) = scores.read_rows(runs.single / "scores.csv")
    accuracies = joint_row.test, single_row.test
    assert f"  {np.mean(accuracies):.4f} ± {np.std(accuracies, ddof=1):.4f}   {min(accuracies):.4f}" in out
    assert max(map(len, out.replace(models.joint, "").replace(models.single, "").splitlines()[1:])) <= 80


# --- files ----------------------------------------------------------------------------------------------


def test_predictions_question_by_question(models, small_corpus, tmp_path, capsys):
    file = tmp_path / "predictions.csv"
    run(evaluate, f"--model {models.joint} --predictions {file}")
    rows = read_csv(file)
    assert tuple(rows[0]) == evaluate.PREDICTION_COLUMNS and len(rows) == 7
    text = (small_corpus / "qa2_baskets_test.txt").read_text().splitlines()
    for row in rows[4:]:
        assert row["task"] == "2"
        question, answer, _ = text[int(row["line"]) - 1].partition(" ")[2].split("\t")
        assert (row["question"], row["answer"]) == (question.strip(), answer)
    for row in rows:
        assert row["right"] == str(row["answer"] == row["prediction"])
        assert row["right"] == "False" or row["probability"] == row["answer probability"]
    accuracy = np.mean([row["right"] == "True" for row in rows[:4]])
    assert f"single supporting fact  {accuracy:10.4f}" in capsys.readouterr().out
    run(evaluate, f"--model {models.joint} {models.single} --predictions {file}")
    assert list(read_csv(file)[0])[-2:] == [models.joint, models.single]


def test_confusion_counts_every_question(models, tmp_path, capsys):
    pytest.importorskip("pandas")
    file = tmp_path / "confusion.csv"
    run(evaluate, f"--model {models.joint} --confusion {file}")
    with open(file, newline="") as lines:
        header, *rows = csv.reader(lines)
    assert header[:2] == ["task", "answer"] and sum(int(cell) for row in rows for cell in row[2:]) == 7
    queries, predictions = evaluated(models.joint)
    right = sum(int(row[header.index(row[1])]) for row in rows if row[1] in header)
    assert right == evaluate.is_right(predictions.ensemble, predictions.words, queries).sum()
    capsys.readouterr()
    run(evaluate, f"--model {models.joint} --task_id 2 --confusion")
    out = capsys.readouterr().out
    assert "2 two supporting facts: right answers by row, predictions by column" in out and "\n1 " not in out


# --- refused --------------------------------------------------------------------------------------------


def test_what_cannot_be_evaluated_is_refused_in_a_sentence(models, small_corpus, tmp_path, monkeypatch):
    assert "not trained on this task" in refusal(evaluate, f"--model {models.joint} --task_id 3")
    assert "differ in --random_state" in refusal(evaluate, f"--model {models.joint} {models.single} --split validation")
    films = ROOT / "pretrained" / "wikimovies.keras"
    assert "evaluate each kind alone" in refusal(evaluate, f"--model {models.joint} {films}")
    assert "cannot be read" in refusal(evaluate, f"--model {tmp_path}/none.keras")
    lonely = shutil.copy(models.joint, tmp_path / "lonely.keras")
    data = f"--data_dir {small_corpus}"
    assert "must lie beside the model" in refusal(evaluate, f"--model {lonely} {data} --split training")
    assert "argument --predictions: " in refusal(evaluate, f"--model {lonely} {data} --predictions {tmp_path}/no/a.csv")
    run(evaluate, f"--model {lonely} {data}")  # test questions need no record
    (tmp_path / "run.json").write_text("{")
    assert "is damaged" in refusal(evaluate, f"--model {lonely} {data}")
    monkeypatch.setattr(evaluate.importlib.util, "find_spec", lambda name: None)
    assert "pip install -r requirements-desk.txt" in refusal(evaluate, f"--model {models.joint} --confusion")


def test_params_beside_a_copied_model_hold_the_split(models, runs, small_corpus, tmp_path, capsys):
    shutil.copy(models.joint, tmp_path / "copy.keras")
    shutil.copy(runs.joint / "params.csv", tmp_path / "copy.params.csv")
    assert evaluate.settings_of(tmp_path / "copy.keras")["random_state"] == 0
    run(evaluate, f"--model {tmp_path}/copy.keras --data_dir {small_corpus} --split validation")
    first, second = scores.read_rows(runs.joint / "scores.csv")
    out = capsys.readouterr().out
    assert f"{first.validation:.4f}" in out and f"{second.validation:.4f}" in out


# --- compare.py on real runs ----------------------------------------------------------------------------


def test_compare_reads_what_runs_write(runs, tmp_path, capsys):
    pytest.importorskip("pandas")
    run(compare, f"--log_dir {runs.joint.parent}")
    heading, line, given = capsys.readouterr().out.splitlines()
    rows = scores.read_rows(runs.joint / "scores.csv")
    validation, test = (np.mean([getattr(row, split) for row in rows]) for split in ("validation", "test"))
    assert line.split()[:4] == [runs.joint.name, "finished", f"{100 - 100 * validation:.2f}", f"{100 - 100 * test:.2f}"]
    assert given.endswith("--task_id 1,2 --epochs 2 --random_state 0 --evaluation_interval 1")
    run(compare, f"{runs.joint} {runs.single} --csv --picture {tmp_path}/picture.png")
    first, second = csv.DictReader(capsys.readouterr().out.splitlines())
    assert float(first["test error"]) == pytest.approx(100 * (1 - rows[1].test), abs=0.006)  # of the common task
    assert (second["unpaired"], second["script"]) == ("another --random_state", "single")
    assert (tmp_path / "picture.png").stat().st_size > 10_000

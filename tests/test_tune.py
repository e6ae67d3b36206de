"""Searching flags: what is refused, exactly the trials that were asked for, killed trials, recipes, pictures."""

import concurrent.futures
import contextlib
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import run, run_folder

import checkpoint
import experiment
import joint
import scores
import tune
from flags import HERE, InputError

optuna = pytest.importorskip("optuna", reason="Optuna is not installed: pip install -r requirements-desk.txt")


@pytest.fixture
def small(small_corpus, tmp_path, monkeypatch):
    """Flags of a search whose trials take a moment, one at a time, in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tune, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(tune, "GRACE_SECONDS", 3600)  # however slow the machine, no trial is taken for dead
    monkeypatch.setattr(experiment, "set_up_devices", lambda *_: None)  # TensorFlow computes in this process already

    @contextlib.contextmanager
    def here(flags, models, quiet):
        def submit(job):
            future = concurrent.futures.Future()
            try:
                future.set_result(experiment.train_model(job, lambda *_, **__: None))
            except BaseException as error:
                future.set_exception(error)
            return future

        yield submit

    monkeypatch.setattr(experiment, "executor", here)
    sizes = "--embedding_size 8 --feature_size 9 --batch_size 4 --epochs 4 --evaluation_interval 2 --random_state 7"
    searched = "--search learning_rate=0.01..0.5:log hops=1,2"
    return f"joint --data_dir {small_corpus} --task_id 1,2 {sizes} --workers 1 {searched}"


def folder_of_search():
    (folder,) = Path("logs").iterdir()
    return folder


def states(folder):
    """The states of the trials of a search, in order."""
    study = optuna.load_study(study_name=folder.name, storage=f"sqlite:///{folder}/study.db")
    return [trial.state.name for trial in study.trials]


def search_of(small, *more):
    """The `tune.Search` that another terminal would open."""
    script, values, words, parser = tune.parse([*small.split(), *more])
    return tune.Search(script, values, words, tune.search_space(parser, words, values.search))


@pytest.mark.parametrize(
    ("searched", "message"),
    [
        ("hops=0,2", "argument --hops: expected a number at least 1"),
        ("hops=2..x", "argument --hops: .*'x'"),
        ("hops=3..2", "expected a lower and a higher number"),
        ("inner_hops=0..4:log", "above 0 for a logarithmic scale"),
        ("reader=bow,lstm", "argument --reader: invalid choice: 'lstm'"),
        ("clip=each..global", "expected a lower and a higher number"),
        ("mask_padding=False..True", "expected a lower and a higher number"),
        ("linear_start=0.1,1.5", "--linear_start"),
        ("depth=1,2", "expected the name of a flag"),
        ("log_dir=a,b", "expected the name of a flag"),
        ("hops", "expected the name of a flag"),
    ],
)
def test_values_are_checked_before_the_search(searched, message):
    parser = joint.flag_parser()
    with pytest.raises(InputError, match=f"^--search {re.escape(searched)}: .*{message}"):
        tune.search_space(parser, [], [searched])


def test_lists_and_ranges():
    space = tune.search_space(
        joint.flag_parser(), ["--epochs", "9"], ["hops=1..4", "learning_rate=1e-3..1:log", "reader=bow,simple_gru"]
    )
    assert space == {"hops": (1, 4, False), "learning_rate": (0.001, 1.0, True), "reader": ["bow", "simple_gru"]}
    assert isinstance(tune.distribution(space["hops"]), optuna.distributions.IntDistribution)
    assert tune.distribution(space["learning_rate"]).log
    assert tune.distribution(space["reader"]).choices == ("bow", "simple_gru")


@pytest.mark.parametrize(("arguments", "status"), [("-h", 0), ("joint", 2), ("joint --search hops=0", 2)])
def test_help_and_wrong_flags_answer_without_libraries(arguments, status):
    words = f"import sys, tune; sys.argv[1:] = {arguments.split()}\ntry: tune.run_command(tune.main)\n"
    words += "finally: assert not {'optuna', 'keras', 'tensorflow', 'distributed'} & set(sys.modules)"
    result = subprocess.run([sys.executable, "-c", words], cwd=HERE, capture_output=True, text=True)
    assert result.returncode == status, result.stderr


def test_a_search_ends_with_a_table_a_recipe_and_pictures(small, capsys):
    run(tune, small, "--trials 2")
    out = capsys.readouterr().out
    assert "of 2 trials, 1 at once here" in out and out.count("\ntrial ") == 3 and "test" not in out
    folder = folder_of_search()
    assert states(folder) == ["COMPLETE"] * 2
    assert {"best.flags", "history.png", "importance.png", "study.db"} <= {path.name for path in folder.iterdir()}
    assert len(list(folder.glob("trial_*/joint_*/model.keras"))) == 2

    best = float(re.search(r"validation accuracy (\S+)", (folder / "best.flags").read_text())[1])
    run(joint, f"@{folder / 'best.flags'} --log_dir hand --pictures False")
    rows = scores.read_rows(run_folder("hand") / "scores.csv")
    assert sum(row.validation for row in rows) / len(rows) == pytest.approx(best, abs=1e-4)

    capsys.readouterr()
    run(tune, small, "--trials 2")  # there is nothing left to do
    assert out.endswith(capsys.readouterr().out)
    run(tune, small, "--trials 3")
    assert states(folder) == ["COMPLETE"] * 3
    with pytest.raises(InputError, match="is a search with other flags"):
        run(tune, small.replace("hops=1,2", "hops=1,3"), f"--study {folder.name}")


def test_a_killed_trial_is_continued_and_none_is_lost(small, monkeypatch):
    killed = search_of(small, "--trials", "2")
    trial = killed.ask()
    place = Path(killed.place(trial))
    place.mkdir()
    (place / "flags").write_text(killed.recipe(trial))

    def kill(*state):
        save_state(*state)
        raise KeyboardInterrupt

    save_state = checkpoint.save_state
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoint, "save_state", kill)
        with experiment.executor(None, 1, True) as submit:
            tune.train(joint, str(place), submit)
    killed.study.ask()  # of a process that was killed at once
    with contextlib.closing(sqlite3.connect(killed.path("study.db"))) as database, database:
        database.execute("UPDATE trial_heartbeats SET heartbeat = datetime('now', '-1 day')")
    run(tune, small, "--trials 2")
    assert sorted(states(Path(killed.folder))) == ["COMPLETE"] * 2 + ["FAIL"] * 2
    assert len(list(place.glob("joint_*/model.keras"))) == 1  # the run that was killed went on


def test_many_terminals_ask_for_exactly_the_trials_of_a_search(small):
    def ask(_):
        with contextlib.suppress(RuntimeError):
            return search_of(small, "--trials", "5").ask()

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        trials = [trial for trial in pool.map(ask, range(8)) if trial]
    assert sorted(trial.number for trial in trials) == [0, 1, 2, 3, 4]
    assert len({str(trial.params) for trial in trials}) == 5


def test_hopeless_trials_are_pruned_and_diverging_ones_do_not_end_a_search(small, monkeypatch, capsys):
    should = iter([False, True])
    monkeypatch.setattr(optuna.trial.Trial, "should_prune", lambda trial: next(should, True))

    def diverge(*arguments):
        raise checkpoint.Diverged("the loss is nan in epoch 1; start again")

    import training

    train, calls = training.train, []

    def second_diverges(*arguments):
        calls.append(1)
        return diverge() if len(calls) == 2 else train(*arguments)

    monkeypatch.setattr(training, "train", second_diverges)
    run(tune, small.replace("--epochs 4", "--epochs 400"), "--trials 2")
    out = capsys.readouterr().out
    assert "trial 0: pruned at epoch" in out and "trial 1: the loss is nan in epoch 1;" in out
    assert "0 trials are complete, 2 were pruned or diverged" in out


def test_without_optuna_a_sentence_says_what_to_install(small, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match="pip install -r requirements-desk.txt"):
        run(tune, small)
    assert not Path("logs").exists()


@pytest.mark.parametrize("storage", ["nowhere", "sqlite:////nowhere/x.db"])
def test_an_unusable_database_is_one_sentence(storage, small):
    with pytest.raises(InputError, match=f"^--storage {storage}: cannot be used: ") as caught:
        run(tune, small, f"--storage {storage}")
    assert "\n" not in str(caught.value)

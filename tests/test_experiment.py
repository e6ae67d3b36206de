"""Experiments from end to end: what both commands accept, train, print and write."""

import argparse
import contextlib
import os
import re
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import keras
import kill_runs
import numpy as np
import pytest
from helpers import (
    HEADER,
    ROOT,
    all_files,
    command,
    read_csv,
    refusal,
    run,
    run_folder,
    score_rows,
    settings,
    temporary_files,
)

import babi_simulator
import checkpoint
import data_utils
import experiment
import joint
import memn2n_kv
import plots
import single
from flags import READERS, InputError

OF_A_RUN = {"params.csv", "scores.csv", "times.csv", "run.json", "lock"}  # files in every run's folder

both_scripts = pytest.mark.parametrize("script", [single, joint], ids=["single", "joint"])


@pytest.fixture(scope="module")
def small(small_corpus):
    """Flags of a run that takes a moment."""
    return f"--data_dir {small_corpus} --embedding_size 8 --feature_size 9 --batch_size 4 --pictures False"


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """Each test works in a folder of its own."""
    monkeypatch.chdir(tmp_path)


def history(path):
    """The bytes of a history that the same seed must repeat."""
    return kill_runs.without_seconds(path.read_bytes())


def weights(model_file):
    return [np.asarray(variable) for variable in keras.saving.load_model(model_file).weights]


# --- refused before training ------------------------------------------------------------------------------


@both_scripts
def test_bad_data_is_one_sentence_and_leaves_nothing(script, small_corpus, capsys):
    os.mkdir("empty")
    shutil.copytree(small_corpus, "bad")
    with open("bad/qa1_whereabouts_test.txt", "a") as file:
        file.write("1 Anna ran.\n3 Otto ran.\n")
    before = sorted(os.listdir())
    sentence = refusal(script, "--data_dir empty")
    assert "empty" in sentence and "task 1" in sentence
    sentence = refusal(script, "--data_dir bad --task_id 1")
    assert "qa1_whereabouts_test.txt, line 10" in sentence and "found 3" in sentence
    # A missing third task is reported before the first is trained.
    assert "task 3" in refusal(script, "--data_dir", small_corpus, "--task_id 1-3")
    assert sorted(os.listdir()) == before and capsys.readouterr() == ("", "")


@both_scripts
def test_files_that_cannot_be_written_are_one_sentence_before_training(script, small, capsys):
    os.mkdir("folder")
    os.mkfifo("fifo")
    Path("loop").symlink_to("loop")
    Path("dangling").symlink_to("missing/scores.csv")
    Path("table.csv").write_text("Name,Age\nAnna,7\n")
    Path("script.py").write_text("import os\n\n\ndef main():\n    value = 1\n")
    Path("small.flags").write_text("--hops 2\n")
    before, names = all_files(), sorted(os.listdir())
    refused = {
        "--output_file missing/scores.csv": "--output_file",
        "--output_file folder": "folder",
        "--output_file table.csv/scores.csv": "table.csv",
        "--output_file table.csv": "table.csv, line 1: expected Task,",
        "--output_file script.py": "script.py, line 1: expected Task,",
        "--output_file fifo": "fifo",
        "--output_file loop": "loop",
        "--output_file dangling": "dangling",
        f"--output_file {'x' * 256}": "x" * 256,
        "--log_dir table.csv": "table.csv",
        "--log_dir table.csv/logs": "table.csv",
    }
    if script is joint:
        refused |= {
            "--param_output_file missing/params.csv": "--param_output_file",
            "--param_output_file folder": "folder",
            "--param_output_file fifo": "fifo",
            "--param_output_file script.py": "script.py, line 1: expected NAME=value",
            "--param_output_file small.flags": "small.flags, line 1: expected NAME=value",
            "--param_output_file table.csv": "table.csv, line 1: expected NAME=value",
            "--param_output_file one.csv --output_file one.csv": "cannot hold scores and flags",
        }
    for arguments, words in refused.items():
        assert words in refusal(script, small, "--task_id 1", arguments), arguments
        assert sorted(os.listdir()) == names and all_files() == before, arguments
    assert capsys.readouterr() == ("", "")


def test_parameter_files_are_appended_to(small):
    Path("params.csv").write_text("hops=3\n")
    run(joint, small, "--task_id 1,2 --epochs 1 --param_output_file params.csv --output_file scores.csv")
    new = (run_folder() / "params.csv").read_text()
    assert "\nhops=3\n" in new and "\nepochs=1\n" in new
    assert Path("params.csv").read_text() == f"hops=3\n{new}"
    assert "line 1" in refusal(joint, small, "--param_output_file", run_folder() / "scores.csv")


def test_tensorboard_has_accuracies_by_task_and_the_flags(small):
    pytest.importorskip("tensorboard", reason="needs the package tensorboard")
    import tensorflow as tf

    run(single, small, "--epochs 2 --evaluation_interval 1 --tensorboard True")
    tags = {
        value.tag
        for path in run_folder().glob("tensorboard_task1/**/*.tfevents*")
        for event in tf.compat.v1.train.summary_iterator(str(path))
        for value in event.summary.value
    }
    assert {"epoch_loss", "epoch_validation", "epoch_training/1", "epoch_validation/1"} <= tags
    assert "_hparams_/session_start_info" in tags


def test_tensorboard_without_its_package_is_one_sentence(small, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install tensorboard" in refusal(single, small, "--tensorboard True")


def test_models_that_do_not_fit_into_memory_are_one_sentence(small, monkeypatch):
    import training

    def train(*_):
        raise training.tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    monkeypatch.setattr(training, "train", train)
    with pytest.raises(InputError, match="memory of this machine is too small .* --batch_size"):
        run(single, small)


def test_numbers_that_are_not_finite_end_the_run(small):
    with pytest.raises(InputError, match=r"the loss is .* in epoch \d+, batch \d+, at learning rate 1e\+30; .* lower"):
        run(single, small, "--epochs 3 --learning_rate 1e30 --epsilon 1e-30 --max_grad_norm 1e30")
    assert not os.path.exists("single_scores.csv")


# --- one model, in this process ---------------------------------------------------------------------------


def write_places(folder):
    """A task that a small network masters: where is one of the two or three people in the story."""
    random = np.random.default_rng(0)
    for split, stories in (("train", 150), ("test", 100)):
        lines = []
        for _ in range(stories):
            names = random.permutation(["Anna", "Otto", "Ines", "Karl"])[: random.integers(2, 4)]
            places = random.choice(["barn", "mill", "well", "wood"], len(names))
            lines += [f"{i + 1} {name} is in the {places[i]}." for i, name in enumerate(names)]
            asked = random.integers(len(names))
            lines.append(f"{len(names) + 1} Where is {names[asked]}?\t{places[asked]}\t{asked + 1}")
        (Path(folder) / f"qa1_{split}.txt").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("reader", READERS)
def test_a_tiny_run_learns(reader):
    write_places(".")
    flags = f"--data_dir . --reader {reader} --epochs 40 --learning_rate 0.01 --epsilon 0.01 --pictures False"
    run(single, flags, "--l2_lambda 0.001 --batch_size 16 --evaluation_interval 5 --random_state 1")
    ((task, testing, training_accuracy, validation),) = score_rows("single_scores.csv")
    assert task == 1
    assert training_accuracy > 0.95 and testing > 0.85 and validation > 0.8  # guessing gives 0.25
    epochs = read_csv(run_folder() / "history_task1.csv")
    losses = [float(row["loss"]) for row in epochs]
    assert len(losses) == 40 and np.mean(losses[-10:]) < losses[0] / 2
    assert float(epochs[-1]["training"]) == training_accuracy


@pytest.mark.parametrize("reader", memn2n_kv.CHOICES["reader"])
def test_compiled_and_plain_training_agree(reader, small):
    results = {}
    for choice in ("on", "off"):
        flags = f"--epochs 4 --hops 2 --reader {reader} --random_state 7 --learning_rate 0.05 --jit_compile {choice}"
        run(single, small, flags, f"--log_dir {choice}")
        assert settings(run_folder(choice) / "params.csv")["jit_compile"] == choice
        results[choice] = weights(run_folder(choice) / "model_task1.keras")
    for one, other in zip(*results.values(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


def test_long_runs_are_compiled_unless_a_flag_says_otherwise():
    def compiled(epochs, choice="auto", reader="bow"):
        flags = argparse.Namespace(epochs=epochs, jit_compile=choice, reader=reader)
        return experiment.compiled(flags, SimpleNamespace(training=range(1000), memory_size=50))

    assert [compiled(100), compiled(101)] == [False, True]
    assert [compiled(25, reader="simple_gru"), compiled(26, reader="simple_gru")] == [False, True]
    assert [compiled(1, "on"), compiled(1000, "off")] == [True, False]
    extended = argparse.Namespace(epochs=1000, epochs_at_first=100, jit_compile="auto", reader="bow")
    assert not experiment.compiled(extended, SimpleNamespace(training=range(1000), memory_size=50))


def test_params_record_what_was_used(small):
    run(single, small, "--epochs 1 --optimizer sgd --tying adjacent --feature_size 99 --workers 2")
    recorded = settings(run_folder() / "params.csv")
    assert recorded["jit_compile"] == "off"  # of `auto`
    assert (recorded["epsilon"], recorded["linear_attention"], recorded["workers"]) == ("unused",) * 3
    assert (recorded["feature_size"], recorded["embedding_size"], recorded["task_id"]) == ("8", "8", "1")
    assert recorded["random_state"].isdecimal()


def test_the_interval_chooses_the_reported_epochs(small, capsys):
    run(single, small, "--epochs 5 --evaluation_interval 2")
    epochs = read_csv(run_folder() / "history_task1.csv")
    assert [row["epoch"] for row in epochs] == ["1", "2", "3", "4", "5"]
    assert [bool(row["training"]) for row in epochs] == [False, True, False, True, True]
    out, errors = capsys.readouterr()
    assert [f"epoch {epoch}/5" in out for epoch in range(1, 6)] == [False, True, False, True, True]
    assert "\r" not in out and "\x1b" not in out and "\b" not in out and errors == ""  # no terminal, no progress bar


def test_the_folder_and_the_device_are_named_first(small, capsys):
    run(single, small, "--epochs 1")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{run_folder()}: 1 model to train; loading TensorFlow"
    assert re.fullmatch("task 1: .* training, .* words", lines[1])
    assert lines[2] == "device: CPU"


def test_a_run_has_a_name_which_may_change(small, capsys):
    run(single, small, "--epochs 1 --name first")
    folder = f"logs/{run_folder().name}"
    assert capsys.readouterr().out.startswith(f"{folder} (first): 1 model to train; ")
    run(single, f"--resume {folder} --name second")
    assert capsys.readouterr().out.startswith(f"{folder} (second): this run is finished; ")
    run(single, small, "--epochs 1 --name third --resume")  # the same run: a name is free to differ
    record = checkpoint.read_record(folder)
    assert record["name"] == "third" and {"commit", "python", "tensorflow"} < record["machine"].keys()


def test_a_run_without_seed_can_be_repeated(small):
    run(single, small, "--epochs 2 --log_dir first --output_file first.csv")
    seed = int(settings(run_folder("first") / "params.csv")["random_state"])
    run(single, small, f"--epochs 2 --log_dir second --output_file second.csv --random_state {seed}")
    run(single, small, f"--epochs 2 --log_dir third --random_state {seed + 1}")
    logs = ("first", "second", "third")
    first, second, third = (history(run_folder(log) / "history_task1.csv") for log in logs)
    assert first == second != third
    assert Path("first.csv").read_bytes() == Path("second.csv").read_bytes()


def test_a_task_with_exactly_95_percent_has_not_failed():
    import scores

    text = scores.summary([(1, 0.95, 1.0, 1.0), (2, 0.949, 1.0, 1.0)])
    assert "failed tasks (error above 5 %): 1 of 2" in text


# --- whole commands ---------------------------------------------------------------------------------------


def too_long(lines):
    """The lines that a terminal wraps, except those that name files or the sizes of a corpus."""
    return [line for line in lines if len(line) > 80 and "logs/" not in line and " slots of " not in line]


SEVERAL = "--task_id 1,2 --epochs 3 --random_state 5 --learning_rate 0.05"


@pytest.fixture(scope="module")
def finished(tmp_path_factory, small_corpus):
    """(folder, result) of single.py for two tasks, started in another folder than that of the scripts and the data."""
    place = tmp_path_factory.mktemp("single")
    project, folder = place / "project", place / "elsewhere"
    shutil.copytree(small_corpus, project / "data" / data_utils.TREE / "en")
    (project / "results").mkdir()
    for path in [*ROOT.glob("*.py"), ROOT / "results" / "published.csv"]:
        shutil.copy(path, project / path.relative_to(ROOT))
    folder.mkdir()
    (folder / "scores.csv").write_text(f"{HEADER}\n9,0.1000,0.2000,0.3000\n")
    flags = f"--embedding_size 8 --feature_size 9 --batch_size 4 {SEVERAL} --output_file scores.csv"
    return folder, command(project / "single.py", flags, cwd=folder)


def test_a_run_reads_data_beside_the_scripts_and_writes_into_the_current_folder(finished):
    folder, result = finished
    assert (result.returncode, result.stderr) == (0, "")
    assert sorted(os.listdir(folder)) == ["logs", "scores.csv"]
    project = folder.parent / "project"
    assert not (project / "logs").exists() and os.listdir(project / "data") == [data_utils.TREE]
    logs = run_folder(folder / "logs")
    kinds = ("history_task%d.csv", "model_task%d.keras", "state_task%d.npz", "curves_task%d.png")
    assert set(os.listdir(logs)) == {kind % task for kind in kinds for task in (1, 2)} | OF_A_RUN | {"tasks.png"}
    assert settings(logs / "params.csv")["data_dir"].endswith(f"{data_utils.TREE}/en")


def test_single_appends_a_row_for_each_task(finished):
    folder, result = finished
    old, *rows = score_rows(folder / "scores.csv")
    assert old == (9, 0.1, 0.2, 0.3)
    assert [task for task, *_ in rows] == [1, 2]
    assert rows[0][1] in (0, 0.25, 0.5, 0.75)  # four test questions, one with an answer that training never saw
    assert rows[1][1] in (0, 0.3333, 0.6667, 1)  # three
    logs = run_folder(folder / "logs")
    assert score_rows(logs / "scores.csv") == rows
    recorded = settings(logs / "params.csv")
    assert [recorded[name] for name in ("random_state", "epochs", "hops", "reader")] == ["5", "3", "3", "bow"]
    assert [row["Model"] for row in read_csv(logs / "times.csv")] == ["model_task1.keras", "model_task2.keras"]
    for task, testing, *_ in rows:
        assert re.search(rf"^ +{task} [a-z ]+ {testing:.4f} ", result.stdout, flags=re.M)


def test_single_reports_its_progress(finished):
    lines = finished[1].stdout.splitlines()
    assert lines[0].endswith(": 2 models to train; loading TensorFlow")
    assert lines.count("device: CPU") == 1  # of both processes
    assert [line for line in lines if line.startswith("task 2: epoch 3/3  loss ")]
    assert any(re.fullmatch(r"1 of 2 models finished; about \d+\.\d min left", line) for line in lines)
    assert "mean test error" in lines[-2] and lines[-1].startswith("scores in scores.csv; ")
    assert "\r" not in finished[1].stdout and too_long(lines) == []


def test_a_saved_network_gives_the_accuracy_in_the_score_file(finished, small_corpus):
    _, *rows = score_rows(finished[0] / "scores.csv")
    for task, testing, *_ in rows:
        network = keras.saving.load_model(run_folder(finished[0] / "logs") / f"model_task{task}.keras")
        config = network.get_config()
        vocabulary = {word: number for number, word in enumerate(config["vocabulary"], start=1)}
        _, examples = data_utils.load_task(small_corpus, task)
        encoded = data_utils.encode(examples, vocabulary, config["sentence_size"], config["memory_size"])
        logits = np.asarray(network({"memory_key": encoded.statements[encoded.slots], "query": encoded.query}))
        assert np.mean(logits.argmax(axis=-1) == encoded.answer) == pytest.approx(testing, abs=1e-4)


def test_the_same_seed_gives_the_same_bytes(finished, small):
    """In another process, with another hash seed, other models before it and none beside it."""
    logs = run_folder(finished[0] / "logs")
    for task in (1, 2):
        run(single, small, SEVERAL, f"--task_id {task} --log_dir logs{task} --output_file scores.csv")
        name = f"history_task{task}.csv"
        assert history(run_folder(f"logs{task}") / name) == history(logs / name)
    assert Path("scores.csv").read_bytes() == (logs / "scores.csv").read_bytes()


def test_joint_writes_its_files():
    babi_simulator.write_files("sim", range(1, 21), 20, 10, 0)
    result = command("joint.py", "--data_dir sim --reader simple_gru --epochs 2 --jit_compile off")
    assert (result.returncode, result.stderr) == (0, "")
    assert sorted(os.listdir()) == ["logs", "sim"]
    folder = run_folder()
    stamp = re.fullmatch(r"joint_(\d+)", folder.name)[1]
    assert set(os.listdir("logs")) == {folder.name, f"scores_{stamp}.csv", f"params_{stamp}.csv"}
    rows = score_rows(f"logs/scores_{stamp}.csv")
    assert [task for task, *_ in rows] == list(range(1, 21))
    assert "simulated" in (folder / "scores.csv").read_text().splitlines()[1]
    recorded = settings(f"logs/params_{stamp}.csv")
    names = ("reader", "epochs", "batch_size", "memory_size", "jit_compile", "simulated")
    assert [recorded[name] for name in names] == ["simple_gru", "2", "50", "50", "off", "True"]
    names = {"history.csv", "model.keras", "state.npz", "curves.png", "tasks.png"}
    assert set(os.listdir(folder)) == names | OF_A_RUN
    assert "not the published bAbI stories" in result.stdout and "  validation  " in result.stdout
    assert too_long(result.stdout.splitlines()) == []
    assert keras.saving.load_model(folder / "model.keras").get_config()["reader"] == "simple_gru"


def test_bad_text_ends_a_command_with_one_sentence():
    Path("qa1_train.txt").write_bytes(b"1 Anna ran to the mill.\r\n2 Where is Anna?\tmill\r\n")
    Path("qa1_test.txt").write_bytes(b"1 Anna ran to the mill.\n2 Where is Anna?\tmill\t1\n")
    result = command("single.py", "--data_dir .")
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert result.stderr.startswith("single.py: ") and "qa1_train.txt, line 2: " in result.stderr
    assert sorted(os.listdir()) == ["qa1_test.txt", "qa1_train.txt"]


# --- several models ---------------------------------------------------------------------------------------

RECIPE = (
    "--tying adjacent --gates 2 --encoding length --mask_padding True --optimizer sgd --clip global --linear_start 1 "
    "--linear_attention mean --state_dropout 0.1 --word_dropout 0.1 --time_noise 0.1 --gradient_noise 0 --epochs 3 "
    "--random_state 5"
)


def test_restarts_are_chosen_by_validation(small, capfd, monkeypatch):
    """In this process; that processes give the same bytes is tested above."""

    def train(job):
        outcome = experiment.train_model(job)
        return SimpleNamespace(result=lambda: outcome, cancel=lambda: False, done=lambda: True)

    monkeypatch.setattr(experiment, "executor", lambda *_: contextlib.nullcontext(train))
    run(single, small, RECIPE, "--hops 2 --task_id 1,2 --restarts 2")
    out = capfd.readouterr().out
    assert "scores of the models that validation chose:" in out and "mean test error of 2 seeds" in out
    assert "task 2, seed 6: epoch 3/3" in out
    rows, folder = read_csv("single_scores.csv"), run_folder()
    assert len(rows) == 4 and (folder / "scores.csv").read_bytes() == Path("single_scores.csv").read_bytes()
    for task in (1, 2):
        restarts = [row for row in rows if row["Task"].startswith(f"{task} (seed ")]
        assert [re.search(r"seed (\d)", row["Task"])[1] for row in restarts] == ["5", "6"]
        (chosen,) = [row for row in restarts if row["Task"].endswith(" chosen)")]
        assert float(chosen["Validation Accuracy"]) == max(float(row["Validation Accuracy"]) for row in restarts)
        seed = re.search(r"seed (\d)", chosen["Task"])[1]
        for kind in ("model{}.keras", "history{}.csv"):
            copy, original = (folder / kind.format(f"_task{task}{suffix}") for suffix in ("", f"_seed{seed}"))
            assert copy.read_bytes() == original.read_bytes()
    # The other models of a run make no difference.
    run(single, small, RECIPE, "--hops 2 --task_id 2 --log_dir alone")
    alone = history(run_folder("alone") / "history_task2.csv")
    assert alone == history(folder / "history_task2_seed5.csv") and not temporary_files()


class FakePool:
    """Takes the place of `ThreadPoolExecutor`: runs nothing and notes how many processes are asked for."""

    def __init__(self, workers, *_):
        FakePool.workers = workers

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def submit(self, train, job):
        return SimpleNamespace(result=lambda: job)


@pytest.mark.parametrize(
    ("models", "finished", "workers", "gpus", "expected"),
    [
        (20, 0, None, 0, 8),  # models without restarts train side by side
        (5, 0, None, 0, 5),
        (20, 17, None, 0, 3),
        (20, 0, 3, 0, 3),
        (20, 0, None, 2, 1),  # each model would take all the memory of a GPU
        (20, 0, 2, 2, 2),
    ],
)
def test_models_train_on_all_cores_or_one_at_a_time_on_a_gpu(models, finished, workers, gpus, expected, monkeypatch):
    monkeypatch.setattr("concurrent.futures.ThreadPoolExecutor", FakePool)
    monkeypatch.setattr("checkpoint.machine", lambda: {"cores": 8})
    monkeypatch.setattr("glob.glob", lambda pattern: [f"/dev/nvidia{i}" for i in range(gpus)])
    monkeypatch.setattr("cluster.write_claim", lambda path, content: None)
    flags = SimpleNamespace(workers=workers, cluster=None)
    jobs = [SimpleNamespace(name=f"model{i}", path=lambda kind, extension: "") for i in range(models)]
    outcomes = {f"model{i}": f"outcome {i}" for i in range(finished)}
    results = list(experiment.train_models(jobs, outcomes, flags))
    assert results == list(outcomes.values()) + jobs[finished:]
    assert FakePool.workers == expected


def process_number(job, say):
    """Takes the place of `experiment.train_in_worker`."""
    return os.getpid()


def test_a_process_is_replaced_after_some_models(monkeypatch):
    """Otherwise XLA would need more memory mappings than Linux allows a process."""
    monkeypatch.setattr(experiment, "train_in_worker", process_number)
    monkeypatch.setattr(experiment, "_start_worker", process_number)
    monkeypatch.setattr(experiment, "MODELS_PER_PROCESS", 2)
    with experiment.processes(None, 1, quiet=True) as submit:
        numbers = [future.result() for future in [submit(None) for _ in range(5)]]
    assert [numbers.index(number) for number in numbers] == [0, 0, 2, 2, 4] and os.getpid() not in numbers


def end_process(job, say):
    """Takes the place of `experiment.train_in_worker`."""
    if job == 0:
        time.sleep(30)
        return
    os._exit(1)


def test_the_end_of_a_process_ends_the_run_at_once(monkeypatch):
    monkeypatch.setattr(experiment, "train_in_worker", end_process)
    monkeypatch.setattr(experiment, "_start_worker", process_number)
    with (
        pytest.raises(experiment.WorkerKilled, match="a process that trained a model was killed"),
        experiment.processes(None, 2, quiet=True) as submit,
    ):
        [submit(job) for job in range(5)][0].result()


def test_a_killed_worker_is_one_sentence_that_says_how_to_continue(small, monkeypatch):
    def killed(*_):
        yield from ()
        raise experiment.WorkerKilled("a process that trained a model was killed, perhaps for lack of memory.")

    monkeypatch.setattr(experiment, "train_models", killed)
    with pytest.raises(InputError, match="was killed, .*; once that is fixed, continue with: python .* --resume logs"):
        run(single, small, "--task_id 1,2")


def test_pictures_are_drawn_unless_a_flag_says_otherwise(small, monkeypatch):
    folders = []
    monkeypatch.setattr(plots, "draw", folders.append)
    run(single, small.replace("--pictures False", ""), "--epochs 1")
    assert folders == [f"logs/{run_folder().name}"]
    run(single, small, "--epochs 1 --log_dir without")
    assert len(folders) == 1


def test_run_folders_are_never_shared(small, monkeypatch):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(lambda _: checkpoint.Run.create("logs", "single"), range(40)))
    for a_run in runs:
        a_run.close()
    assert len({a_run.folder for a_run in runs}) == 40 == len(os.listdir("logs"))
    assert all(re.fullmatch(r"single_\d+", os.path.basename(a_run.folder)) for a_run in runs)


def test_models_are_saved_as_a_whole(small, monkeypatch):
    def fail(network, path):
        Path(path).write_bytes(b"half")
        raise ValueError("unable to write: no space left on device")  # as h5py does

    monkeypatch.setattr(keras.Model, "save", fail)
    with pytest.raises(InputError, match="model_task1.keras: not saved: unable to write: no space left"):
        run(single, small, "--epochs 1")
    assert not list(Path().rglob("*.keras*")) and not temporary_files()

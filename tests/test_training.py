"""Training: batches, noise, steps, scores, flags, files, and both commands from end to end."""

import argparse
import csv
import fcntl
import multiprocessing
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, TimeoutError
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest

import babi_simulator
import data_utils
import files
import joint
import runs
import single
import training
from data_utils import NEVER_SEEN, EncodedExamples, InputError
from memn2n_kv import READERS, MemN2N_KV

OF_A_RUN = {"params.csv", "scores.csv", "times.csv", "run.json", "progress.json"}  # files in a run's folder
HEADER = "Task,Testing Accuracy,Training Accuracy,Validation Accuracy"
SINGLE, JOINT = single.__file__, joint.__file__
RECIPES = Path(joint.__file__).parent / "recipes"

both_readers = pytest.mark.parametrize("reader", READERS)
both_scripts = pytest.mark.parametrize("script", [single, joint], ids=["single", "joint"])


def numbered_examples(count, tasks=1, slots=6, sentence_size=3, words=9):
    """Examples of random words whose answer is their number; task after task, as files give them."""
    random = np.random.default_rng(0)
    statements = random.integers(1, words, (2 * count + 1, sentence_size)).astype(np.int32)
    statements[0] = 0
    told = random.integers(1, len(statements), (count, slots))
    lengths = np.minimum(random.geometric(0.5, (count, 1)) - 1, slots)  # many short memories, few long ones
    return EncodedExamples(
        statements=statements,
        slots=np.where(np.arange(slots) < lengths, told, 0).astype(np.int32),
        query=random.integers(1, words, (count, sentence_size)).astype(np.int32),
        answer=np.arange(count, dtype=np.int32),
        task=np.arange(count, dtype=np.int32) * tasks // count + 1,
    )


def padded_batch(examples, numbers):
    """(inputs, answer, weight) of some examples in the padded form."""
    key, value, query, answer = (tensor[numbers] for tensor in examples.padded())
    inputs = {"memory_key": key, "memory_value": value, "query": query}
    return inputs, answer, np.ones(len(numbers), np.float32)


def epochs_of(examples, batch_size, epochs=1, **arguments):
    """For each epoch, the numbers of the examples in each batch, without what only fills the last one."""
    steps = -(-len(examples) // batch_size)
    stream = iter(training.batches(examples, batch_size, **arguments))
    epochs_found = []
    for _ in range(epochs):
        weighted = [[np.asarray(tensor) for tensor in next(stream)[1:3]] for _ in range(steps)]
        assert all(set(weight) <= {0.0, 1.0} for _, weight in weighted)
        epochs_found.append([answer[weight == 1].tolist() for answer, weight in weighted])
    return epochs_found


def flat(epoch):
    return [number for batch in epoch for number in batch]


def make_network(reader="bow", **changes):
    keras.utils.set_random_seed(0)
    sizes = dict(vocab_size=30, sentence_size=3, memory_size=6, embedding_size=5, feature_size=6, hops=2)
    return MemN2N_KV(**{**sizes, "reader": reader, **changes})


# Batches ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "batch_size"), [(23, 5), (20, 5), (3, 5), (1, 1)])
def test_every_example_is_seen_exactly_once_an_epoch(count, batch_size):
    for epoch in epochs_of(numbered_examples(count), batch_size, epochs=3, seed=1):
        assert sorted(flat(epoch)) == list(range(count))


def test_every_batch_mixes_tasks():
    examples = numbered_examples(200, tasks=4)
    for epoch in epochs_of(examples, 20, epochs=2, seed=1):
        assert all(len(set(examples.task[batch])) >= 3 for batch in epoch)


def test_order_depends_on_seed_and_epoch_alone():
    examples = numbered_examples(23)
    first, second, third = epochs_of(examples, 5, epochs=3, seed=1)
    assert first != second != third != first
    np.random.seed(5)
    keras.utils.set_random_seed(5)  # the world outside has no say
    assert epochs_of(examples, 5, epochs=3, seed=1) == [first, second, third]
    assert epochs_of(examples, 5, seed=1, first_epoch=2) == [third]
    assert epochs_of(examples, 5, seed=2) != [first]


@both_readers
@pytest.mark.parametrize("mask_padding", [True, False], ids=["masked", "every slot"])
@pytest.mark.parametrize("room", [None, 60, 1], ids=["as many as there are", "ample room", "too little room"])
def test_batches_give_what_their_padded_examples_give(reader, mask_padding, room):
    """Whatever shapes they are brought to, and however the last one is filled up."""
    examples = numbered_examples(23)
    network = make_network(reader, mask_padding=mask_padding)
    trainer = training.Trainer(network, l2_lambda=0.1)
    stream = iter(training.batches(examples, 5, seed=1, room=room))
    for step in range(5):
        inputs, answer, weight = next(stream)
        real = np.asarray(weight) == 1
        assert (len(real), real.sum()) == (5, 3 if step == 4 else 5)
        expected = padded_batch(examples, np.asarray(answer)[real])
        np.testing.assert_allclose(np.asarray(network(inputs))[real], network(expected[0]), rtol=1e-4, atol=1e-6)
        loss, gradient = trainer.loss_and_gradient(inputs, answer, weight)
        expected_loss, expected_gradient = trainer.loss_and_gradient(*expected)
        np.testing.assert_allclose(loss, expected_loss, rtol=1e-4)
        np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-3, atol=1e-5)


# Steps ------------------------------------------------------------------------------------------


def test_noise_has_the_standard_deviation_that_was_asked_for():
    size = 2000

    def draw(seed):
        stream = iter(training.batches(numbered_examples(23), 5, seed=seed, noise=(size, 0.5)))
        return np.stack([np.asarray(next(stream)[3]) for _ in range(30)])  # beyond one epoch

    noise = draw(seed=1)
    assert noise.shape == (30, size)
    assert abs(noise.std() / 0.5 - 1) < 0.02 and abs(noise.mean()) < 0.02
    assert (abs(noise.std(axis=1) / 0.5 - 1) < 0.1).all()
    alike = np.corrcoef(noise) - np.eye(30)
    assert abs(alike).max() < 0.15  # six standard errors: no two steps have the same noise
    np.testing.assert_array_equal(draw(seed=1), noise)
    assert (draw(seed=2) != noise).mean() > 0.99


def test_gradients_are_clipped_one_by_one():
    network = make_network()
    trainer = training.Trainer(network, max_grad_norm=2.0)
    random = np.random.default_rng(0)
    gradient = random.normal(size=trainer.vector.shape).astype(np.float32)
    parts = [np.asarray(part) for part in trainer.parts(gradient)]
    small = 0.5 * gradient / max(np.linalg.norm(part) for part in parts)
    for part, clipped in zip(parts, trainer.parts(trainer.clip(gradient)), strict=True):
        norm = np.linalg.norm(part)
        assert norm > 2
        np.testing.assert_allclose(clipped, part * 2 / norm, rtol=1e-4)
    np.testing.assert_allclose(trainer.clip(small), small, rtol=1e-6)
    np.testing.assert_array_equal(trainer.clip(0 * gradient), 0 * gradient)


def test_noise_is_added_after_clipping():
    trainer = training.Trainer(make_network(), l2_lambda=0.1, max_grad_norm=1e-3)
    trainer.compile(keras.optimizers.SGD(1.0))
    batch = padded_batch(numbered_examples(7), range(7))
    before = np.asarray(trainer.vector).copy()
    clipped = np.asarray(trainer.clip(trainer.loss_and_gradient(*batch)[1]))
    noise = np.linspace(-1, 1, len(before), dtype=np.float32)
    trainer.train_step((*batch, noise))
    np.testing.assert_allclose(trainer.vector, before - clipped - noise, atol=1e-5)


def test_accuracy_is_of_each_tasks_own_questions():
    examples = EncodedExamples(
        statements=np.zeros((1, 3), np.int32),
        slots=np.zeros((10, 2), np.int32),
        query=np.ones((10, 3), np.int32),
        answer=np.array([5, 1, 1, 1, 2, 2, 2, 2, NEVER_SEEN, NEVER_SEEN], np.int32),
        task=np.array([4, 7, 7, 7, 9, 9, 9, 9, 9, 9], np.int32),
    )
    predicted = np.array([5, 1, 3, 3, 2, 2, 2, 0, 0, 2])
    accuracy = training.exact_match(predicted, examples)
    assert accuracy == pytest.approx({4: 1.0, 7: 1 / 3, 9: 0.5, "all": 0.5})


@both_readers
def test_answers_are_the_networks_own(reader):
    examples = numbered_examples(23)
    network = make_network(reader)
    inputs, *_ = padded_batch(examples, range(23))
    expected = np.asarray(network(inputs)).argmax(axis=-1)
    for batch_size in (4, 500):
        np.testing.assert_array_equal(training.Trainer(network).answers(examples, batch_size), expected)


# Data -------------------------------------------------------------------------------------------


def load(folder, tasks, memory_size=20):
    flags = SimpleNamespace(
        data_dir=str(folder), only_supporting=False, memory_size=memory_size, random_state=1, time_noise=0.0
    )
    return training.load(flags, tasks)


def test_vocabulary_and_sizes_are_those_of_the_training_text(small_corpus):
    corpus = load(small_corpus, [1, 2])
    assert "bread,milk" in corpus.vocabulary and "barn" in corpus.vocabulary
    assert "cellar" not in corpus.vocabulary  # in a test file only: a statement and an answer
    assert (corpus.testing.answer == NEVER_SEEN).sum() == 1
    assert (corpus.testing.statements == corpus.vocabulary[data_utils.UNKNOWN]).any()
    assert (corpus.training.answer != NEVER_SEEN).all()
    assert (corpus.sentence_size, corpus.memory_size) == (7, 4)
    assert corpus.testing.task.tolist() == [1] * 4 + [2] * 3
    assert len(corpus.training) + len(corpus.validation) == 12 + 7


@pytest.mark.parametrize(("wanted", "expected"), [(20, 4), (3, 3), (1, 1)])
def test_memory_is_no_larger_than_the_longest_story(small_corpus, wanted, expected):
    corpus = load(small_corpus, [2], memory_size=wanted)
    assert corpus.memory_size == corpus.training.slots.shape[1] == corpus.testing.slots.shape[1] == expected


def test_validation_file_is_used_instead_of_a_split(small_corpus, tmp_path):
    for split, source in (("train", "train"), ("valid", "test"), ("test", "test")):
        text = (small_corpus / f"qa1_whereabouts_{source}.txt").read_text()
        (tmp_path / f"qa1_{split}.txt").write_text(text)
    corpus = load(tmp_path, [1])
    assert (len(corpus.training), len(corpus.validation), len(corpus.testing)) == (12, 4, 4)
    np.testing.assert_array_equal(corpus.validation.answer, corpus.testing.answer)


# Flags ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "tasks"),
    [("7", [7]), ("3,7,9", [3, 7, 9]), ("1-20", list(range(1, 21))), ("all", list(range(1, 21)))]
    + [("2-3,19, 5", [2, 3, 5, 19]), ("4,4,3-5", [3, 4, 5]), ("20-20", [20])],
)
def test_tasks_that_are_named(text, tasks):
    assert training.task_numbers(text) == tasks


@pytest.mark.parametrize(
    "text", ["0", "21", "1-21", "7-5", "", "one", "1,,2", "-3", "1-", "-", "1-2-3", "1.5", "1;2", "1-1000000"]
)
def test_tasks_that_do_not_exist(text):
    with pytest.raises(argparse.ArgumentTypeError):
        training.task_numbers(text)


# Each flag of the design's table with the defaults of single and of joint, None where it has no such flag.
FLAGS = {
    "learning_rate": ("0.001", "0.001"),
    "epsilon": ("0.1", "0.1"),
    "l2_lambda": ("0.2", "0.1"),
    "max_grad_norm": ("20.0", "20.0"),
    "keep_prob": ("1.0", "1.0"),
    "evaluation_interval": ("50", "20"),
    "batch_size": ("32", "50"),
    "feature_size": ("40", "50"),
    "hops": ("3", "3"),
    "epochs": ("100", "200"),
    "embedding_size": ("30", "40"),
    "memory_size": ("20", "50"),
    "task_id": ("1", None),
    "random_state": ("", ""),  # none
    "data_dir": ("data/tasks_1-20_v1-2/en/", "data/tasks_1-20_v1-2/en/"),
    "reader": ("bow", "bow"),
    "output_file": ("single_scores.csv", "logs/scores_<unix time>.csv"),
    "param_output_file": (None, "logs/params_<unix time>.csv"),
    "allow_soft_placement": ("True", "True"),
    "log_device_placement": ("False", "False"),
}


@both_scripts
def test_help_lists_every_flag_with_its_default(script, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    with pytest.raises(SystemExit) as ended:
        script.main(["-h"])
    assert ended.value.code == 0
    text = re.sub(r"\s+", " ", capsys.readouterr().out)
    entries = dict(re.findall(r" --(\w+) (?:[A-Z0-9_]+|\{[\w,]+\}) ([a-z].*?)(?= --\w+ |$)", text))
    for flag, defaults in FLAGS.items():
        default = defaults[script is joint]
        if default is None:
            assert flag not in entries
        else:
            assert not default or ("default" in entries[flag] and default in entries[flag])


def run(script, *flags):
    """Runs a script's main as its command line would, in this process."""
    runs.command(lambda: script.main([str(flag) for flag in flags]))


def assert_refused(capsys, script, flags, *words):
    """Asserts status 2 and one sentence with some words."""
    with pytest.raises(SystemExit) as ended:
        run(script, *flags)
    assert ended.value.code == 2
    out, sentence = capsys.readouterr()
    assert out == ""
    for word in words:
        assert str(word) in sentence
    assert sentence.count("\n") == 1 and sentence.endswith("\n")


@pytest.mark.parametrize(
    "flags",
    ["--task_id 0", "--task_id 21", "--task_id one"]
    + ["--hops 0", "--hops 1.5", "--epochs 0", "--batch_size 0", "--batch_size -1", "--memory_size 0", "--reader lstm"]
    + ["--embedding_size 0", "--feature_size 0", "--keep_prob 0", "--keep_prob 1.1", "--learning_rate 0"]
    + ["--learning_rate nan", "--learning_rate inf", "--learning_rate fast", "--epsilon 0", "--l2_lambda -0.1"]
    + ["--max_grad_norm 0", "--evaluation_interval 0", "--random_state -1", "--only_supporting maybe"]
    + ["--mask_padding 2", "--allow_soft_placement yes", "--speed 9", "--epoch 3", "--epochs"],
)
def test_wrong_flags_are_one_sentence(flags, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert_refused(capsys, single, flags.split(), flags.split()[0])
    assert os.listdir(tmp_path) == []


def test_joint_has_all_tasks(capsys):
    assert_refused(capsys, joint, ["--task_id", "1"], "--task_id")


@both_scripts
def test_bad_data_is_one_sentence_and_leaves_nothing(script, small_corpus, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    bad = tmp_path / "bad"
    bad.mkdir()
    for path in small_corpus.iterdir():
        (bad / path.name).write_bytes(path.read_bytes())
    with open(bad / "qa1_whereabouts_test.txt", "a") as file:
        file.write("1 Anna ran.\n3 Otto ran.\n")
    before = sorted(os.listdir(tmp_path))
    assert_refused(capsys, script, ["--data_dir", "none"], "none", "folder")
    assert_refused(capsys, script, ["--data_dir", "empty"], "empty", "task 1")
    assert_refused(capsys, script, ["--data_dir", "bad"], "qa1_whereabouts_test.txt, line 10", "found 3")
    if script is single:
        # The third task is missing: said before the first is trained.
        assert_refused(capsys, script, ["--data_dir", small_corpus, "--task_id", "1-3"], "task 3")
    assert sorted(os.listdir(tmp_path)) == before


@both_scripts
def test_bad_output_is_one_sentence_before_training(script, small_corpus, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("Name,Age\nAnna,7\n")

    data = ["--data_dir", str(small_corpus)]
    if script is joint:
        babi_simulator.write_corpus(tmp_path / "sim", range(1, 21), 20, 5, 0)
        data = ["--data_dir", "sim"]
    before = sorted(os.listdir(tmp_path))
    refused = {
        "--output_file none/scores.csv": "--output_file",
        "--output_file folder": "folder",
        "--output_file file/scores.csv": "file",
        "--output_file file": "file, line 1",
        "--log_dir file": "file",
        "--log_dir file/logs": "file",
        "--log_dir file/deep/logs": "file",
    }
    if script is joint:
        refused["--param_output_file none/params.csv"] = "--param_output_file"
        refused["--param_output_file folder"] = "folder"
    for flags, words in refused.items():
        assert_refused(capsys, script, [*data, "--epochs", "1", *flags.split()], words)  # and prints nothing
        assert sorted(os.listdir(tmp_path)) == before, flags
    assert (tmp_path / "file").read_text() == "Name,Age\nAnna,7\n"
    assert os.listdir(tmp_path / "folder") == []


def test_a_bug_shows_its_traceback():
    with pytest.raises(ZeroDivisionError):
        runs.command(lambda: 1 / 0)


# Files ------------------------------------------------------------------------------------------


def test_scores_are_appended_after_what_is_there(tmp_path):
    path = tmp_path / "scores.csv"
    files.append_scores(path, [[1, "0.5000", "0.6000", "0.7000"]])
    files.append_scores(path, [[2, "0.1000", "0.2000", "0.3000"], [1, "1.0000", "1.0000", "1.0000"]])
    rows = ["1,0.5000,0.6000,0.7000", "2,0.1000,0.2000,0.3000", "1,1.0000,1.0000,1.0000"]
    assert path.read_text() == "\n".join([HEADER, *rows, ""])
    path.write_text(path.read_text().rstrip("\n"))  # an editor left out the last line end
    files.append_scores(path, [[3, "0.0000", "0.0000", "0.0000"]])
    assert path.read_text().splitlines() == [HEADER, *rows, "3,0.0000,0.0000,0.0000"]
    empty = tmp_path / "empty.csv"
    empty.write_text("")
    files.append_scores(empty, [[1, 2, 3, 4]])
    assert empty.read_text() == f"{HEADER}\n1,2,3,4\n"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of fork: these children only write a file
def test_many_who_append_at_once_lose_nothing(tmp_path):
    processes, count = 6, 30
    context = multiprocessing.get_context("fork")
    together = context.Barrier(processes)

    def append(process):
        for file in range(count):  # all at once to a file that is not there yet
            together.wait(timeout=60)
            files.append_scores(tmp_path / f"{file}.csv", [[process, part, "x" * 300, 0] for part in range(3)])

    running = [context.Process(target=append, args=(process,)) for process in range(processes)]
    for process in running:
        process.start()
    for process in running:
        process.join()
    assert [process.exitcode for process in running] == [0] * processes
    expected = [[[str(process), str(part), "x" * 300, "0"] for part in range(3)] for process in range(processes)]
    for file in range(count):
        header, *rows = csv.reader((tmp_path / f"{file}.csv").read_text().splitlines())
        assert ",".join(header) == HEADER
        assert sorted(rows[i : i + 3] for i in range(0, len(rows), 3)) == expected


def test_appending_waits_for_whoever_writes(tmp_path):
    path = tmp_path / "scores.csv"
    with open(path, "w") as file, ThreadPoolExecutor(1) as pool:
        fcntl.flock(file, fcntl.LOCK_EX)
        waiting = pool.submit(files.append_scores, path, [[2, "0.2000", "0.2000", "0.2000"]])
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.3)
        file.write(f"{HEADER}\n1,0.1000,0.1000,0.1000\n")
        file.flush()
        fcntl.flock(file, fcntl.LOCK_UN)
        waiting.result(timeout=60)
    assert path.read_text().splitlines() == [HEADER, "1,0.1000,0.1000,0.1000", "2,0.2000,0.2000,0.2000"]


def test_run_folders_are_never_shared(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: files.new_run_folder(tmp_path / "logs", "single"), range(40)))
    assert len(set(folders)) == 40 == len(os.listdir(tmp_path / "logs"))
    assert all(re.fullmatch(r"single_\d+(_\d+)?", os.path.basename(folder)) for folder in folders)


def test_writable_files_are_not_refused_and_not_touched(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("scores.csv", str(tmp_path / "scores.csv")):
        files.check_score_file(path)
        files.check_writable(path, "--param_output_file")
    assert os.listdir(tmp_path) == []
    for text in ("", f"{HEADER}\n", f"{HEADER}\r\n1,1,1,1\r\n"):
        (tmp_path / "scores.csv").write_bytes(text.encode())
        files.check_score_file("scores.csv")
        assert (tmp_path / "scores.csv").read_bytes() == text.encode()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_file_and_folder_without_permission(tmp_path):
    (tmp_path / "scores.csv").write_text(f"{HEADER}\n")
    (tmp_path / "scores.csv").chmod(0o444)
    with pytest.raises(InputError, match="cannot be written; change --output_file"):
        files.check_score_file(str(tmp_path / "scores.csv"))
    (tmp_path / "closed").mkdir(mode=0o555)
    with pytest.raises(InputError, match="cannot be written; change --output_file"):
        files.check_score_file(str(tmp_path / "closed" / "scores.csv"))


# Runs -------------------------------------------------------------------------------------------


def score_rows(path):
    """(task, three accuracies) of each row, after a look at columns and digits."""
    header, *rows = Path(path).read_text().splitlines()
    assert header == HEADER
    assert all(re.fullmatch(r"\d+( \(simulated\))?(,[01]\.\d{4}){3}", row) for row in rows)
    return [(int(task.split()[0]), *map(float, accuracies)) for task, *accuracies in csv.reader(rows)]


def settings(path):
    """The NAME=value lines of a file."""
    return dict(line.split("=", 1) for line in Path(path).read_text().splitlines())


def run_folder(log_dir):
    (folder,) = [path for path in Path(log_dir).iterdir() if path.is_dir()]
    return folder


def weights(model_file):
    return [np.asarray(variable) for variable in keras.saving.load_model(model_file).weights]


@pytest.fixture(scope="module")
def small_run(small_corpus):
    """Flags of a run that takes a moment."""
    return ["--data_dir", str(small_corpus), "--embedding_size", "8", "--feature_size", "9", "--batch_size", "4"]


def write_places(folder):
    """A task that a small network masters: who is where, one of two or three who were named."""
    random = np.random.default_rng(0)
    for split, stories in (("train", 150), ("test", 20)):
        lines = []
        for _ in range(stories):
            names = random.permutation(["Anna", "Otto", "Ines", "Karl"])[: random.integers(2, 4)]
            places = random.choice(["barn", "mill", "well", "wood"], len(names))
            lines += [f"{i + 1} {name} is in the {places[i]}." for i, name in enumerate(names)]
            asked = random.integers(len(names))
            lines.append(f"{len(names) + 1} Where is {names[asked]}?\t{places[asked]}\t{asked + 1}")
        (folder / f"qa1_{split}.txt").write_text("\n".join(lines) + "\n")


@both_readers
def test_tiny_run_learns(reader, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_places(tmp_path)
    flags = ["--data_dir", ".", "--reader", reader, "--epochs", 40, "--learning_rate", 0.01, "--epsilon", 0.01]
    run(single, *flags, "--l2_lambda", 0.001, "--batch_size", 16, "--evaluation_interval", 1, "--random_state", 1)
    ((task, testing, training_accuracy, validation),) = score_rows("single_scores.csv")
    assert task == 1
    assert training_accuracy > 0.95 and testing > 0.9 and validation > 0.8  # guessing gives 0.25
    history = list(csv.DictReader((run_folder("logs") / "history_task1.csv").read_text().splitlines()))
    losses = [float(row["loss"]) for row in history]
    assert np.mean(losses[-10:]) < losses[0] / 2
    assert float(history[-1]["training"]) == training_accuracy


@both_readers
def test_compiled_and_plain_training_agree(reader, small_run, tmp_path, monkeypatch):
    results = []
    for compiled in (True, False):
        folder = tmp_path / str(compiled)
        folder.mkdir()
        monkeypatch.chdir(folder)
        monkeypatch.setattr(training, "worth_compiling", lambda *_, compiled=compiled: compiled)
        run(single, *small_run, "--epochs", 4, "--reader", reader, "--random_state", 7, "--learning_rate", 0.05)
        results.append(weights(run_folder("logs") / "model_task1.keras"))
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


def test_interval_chooses_the_reported_epochs(small_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run(single, *small_run, "--epochs", 5, "--evaluation_interval", 2)
    history = list(csv.DictReader((run_folder("logs") / "history_task1.csv").read_text().splitlines()))
    assert [row["epoch"] for row in history] == ["2", "4", "5"]
    out, err = capsys.readouterr()
    assert [f"epoch {epoch}/5" in out for epoch in range(1, 6)] == [False, True, False, True, True]
    assert "\r" not in out and "\x1b" not in out and "\b" not in out and err == ""  # no terminal, no progress bar


def test_a_run_without_seed_can_be_repeated(small_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(single, *small_run, "--epochs", 2, "--log_dir", "first", "--output_file", "first.csv")
    seed = settings(run_folder("first") / "params.csv")["random_state"]
    run(single, *small_run, "--epochs", 2, "--log_dir", "second", "--output_file", "second.csv", "--random_state", seed)
    first, second = run_folder("first"), run_folder("second")
    assert Path("first.csv").read_bytes() == Path("second.csv").read_bytes()
    assert (first / "history_task1.csv").read_bytes() == (second / "history_task1.csv").read_bytes()
    run(single, *small_run, "--epochs", 2, "--log_dir", "third", "--random_state", int(seed) + 1)
    third = run_folder("third")
    assert (first / "history_task1.csv").read_bytes() != (third / "history_task1.csv").read_bytes()


# Commands ---------------------------------------------------------------------------------------

# TensorFlow announces things before anyone can tell it not to; those lines are not the program's.
TENSORFLOW_LINE = re.compile(r"WARNING: All log messages before absl::InitializeLog|[IWE]\d{4} \d\d:\d\d:\d")


def command(script, *flags, cwd):
    """Runs a script; returns status, output and errors without TensorFlow's own lines."""
    done = subprocess.run([sys.executable, script, *map(str, flags)], capture_output=True, text=True, cwd=cwd)
    errors = [line for line in done.stderr.splitlines() if not TENSORFLOW_LINE.match(line)]
    return done.returncode, done.stdout, errors


SEVERAL = ["--task_id", "1,2", "--epochs", "3", "--random_state", "5", "--learning_rate", "0.05"]


@pytest.fixture(scope="module")
def single_command(tmp_path_factory, small_run):
    """The folder, status, output and errors of single.py for two tasks, where a score file was already."""
    folder = tmp_path_factory.mktemp("single")
    (folder / "scores.csv").write_text(f"{HEADER}\n9,0.1000,0.2000,0.3000\n")
    return folder, *command(SINGLE, *small_run, *SEVERAL, "--output_file", "scores.csv", cwd=folder)


def test_single_command_writes_its_files(single_command):
    folder, status, out, errors = single_command
    assert (status, errors) == (0, [])
    assert sorted(os.listdir(folder)) == ["logs", "scores.csv"]
    kept, *rows = score_rows(folder / "scores.csv")
    assert kept == (9, 0.1, 0.2, 0.3)
    assert [task for task, *_ in rows] == [1, 2]
    assert rows[0][1] in (0, 0.25, 0.5, 0.75)  # four test questions, one with an answer that is never learned
    assert rows[1][1] in (0, 0.3333, 0.6667, 1)  # three
    logs = run_folder(folder / "logs")
    kinds = ("history_task%d.csv", "model_task%d.keras", "curves_task%d.png")
    of_models = {name % task for task in (1, 2) for name in kinds}
    assert set(os.listdir(logs)) == of_models | OF_A_RUN | {"tasks.png"}
    assert score_rows(logs / "scores.csv") == rows
    flags = settings(logs / "params.csv")
    assert (flags["random_state"], flags["epochs"], flags["hops"], flags["reader"]) == ("5", "3", "3", "bow")
    assert "mean test error" in out and "\r" not in out
    for task, testing, *_ in rows:
        assert re.search(rf"^ +{task} +{testing:.4f} ", out, flags=re.M)


def test_saved_network_gives_the_accuracy_of_the_score_file(single_command, small_corpus):
    folder, *_ = single_command
    _, *rows = score_rows(folder / "scores.csv")
    for task, testing, *_ in rows:
        network = keras.saving.load_model(run_folder(folder / "logs") / f"model_task{task}.keras")
        config = network.get_config()
        vocabulary = {word: number for number, word in enumerate(config["vocabulary"], start=1)}
        _, examples = data_utils.load_task(small_corpus, task)
        key, value, query, answer = data_utils.vectorize_data(
            examples, vocabulary, config["sentence_size"], config["memory_size"]
        )
        logits = np.asarray(network({"memory_key": key, "memory_value": value, "query": query}))
        assert np.mean(logits.argmax(axis=-1) == answer) == pytest.approx(testing, abs=1e-4)


def test_same_seed_gives_the_same_bytes(single_command, small_run, tmp_path, monkeypatch):
    # There another process, with another hash seed; here one that has trained other networks before.
    folder, *_ = single_command
    monkeypatch.chdir(tmp_path)
    run(single, *small_run, *SEVERAL, "--output_file", "scores.csv")
    there, here = run_folder(folder / "logs"), run_folder("logs")
    for name in ("scores.csv", "history_task1.csv", "history_task2.csv"):
        assert (here / name).read_bytes() == (there / name).read_bytes()
    run(single, *small_run, *SEVERAL, "--output_file", "scores.csv", "--log_dir", "again")
    rows = score_rows("scores.csv")
    assert [task for task, *_ in rows] == [1, 2, 1, 2] and rows[:2] == rows[2:]


def test_joint_command_writes_its_files(tmp_path):
    babi_simulator.write_corpus(tmp_path / "sim", range(1, 21), 20, 10, 0)
    status, out, errors = command(JOINT, "--data_dir", "sim", "--reader", "simple_gru", "--epochs", 2, cwd=tmp_path)
    assert (status, errors) == (0, [])
    assert sorted(os.listdir(tmp_path)) == ["logs", "sim"]
    logs = tmp_path / "logs"
    folder = run_folder(logs)
    stamp = re.fullmatch(r"joint_(\d+)", folder.name)[1]
    assert set(os.listdir(logs)) == {folder.name, f"scores_{stamp}.csv", f"params_{stamp}.csv"}
    rows = score_rows(logs / f"scores_{stamp}.csv")
    assert [task for task, *_ in rows] == list(range(1, 21))
    assert settings(logs / f"params_{stamp}.csv").items() >= {
        ("reader", "simple_gru"),
        ("epochs", "2"),
        ("batch_size", "50"),
        ("memory_size", "50"),
    }
    assert set(os.listdir(folder)) == {"history.csv", "model.keras", "curves.png", "tasks.png"} | OF_A_RUN
    assert "validation by task" in out
    assert keras.saving.load_model(folder / "model.keras").get_config()["reader"] == "simple_gru"


def test_bad_text_ends_the_command_with_one_sentence(tmp_path):
    (tmp_path / "qa1_train.txt").write_bytes(b"1 Anna ran to the mill.\r\n2 Where is Anna?\tmill\r\n")
    (tmp_path / "qa1_test.txt").write_bytes(b"1 Anna ran to the mill.\n2 Where is Anna?\tmill\t1\n")
    status, out, errors = command(SINGLE, "--data_dir", ".", cwd=tmp_path)
    assert (status, out, len(errors)) == (2, "", 1)
    assert "qa1_train.txt, line 2: " in errors[0]
    assert sorted(os.listdir(tmp_path)) == ["qa1_test.txt", "qa1_train.txt"]


def test_a_task_with_exactly_95_percent_has_not_failed(capsys):
    runs.print_scores([(1, 0.95, 1.0, 1.0), (2, 0.949, 1.0, 1.0)])
    assert "failed tasks (error above 5 %): 1 of 2" in capsys.readouterr().out


def test_a_loss_that_is_no_number_ends_the_run(small_corpus, tmp_path):
    arguments = ["--data_dir", str(small_corpus), "--epochs", "3", "--learning_rate", "1e30", "--epsilon", "1e-30"]
    places = ["--output_file", str(tmp_path / "scores.csv"), "--log_dir", str(tmp_path / "logs")]
    with pytest.raises(data_utils.InputError, match=r"the loss is .* in epoch \d+, batch \d+, at learning rate 1e\+30"):
        single.main([*arguments, "--max_grad_norm", "1e30", *places])
    assert not (tmp_path / "scores.csv").exists()


def test_scores_and_flags_need_two_files(tmp_path):
    path = str(tmp_path / "one.csv")
    with pytest.raises(data_utils.InputError, match="cannot hold scores and flags"):
        joint.main(["--output_file", path, "--param_output_file", path])
    assert not any(tmp_path.iterdir())


# Noise, dropout, schedules ----------------------------------------------------------------------


def test_empty_slots_are_put_between_statements_and_nothing_changes_its_order():
    slots = np.tile(np.arange(1, 201, dtype=np.int32), (50, 1))
    moved = np.asarray(training.insert_empty_slots(slots, 0.1, seed=(1, 2)))
    assert moved.shape == slots.shape
    for row in moved:
        told = row[row > 0]
        np.testing.assert_array_equal(told, np.arange(1, len(told) + 1))  # the oldest fall off the end
    share = np.mean(moved == 0)
    assert 0.08 < share < 0.1  # 0.1 / 1.1 of all places
    np.testing.assert_array_equal(training.insert_empty_slots(slots, 0.1, seed=(1, 2)), moved)
    assert (np.asarray(training.insert_empty_slots(slots, 0.1, seed=(1, 3))) != moved).any()
    np.testing.assert_array_equal(training.insert_empty_slots(slots, 0.0, seed=(1, 2)), slots)


def test_dropout_takes_its_share_after_the_linear_start():
    examples = numbered_examples(400, slots=6, sentence_size=8)
    stream = iter(
        training.batches(
            examples, 400, seed=1, word_dropout=0.2, state_dropout=0.3, state_shape=(2, 50), dropout_from=1
        )
    )
    for epoch in range(2):
        inputs, answer, _ = next(stream)
        query, mask = np.asarray(inputs["query"]), np.asarray(inputs["state_mask"])
        dropped = query != examples.query[np.asarray(answer)]
        assert mask.shape == (400, 2, 50) and (query[dropped] == 0).all()
        if epoch == 0:
            assert not dropped.any() and (mask == 1).all()
        else:
            assert 0.17 < dropped.mean() < 0.23
            assert 0.28 < np.mean(mask == 0) < 0.32
            np.testing.assert_allclose(mask[mask > 0], 1 / 0.7, rtol=1e-6)  # the expectation stays


def test_gradients_are_clipped_as_one():
    trainer = training.Trainer(make_network(), max_grad_norm=2.0, clip="global")
    gradient = np.random.default_rng(0).normal(size=trainer.vector.shape).astype(np.float32)
    clipped = np.asarray(trainer.clip(gradient))
    np.testing.assert_allclose(clipped, gradient * 2 / np.linalg.norm(gradient), rtol=1e-4)
    small = gradient / 1000
    np.testing.assert_allclose(trainer.clip(small), small, rtol=1e-6)


def test_rate_is_half_in_the_linear_start_and_then_a_staircase():
    rate = training.Rate(0.8, decay_steps=10, decay_rate=0.5, linear_steps=5)
    steps = [0, 4, 5, 14, 15, 24, 25]
    np.testing.assert_allclose([float(rate(step)) for step in steps], [0.4, 0.4, 0.8, 0.8, 0.4, 0.4, 0.2], rtol=1e-6)
    assert training.Rate(**rate.get_config()).get_config() == rate.get_config()


# Recipes and restarts ---------------------------------------------------------------------------


def test_recipe_holds_flags_and_later_flags_override_it(tmp_path):
    recipe = tmp_path / "small.flags"
    recipe.write_text("# a comment\n--hops 2  # another\n\n--epochs 7 --log_dir 'two words'\n")
    flags = joint.flag_parser().parse_args([f"@{recipe}", "--epochs", "9"])
    assert (flags.hops, flags.epochs, flags.log_dir) == (2, 9, "two words")
    assert joint.flag_parser().parse_args(["--epochs", "9", f"@{recipe}"]).epochs == 7
    assert flags.command.endswith(f"@{recipe} --epochs 9")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["no.flags", "No such file"]),
        (b"\xff\xfe", ["no.flags", "UTF-8"]),
        (b"--hops 2\n--epochs '7\n", ["no.flags", "line 2", "quot"]),
        (b"hello there\n", ["no.flags", "line 1", "'hello'"]),
        (b"--hops two\n", ["--hops", "two"]),
        (b"--colour red\n", ["--colour"]),
    ],
)
def test_bad_recipe(content, words, tmp_path, capsys):
    path = tmp_path / "no.flags"
    if content is not None:
        path.write_bytes(content)
    assert_refused(capsys, joint, [f"@{path}"], *words)


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.flags")), ids=lambda path: path.name)
def test_recipes_are_understood(recipe):
    script = single if recipe.stem.endswith("single") or recipe.stem.startswith("single") else joint
    found = vars(script.flag_parser().parse_args([f"@{recipe}"]))
    if recipe.stem.startswith("original"):  # it spells out the defaults
        assert found == vars(script.flag_parser().parse_args([])) | {"command": found["command"]}
    else:
        assert found["tying"] == "adjacent"


RECIPE = "--tying adjacent --gates 2 --encoding length --mask_padding True --optimizer sgd --clip global".split()
RECIPE += "--linear_start 1 --linear_attention mean --state_dropout 0.1 --word_dropout 0.1 --time_noise 0.1".split()
RECIPE += "--gradient_noise 0".split()


def test_restarts_are_chosen_by_validation(small_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run(single, *small_run, "--task_id", "1,2", *RECIPE, "--epochs", 3, "--random_state", 5, "--restarts", 3)
    out = capsys.readouterr().out
    assert "mean test error of 3 seeds" in out
    with open("single_scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    folder = run_folder("logs")
    assert (folder / "scores.csv").read_bytes() == Path("single_scores.csv").read_bytes()
    for task in (1, 2):
        mine = [row for row in rows if row["Task"].startswith(f"{task} (seed ")]
        assert [re.search(r"seed (\d)", row["Task"])[1] for row in mine] == ["5", "6", "7"]
        (chosen,) = [row for row in mine if row["Task"].endswith(" chosen)")]
        assert float(chosen["Validation Accuracy"]) == max(float(row["Validation Accuracy"]) for row in mine)
        seed = re.search(r"seed (\d)", chosen["Task"])[1]
        for kind in ("model{}.keras", "history{}.csv"):
            one, other = (folder / kind.format(f"_task{task}{suffix}") for suffix in ("", f"_seed{seed}"))
            assert one.read_bytes() == other.read_bytes()
    # How many are trained at once makes no difference, and neither do the other tasks.
    few = ["--task_id", 2, "--epochs", 3, "--random_state", 5, "--restarts", 3, "--workers", 1]
    run(single, *small_run, *RECIPE, *few)
    with open("single_scores.csv", newline="") as file:
        again = list(csv.DictReader(file))[6:]
    assert again == rows[3:]

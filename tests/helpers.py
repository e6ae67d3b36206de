"""Functions that several test files share: running the scripts, reading what a run leaves, random examples."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import scores
from data_utils import EncodedExamples
from flags import HERE, InputError

HEADER = ",".join(scores.COLUMNS)
ROOT = Path(HERE)


# --- running the scripts ----------------------------------------------------------------------------------


def words_of(arguments):
    """The words of a command line: arguments are split at spaces."""
    return [word for argument in arguments for word in str(argument).split()]


def run(script, *arguments):
    """Runs the `main` of an imported script in this process."""
    script.main(words_of(arguments))


def refusal(script, *arguments):
    """The sentence with which the `main` of an imported script refuses its input, before it trains."""

    def error(parser, message):
        raise InputError(message)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiment.train_model", lambda job: pytest.fail("the input is not refused"))
        patch.setattr("flags.Parser.error", error)
        try:
            run(script, *arguments)
        except InputError as error:
            assert "\n" not in str(error) and len(str(error)) > 10
            return str(error)
    pytest.fail("the input is not refused")


def command(script, *arguments, **options):
    """Runs a script of the project as a user would.

    Args:
        script: its name, or a path.
        *arguments: flags; see `words_of`.
        **options: see `subprocess.run`.

    Returns:
        `subprocess.CompletedProcess`, with output and errors as text.
    """
    words = [sys.executable, str(ROOT / script), *words_of(arguments)]
    return subprocess.run(words, capture_output=True, text=True, **options)


# --- what a run leaves ------------------------------------------------------------------------------------


def run_folder(place="logs"):
    """The only run's folder in a folder of logs."""
    (folder,) = (path for path in Path(place).iterdir() if path.is_dir())
    return folder


def score_rows(path):
    """(task, three accuracies) of each row of a score file, after a check of its columns and digits."""
    header, *rows = Path(path).read_text().splitlines()
    assert header == HEADER
    assert all(re.fullmatch(r"\d+( \(simulated\))?(,[01]\.\d{4}){3}", row) for row in rows)
    return [(int(task.split()[0]), *map(float, accuracies)) for task, *accuracies in csv.reader(rows)]


def read_csv(path):
    """The rows of a CSV file as dicts."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def settings(path):
    """The NAME=value lines of a file as a dict."""
    return dict(line.split("=", 1) for line in Path(path).read_text().splitlines())


def temporary_files(place="."):
    """The files that `files.replacing` has not renamed."""
    return [path for path in Path(place).rglob(".tmp_*") if path.is_file()]


def all_files(place="."):
    """A dict from each file in a folder to its bytes."""
    return {path: path.read_bytes() for path in Path(place).rglob("*") if path.is_file()}


def as_ordinary_user():
    """For a child process: gives up the permissions of root, who may write everywhere."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)


# --- random examples --------------------------------------------------------------------------------------


def numbered_examples(count, tasks=1, memory_size=6, sentence_size=3, words=9):
    """`EncodedExamples` of random words in which the answer is the example's number; sorted by task, as files are."""
    random = np.random.default_rng(0)
    statements = random.integers(1, words, (2 * count + 1, sentence_size)).astype(np.int32)
    statements[0] = 0
    rows = random.integers(1, len(statements), (count, memory_size))
    lengths = np.minimum(random.geometric(0.5, (count, 1)) - 1, memory_size)  # many short memories, few long ones
    return EncodedExamples(
        statements=statements,
        slots=np.where(np.arange(memory_size) < lengths, rows, 0).astype(np.int32),
        query=random.integers(1, words, (count, sentence_size)).astype(np.int32),
        answer=np.arange(count, dtype=np.int32),
        task=np.arange(count, dtype=np.int32) * tasks // count + 1,
    )


def padded_batch(examples, indexes):
    """(inputs, answer, weight) of the examples at some indexes, in the padded form."""
    memory = examples.statements[examples.slots[indexes]]
    inputs = {"memory_key": memory, "memory_value": memory, "query": examples.query[indexes]}
    return inputs, examples.answer[indexes], np.ones(len(indexes), np.float32)


def make_network(reader="bow", **changes):
    """A small untrained network for `numbered_examples`."""
    import keras

    from memn2n_kv import MemN2N_KV

    keras.utils.set_random_seed(0)
    sizes = dict(vocab_size=30, sentence_size=3, memory_size=6, embedding_size=5, feature_size=6, hops=2)
    return MemN2N_KV(**{**sizes, "reader": reader, **changes})

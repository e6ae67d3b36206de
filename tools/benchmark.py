"""Measures speed and memory: the tables of the README.

Every case runs in a process of its own, several times in turn with the others; printed are the median and the
range. Nothing else should run meanwhile.
"""

import argparse
import dataclasses
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

import babi_simulator
import data_utils


def case(base, *arguments, **settings):
    """A base case with more arguments for its script, and settings of `measure`."""
    return {**base, "arguments": [*base["arguments"], *arguments], **settings}


# --- in the worker --------------------------------------------------------------------------------------


def measure(job):
    """Runs one case in this process.

    Args:
        job: a dict: `script` and `arguments` say what to train; `plain` to do it the plain way, `repeat` to
            have each training question so many times, `sentence_size` to make sentences longer.

    Returns:
        A dict from names to seconds, megabytes and numbers of questions.
    """
    begin = time.perf_counter()
    import training  # and with it TensorFlow

    imported = time.perf_counter() - begin
    flags = __import__(job["script"]).flag_parser().parse_args([*job["arguments"], "--random_state", "0"])
    begin = time.perf_counter()
    groups = [range(1, 21)] if job["script"] == "joint" else [[task] for task in flags.task_id]
    corpora = [training.load(flags, tasks) for tasks in groups]
    found = {"import": imported, "data": time.perf_counter() - begin, "compile": 0.0, "train": 0.0, "test": 0.0}
    for corpus in corpora:
        if "repeat" in job:  # more questions of the same kind
            again = np.tile(np.arange(len(corpus.training)), job["repeat"])
            corpus = corpus._replace(training=corpus.training.take(again))
        if "sentence_size" in job:  # longer sentences
            corpus = lengthen(corpus, job["sentence_size"])
        clock = epoch_clock()
        begin = time.perf_counter()
        if job.get("plain"):
            plain_training(flags, corpus, clock)
        else:
            trainer = training.train(flags, corpus, 0, [clock])
        epochs = [b - a for a, b in zip(clock.ends, clock.ends[1:], strict=False)]
        found["epoch"] = statistics.median(epochs)
        found["compile"] += clock.ends[0] - begin - found["epoch"]
        found["train"] += found["epoch"] + sum(epochs)
        if not job.get("plain"):
            begin = time.perf_counter()
            trainer.answers(corpus.testing)
            found["test"] += time.perf_counter() - begin
            begin = time.perf_counter()
            trainer.answers(corpus.testing)
            found["answer all"] = time.perf_counter() - begin
    found["questions"] = len(corpora[-1].training)
    found["peak MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return found


def lengthen(corpus, sentence_size):
    """The corpus with the words of each sentence repeated until it has sentence_size of them."""

    def longer(examples):
        return dataclasses.replace(
            examples,
            statements=np.resize(examples.statements.T, (sentence_size, len(examples.statements))).T,
            query=np.resize(examples.query.T, (sentence_size, len(examples.query))).T,
        )

    return corpus._replace(
        sentence_size=sentence_size, training=longer(corpus.training), testing=longer(corpus.testing)
    )


def epoch_clock():
    """A Keras callback that notes when each epoch ends."""
    import keras

    class EpochClock(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.ends = []

        def on_epoch_end(self, epoch, logs=None):
            self.ends.append(time.perf_counter())

    return EpochClock()


def plain_training(flags, corpus, clock):
    """The same network in the plain way: padded tensors, `compile`, `fit`, nothing else.

    It leaves out L2 and gradient noise, so it does less than the training it is compared with.
    """
    import keras

    import training

    keras.utils.set_random_seed(0)
    network = training.build(flags, corpus)
    network.compile(
        optimizer=keras.optimizers.Adam(flags.learning_rate, epsilon=flags.epsilon, clipnorm=flags.max_grad_norm),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum"),
    )
    examples = corpus.training
    inputs = {"memory_key": examples.statements[examples.slots], "query": examples.query}
    network.fit(
        inputs, examples.answer, batch_size=flags.batch_size, epochs=flags.epochs, verbose=0, callbacks=[clock]
    )


# --- in the main process --------------------------------------------------------------------------------


def run_in_turn(cases, times):
    """Runs named cases in turn, several times; returns the list of results of each."""
    results = {name: [] for name in cases}
    for _ in range(times):
        for name, job in cases.items():
            print(f"  {name} ...", file=sys.stderr, flush=True)
            command = [sys.executable, __file__, "--worker", json.dumps(job)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"benchmark.py: {name} failed:\n{done.stderr}")
            results[name].append(json.loads(done.stdout.splitlines()[-1]))
    return results


def command_time(command, data_dir):
    """Seconds that a command takes, from start to end, everything it writes included."""
    script, *arguments = command.split()
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), script)
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        whole = [sys.executable, script, *arguments, "--data_dir", os.path.abspath(data_dir), "--random_state", "0"]
        subprocess.run(whole, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
        return time.perf_counter() - begin


def cell(results, key, digits):
    """Median and range of one figure."""
    values = [result[key] for result in results]
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def print_table(title, columns, rows):
    """Prints a Markdown table."""
    print(f"\n**{title}**\n")
    for row in (columns, ["---"] * len(columns), *rows):
        print("| " + " | ".join(row) + " |")
    sys.stdout.flush()


def training_table(cases, times, title):
    """Prints epoch time, questions a second, evaluation and memory of cases."""
    rows = []
    for name, results in run_in_turn(cases, times).items():
        rate = statistics.median(result["questions"] / result["epoch"] for result in results)
        plain = "answer all" not in results[0]
        answering = "-" if plain else cell(results, "answer all", 2)
        rows.append(
            [name, cell(results, "epoch", 3), f"{rate:,.0f}", answering, cell(results, "compile", 1)]
            + [cell(results, "peak MB", 0)]
        )
    columns = ["", "s an epoch", "questions/s", "s to answer the test questions", "s to start", "peak MB"]
    print_table(title, columns, rows)


def main(argv=None):
    parser = babi_simulator.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", help="folder of bAbI files, 1,000 training questions a task")
    count = range(1, 100)
    parser.add_argument("--times", type=int, choices=count, metavar="N", default=3, help="runs of a case (default: 3)")
    parser.add_argument("--only", default="", help="run the tables whose title has this in it")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.worker:
        print(json.dumps(measure(json.loads(options.worker))))
        return

    try:
        data_dir, _ = data_utils.find_corpus(options.data_dir)
        for task in babi_simulator.TASKS:
            data_utils.load_task(data_dir, task)
    except data_utils.InputError as error:
        parser.error(str(error))
    with tempfile.TemporaryDirectory() as folder:
        large = f"{folder}/10k"

        def make_large():
            babi_simulator.write_corpus(large, list(range(1, 21)), 10_000, 1_000, seed=0)

        joint = case({"script": "joint", "arguments": []}, "--data_dir", data_dir, "--evaluation_interval", "1000")
        gru = case(joint, "--reader", "simple_gru")
        single = case({"script": "single", "arguments": []}, "--data_dir", data_dir, "--evaluation_interval", "1000")

        def against_plain(title):
            cases = {
                "bow": case(joint, "--epochs", "12"),
                "bow, the plain way": case(joint, "--epochs", "4", plain=True),
                "simple_gru": case(gru, "--epochs", "4"),
                "simple_gru, the plain way": case(gru, "--epochs", "2", plain=True),
            }
            training_table(cases, options.times, title)

        def large_corpus(title):
            make_large()
            cases = {
                name: case(base, "--data_dir", large, "--epochs", "3")
                for name, base in (("bow", joint), ("simple_gru", gru))
            }
            training_table(cases, options.times, title)

        def whole_runs(title):
            parts = ("import", "data", "compile", "train", "test")
            cases = {"single.py --task_id 1": single, "single.py --task_id all": case(single, "--task_id", "all")}
            results = run_in_turn(cases, options.times)
            for name, found in results.items():
                for result in found:
                    result["whole command"] = command_time(name, data_dir)
            columns = (*parts, "whole command")
            rows = [[name, *(cell(found, part, 2) for part in columns)] for name, found in results.items()]
            print_table(title, ["seconds", *columns], rows)

        def growth(title):
            few = case(joint, "--epochs", "12")
            cases = {"as it is": few, "twice the questions": case(few, repeat=2)}
            cases |= {f"{n} slots": case(few, "--memory_size", str(n)) for n in (100, 200)}
            cases |= {f"{n} hops": case(few, "--hops", str(n)) for n in (6,)}
            cases |= {f"embedding size {n}": case(few, "--embedding_size", str(n)) for n in (80,)}
            cases |= {f"sentences of {n} words": case(few, sentence_size=n) for n in (22, 44)}
            training_table(cases, options.times, title)

        tables = {
            "Joint training, 1,000 questions a task": against_plain,
            "Joint training, 10,000 questions a task (simulated)": large_corpus,
            "Whole runs of single.py, 100 epochs": whole_runs,
            "What a joint epoch costs (bow)": growth,
        }
        chosen = {title: make for title, make in tables.items() if options.only in title}
        if not chosen:
            parser.error(f"--only {options.only}: expected a part of a title: {'; '.join(tables)}")
        for title, make in chosen.items():
            make(title)


if __name__ == "__main__":
    main()

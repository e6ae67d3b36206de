"""Measures speed and memory: prints the tables of docs/speed.md.

Each case runs in a process of its own, several times in turn with the others. A cell is the median, with the range in
parentheses. Nothing else should run on the machine.

    python tools/benchmark.py [--times 3] [--only TEXT]
"""

import argparse
import dataclasses
import importlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import babi_simulator
import corpus as story_source
import data_utils
from flags import HERE, TASKS, Parser, count, folder, run_command


def case(base, *arguments, **settings):
    """A base case with more flags for its script, and settings of `measure`."""
    return {**base, "arguments": [*base["arguments"], *arguments], **settings}


# --- in the worker process --------------------------------------------------------------------------------


def measure(job):
    """Runs one case in this process.

    Args:
        job: a dict with `script` and `arguments`, what to train, and optional settings: `plain`, train the plain way;
            `repeat`, have each training question so many times; `sentence_size`, make sentences longer.

    Returns:
        A dict from names of figures to seconds, megabytes and numbers of questions.
    """
    begin = time.perf_counter()
    import training  # and with it TensorFlow

    figures = {"import": time.perf_counter() - begin, "compile": 0.0, "train": 0.0, "test": 0.0}
    import experiment

    training.set_up_devices(1)  # as runs do
    script = importlib.import_module(job["script"])
    flags = script.flag_parser().parse_args([*job["arguments"], "--random_state", "0"])
    begin = time.perf_counter()
    groups = [flags.task_id] if job["script"] == "joint" else [[task] for task in flags.task_id]
    corpora = [experiment.load_stories(flags, tasks) for tasks in groups]
    figures["data"] = time.perf_counter() - begin
    for corpus in corpora:
        if "repeat" in job:
            by_example = {name: getattr(corpus.training, name) for name in ("slots", "query", "answer", "task")}
            repeated = {name: np.concatenate([array] * job["repeat"]) for name, array in by_example.items()}
            corpus = corpus._replace(training=dataclasses.replace(corpus.training, **repeated))
        if "sentence_size" in job:
            corpus = lengthen(corpus, job["sentence_size"])
        clock = epoch_clock()
        begin = time.perf_counter()
        if job.get("plain"):
            train_plainly(flags, corpus, clock)
        else:
            trainer = training.train(flags, corpus, 0, experiment.compiled(flags, corpus), [clock])
        seconds = np.diff(clock.ends)
        figures["epoch"] = statistics.median(seconds)
        figures["compile"] += clock.ends[0] - begin - figures["epoch"]
        figures["train"] += figures["epoch"] + sum(seconds)
        if not job.get("plain"):
            for figure in ("test", "answer all"):  # the first time includes tracing
                begin = time.perf_counter()
                trainer.answers(corpus.testing)
                figures[figure] = figures.get(figure, 0) + time.perf_counter() - begin
    figures["questions"] = len(corpora[-1].training) * job.get("repeat", 1)
    figures["peak MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return figures


def lengthen(corpus, sentence_size):
    """A corpus with the words of each sentence repeated until there are `sentence_size` of them."""

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
    """A Keras callback whose `ends` are the times at which epochs end."""
    import keras

    class EpochClock(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.ends = []

        def on_epoch_end(self, epoch, logs=None):
            self.ends.append(time.perf_counter())

    return EpochClock()


def train_plainly(flags, corpus, clock):
    """Trains the same network the plain way: padded tensors, `compile`, `fit`, without L2 and gradient noise."""
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
    network.fit(inputs, examples.answer, batch_size=flags.batch_size, epochs=flags.epochs, verbose=0, callbacks=[clock])


# --- in the main process --------------------------------------------------------------------------------


def run_in_turn(cases, times):
    """Runs cases in turn, several times.

    Args:
        cases: a dict from names to arguments of `measure`.
        times: runs of each case.

    Returns:
        A dict from names to lists of what `measure` returns.
    """
    results = {name: [] for name in cases}
    for _ in range(times):
        for name, job in cases.items():
            print(f"  {name} ...", file=sys.stderr, flush=True)
            command = [sys.executable, __file__, "--worker", json.dumps(job)]
            worker = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            if worker.returncode:
                sys.exit(f"benchmark.py: {name} failed.")
            results[name].append(json.loads(worker.stdout.splitlines()[-1]))
    return results


def command_time(command, data_dir):
    """Seconds that a command takes from start to end, with all that it writes."""
    script, *arguments = command.split()
    words = [sys.executable, os.path.join(HERE, script), *arguments, "--data_dir", os.path.abspath(data_dir)]
    with tempfile.TemporaryDirectory() as place:
        begin = time.perf_counter()
        subprocess.run([*words, "--random_state", "0"], cwd=place, stdout=subprocess.DEVNULL, check=True)
        return time.perf_counter() - begin


def cell(results, key, digits):
    """The median and range of one figure."""
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
    """Prints the table of cases: time of an epoch, questions per second, evaluation, start, memory."""
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


def tables(data_dir, large_dir, times):
    """A dict from the title of each table to a function that prints it.

    Args:
        data_dir: a folder with 1,000 training questions per task.
        large_dir: a folder for simulated files of 10,000 questions per task.
        times: runs of each case.
    """
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
        training_table(cases, times, title)

    def recipes(title):
        start = ("--linear_start", "0", "--linear_end", "0", "--evaluation_interval", "1000", "--jit_compile", "on")
        cases = {
            name: case(joint, f"@{HERE}/recipes/{name}.flags", *start, "--epochs", "4")
            for name in ("joint_1k", "joint_1k_walk", "joint_1k_gru", "joint_1k_both")
        }
        training_table(cases, times, title)

    def large_corpus(title):
        babi_simulator.write_files(large_dir, TASKS, 10_000, 1_000, seed=0)
        cases = {
            name: case(base, "--data_dir", large_dir, "--epochs", "3")
            for name, base in (("bow", joint), ("simple_gru", gru))
        }
        training_table(cases, times, title)

    def whole_runs(title):
        parts = ("import", "data", "compile", "train", "test")
        cases = {"single.py --task_id 1": single, "single.py --task_id all": case(single, "--task_id", "all")}
        results = run_in_turn(cases, times)
        for name, figures_of_runs in results.items():
            for figures in figures_of_runs:
                figures["whole command"] = command_time(name, data_dir)
        columns = (*parts, "whole command")
        rows = [[name, *(cell(figures, part, 2) for part in columns)] for name, figures in results.items()]
        print_table(title, ["seconds", *columns], rows)

    def growth(title):
        few = case(joint, "--epochs", "12")
        cases = {"as it is": few, "twice the questions": case(few, repeat=2)}
        cases |= {f"{n} slots": case(few, "--memory_size", str(n)) for n in (100, 200)}
        cases |= {f"{n} hops": case(few, "--hops", str(n)) for n in (6,)}
        cases |= {f"embedding size {n}": case(few, "--embedding_size", str(n)) for n in (80,)}
        cases |= {f"sentences of {n} words": case(few, sentence_size=n) for n in (22, 44)}
        training_table(cases, times, title)

    return {
        "Joint training, 1,000 questions a task": against_plain,
        "Recipes, 1,000 questions a task, after the linear start": recipes,
        "Joint training, 10,000 questions a task (simulated)": large_corpus,
        "Whole runs of single.py, 100 epochs": whole_runs,
        "What a joint epoch costs (bow)": growth,
    }


def main():
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("--data_dir", type=folder, help="folder of bAbI files with 1,000 training questions per task")
    parser.add_argument("--times", type=count, default=3, help="runs of each case (default: 3)")
    parser.add_argument("--only", default="", metavar="TEXT", help="print the tables whose title has this in it")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(measure(json.loads(options.worker))))
        return
    data_dir, _ = story_source.find_corpus(options.data_dir)
    for task in TASKS:
        data_utils.load_task(data_dir, task)
    with tempfile.TemporaryDirectory() as place:
        chosen = tables(data_dir, f"{place}/10k", options.times)
        chosen = {title: print_it for title, print_it in chosen.items() if options.only in title}
        if not chosen:
            parser.error(f"--only {options.only}: expected a part of a title, such as 'Whole runs'")
        for title, print_it in chosen.items():
            print_it(title)


if __name__ == "__main__":
    run_command(main)

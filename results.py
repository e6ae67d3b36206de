"""Keeps the scores of experiments in results/runs.csv and makes the README's tables of them.

One row is one model over all its tasks, or one seed of single.py over all twenty: its experiment, its
command, its data, the seed of the validation split and its own, when and how long it ran, and test, training and
validation accuracy by task.
"""

import argparse
import os
import re
import shlex
import sys
import time

import numpy as np

import files
from babi_simulator import TASKS, Parser
from data_utils import InputError
from pictures import PASSED, PUBLISHED, number, read_table, read_task

HERE = os.path.dirname(os.path.abspath(__file__))
RUNS = os.path.join(HERE, "results", "runs.csv")
README = os.path.join(HERE, "README.md")
SPLITS = ("test", "training", "validation")
COLUMNS = ["experiment", "data", "split", "seed", "chosen", "date", "seconds", "command"]
COLUMNS += [f"{split} {task}" for split in SPLITS for task in TASKS]
PRIVATE = ("--data_dir", "--log_dir", "--output_file", "--param_output_file", "--workers")  # of one machine


def read(path, columns):
    """The rows of a CSV file as dicts; see `pictures.read_table`."""
    header, rows = read_table(path, columns)
    return [dict(zip(header, row, strict=True)) for _, row in rows]


def read_params(path):
    """The NAME=value lines of a run's params.csv as a dict."""
    try:
        with open(path, encoding="utf-8") as file:
            return dict(line.rstrip("\n").partition("=")[::2] for line in file if "=" in line)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read; expected the flags of a run.") from error


def public_command(command):
    """A command without the flags that tell of one machine."""
    try:
        words, kept = shlex.split(command), []
    except ValueError as error:
        raise InputError(f"{command!r}: is no command: {str(error).lower()}.") from error
    while words:
        word = words.pop(0)
        if word.split("=")[0] in PRIVATE:
            if "=" not in word and words:
                words.pop(0)
        else:
            kept.append(word)
    return shlex.join(kept)


def rows_of(folder, experiment, data=None):
    """The rows of a finished run, one a seed.

    Args:
        folder: the run's folder.
        experiment: its name in the tables.
        data: what it was trained on; None for the name of the data folder.

    Raises:
        InputError: a file of the folder is missing, damaged or another.
    """
    names = ("params.csv", "scores.csv", "times.csv")
    params_file, scores_file, times_file = (os.path.join(folder, name) for name in names)
    params = read_params(params_file)
    for name in ("random_state", "data_dir"):
        if name not in params:
            raise InputError(f"{params_file}: lacks the line {name}=.")
    stamp = re.search(r"_(\d{9,})", os.path.basename(os.path.normpath(folder)))
    by_seed, seconds = {}, {}
    for line, row in enumerate(read(times_file, ["Model", "Seconds"]), 2):
        found = re.search(r"_seed(\d+)\.", row["Model"])
        seed = found[1] if found else params["random_state"]
        seconds[seed] = seconds.get(seed, 0.0) + number(times_file, line, row["Seconds"])
    for line, row in enumerate(read(scores_file, list(files.SCORE_COLUMNS)), 2):
        task, simulated, seed, chosen = read_task(scores_file, line, row["Task"])
        seed = params["random_state"] if seed is None else str(seed)
        name = (data or os.path.basename(os.path.normpath(params["data_dir"]))) + (", simulated" if simulated else "")
        made = by_seed.setdefault(seed, dict.fromkeys(COLUMNS, ""))
        made.update(experiment=experiment, data=name, split=params["random_state"], seed=seed)
        made["command"] = public_command(params.get("command", ""))
        made["date"] = time.strftime("%Y-%m-%d", time.gmtime(int(stamp[1]))) if stamp else ""
        made["seconds"] = f"{seconds.get(seed, 0.0):.0f}"
        if chosen:
            made["chosen"] = f"{made['chosen']} {task}".strip()
        for split, column in zip(SPLITS, ("Testing", "Training", "Validation"), strict=True):
            cell = row[f"{column} Accuracy"]
            number(scores_file, line, cell, 1)
            made[f"{split} {task}"] = cell
    return list(by_seed.values())


def add(folders, experiment, data):
    """Appends the rows of runs to results/runs.csv.

    Raises:
        InputError: see `rows_of`; or a row of this experiment, split and seed is there already.
    """
    rows = [row for folder in folders for row in rows_of(folder, experiment, data)]
    there = [row for found in experiments().values() for row in found] if os.path.exists(RUNS) else []
    known = [(row["experiment"], row["split"], row["seed"]) for row in there + rows]
    for name, split, seed in known:
        if known.count((name, split, seed)) > 1:
            raise InputError(f"{RUNS}: would have {name!r} with split {split} and seed {seed} twice; nothing is added.")
    os.makedirs(os.path.dirname(RUNS), exist_ok=True)
    files.append_rows(RUNS, COLUMNS, [[row[name] for name in COLUMNS] for row in rows])
    print(f"{len(rows)} rows added to {RUNS}")


# --- tables ---------------------------------------------------------------------------------------------


def errors(row, split="test"):
    """Errors by task in percent (20,); nan where a task has none."""
    return np.array([100 * (1 - float(row[f"{split} {task}"] or "nan")) for task in TASKS])


def failed(by_task):
    """How many tasks have an error above 5 %."""
    return np.sum(np.round(by_task, 2) > 100 * (1 - PASSED))


def choose(rows):
    """Errors by task (20,) of what validation chose.

    A run with --restarts has chosen already. Of other rows, models of one task each are chosen task by task by their
    validation accuracy, and one model for all tasks as a whole, by its mean over the tasks.
    """
    test, validation = (np.array([errors(row, split) for row in rows]) for split in ("test", "validation"))
    marked = np.array([[str(task) in row["chosen"].split() for task in TASKS] for row in rows])
    if (marked.sum(axis=0) == 1).all():
        return test[marked.argmax(axis=0), range(len(TASKS))]
    if all(row["command"].startswith("single.py") for row in rows):
        return test[validation.argmin(axis=0), range(len(TASKS))]
    return test[np.nanmean(validation, axis=1).argmin()]


def experiments():
    """The rows of each experiment, in the order of results/runs.csv."""
    found = {}
    for row in read(RUNS, COLUMNS):
        found.setdefault(row["experiment"], []).append(row)
    return found


def markdown(header, rows):
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def summary_table(found, names):
    """Mean and spread over seeds, and what validation chose, of some experiments."""
    lines = []
    for name in names:
        rows = found[name]
        means = [np.nanmean(errors(row)) for row in rows]
        deviation = f" ± {np.std(means, ddof=1):.2f}" if len(means) > 1 else ""
        chosen = choose(rows)
        lines.append(
            [
                name,
                rows[0]["data"],
                len(rows),
                f"{np.mean(means):.2f}{deviation}",
                f"{np.mean(chosen):.2f}",
                failed(chosen),
                f"{np.median([float(row['seconds']) for row in rows]):.0f} s",
            ]
        )
    header = ["recipe", "data", "seeds", "mean test error %", "chosen by validation", "failed tasks", "time a seed"]
    return markdown(header, lines)


def published_lines(size, regime):
    """Rows of published numbers: name, mean, failed tasks, 20 errors (empty where unknown)."""
    lines = []
    for row in read(PUBLISHED, ["system", "train_size", "regime", "mean_error", "failed_tasks"]):
        if (row["train_size"], row["regime"]) == (size, regime):
            lines.append([row["system"], row["mean_error"], row["failed_tasks"], *(row[f"t{task}"] for task in TASKS)])
    return lines


def task_table(found, names, size, regime):
    """Errors by task of what validation chose, beside published numbers."""
    lines = []
    for name in names:
        chosen = choose(found[name])
        by_task = [f"{error:.1f}".removesuffix(".0") for error in chosen]
        title = f"**{name}**, " + (f"chosen of {len(found[name])}" if len(found[name]) > 1 else "one seed")
        lines.append([title, f"{np.mean(chosen):.2f}", failed(chosen), *by_task])
    header = ["test error %", "mean", "failed", *TASKS]
    return markdown(header, lines + published_lines(size, regime))


def worth_table(found, base):
    """What each change to a recipe is worth: experiments named `BASE: CHANGE` against BASE, on validation.

    Rows of the same split and seed are compared, and the standard error is that of the mean of their differences.
    """

    def by_seed(name):
        return {(int(row["split"]), int(row["seed"])): row for row in found.get(name, [])}

    reference, lines = by_seed(base), []
    for name in found:
        if not name.startswith(base + ": "):
            continue
        changed = by_seed(name)
        seeds = sorted(set(changed) & set(reference))
        if not seeds:
            raise InputError(f"{RUNS}: no row of {name!r} has the split and seed of a row of {base!r}.")
        pairs = [[np.nanmean(errors(rows[seed], "validation")) for rows in (reference, changed)] for seed in seeds]
        worse = np.array([after - before for before, after in pairs])
        spread = f" ± {np.std(worse, ddof=1) / np.sqrt(len(worse)):.2f}" if len(worse) > 1 else ""
        test = np.mean([np.nanmean(errors(changed[seed])) for seed in seeds])
        cells = [f"{mean:.2f}" for mean in np.mean(pairs, axis=0)]
        change = name.removeprefix(base + ": ")
        lines.append([change, len(seeds), *cells, f"{worse.mean():+.2f}{spread}", f"{test:.2f}"])
    header = ["change", "seeds", "validation error % before", "after", "difference", "test error %, for the record"]
    return markdown(header, lines)


def tables(found):
    """All tables of the README by name."""
    main = [name for name in found if name.startswith(("joint ", "single ")) and ": " not in name]
    made = {"summary": summary_table(found, main)}
    for size in ("1k", "10k"):
        for regime in ("joint", "single"):
            names = [name for name in main if name.startswith(f"{regime} {size}")]
            if names:
                made[f"{regime} {size}"] = task_table(found, names, size, regime)
    for base in sorted({name.partition(": ")[0] for name in found if ": " in name}):
        made[f"worth {base}"] = worth_table(found, base)
    return made


def update(path, made):
    """Puts tables where a Markdown file has `<!-- results: NAME -->` and `<!-- end -->`."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read; expected a Markdown file.") from error
    for name in re.findall(r"<!-- results: (.+?) -->", text):
        if name not in made:
            raise InputError(f"{path}: asks for the table {name!r}; there are {', '.join(made)}.")
        begin = text.index(f"<!-- results: {name} -->") + len(f"<!-- results: {name} -->")
        end = text.find("<!-- end -->", begin)
        if end < 0:
            raise InputError(f"{path}: <!-- results: {name} --> has no <!-- end -->.")
        text = f"{text[:begin]}\n\n{made[name]}\n\n{text[end:]}"
    files.write(path, text.encode())


def flag_parser():
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("folders", nargs="*", metavar="FOLDER", help="folders of finished runs, to add their rows")
    parser.add_argument("--experiment", help="name of the added rows, such as `joint 1k` or `joint 1k: no gates`")
    parser.add_argument("--data", help="what they were trained on (default: the name of the data folder)")
    parser.add_argument("--update", metavar="FILE", help="put the tables into a Markdown file, such as README.md")
    return parser


def main(argv=None):
    flags = flag_parser().parse_args(argv)
    try:
        if flags.folders:
            if not flags.experiment:
                raise InputError("rows need a name; give --experiment.")
            add(flags.folders, flags.experiment, flags.data)
        elif flags.experiment or flags.data:
            raise InputError("--experiment and --data say something of runs; name their folders.")
        if flags.update:
            update(flags.update, tables(experiments()))
        elif not flags.folders:
            for name, table in tables(experiments()).items():
                print(f"{name}\n\n{table}\n")
    except InputError as error:
        print(f"{os.path.basename(sys.argv[0])}: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()

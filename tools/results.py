"""Keeps the scores of experiments in results/runs.csv and makes the tables of docs/results.md and README.md.

A row is one model of joint.py, or one seed of single.py over its tasks: experiment, data, seed of the validation split,
own seed, date, seconds, command, flags, and test, training and validation accuracy by task.

    python tools/results.py logs/joint_1795388665 --experiment "joint 1k"
    python tools/results.py --update README.md docs/results.md
"""

import argparse
import os
import re
import shlex
import sys
import time

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import files
import scores
from flags import HERE, TASKS, InputError, Parser, run_command, training_parser

RUNS = os.path.join(HERE, "results", "runs.csv")
PAGES = [os.path.join(HERE, name) for name in ("README.md", os.path.join("docs", "results.md"))]
SPLITS = ("test", "training", "validation")
# In rows of 2026-11-23, `flags` was derived from `command` and the recipes of that day; it is empty where unknown.
COLUMNS = ["experiment", "data", "split", "seed", "chosen", "date", "seconds", "command", "flags"]
COLUMNS += [f"{split} {task}" for split in SPLITS for task in TASKS]
PRIVATE = ("--data_dir", "--log_dir", "--output_file", "--param_output_file", "--workers")  # left out of `command`
# Lines of params.csv in which the rows of an experiment may differ: seeds, files and the machine.
FREE = {
    *("random_state", "restarts", "data_dir", "simulated", "log_dir", "output_file", "param_output_file", "score_file"),
    *("command", "given", "resume", "pictures", "tensorboard"),
    *("workers", "jit_compile", "allow_soft_placement", "log_device_placement"),
}


# --- rows -------------------------------------------------------------------------------------------------


def public_command(command):
    """A command without the flags that depend on the machine."""
    try:
        words, kept = shlex.split(command), []
    except ValueError as error:
        raise InputError(f"{command!r}: cannot be split into words: {str(error).lower()}.") from error
    while words:
        word = words.pop(0)
        if word.split("=")[0] in PRIVATE:
            if "=" not in word and words:
                words.pop(0)
        else:
            kept.append(word)
    return shlex.join(kept)


def flags_cell(params):
    """The flags that all rows of an experiment share, as NAME=value words."""
    script = params.get("command", "").split(" ")[0]
    shared = {name: value for name, value in params.items() if name not in FREE} | {"script": script}
    return shlex.join(f"{name}={value}" for name, value in sorted(shared.items()))


def rows_of(folder, experiment, data=None):
    """The rows of a finished run, one per seed.

    Args:
        folder: the run's folder.
        experiment: the name of the experiment.
        data: the name of the training data; None for the name of the data folder.

    Raises:
        InputError: a file of the folder is missing or damaged.
    """
    names = ("params.csv", "scores.csv", "times.csv")
    params_file, score_file, times_file = (os.path.join(folder, name) for name in names)
    params = scores.read_params(params_file)
    for name in ("random_state", "data_dir"):
        if name not in params:
            raise InputError(f"{params_file}: lacks the line {name}=.")
    stamp = re.search(r"_(\d{9,})", os.path.basename(os.path.normpath(folder)))
    by_seed, seconds = {}, {}
    times = scores.read_table(times_file, ["Model", "Seconds"], lambda row: (row["Model"], float(row["Seconds"])))
    for model, model_seconds in times:
        match = re.search(r"_seed(\d+)\.", model)
        seed = match[1] if match else params["random_state"]
        seconds[seed] = seconds.get(seed, 0.0) + model_seconds
    data = data or os.path.basename(os.path.normpath(params["data_dir"]))
    for score in scores.read_rows(score_file):
        seed = params["random_state"] if score.seed is None else str(score.seed)
        row = by_seed.setdefault(seed, dict.fromkeys(COLUMNS, ""))
        row.update(
            experiment=experiment,
            data=data + (", simulated" if score.simulated else ""),
            split=params["random_state"],
            seed=seed,
            date=time.strftime("%Y-%m-%d", time.gmtime(int(stamp[1]))) if stamp else "",
            seconds=f"{seconds.get(seed, 0.0):.0f}",
            command=public_command(params.get("command", "")),
            flags=flags_cell(params),
        )
        if score.chosen:
            row["chosen"] = f"{row['chosen']} {score.task}".strip()
        for split in SPLITS:
            row[f"{split} {score.task}"] = f"{getattr(score, split):.4f}"
    return list(by_seed.values())


def differences(row, other):
    """Descriptions of what differs between the data and the flags of two rows; empty if nothing does."""
    descriptions = []
    if row["data"] != other["data"]:
        descriptions.append(f"data {row['data']} (not {other['data']})")
    # A flag that is younger than a row had its default.
    parser = training_parser("")
    parser.set_defaults(task_id=",".join(map(str, TASKS)))  # joint.py's default
    pair = [dict(word.partition("=")[::2] for word in shlex.split(one["flags"])) for one in (row, other)]
    for name in sorted(pair[0].keys() | pair[1].keys()):
        value, expected = (flags.get(name, str(parser.get_default(name))) for flags in pair)
        if value != expected:
            flag = "script" if name == "script" else f"--{name}"
            descriptions.append(f"{flag} {value} (not {expected})")
    return descriptions


def add(folders, experiment, data):
    """Appends the rows of runs to results/runs.csv, all or none.

    Raises:
        InputError: see `rows_of`; or a run differs from the experiment's other rows in data or flags; or the experiment
            has a row of this split and seed.
    """
    present = [row for rows in experiments().values() for row in rows] if os.path.exists(RUNS) else []
    rows = [(folder, row) for folder in folders for row in rows_of(folder, experiment, data)]
    first = next((row for row in present if row["experiment"] == experiment), rows[0][1])
    known = {(row["experiment"], row["split"], row["seed"]) for row in present}
    for folder, row in rows:
        if not first["flags"]:
            raise InputError(f"{RUNS}: the flags of {experiment!r} are not recorded; it takes no more rows.")
        if descriptions := differences(row, first):
            raise InputError(
                f"{folder}: differs from the other rows of {experiment!r}: {', '.join(descriptions)}; nothing is added."
            )
        key = (experiment, row["split"], row["seed"])
        if key in known:
            raise InputError(
                f"{folder}: {experiment!r} has a row of split {row['split']} and seed {row['seed']} already; "
                "nothing is added."
            )
        known.add(key)
    os.makedirs(os.path.dirname(RUNS), exist_ok=True)
    cells = [[row[name] for name in COLUMNS] for _, row in rows]
    files.append(RUNS, scores.csv_bytes(cells, ()), scores.csv_bytes([], COLUMNS))
    print(f"{len(rows)} rows added to {RUNS}")


# --- tables -----------------------------------------------------------------------------------------------


def errors(row, split="test"):
    """Errors by task in percent (20,); nan where a task has none."""
    return np.array([100 * (1 - float(row[f"{split} {task}"] or "nan")) for task in TASKS])


def count_failed(by_task):
    """The number of failed tasks among errors in percent."""
    return scores.count_failed(1 - by_task / 100)


def choose(rows):
    """Test errors by task (20,) of the models that validation chooses.

    A run with --restarts has chosen already. Other rows are compared by validation accuracy: of single.py task by task,
    of joint.py as a whole, by the mean over tasks.
    """
    test, validation = (np.array([errors(row, split) for row in rows]) for split in ("test", "validation"))
    chosen = np.array([[str(task) in row["chosen"].split() for task in TASKS] for row in rows])
    if (chosen.sum(axis=0) == 1).all():
        return test[chosen.argmax(axis=0), range(len(TASKS))]
    if all(row["command"].startswith("single.py") for row in rows):
        return test[validation.argmin(axis=0), range(len(TASKS))]
    return test[np.nanmean(validation, axis=1).argmin()]


def experiments():
    """A dict from experiment to its rows, in the order of results/runs.csv."""
    by_name = {}
    for row in scores.read_table(RUNS, COLUMNS):
        by_name.setdefault(row["experiment"], []).append(row)
    return by_name


def markdown(header, lines):
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def summary_table(by_name, names):
    """Mean and standard deviation over seeds, and the models that validation chooses, by experiment."""
    lines = []
    for name in names:
        rows = by_name[name]
        means = [np.nanmean(errors(row)) for row in rows]
        deviation = f" ± {np.std(means, ddof=1):.2f}" if len(means) > 1 else ""
        chosen = choose(rows)
        error, best = f"{np.mean(means):.2f}{deviation}", f"{scores.mean_error(1 - chosen / 100):.2f}"
        seconds = f"{np.median([float(row['seconds']) for row in rows]):.0f} s"
        lines.append([name, rows[0]["data"], len(rows), error, best, count_failed(chosen), seconds])
    header = ["recipe", "data", "seeds", "mean test error %", "chosen by validation", "failed tasks", "time per seed"]
    return markdown(header, lines)


def published_lines(size, regime):
    """Table lines of published systems: name, mean, failed tasks, 20 errors (empty where unknown)."""
    columns = ["system", "train_size", "regime", "mean_error", "failed_tasks"]
    return [
        [row["system"], row["mean_error"], row["failed_tasks"], *(row[f"t{task}"] for task in TASKS)]
        for row in scores.read_table(scores.PUBLISHED_FILE, columns)
        if (row["train_size"], row["regime"]) == (size, regime)
    ]


def task_table(by_name, names, size, regime):
    """Errors by task of the models that validation chooses, beside published ones."""
    lines = []
    for name in names:
        chosen = choose(by_name[name])
        by_task = [f"{error:.1f}".removesuffix(".0") for error in chosen]
        title = f"**{name}**, " + (f"chosen of {len(by_name[name])}" if len(by_name[name]) > 1 else "one seed")
        lines.append([title, f"{scores.mean_error(1 - chosen / 100):.2f}", count_failed(chosen), *by_task])
    header = ["test error %", "mean", "failed", *TASKS]
    return markdown(header, lines + published_lines(size, regime))


def worth_table(by_name, base):
    """The effect of each change to a recipe: experiments named `BASE: CHANGE` against BASE, by validation error.

    Rows of the same split and seed are compared; the ± is the standard error of the mean of their differences.
    """

    def by_seed(name):
        return {(int(row["split"]), int(row["seed"])): row for row in by_name.get(name, [])}

    reference, lines = by_seed(base), []
    for name in by_name:
        if not name.startswith(base + ": "):
            continue
        changed = by_seed(name)
        seeds = sorted(changed.keys() & reference.keys())
        if not seeds:
            raise InputError(f"{RUNS}: no row of {name!r} has the split and seed of a row of {base!r}.")
        pairs = [[np.nanmean(errors(rows[seed], "validation")) for rows in (reference, changed)] for seed in seeds]
        gains = np.array([after - before for before, after in pairs])
        deviation = f" ± {np.std(gains, ddof=1) / np.sqrt(len(gains)):.2f}" if len(gains) > 1 else ""
        test = np.mean([np.nanmean(errors(changed[seed])) for seed in seeds])
        cells = [f"{mean:.2f}" for mean in np.mean(pairs, axis=0)]
        change = name.removeprefix(base + ": ")
        lines.append([change, len(seeds), *cells, f"{gains.mean():+.2f}{deviation}", f"{test:.2f}"])
    header = ["change", "seeds", "validation error % before", "after", "difference", "test error %, for the record"]
    return markdown(header, lines)


def tables(by_name):
    """All tables: a dict from name to Markdown."""
    main_names = [name for name in by_name if name.startswith(("joint ", "single ")) and ": " not in name]
    result = {"summary": summary_table(by_name, main_names)}
    for size in ("1k", "10k"):
        for regime in ("joint", "single"):
            names = [name for name in main_names if re.match(rf"{regime} {size}\b", name)]
            if names:
                result[f"{regime} {size}"] = task_table(by_name, names, size, regime)
    for base in sorted({name.partition(": ")[0] for name in by_name if ": " in name}):
        result[f"worth {base}"] = worth_table(by_name, base)
    return result


def update(path, by_name):
    """Replaces the tables of a Markdown file, which stand between `<!-- results: NAME -->` and `<!-- end -->`.

    Args:
        path: the file.
        by_name: a dict from name to Markdown.
    """
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read; expected a Markdown file.") from error
    for name in re.findall(r"<!-- results: (.+?) -->", text):
        if name not in by_name:
            raise InputError(f"{path}: has a place for the table {name!r}; the tables are {', '.join(by_name)}.")
        begin = text.index(f"<!-- results: {name} -->") + len(f"<!-- results: {name} -->")
        end = text.find("<!-- end -->", begin)
        if end < 0:
            raise InputError(f"{path}: <!-- results: {name} --> has no <!-- end -->.")
        text = f"{text[:begin]}\n\n{by_name[name]}\n\n{text[end:]}"
    files.write(path, text.encode())


def flag_parser():
    parser = Parser(__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("folders", nargs="*", metavar="FOLDER", help="folders of finished runs whose rows are added")
    add("--experiment", help="the experiment of the added rows, such as `joint 1k: no gates`")
    add("--data", help="name of their training data (default: the name of the data folder)")
    add("--update", nargs="+", metavar="FILE", default=[], help="Markdown files whose tables to replace")
    return parser


def main(argv=None):
    flags = flag_parser().parse_args(argv)
    if flags.folders:
        if not flags.experiment:
            raise InputError("added rows need the name of their experiment; add --experiment.")
        add(flags.folders, flags.experiment, flags.data)
    elif flags.experiment or flags.data:
        raise InputError("--experiment and --data describe added rows; add the folders of their runs.")
    for path in flags.update:
        update(path, tables(experiments()))
    if not flags.folders and not flags.update:
        for name, table in tables(experiments()).items():
            print(f"{name}\n\n{table}\n")


if __name__ == "__main__":
    run_command(main)

"""Writes and reads score files and histories; published scores; when a task counts as failed."""

import csv
import io
import os
import re
import textwrap
from typing import NamedTuple

import numpy as np

import files
from flags import HERE, KINDS, TASK_NAMES, TASKS, InputError

COLUMNS = ("Task", "Testing Accuracy", "Training Accuracy", "Validation Accuracy")
HISTORY_COLUMNS = ("epoch", "loss", "training", "validation")
HISTORY_END = ("learning rate", "seconds")
ALL = KINDS[-1]  # in place of a task: accuracy over all questions
HIGHEST_ERROR = 0.05  # a task with a higher test error has failed

PUBLISHED_FILE = os.path.join(HERE, "results", "published.csv")
PUBLISHED_SYSTEMS = {  # by regime: the label of a system in pictures, and its name in PUBLISHED_FILE
    "joint": {
        "MemN2N, best of 10": "MemN2N PE LS RN (Matlab, best of 10 by training error)",
        "original KV-MemNN": "Original KV-MemNN repo, README table (bow, joint flags)",
    },
    "single": {
        "MemN2N": "MemN2N PE LS RN (Matlab)",
        "original KV-MemNN": "Original KV-MemNN repo, one model per task, rerun here (200 epochs, default flags)",
    },
}


# --- failed tasks -----------------------------------------------------------------------------------------


def is_failed(accuracy):
    """Whether a test accuracy (or an array of them) in 0..1, rounded as in score files, means an error above 5 %."""
    return np.round(accuracy, 4) < 1 - HIGHEST_ERROR


def count_failed(accuracies):
    """The number of failed tasks among test accuracies in 0..1."""
    return int(np.sum(is_failed(np.asarray(accuracies, float))))


def mean_error(accuracies):
    """The mean error in percent of accuracies in 0..1, rounded to six decimals so that equal errors print equally."""
    return round(100 * (1 - float(np.mean(accuracies))), 6)


def overall(rows, column):
    """Accuracy over all questions if that is the last row, as for films; else the mean over tasks.

    `rows` is a list of (task, test, training, validation accuracy); `column` is 1, 2 or 3 of these.
    """
    return rows[-1][column] if rows[-1][0] == ALL else float(np.mean([row[column] for row in rows]))


def summary(rows):
    """The table that ends a run, in 80 columns, for a list of (task, test, training, validation accuracy in 0..1)."""
    labels = [task if task in KINDS else f"{task:4d} {TASK_NAMES[task]}" for task, *_ in rows]
    width = max(map(len, labels))
    lines = [f"{'task':{width}}    test  training  validation"]
    for label, (task, test, training, validation) in zip(labels, rows, strict=True):
        mark = "  failed" if is_failed(test) and task not in KINDS else ""
        lines.append(f"{label:{width}}  {test:.4f}  {training:8.4f}  {validation:10.4f}{mark}")
    testing = [test for _, test, *_ in rows]
    if rows[-1][0] == ALL:
        lines.append(f"right answers to all test questions: {100 * testing[-1]:.2f} % (hits@1)")
    else:
        lines.append(
            f"mean test error {mean_error(testing):.2f} %, "
            f"failed tasks (error above 5 %): {count_failed(testing)} of {len(rows)}"
        )
    return "\n".join(lines)


def restarts_summary(errors):
    """Lines about the mean test errors, in percent, of several seeds."""
    indent = dict(initial_indent="  ", subsequent_indent="  ")
    by_seed = textwrap.fill(" ".join(f"{error:.2f}" for error in errors), 78, **indent)
    return f"mean test error of {len(errors)} seeds: {np.mean(errors):.2f} ± {np.std(errors, ddof=1):.2f} %\n{by_seed}"


# --- written ----------------------------------------------------------------------------------------------


def rows(accuracies, simulated=False, seed=None, chosen=False):
    """The scores of one model, a list of (task, test, training, validation accuracy), as rows of a score file.

    The other arguments, explained at `Score`, are noted after the task number. A row is a list of cells.
    """
    notes = ["simulated"] * simulated + ([] if seed is None else [f"seed {seed}"]) + ["chosen"] * chosen
    note = f" ({' '.join(notes)})" if notes else ""
    return [[f"{task}{note}", *(f"{accuracy:.4f}" for accuracy in values)] for task, *values in accuracies]


def csv_bytes(rows, columns=COLUMNS):
    """The bytes of a CSV file of rows (lists of cells), after the header `columns` if it is not empty."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *rows] if columns else rows)
    return text.getvalue().encode()


def check_score_file(path):
    """Raises InputError if `path` is another kind of file, to which rows cannot be appended."""
    header = ",".join(COLUMNS)
    files.check_first_line(path, "--output_file", re.escape(header), header)


def history_columns(tasks):
    """The columns of a history file: `HISTORY_COLUMNS`, accuracies by task, `HISTORY_END`."""
    by_task = (f"{split} {task}" for split in ("training", "validation") for task in tasks)
    return [*HISTORY_COLUMNS, *by_task, *HISTORY_END]


# --- read -------------------------------------------------------------------------------------------------


def read_table(path, columns, parse=dict):
    """The rows of a CSV file that this project wrote, at least one, each a dict from column to str or `parse` of it.

    Raises:
        InputError: the file cannot be read, does not begin with `columns`, or `parse` raises ValueError.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            header, *lines = csv.reader(file)
        if header[: len(columns)] != list(columns) or not lines:
            raise ValueError(path)
        return [parse(dict(zip(header, cells, strict=True))) for cells in lines]
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}.") from error
    except (ValueError, csv.Error) as error:
        expected = ",".join(columns[:4])
        raise InputError(f"{path}: expected rows of {expected}, found another file or a damaged one.") from error


class Score(NamedTuple):
    """A row of a score file."""

    task: int | str
    simulated: bool
    seed: int | None  # of the model, if the run had several
    chosen: bool  # whether validation chose this seed
    test: float  # accuracies in 0..1
    training: float
    validation: float


def read_rows(path):
    """The rows of a score file, a list of `Score`; see `read_table`."""

    def parse(row):
        match = re.fullmatch(r"(\w+)(?: \((?=s)(simulated)? ?(?:seed (\d{1,10})( chosen)?)?\))?", row["Task"])
        task = match and (match[1] if match[1] in KINDS else int(match[1]))
        if task not in KINDS and task not in TASKS:
            raise ValueError(row["Task"])
        accuracies = [float(row[column]) for column in COLUMNS[1:]]
        return Score(task, bool(match[2]), match[3] and int(match[3]), bool(match[4]), *accuracies)

    return read_table(path, COLUMNS, parse)


def read_scores(path):
    """(accuracies, simulated) of a score file: test accuracy in 0..1 by task, and whether any row is simulated.

    Of several seeds the chosen one counts, and of several rows of a task the last.
    """
    rows = read_rows(path)
    accuracies = {row.task: row.test for row in rows if row.seed is None or row.chosen}
    return dict(sorted(accuracies.items())), any(row.simulated for row in rows)


def read_history(path):
    """Reads a history file; see `read_table`.

    Returns:
        A dict from column to a float array with one number per epoch: loss, learning rate and seconds of each epoch,
        and accuracies in 0..1 that are nan where the epoch has no report. Histories of earlier versions lack
        `HISTORY_END`.
    """
    rows = read_table(path, HISTORY_COLUMNS, lambda row: {name: float(cell or "nan") for name, cell in row.items()})
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def read_params(path):
    """The NAME=value lines of a run's params.csv as a dict of str; InputError if the file cannot be read."""
    try:
        with open(path, encoding="utf-8") as file:
            return dict(line.rstrip("\n").partition("=")[::2] for line in file if "=" in line)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: expected NAME=value lines.") from error


def read_published(regime):
    """Published test accuracies of systems trained on 1,000 questions per task, by regime ("joint" or "single").

    Returns:
        A dict from label to a dict from task to test accuracy in 0..1.
    """
    rows = read_table(PUBLISHED_FILE, ["system"])
    published = {row["system"]: row for row in rows if (row["train_size"], row["regime"]) == ("1k", regime)}
    return {
        label: {task: 1 - float(published[system][f"t{task}"]) / 100 for task in TASKS}
        for label, system in PUBLISHED_SYSTEMS[regime].items()
    }

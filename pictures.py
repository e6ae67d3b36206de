"""Pictures of a run: how it learned, and its scores beside published ones.

    python pictures.py logs/joint_1795388665

draws into a run's folder, from the history and score files in it: `curves.png` for each `history.csv` (and
`curves_task7.png` for `history_task7.csv`), and `tasks.png` where several tasks have scores.

Matplotlib is imported when a picture is drawn and not before, and its state that all figures share is left alone.
"""

import csv
import io
import os
import re
import sys
from pathlib import Path

import numpy as np

from babi_simulator import TASKS, Parser
from data_utils import InputError
from files import SCORE_COLUMNS

PUBLISHED = Path(__file__).resolve().parent / "results" / "published.csv"
BESIDE = {  # by regime: what to call a system, and its name in PUBLISHED
    "joint": {
        "MemN2N, best of 10": "MemN2N PE LS RN (Matlab, best of 10 by training error)",
        "original KV-MemNN": "Original KV-MemNN repo, README table (bow, joint flags)",
    },
    "single": {
        "MemN2N": "MemN2N PE LS RN (Matlab)",
        "original KV-MemNN": "Original KV-MemNN repo, one model per task (200 epochs)",
    },
}
PASSED = 0.95  # a task fails with an error above 5 %
NO_SCORES = "simulated stories: not bAbI scores"

# Colours that stay apart for every kind of colour vision (Okabe & Ito, 2008; the sky of the bars is lighter, for what
# stands on it). Line styles and markers differ too.
BLUE, SKY, VERMILION, BLACK = "#0072B2", "#9BD3F5", "#D55E00", "#000000"
GREY, LIGHT = "#BBBBBB", "#E8E8E8"

# --- what the files say ---------------------------------------------------------------------------------


def read_table(path, columns):
    """Reads a CSV file of numbers with a header.

    Args:
        path: the file.
        columns: what its header has to start with.

    Returns:
        (header, rows): a list of str, and for each row (line number, list of str), as many as the header has.

    Raises:
        InputError: the file cannot be read, or is another or a damaged one.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            reader = csv.reader(file)
            header, *rows = [(reader.line_num, row) for row in reader] or [(1, [])]
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: expected a CSV file of numbers, found other bytes.") from error
    header = header[1]
    if header[: len(columns)] != columns:
        raise InputError(f"{path}, line 1: expected {','.join(columns)}, found another file.")
    for line, row in rows:
        if len(row) != len(header):
            raise InputError(f"{path}, line {line}: expected {len(header)} cells, found {len(row)}.")
    if not rows:
        raise InputError(f"{path}: expected at least one row of numbers, found none.")
    return header, rows


def number(path, line, text, high=np.inf):
    """The number from 0 to high that a cell spells."""
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not 0 <= value <= high or np.isinf(value):
        wanted = "a number" if high == np.inf else f"a number from 0 to {high}"
        raise InputError(f"{path}, line {line}: expected {wanted}, found {text[:40]!r}.")
    return value


def read_history(path):
    """Reads what `runs.Report` writes.

    Returns:
        A dict from the name of a column to a float array, one number a report; accuracies in 0..1.

    Raises:
        InputError: see `read_table`.
    """
    header, rows = read_table(path, ["epoch", "loss", "training", "validation"])
    highest = [1 if name.split(" ")[0] in ("training", "validation") else np.inf for name in header]
    numbers = [[number(path, line, *cell) for cell in zip(row, highest, strict=True)] for line, row in rows]
    return dict(zip(header, np.array(numbers).T, strict=True))


def read_task(path, line, cell):
    """Reads a cell of the column Task: a number and what is special about its row.

    Returns:
        (task number, whether its stories are simulated, seed or None, whether validation chose it).

    Raises:
        InputError: it is no such cell.
    """
    found = re.fullmatch(r"(\d+)(?: \((?=.)(simulated)?\s?(?:seed (\d+)( chosen)?)?\))?", cell)
    if not found or int(found[1]) not in TASKS:
        raise InputError(f"{path}, line {line}: expected a task from 1 to {len(TASKS)}, found {cell[:40]!r}.")
    return int(found[1]), bool(found[2]), found[3] and int(found[3]), bool(found[4])


def read_scores(path):
    """Reads a score file.

    Returns:
        (a dict from task number to test accuracy in 0..1, whether any row is marked as simulated). Of restarts only
        the chosen one counts, and of a task that has several rows the last one.

    Raises:
        InputError: see `read_table`.
    """
    testing, simulated = {}, False
    for line, (cell, accuracy, *_) in read_table(path, list(SCORE_COLUMNS))[1]:
        task, marked, seed, chosen = read_task(path, line, cell)
        if seed is None or chosen:
            testing[task] = number(path, line, accuracy, 1)
        simulated = simulated or marked
    return dict(sorted(testing.items())), simulated


def read_published(regime):
    """Test accuracies to compare with, of systems trained on 1,000 questions a task.

    Args:
        regime: "joint" (one model for all tasks) or "single" (one for each).

    Returns:
        A dict from what to call a system to a dict from task number to test accuracy in 0..1.
    """
    with open(PUBLISHED, encoding="utf-8", newline="") as file:
        errors = {row["system"]: row for row in csv.DictReader(file)}
    return {
        name: {task: 1 - float(errors[system][f"t{task}"]) / 100 for task in TASKS}
        for name, system in BESIDE[regime].items()
    }


# --- pictures -------------------------------------------------------------------------------------------


def _figure(width, height):
    """An empty figure, in inches."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError("pictures need matplotlib: pip install -r requirements.txt.") from error
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def _plain(axes, grid):
    """Takes from axes what carries no information, and gives them a light grid along "x", "y" or "both"."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(axis=grid, color=LIGHT, linewidth=0.8)


def _save(figure, path):
    """Writes a picture, which appears under its name only when it is complete."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    folder, name = os.path.split(os.path.abspath(path))
    unfinished = os.path.join(folder, f".{name}.{os.getpid()}.part")
    try:
        try:
            with open(unfinished, "wb") as file:
                file.write(content.getbuffer())
            os.replace(unfinished, path)
        finally:
            if os.path.exists(unfinished):
                os.remove(unfinished)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}.") from error


def _title(figure, text, simulated):
    """Writes a title, and above all that simulated stories give no bAbI scores."""
    top = 1 - 0.2 / figure.get_figheight()
    figure.text(0.02, top, text, fontsize=12, va="top")
    if simulated:
        figure.text(0.98, top, NO_SCORES, fontsize=11, weight="bold", color=VERMILION, va="top", ha="right")


def curves(history_csv, png, simulated=False):
    """Draws loss and accuracies by epoch.

    Args:
        history_csv: a history file of a run.
        png: the picture to write.
        simulated: whether the stories are simulated, which the picture then says.

    Raises:
        InputError: the history cannot be read or the picture not be written.
    """
    history = read_history(history_csv)
    epochs = history["epoch"]
    figure = _figure(8, 6)
    figure.subplots_adjust(left=0.1, right=0.79, top=0.91, bottom=0.09, hspace=0.1)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 3))

    def line(axes, values, colour, style, marker, label, shift=0.0):
        if len(epochs) > 40:
            marker = None  # more of them than that hide the line
        axes.plot(epochs, values, color=colour, linestyle=style, marker=marker, markersize=5)
        end = (1.02, values[-1] + shift)
        axes.annotate(label, end, xycoords=("axes fraction", "data"), color=colour, va="center", annotation_clip=False)

    line(above, history["loss"], BLACK, "-", ".", f"loss {history['loss'][-1]:.4g}")
    by_task = [100 * values for name, values in history.items() if name.startswith("validation ")]
    if len(by_task) > 1:
        lines = below.plot(epochs, np.transpose(by_task), color=GREY, linewidth=0.9)
        figure.legend(lines[:1], ["validation, task by task"], loc="lower right", frameon=False)
    training, validation = 100 * history["training"], 100 * history["validation"]
    # Labels of lines that end close together are moved apart, the upper one up.
    shift = max(0, 7 - abs(training[-1] - validation[-1])) / 2 * (1 if training[-1] >= validation[-1] else -1)
    line(below, training, BLUE, "-", "o", f"training {training[-1]:.2f} %", shift)
    line(below, validation, VERMILION, "--", "s", f"validation {validation[-1]:.2f} %", -shift)
    above.set(ylabel="loss", ylim=(0, 1.05 * max(history["loss"].max(), 1e-9)))
    below.set(ylabel="accuracy in %", ylim=(0, 102), xlabel="epoch")
    below.xaxis.get_major_locator().set_params(integer=True)
    for axes in (above, below):
        axes.yaxis.set_label_coords(-0.105, 0.5)  # the same for both, wide as their numbers may be
        axes.ticklabel_format(axis="y", scilimits=(-3, 4))
        _plain(axes, "both")
    _title(figure, "Loss and accuracies by epoch", simulated)
    _save(figure, png)


def tasks(scores, png, regime="joint"):
    """Draws the test accuracy of each task beside published ones.

    Args:
        scores: a score file.
        png: the picture to write.
        regime: see `read_published`.

    Raises:
        InputError: the scores cannot be read or the picture not be written.
    """
    testing, simulated = read_scores(scores)
    accuracies = np.array(list(testing.values()))
    places = np.arange(len(testing))
    height = 2 + 0.27 * len(testing)
    figure = _figure(8, height)
    figure.subplots_adjust(left=0.29, right=0.91, top=1 - 0.6 / height, bottom=1 / height)
    axes = figure.subplots()
    keys = [axes.barh(places, 100 * accuracies, color=SKY, height=0.7, label="this run")]
    for (name, published), colour, marker in zip(
        read_published(regime).items(), (VERMILION, BLACK), ("o", "D"), strict=True
    ):
        values = [100 * published[task] for task in testing]
        keys += axes.plot(
            values, places, marker, color=colour, markersize=7, fillstyle="none", label=name, clip_on=False
        )
    keys.append(axes.axvline(100 * PASSED, color=BLACK, linestyle=":", linewidth=1, label="failed: error above 5 %"))
    for place, accuracy in zip(places, accuracies, strict=True):
        axes.annotate(f"{100 * accuracy:.1f}", (111, place), va="center", ha="right", color=BLUE, annotation_clip=False)
    axes.set_yticks(places, [f"{TASKS[task].__name__.replace('_', ' ')}  {task:>2}" for task in testing])
    axes.tick_params(axis="y", length=0)
    axes.set(xlim=(0, 100), ylim=(len(testing) - 0.4, -0.6))
    axes.set_xlabel("test accuracy in % (published systems: 1,000 training questions a task)")
    _plain(axes, "x")
    figure.legend(handles=keys, loc="lower center", ncols=4, frameon=False)
    error, failed = 100 * (1 - accuracies.mean()), np.sum(accuracies < PASSED)
    _title(figure, f"Mean error {error:.2f} %, failed tasks: {failed} of {len(testing)}", simulated)
    _save(figure, png)


def draw(folder):
    """Draws all pictures of a run; of restarts, only those that validation chose.

    Args:
        folder: a run's folder, with at least one history file.

    Returns:
        The names of the pictures.

    Raises:
        InputError: a file cannot be read or written, or there is no history.
    """
    histories = [path for path in sorted(Path(folder).glob("history*.csv")) if "_seed" not in path.name]
    if not histories:
        raise InputError(f"{folder}: expected the folder of a run, with history*.csv in it.")
    scores, pictures = Path(folder, "scores.csv"), []
    testing, simulated = read_scores(scores) if scores.exists() else ({}, _is_simulated(folder))
    for history in histories:
        pictures.append(history.with_name(history.name.replace("history", "curves")).with_suffix(".png"))
        curves(history, pictures[-1], simulated)
    if len(testing) > 1:
        pictures.append(scores.with_name("tasks.png"))
        tasks(scores, pictures[-1], "joint" if histories[0].name == "history.csv" else "single")
    return [str(picture) for picture in pictures]


def _is_simulated(folder):
    """Whether the flags of a run say that its stories were simulated."""
    try:
        return "simulated=True" in Path(folder, "params.csv").read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        return False


def main(argv=None):
    """Draws what the command line names; returns the exit status."""
    parser = Parser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("folder", nargs="+", help="the folder of a run, in logs/; its pictures are drawn again")
    try:
        for folder in parser.parse_args(argv).folder:
            print("\n".join(draw(folder)))
    except InputError as error:
        print(f"pictures.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

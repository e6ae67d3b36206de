"""Pictures: how a run learned, its scores beside published ones, and where an answer looked.

    python plots.py logs/joint_1795388665

draws the pictures of a run again, from the files in its folder: `curves.png` for `history.csv` (`curves_task7.png` for
`history_task7.csv`), and `tasks.png` if several tasks have scores. A file that cannot be read or written is an
`InputError`.
"""

import os
import textwrap
import warnings
from pathlib import Path

import numpy as np

import scores
from files import replacing
from flags import TASK_NAMES, InputError, Parser, run_command

NOT_BABI = "simulated stories: not bAbI scores"
LABEL_LENGTH = 60  # characters of a statement beside its attention

# Colours that stay apart for every kind of colour vision (Okabe & Ito, 2008; SKY is lighter, because markers stand on
# it). Line styles and markers differ too.
BLUE, SKY, VERMILION, BLACK = "#0072B2", "#9BD3F5", "#D55E00", "#000000"
GREY, LIGHT = "#BBBBBB", "#E8E8E8"
SERIES = (BLUE, VERMILION, BLACK, "#009E73", "#CC79A7", "#E69F00")  # of runs beside each other
MARKERS, STYLES = "osD^v", ("-", "--", ":")


def check_picture(path, flag):
    """Raises InputError unless a picture can be drawn at `path`; `flag` is the flag that named it."""
    folder = os.path.dirname(path) or "."
    if not path.endswith(".png") or not os.path.isdir(folder) or os.path.isdir(path):
        raise InputError(f"{path}: expected a file name that ends in .png, in a folder that exists; change {flag}.")


def curves(history_csv, png, simulated=False, linear_start=0):
    """Draws the loss of each epoch and the accuracies of each report.

    Args:
        history_csv: a history file.
        png: the picture to write.
        simulated: whether the stories are simulated; the picture says so.
        linear_start: the number of epochs without softmax; a vertical line marks their end.
    """
    history = scores.read_history(history_csv)
    epochs, losses = history["epoch"], history["loss"]
    is_report = ~np.isnan(history["training"])
    reports = epochs[is_report]
    figure = _figure(8, 6)
    figure.subplots_adjust(left=0.1, right=0.73, top=0.91, bottom=0.09, hspace=0.1)
    loss_axes, accuracy_axes = figure.subplots(2, 1, sharex=True, height_ratios=(2, 3))

    def line(axes, xs, ys, colour, style, marker, label):
        marker = marker if len(xs) <= 40 else None  # more markers than that hide the line
        axes.plot(xs, ys, color=colour, linestyle=style, marker=marker, markersize=5, label=label)

    line(loss_axes, epochs, losses, BLACK, "-", ".", f"loss {losses[-1]:.4g}")
    if len(reports):
        by_task = [100 * values[is_report] for name, values in history.items() if name.startswith("validation ")]
        if len(by_task) > 1:
            marker = "_" if len(reports) == 1 else None  # a line needs two reports
            lines = accuracy_axes.plot(reports, np.transpose(by_task), color=GREY, linewidth=0.9, marker=marker)
            lines[0].set_label("validation, task by task")
        training, validation = (100 * history[name][is_report] for name in ("training", "validation"))
        line(accuracy_axes, reports, training, BLUE, "-", "o", f"training {training[-1]:.2f} %")
        line(accuracy_axes, reports, validation, VERMILION, "--", "s", f"validation {validation[-1]:.2f} %")
    else:
        accuracy_axes.plot([], [], " ", label="no report yet")
    if 0 < linear_start < epochs[-1]:
        for axes in (loss_axes, accuracy_axes):
            axes.axvline(linear_start, color=BLACK, linestyle=":", linewidth=1, label="end of the linear start")
    loss_axes.set(ylabel="loss", ylim=(0, 1.05 * max(losses.max(), 1e-9)))
    accuracy_axes.set(ylabel="accuracy in %", ylim=(0, 102), xlabel="epoch", xlim=(0, 1.03 * epochs[-1]))
    accuracy_axes.xaxis.get_major_locator().set_params(integer=True)
    for axes in (loss_axes, accuracy_axes):
        axes.ticklabel_format(axis="y", scilimits=(-3, 4))
        _use_plain_style(axes, "both")
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=9)
    figure.align_ylabels()
    _add_title(figure, "Loss and accuracies by epoch", simulated)
    _save(figure, png)


def tasks(score_file, png, regime="joint"):
    """Draws the test accuracy of each task of a score file beside those of `scores.read_published(regime)`."""
    by_task, simulated = scores.read_scores(score_file)
    accuracies = np.array(list(by_task.values()))
    places = np.arange(len(by_task))
    height = 2 + 0.27 * len(by_task)
    figure = _figure(8, height)
    figure.subplots_adjust(left=0.29, right=0.91, top=1 - 0.6 / height, bottom=1 / height)
    axes = figure.subplots()
    keys = [axes.barh(places, 100 * accuracies, color=SKY, height=0.7, label="this run")]
    styles = ((VERMILION, "o"), (BLACK, "D"))
    films = scores.ALL in by_task
    published_systems = {} if films else scores.read_published(regime)
    for (label, published), (colour, marker) in zip(published_systems.items(), styles, strict=False):
        values = [100 * published[task] for task in by_task]
        keys += axes.plot(
            values, places, marker, color=colour, markersize=7, fillstyle="none", label=label, clip_on=False
        )
    if not films:
        limit = 100 * (1 - scores.HIGHEST_ERROR)
        keys.append(axes.axvline(limit, color=BLACK, linestyle=":", linewidth=1, label="failed: error above 5 %"))
    for place, accuracy in zip(places, accuracies, strict=True):
        axes.annotate(f"{100 * accuracy:.1f}", (111, place), va="center", ha="right", color=BLUE, annotation_clip=False)
    published_note = "" if films else " (published systems: 1,000 training questions per task)"
    _use_rows_of_tasks(axes, by_task, published_note)
    figure.legend(handles=keys, loc="lower center", ncols=4, frameon=False)
    error, failed = scores.mean_error(accuracies), scores.count_failed(accuracies)
    title = f"Mean error {error:.2f} %, failed tasks: {failed} of {len(by_task)}"
    if films:
        title = f"Questions about films with a right answer: {100 * by_task[scores.ALL]:.2f} %"
    _add_title(figure, title, simulated)
    _save(figure, png)


def comparison(path, runs, simulated=False):
    """Draws the validation curves of runs over each other, and their test accuracies by task with error bars.

    Args:
        path: the picture to write.
        runs: for each run, a dict with `label`; `epochs`, `validation` and `deviation`, equally long arrays of the
            epochs with a report, the mean accuracies in percent over seeds and their standard deviations; and `tasks`,
            a dict from task to the mean test accuracy in percent and its standard deviation. Deviations of a single
            seed are nan.
        simulated: whether the stories are simulated; the picture says so.
    """
    names = list(dict.fromkeys(task for run in runs for task in run["tasks"]))
    rows = max(len(names), 1)
    height = 5 + 0.3 * rows + 0.2 * len(runs)
    figure = _figure(8, height)
    figure.subplots_adjust(
        left=0.29, right=0.96, top=1 - 0.6 / height, bottom=(0.8 + 0.2 * len(runs)) / height, hspace=1.4 / height
    )
    curve_axes, task_axes = figure.subplots(2, 1, height_ratios=(3, 0.3 * rows + 0.2))
    keys = []
    for i, run in enumerate(runs):
        colour, marker = SERIES[i % len(SERIES)], MARKERS[i % len(MARKERS)]
        label = printable(run["label"]).replace("$", r"\$")  # a dollar sign is not the start of a formula
        style = dict(color=colour, linestyle=STYLES[i // len(SERIES) % len(STYLES)], label=label)
        deviation = np.nan_to_num(run["deviation"])
        low, high = run["validation"] - deviation, run["validation"] + deviation
        curve_axes.fill_between(run["epochs"], low, high, color=colour, alpha=0.15, linewidth=0)
        markers = marker if len(run["epochs"]) <= 40 else None
        keys += curve_axes.plot(run["epochs"], run["validation"], marker=markers, markersize=5, **style)
        places = np.array([names.index(task) for task in run["tasks"]]) + 0.7 * ((i + 0.5) / len(runs) - 0.5)
        means, deviations = np.array(list(run["tasks"].values())).reshape(-1, 2).T
        bars = dict(fmt=marker, markersize=4, color=colour, elinewidth=1.5, capsize=2, clip_on=False)
        task_axes.errorbar(means, places, xerr=np.nan_to_num(deviations), **bars)
    curve_axes.set(xlabel="epoch", ylabel="validation accuracy in %", xlim=(0, None))
    curve_axes.xaxis.get_major_locator().set_params(integer=True)
    _use_plain_style(curve_axes, "both")
    _use_rows_of_tasks(task_axes, names)
    figure.legend(handles=keys, loc="lower left", frameon=False)
    _add_title(figure, "Mean and standard deviation over seeds", simulated)
    _save(figure, path)


def attention(path, statements, weights, empty, title):
    """Draws the attention of an answer as a heat map: one row per statement, one column per hop.

    Args:
        path: the picture to write.
        statements: texts of the memory slots.
        weights: attention of each statement in each hop (statements, hops).
        empty: attention of all empty slots together in each hop (hops,).
        title: the question and its answer, for example.
    """
    table = np.vstack([weights, empty])
    slots, hops = table.shape
    width = 4.5 + 0.7 * hops
    heading = textwrap.wrap(printable(title), int(9 * width), max_lines=4, placeholder=" ...")
    figure = _figure(width, 1 + 0.22 * len(heading) + 0.26 * slots, layout="constrained")
    axes = figure.subplots()
    axes.imshow(table, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    labels = [text if len(text) <= LABEL_LENGTH else text[: LABEL_LENGTH - 3] + "..." for text in statements]
    labels = [*map(printable, labels), "(empty slots)"]
    axes.set_yticks(range(slots), labels, parse_math=False)  # a dollar sign is not the start of a formula
    axes.set_xticks(range(hops), [f"hop {hop}" for hop in range(1, hops + 1)])
    for (slot, hop), weight in np.ndenumerate(table):
        axes.text(hop, slot, f"{weight:.2f}", ha="center", va="center", color="white" if weight > 0.6 else BLACK)
    figure.suptitle("\n".join(heading), parse_math=False)
    _save(figure, path)


def draw(folder):
    """Draws all pictures of a run's folder and returns their names; of several seeds, only the chosen ones."""
    histories = [path for path in sorted(Path(folder).glob("history*.csv")) if "_seed" not in path.name]
    if not histories:
        raise InputError(f"{folder}: expected the folder of a run, with history*.csv in it.")
    score_file, params_file, pictures = Path(folder, "scores.csv"), Path(folder, "params.csv"), []
    params = scores.read_params(params_file) if params_file.exists() else {}
    simulated = params.get("simulated") == "True"
    linear_start = int(params["linear_start"]) if params.get("linear_start", "").isdecimal() else 0
    by_task = {}
    if score_file.exists():
        by_task, simulated = scores.read_scores(score_file)
    for history in histories:
        pictures.append(history.with_name(history.name.replace("history", "curves")).with_suffix(".png"))
        curves(history, pictures[-1], simulated, linear_start)
    if len(by_task) > 1:
        pictures.append(score_file.with_name("tasks.png"))
        tasks(score_file, pictures[-1], "joint" if histories[0].name == "history.csv" else "single")
    return [str(picture) for picture in pictures]


# --- parts of pictures ------------------------------------------------------------------------------------


def printable(text):
    """Text without control characters, which could change a terminal's screen or title."""
    return "".join(character if character.isprintable() else " " for character in text)


def _figure(width, height, **options):
    """An empty figure, in inches; imports matplotlib, but not pyplot, which shares figures and looks for a screen."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), **options)


def _use_plain_style(axes, grid):
    """Removes the frame from axes, and adds a light grid along "x", "y" or "both"."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(axis=grid, color=LIGHT, linewidth=0.8)


def _use_rows_of_tasks(axes, tasks, note=""):
    """Gives axes a row for each task (or type of questions), for test accuracies in percent."""
    labels = [f"{TASK_NAMES[task]}  {task:>2}" if task in TASK_NAMES else task for task in tasks]
    axes.set_yticks(range(len(labels)), labels)
    axes.tick_params(axis="y", length=0)
    axes.set(xlim=(0, 100), ylim=(max(len(labels), 1) - 0.4, -0.6), xlabel=f"test accuracy in %{note}")
    _use_plain_style(axes, "x")


def _add_title(figure, text, simulated):
    """Writes a title, and beside it that scores on simulated stories are not bAbI scores."""
    top = 1 - 0.2 / figure.get_figheight()
    figure.text(0.02, top, text, fontsize=12, va="top")
    if simulated:
        figure.text(0.98, top, NOT_BABI, fontsize=11, weight="bold", color=VERMILION, va="top", ha="right")


def _save(figure, path):
    """Writes a picture."""
    with replacing(os.fspath(path)) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # the font lacks a character and draws a box
        figure.savefig(temporary, format="png", dpi=120)


def main(argv=None):
    """Draws the pictures of the runs that the command line names."""
    parser = Parser("Draws the pictures of a run from the files in its folder.")
    parser.add_argument("folder", nargs="+", help="the folder of a run, such as logs/joint_1795388665")
    for folder in parser.parse_args(argv).folder:
        print("\n".join(draw(folder)))


if __name__ == "__main__":
    run_command(main)

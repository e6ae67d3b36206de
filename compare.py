"""Compares runs: flags that differ, errors over seeds, paired differences, failed tasks, time; lists runs.

    python compare.py                                                  # the runs in logs
    python compare.py logs/joint_1795388665 logs/joint_1795391234      # how the second differs from the first
    python compare.py logs/joint_* --picture comparison.png            # curves, and tasks with error bars

Errors are in percent, and deviations are over seeds (with Bessel's correction). A seed counts once all of its models
are finished, and only tasks that all runs have count.
"""

import fcntl
import glob
import importlib.util
import os
import re
import shlex
import sys
from typing import NamedTuple

import numpy as np

import checkpoint
import experiment
import plots
import scores
from flags import KINDS, InputError, Parser, path, run_command

SPLITS = {"validation": 3, "test": 1}  # places in the rows of an outcome
# Flags that do not change what is learned, beside `experiment.FREE_FLAGS`.
NO_DIFFERENCE = {"output_file", "param_output_file", "score_file", "pictures", "tensorboard", "name", "jit_compile"}
NO_DIFFERENCE |= {"allow_soft_placement", "log_device_placement"}
# Flags that change how examples are encoded, but neither which there are nor their split.
ENCODING = ("script", "memory_size", "time_noise", "only_supporting", "source", "representation", "text", "window")
ENCODING += ("templates", "conjunction", "coreference")


class Run(NamedTuple):
    """What is known about a run."""

    folder: str
    name: str  # as given, or ""
    settings: dict  # the flags as used, by name; also the script
    command: str  # the flags as given
    started: int
    state: str
    digests: list  # of the data of each model
    tasks: list  # numbers of tasks, or types of questions about films; empty if not known yet
    outcomes: list  # of `experiment.Outcome`, one for each finished model

    def seeds(self):
        """The outcomes of each seed whose models are all finished, a dict from seed to a list."""
        by_seed = {}
        for outcome in self.outcomes:
            by_seed.setdefault(outcome.seed, []).append(outcome)
        return {seed: outcomes for seed, outcomes in by_seed.items() if len(outcomes) == len(self.digests)}

    def chosen(self):
        """The rows of the models that validation chooses, see `rows_of`; None if a model has no finished seed."""
        by_model = {}
        for outcome in self.outcomes:
            by_model.setdefault(str([task for task, *_ in outcome.rows]), []).append(outcome)
        if len(by_model) == len(self.digests):
            return [max(outcomes, key=lambda outcome: outcome.merit()) for outcomes in by_model.values()]


def rows_of(outcomes, tasks):
    """The (task, test, training, validation accuracy) of outcomes, for the given tasks only."""
    return [row for outcome in outcomes for row in outcome.rows if row[0] in tasks]


def read_run(folder):
    """Reads a `Run`; InputError if the folder holds none, or a damaged one."""
    record = checkpoint.read_record(folder)
    try:
        settled, outcomes = record["flags"], [experiment.Outcome(**outcome) for outcome in record["outcomes"].values()]
        tasks = settled.get("task_id") or [row[0] for outcome in outcomes[:1] for row in outcome.rows]
        return Run(
            folder=folder,
            name=record.get("name") or "",
            settings={**record["params"], "data_dir": settled["data_dir"], "script": record["script"]},
            command=shlex.join(shlex.split(settled["command"])[1:]),
            started=record["started"],
            state=state_of(folder, record),
            digests=record["digests"],
            tasks=tasks,
            outcomes=outcomes,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{os.path.join(folder, checkpoint.RECORD)}: is damaged.") from error


def state_of(folder, record):
    """Finished, how far it is, or where it stopped."""
    if record["finished"]:
        return "finished"
    models = len(record["digests"]) * record["flags"]["restarts"]
    progress = f"{len(record['outcomes'])} of {models} models"
    if models == 1:
        histories = glob.glob(os.path.join(glob.escape(folder), "history*.csv"))
        epoch = max((int(scores.read_history(history)["epoch"][-1]) for history in histories), default=0)
        progress = f"epoch {epoch} of {record['flags']['epochs']}"
    return progress if is_active(folder) else f"stopped, {progress}"


def is_active(folder):
    """Whether a process works on the run in a folder."""
    try:
        with open(os.path.join(folder, checkpoint.LOCK)) as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (BlockingIOError, FileNotFoundError) as error:
        return isinstance(error, BlockingIOError)
    return False


# --- the list of runs -----------------------------------------------------------------------------------


def list_runs(log_dir):
    """(a `pandas.DataFrame` of the runs in a folder, oldest first; sentences about the damaged ones)."""
    import pandas

    runs, problems = [], []
    if not os.path.isdir(log_dir):
        raise InputError(f"{log_dir}: expected a folder of runs; change --log_dir.")
    for record in sorted(glob.glob(os.path.join(glob.escape(log_dir), "*", checkpoint.RECORD))):
        try:
            runs.append(read_run(os.path.dirname(record)))
        except InputError as error:
            problems.append(str(error))
    lines = []
    for run in sorted(runs, key=lambda run: run.started):
        rows = rows_of(run.chosen() or [], run.tasks)
        line = {"run": os.path.basename(run.folder), "name": run.name, "state": run.state}
        for split, place in SPLITS.items():
            line[f"{split} %"] = f"{scores.mean_error(scores.overall(rows, place)):.2f}" if rows else ""
        failed = scores.count_failed([test for _, test, *_ in rows])
        line["failed"] = f"{failed}/{len(rows)}" if rows and rows[-1][0] not in KINDS else ""
        lines.append(line | {"flags": run.command})
    return pandas.DataFrame(lines), problems


def labels(runs):
    """What stands for each run in tables: its name, or else its folder's; whole paths if these are not unique."""
    short = [run.name or os.path.basename(os.path.normpath(run.folder)) for run in runs]
    return short if len(set(short)) == len(runs) else [run.folder for run in runs]


# --- comparison -----------------------------------------------------------------------------------------


def differing_flags(runs):
    """The flags in which runs differ: a dict from name to the value of each run, "" where it has none."""
    names = {name for run in runs for name in run.settings} - NO_DIFFERENCE - {*experiment.FREE_FLAGS}
    values = {name: [str(run.settings.get(name, "")) for run in runs] for name in sorted(names)}
    return {name: row for name, row in values.items() if len(set(row)) > 1}


def common_tasks(runs):
    """The tasks that all runs have, as far as these are known; InputError if there is none."""
    known = [run for run in runs if run.tasks]
    tasks = [task for task in known[0].tasks if all(task in run.tasks for run in known)] if known else []
    if known and not tasks:
        raise InputError("these runs have no task in common.")
    return tasks


def error_table(runs, tasks):
    """Errors in percent: a `pandas.DataFrame` with index (run, seed, task) and the columns of `SPLITS`."""
    import pandas

    lines = [
        (i, seed, row[0], *(100 * (1 - row[place]) for place in SPLITS.values()))
        for i, run in enumerate(runs)
        for seed, outcomes in run.seeds().items()
        for row in rows_of(outcomes, tasks)
    ]
    return pandas.DataFrame(lines, columns=["run", "seed", "task", *SPLITS]).set_index(["run", "seed", "task"])


def why_not_paired(first, run):
    """Why the seeds of two runs cannot be compared one by one, in words; "" if they can.

    The split into training and validation follows from --random_state; it is the same for all seeds of a run.
    """
    if first.digests == run.digests:
        return ""
    for name in ("data_dir", "question_hops", "random_state", "simulated"):
        if first.settings.get(name) != run.settings.get(name):
            return f"another --{name}"
    if all(first.settings.get(name) == run.settings.get(name) for name in ENCODING) and first.tasks == run.tasks:
        return "the data have changed"
    return ""


def summarize(runs):
    """All numbers of a comparison: a `pandas.DataFrame` with a line per run, a dict of columns where they are nested.

    Errors and their deviations in percent; `failed` and `chosen`, the test error, are of the models that validation
    chooses; `seconds` is the median training time of a seed; differences are those from the first run, with their
    standard errors.
    """
    import pandas

    tasks = common_tasks(runs)
    table = error_table(runs, tasks)
    about_films = scores.ALL in table.index.get_level_values("task")
    by_seed = table.xs(scores.ALL, level="task") if about_films else table.groupby(level=["run", "seed"]).mean()
    by_seed = by_seed.round(6)  # as `scores.mean_error`
    by_task = table.groupby(level=["run", "task"])["test"].agg(["mean", "std"])
    lines = []
    for i, (run, label) in enumerate(zip(runs, labels(runs), strict=True)):
        own = by_seed[by_seed.index.get_level_values("run") == i].droplevel("run")
        line = {"run": label, "folder": run.folder, "state": run.state, "seeds": len(own)}
        for split in SPLITS:
            line |= {f"{split} error": own[split].mean(), f"{split} deviation": own[split].std()}
        rows = rows_of(run.chosen() or [], tasks)
        line["chosen"] = scores.mean_error(scores.overall(rows, SPLITS["test"])) if rows else np.nan
        is_story = rows and rows[-1][0] not in KINDS
        line["failed"] = scores.count_failed([test for _, test, *_ in rows]) if is_story else np.nan
        seconds = [sum(outcome.seconds for outcome in outcomes) for outcomes in run.seeds().values()]
        line["seconds"] = float(np.median(seconds)) if seconds else np.nan
        if i:
            reason = why_not_paired(runs[0], run)
            pairs = (own - by_seed[by_seed.index.get_level_values("run") == 0].droplevel("run")).dropna()
            pairs = pairs[:0] if reason else pairs
            line |= {"pairs": len(pairs), "unpaired": reason or ("" if len(pairs) else "no seed in common")}
            for split in SPLITS:
                line |= {f"{split} difference": pairs[split].mean(), f"{split} standard error": pairs[split].sem()}
        for task in tasks:
            mean, deviation = by_task.loc[(i, task)] if (i, task) in by_task.index else (np.nan, np.nan)
            line |= {f"test {task}": mean, f"deviation {task}": deviation}
        lines.append(line)
    return pandas.DataFrame(lines)


def with_spread(mean, spread, sign=""):
    """A mean in percent with its deviation or standard error, where there is one."""
    if np.isnan(mean):
        return ""
    return f"{mean:{sign}.2f}" + ("" if np.isnan(spread) else f" ± {spread:.2f}")


def tables(runs, summary):
    """The tables of a comparison: (title, `pandas.DataFrame` of str)."""
    import pandas

    names, tasks = list(summary["run"]), common_tasks(runs)
    flags = differing_flags(runs)
    if flags:
        flags = pandas.DataFrame(flags, index=names).T.rename_axis("flag").reset_index()
        yield "Flags that differ", flags
    lines, differences = [], []
    for _, line in summary.iterrows():
        errors = {split: with_spread(line[f"{split} error"], line[f"{split} deviation"]) for split in SPLITS}
        whole = {name: "" if np.isnan(line[name]) else f"{line[name]:.0f}" for name in ("failed", "seconds")}
        chosen = with_spread(line["chosen"], np.nan)
        lines.append({"run": line["run"], "seeds": str(line["seeds"]), **errors, "chosen": chosen, **whole})
        if not np.isnan(line.get("pairs", np.nan)):
            both = {
                split: with_spread(line[f"{split} difference"], line[f"{split} standard error"], "+")
                for split in SPLITS
            }
            pairs = line["unpaired"] or f"{line['pairs']:.0f}"
            differences.append({"run": line["run"], "pairs of seeds": pairs, **both})
    shared = "" if all(run.tasks == tasks for run in runs) else f"; only of tasks {','.join(map(str, tasks))}"
    yield f"Error in %, mean ± standard deviation over seeds{shared}", pandas.DataFrame(lines)
    if differences:
        yield (
            f"Error minus that of {names[0]}, in points: mean ± standard error over pairs",
            pandas.DataFrame(differences),
        )
    cells = [
        [task, *(with_spread(*pair) for pair in summary[[f"test {task}", f"deviation {task}"]].to_numpy())]
        for task in tasks
    ]
    if tasks:
        yield "Test error in % by task", pandas.DataFrame(cells, columns=["task", *names])


def markdown(table):
    """A table in Markdown."""
    lines = [table.columns, ["---"] * table.shape[1], *table.to_numpy()]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


# --- the picture ----------------------------------------------------------------------------------------


def curve(run, tasks):
    """(epochs, mean validation accuracy in percent over seeds, its deviation) of the epochs that all models report."""
    import pandas

    columns = {}
    for file in glob.glob(os.path.join(glob.escape(run.folder), "history*.csv")):
        match = re.search(r"_seed(\d+)\.csv$", file)
        if run.settings["restarts"] > 1 and not match:  # a copy of the chosen seed's
            continue
        history = scores.read_history(file)
        for task in [scores.ALL] if scores.ALL in tasks else tasks:
            if f"validation {task}" in history:
                values = 100 * history[f"validation {task}"]
                columns[match and match[1], task] = pandas.Series(values, index=history["epoch"])
    if not columns:
        return np.zeros(0), np.zeros(0), np.zeros(0)
    by_seed = pandas.DataFrame(columns).dropna().T.groupby(level=0, dropna=False).mean()
    return by_seed.columns.to_numpy(), by_seed.mean().to_numpy(), by_seed.std().to_numpy()


def draw(runs, summary, png):
    """Draws a comparison; see `plots.comparison`."""
    tasks, drawn = common_tasks(runs), []
    for (_, line), run in zip(summary.iterrows(), runs, strict=True):
        epochs, validation, deviation = curve(run, tasks)
        by_task = {task: (100 - line[f"test {task}"], line[f"deviation {task}"]) for task in tasks}
        drawn.append(
            {
                "label": f"{line['run']}, finished seeds: {line['seeds']}",
                "epochs": epochs,
                "validation": validation,
                "deviation": deviation,
                "tasks": {task: values for task, values in by_task.items() if not np.isnan(values[0])},
            }
        )
    if not any(len(run["epochs"]) for run in drawn):
        raise InputError("--picture: there is nothing to draw yet: no run has reported a validation accuracy.")
    plots.comparison(png, drawn, any(run.settings.get("simulated") for run in runs))


# --- the command ----------------------------------------------------------------------------------------


def main(argv=None):
    """Compares or lists runs as the flags say."""
    parser = Parser(__doc__.splitlines()[0])
    add = parser.add_argument
    add("runs", nargs="*", metavar="RUN", help="folder of a run; without any, the runs in --log_dir are listed")
    add("--log_dir", type=path, default="logs", help="folder of the runs to list (default: logs)")
    add("--picture", type=path, metavar="FILE.png", help="draw validation curves, and tasks with error bars")
    form = parser.add_mutually_exclusive_group().add_argument
    form("--csv", action="store_true", help="print one CSV table with a line per run and all numbers")
    form("--markdown", action="store_true", help="print tables in Markdown")
    flags = parser.parse_args(argv)
    if flags.picture and not flags.runs:
        parser.error("--picture needs the folders of runs")
    if flags.picture:
        plots.check_picture(flags.picture, "--picture")
    if not importlib.util.find_spec("pandas"):
        raise InputError("compare.py needs pandas: pip install -r requirements-desk.txt.")
    if flags.runs:
        runs = [read_run(folder) for folder in flags.runs]
        summary = summarize(runs)
        if flags.csv:
            columns = {name: values for name, values in differing_flags(runs).items() if name not in summary}
            print(summary.assign(**columns).round(4).to_csv(index=False, lineterminator="\n"), end="")
        else:
            for title, table in tables(runs, summary):
                text = f"\n{markdown(table)}" if flags.markdown else table.to_string(index=False, line_width=80)
                print(f"{title}\n{text}\n")
            if any(run.settings.get("simulated") for run in runs):
                print(plots.NOT_BABI)
        if flags.picture:
            draw(runs, summary, flags.picture)
            print(f"picture in {flags.picture}", file=sys.stderr)
        return
    table, problems = list_runs(flags.log_dir)
    if table.empty:
        print(f"{flags.log_dir}: no runs.")
    elif flags.csv:
        print(table.to_csv(index=False, lineterminator="\n"), end="")
    elif flags.markdown:
        print(markdown(table))
    else:  # flags are long: below each run
        given = table.pop("flags")
        heading, *lines = table.loc[:, (table != "").any()].to_string(index=False).split("\n")
        print(heading)
        for line, words in zip(lines, given, strict=True):
            print(f"{line}\n    {words}" if words else line)
    for problem in problems:
        print(problem, file=sys.stderr)


if __name__ == "__main__":
    run_command(main)

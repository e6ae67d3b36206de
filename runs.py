"""What a run leaves behind: folders, score files, histories, models; restarts and how they are chosen from.

Both scripts call `run` with the groups of tasks that go into one model each, and go through `command`.
"""

import concurrent.futures
import csv
import fcntl
import importlib.util
import io
import multiprocessing
import os
import shutil
import sys
import threading
import time
from typing import NamedTuple

import numpy as np

import data_utils
import pictures
import training
from data_utils import InputError
from training import keras, tf

SCORE_COLUMNS = ("Task", "Testing Accuracy", "Training Accuracy", "Validation Accuracy")

# --- files ----------------------------------------------------------------------------------------------


def new_run_folder(log_dir, name):
    """Makes a folder `<name>_<unix time>[_<n>]` that no other run has, however many start at once."""
    stamp = f"{name}_{int(time.time())}"
    os.makedirs(log_dir, exist_ok=True)
    for attempt in range(1, 10_000):
        folder = os.path.join(log_dir, stamp if attempt == 1 else f"{stamp}_{attempt}")
        try:
            os.mkdir(folder)
            return folder
        except FileExistsError:
            continue
    raise InputError(f"{log_dir}: holds thousands of runs of this second already.")


def check_writable(path, flag):
    """Raises InputError unless a file can be written, or appended to, at path."""
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        raise InputError(f"{path}: the folder {folder} does not exist; make it or change {flag}.")
    if not os.access(path if os.path.exists(path) else folder, os.W_OK) or os.path.isdir(path):
        raise InputError(f"{path}: cannot be written; change {flag}.")


def check_log_dir(log_dir):
    """Raises InputError unless log_dir is a folder to write in, or could be made in one."""
    place = log_dir if os.path.exists(log_dir) else os.path.dirname(os.path.abspath(log_dir))
    if not log_dir or not os.path.isdir(place) or not os.access(place, os.W_OK):
        raise InputError(f"{log_dir!r}: expected a folder to write in, or to make in another; change --log_dir.")


def check_score_file(path):
    """Raises InputError where an existing file at path is no score file that rows could be appended to."""
    check_writable(path, "--output_file")
    if os.path.exists(path):
        with open(path, encoding="utf-8", errors="replace") as file:
            header = file.readline().rstrip("\r\n")
        if header != ",".join(SCORE_COLUMNS) and os.path.getsize(path):
            raise InputError(f"{path}, line 1: expected {','.join(SCORE_COLUMNS)}, found another file.")


def append_scores(path, rows):
    """Appends score rows, as `append_rows` does."""
    append_rows(path, SCORE_COLUMNS, rows)


def append_rows(path, columns, rows):
    """Appends rows to a CSV file, whole and under a lock, after the header in a file that is new or empty."""
    with open(path, "a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        size = file.seek(0, os.SEEK_END)
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if size == 0:
            writer.writerow(columns)
        else:
            file.seek(size - 1)
            if file.read(1) != b"\n":
                text.write("\n")
        writer.writerows(rows)
        file.write(text.getvalue().encode())


def append_params(path, values):
    """Writes NAME=value lines, after an empty line where the file has some of another run."""
    text = "".join(f"{name}={value}\n" for name, value in values.items())
    with open(path, "a", encoding="utf-8") as file:
        file.write("\n" + text if file.tell() else text)


# --- runs -----------------------------------------------------------------------------------------------


class Report(keras.callbacks.Callback):
    """Says how training goes: a progress bar on a terminal, accuracies every few epochs, a history file."""

    def __init__(self, corpus, epochs, interval, history_file, heading=""):
        super().__init__()
        self.corpus, self.epochs, self.interval = corpus, epochs, interval
        self.history_file, self.heading = history_file, heading
        self.bar = None
        if sys.stdout.isatty() and not heading:
            self.bar = keras.utils.Progbar(epochs, unit_name="epoch", stateful_metrics=["loss"])

    def on_epoch_end(self, epoch, logs=None):
        epoch += 1
        loss = float(logs["loss"])
        if not np.isfinite(loss):
            raise InputError(f"the loss is {loss} after epoch {epoch}; lower --learning_rate or --max_grad_norm.")
        if self.bar:
            self.bar.update(epoch, [("loss", loss)])
        if epoch % self.interval and epoch != self.epochs:
            return
        learned, validation = (
            training.exact_match(self.model.answers(examples), examples)
            for examples in (self.corpus.training, self.corpus.validation)
        )
        logs.update(training=learned["all"], validation=validation["all"])  # for the callbacks after this one
        if self.bar and epoch != self.epochs:
            print()
        print(
            f"{self.heading}epoch {epoch}/{self.epochs}  loss {loss:.4f}  "
            f"training {learned['all']:.4f}  validation {validation['all']:.4f}",
            flush=True,
        )
        if len(self.corpus.tasks) > 1 and not self.heading:
            for name, scores in (("training", learned), ("validation", validation)):
                print(f"  {name} by task: " + " ".join(f"{scores[t]:.2f}" for t in self.corpus.tasks))
        new = not os.path.exists(self.history_file)
        with open(self.history_file, "a", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            if new:
                by_task = [f"{s} {t}" for s in ("training", "validation") for t in self.corpus.tasks]
                writer.writerow(["epoch", "loss", "training", "validation", *by_task])
            by_task = [scores[t] for scores in (learned, validation) for t in self.corpus.tasks]
            cells = [loss, learned["all"], validation["all"], *by_task]
            writer.writerow([epoch, *(f"{cell:.4f}" for cell in cells)])


class Outcome(NamedTuple):
    """What one trained model scored."""

    seed: int
    rows: list  # (task, test, training, validation accuracy)
    validation_loss: float

    def validation(self):
        """What restarts are chosen by: validation accuracy, mean over tasks; where it is equal, cross-entropy."""
        return np.mean([validation for *_, validation in self.rows]), -self.validation_loss

    def test_error(self):
        """Mean test error over tasks, in percent."""
        return 100 * (1 - np.mean([test for _, test, *_ in self.rows]))


def suffix(flags, tasks, seed):
    """What tells the files of one model from those of the others in its run's folder."""
    task = f"_task{tasks[0]}" if len(tasks) == 1 else ""
    return f"{task}_seed{seed}" if flags.restarts > 1 else task


def train_and_score(flags, corpus, seed, folder):
    """Trains one model, scores it and saves it and its history in the run's folder.

    Returns:
        An `Outcome`.
    """
    name = suffix(flags, corpus.tasks, seed)
    history = os.path.join(folder, f"history{name}.csv")
    heading = f"{describe(corpus.tasks)}, seed {seed}: " if flags.restarts > 1 else ""
    begin = time.monotonic()
    report = Report(corpus, flags.epochs, flags.evaluation_interval, history, heading)
    callbacks = [report]
    if flags.tensorboard:
        callbacks.append(keras.callbacks.TensorBoard(os.path.join(folder, f"tensorboard{name}"), write_graph=False))
    trainer = training.train(flags, corpus, seed, callbacks)
    outcome = Outcome(seed, training.score(trainer, corpus), training.cross_entropy(trainer, corpus.validation))
    model = f"model{name}.keras"
    trainer.finish().save(os.path.join(folder, model))
    append_rows(os.path.join(folder, "times.csv"), ("Model", "Seconds"), [[model, f"{time.monotonic() - begin:.1f}"]])
    return outcome


def start_worker(allow_soft_placement, log_device_placement):
    """Sets TensorFlow up in a process that shares the machine with others like it: one thread each."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    set_devices(allow_soft_placement, log_device_placement)
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()


def end_with(parent):
    """Ends this process soon after its parent, however that ends: nobody would take its results."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def set_devices(allow_soft_placement, log_device_placement):
    tf.config.set_soft_device_placement(allow_soft_placement)
    tf.debugging.set_log_device_placement(log_device_placement)


def outcomes(flags, corpora, folder):
    """Trains the models of all corpora and yields, for each corpus, the outcomes of its restarts, in order.

    Several are trained at once, each in a process and a thread of its own: steps are too small for a second
    thread to help, so this is as many times faster than one after another as there are cores.
    """
    seeds = range(flags.random_state, flags.random_state + flags.restarts)
    jobs = [(flags, corpus, seed, folder) for corpus in corpora for seed in seeds]
    devices = flags.allow_soft_placement, flags.log_device_placement
    if flags.restarts == 1:
        set_devices(*devices)
        for corpus, job in zip(corpora, jobs, strict=True):
            print_sizes(corpus)
            yield [train_and_score(*job)]
        return
    for corpus in corpora:
        print_sizes(corpus)
    workers = min(flags.workers or len(os.sched_getaffinity(0)), len(jobs))
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, spawn, start_worker, devices) as pool:
        futures = [pool.submit(train_and_score, *job) for job in jobs]
        try:
            for start in range(0, len(jobs), flags.restarts):
                yield [future.result() for future in futures[start : start + flags.restarts]]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def describe(tasks):
    """The tasks of a model in words."""
    return f"task {tasks[0]}" if len(tasks) == 1 else f"tasks {tasks[0]}-{tasks[-1]}"


def print_sizes(corpus):
    """Prints counts of a corpus that a person can check."""
    print(
        f"{describe(corpus.tasks)}: {len(corpus.training)} training, {len(corpus.validation)} validation, "
        f"{len(corpus.testing)} test questions; {len(corpus.vocabulary)} words, "
        f"{corpus.memory_size} slots of {corpus.sentence_size} words",
        flush=True,
    )


def print_scores(rows):
    """Prints accuracies by task and what the field quotes of them: mean error and failed tasks."""
    print("task    test  training  validation")
    for task, *accuracies in rows:
        print(f"{task:4d}  " + "  ".join(f"{a:{w}.4f}" for a, w in zip(accuracies, (6, 8, 10), strict=True)))
    testing = np.array([row[1] for row in rows])
    print(
        f"mean test error {100 * (1 - testing.mean()):.2f} %, "
        f"failed tasks (error above 5 %): {np.sum(testing < 0.95)} of {len(rows)}"
    )


def print_restarts(found):
    """Prints the mean error of each seed over all models, where there are several.

    Args:
        found: for each model, the outcomes of its restarts.
    """
    errors = [np.mean([outcome.test_error() for outcome in seed]) for seed in zip(*found, strict=True)]
    deviation = np.std(errors, ddof=1)
    print(
        f"mean test error of {len(errors)} seeds {np.mean(errors):.2f} %, standard deviation {deviation:.2f}: "
        + " ".join(f"{error:.2f}" for error in errors)
    )


def say_simulated(data_dir):
    """Prints that scores of this run are no bAbI scores."""
    print(f"{data_dir}: these stories are simulated, not the published bAbI stories;")
    print("the scores of this run are marked as simulated and are no bAbI scores.", flush=True)


def score_cells(flags, outcome, chosen):
    """An outcome as rows of a score file; marks after the task number say what is special about them."""
    marks = ["simulated"] if flags.simulated else []
    if flags.restarts > 1:
        marks += [f"seed {outcome.seed}"] + (["chosen"] if chosen else [])
    mark = f" ({' '.join(marks)})" if marks else ""
    return [[f"{task}{mark}", *(f"{accuracy:.4f}" for accuracy in accuracies)] for task, *accuracies in outcome.rows]


def run(name, flags, models):
    """Trains and scores models one after another, and writes their files.

    Args:
        name: what to call the run's folder.
        flags: parsed flags.
        models: for each model, the tasks that go into it.
    """
    if flags.random_state is None:
        flags.random_state = int.from_bytes(os.urandom(3), "little")
    if flags.output_file:
        check_score_file(flags.output_file)
    if vars(flags).get("param_output_file"):
        check_writable(flags.param_output_file, "--param_output_file")
        if os.path.realpath(flags.param_output_file) == os.path.realpath(flags.output_file or ""):
            raise InputError(f"{flags.output_file}: cannot hold scores and flags; change --param_output_file.")
    if flags.tensorboard and not importlib.util.find_spec("tensorboard"):
        raise InputError("--tensorboard needs the package of that name; run: pip install tensorboard")
    check_log_dir(flags.log_dir)
    flags.data_dir, flags.simulated = data_utils.find_corpus(flags.data_dir)
    corpora = [training.load(flags, tasks) for tasks in models]
    if flags.simulated:
        say_simulated(flags.data_dir)

    folder = new_run_folder(flags.log_dir, name)
    stamp = os.path.basename(folder).partition("_")[2]
    score_file = flags.output_file or os.path.join(flags.log_dir, f"scores_{stamp}.csv")
    params = dict(sorted(vars(flags).items())) | {"score_file": score_file}
    if "task_id" in params:
        params["task_id"] = ",".join(map(str, flags.task_id))
    append_params(os.path.join(folder, "params.csv"), params)
    if "param_output_file" in params:
        append_params(flags.param_output_file or os.path.join(flags.log_dir, f"params_{stamp}.csv"), params)

    found, chosen_rows = [], []
    for corpus, restarts in zip(corpora, outcomes(flags, corpora, folder), strict=True):
        chosen = max(restarts, key=Outcome.validation)
        if flags.restarts > 1:
            for name in ("model{}.keras", "history{}.csv"):
                path = os.path.join(folder, name.format(suffix(flags, corpus.tasks, chosen.seed)))
                shutil.copyfile(path, path.replace(f"_seed{chosen.seed}.", "."))
        written = [row for outcome in restarts for row in score_cells(flags, outcome, outcome is chosen)]
        append_scores(os.path.join(folder, "scores.csv"), written)
        try:
            append_scores(score_file, written)
        except OSError as error:
            raise InputError(f"{score_file}: {error.strerror}; the scores so far are in {folder}.") from error
        found.append(restarts)
        chosen_rows += chosen.rows
    if flags.restarts > 1:
        print("scores of the models that validation chose:")
    print_scores(chosen_rows)
    if flags.restarts > 1:
        print_restarts(found)
    if flags.pictures:
        pictures.draw(folder)
    print(f"scores in {score_file}; models, histories and flags in {folder}")
    if flags.simulated:
        say_simulated(flags.data_dir)


def command(main):
    """Runs a script's `main()`: a person's mistake ends in one sentence and status 2, a bug in its traceback."""
    try:
        main()
    except InputError as error:
        print(f"{os.path.basename(sys.argv[0])}: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"{os.path.basename(sys.argv[0])}: interrupted; finished models are saved.", file=sys.stderr)
        sys.exit(130)

"""What a run leaves behind: folders, score files, histories, models; restarts and how they are chosen from.

Both scripts call `run` with the groups of tasks that go into one model each, and go through `command`. What is needed
to continue a run that was killed is in `checkpoints.py`.
"""

import argparse
import concurrent.futures
import contextlib
import errno
import fcntl
import importlib.util
import json
import multiprocessing
import os
import shlex
import signal
import sys
import threading
import time
from typing import NamedTuple

import numpy as np

import checkpoints
import data_utils
import files
import pictures
import training
from checkpoints import Checkpoint, Run, check_signals, signals_wait
from data_utils import InputError
from files import Unsaved, csv_bytes, params_bytes
from training import keras, tf

# --- runs -----------------------------------------------------------------------------------------------


class Report(keras.callbacks.Callback):
    """Says how training goes: a progress bar on a terminal, accuracies every few epochs, also for the history file."""

    def __init__(self, corpus, epochs, interval, checkpoint, heading=""):
        super().__init__()
        self.corpus, self.epochs, self.interval = corpus, epochs, interval
        self.checkpoint, self.heading = checkpoint, heading
        self.bar = None
        if sys.stdout.isatty() and not heading:
            self.bar = keras.utils.Progbar(epochs, unit_name="epoch", stateful_metrics=["loss"])

    def on_epoch_end(self, epoch, logs=None):
        epoch += 1
        loss = float(logs["loss"])
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
        by_task = [f"{s} {t}" for s in ("training", "validation") for t in self.corpus.tasks]
        cells = [loss, learned["all"], validation["all"]]
        cells += [scores[t] for scores in (learned, validation) for t in self.corpus.tasks]
        self.checkpoint.history += csv_bytes(
            [[epoch, *(f"{cell:.4f}" for cell in cells)]],
            ["epoch", "loss", "training", "validation", *by_task],
            self.checkpoint.history.encode(),
        ).decode()


class Outcome(NamedTuple):
    """What one trained model scored."""

    seed: int
    rows: list  # (task, test, training, validation accuracy)
    validation_loss: float

    @classmethod
    def of(cls, record):
        """The outcome that a run's progress has a record of."""
        return cls(record["seed"], [tuple(row) for row in record["rows"]], record["validation_loss"])

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


def train_and_score(flags, corpus, seed, run, corpus_digest):
    """Trains one model, or goes on where its state is, scores it and saves it and its history in the run's folder.

    Returns:
        An `Outcome`.
    """
    check_signals()
    name = suffix(flags, corpus.tasks, seed)
    heading = f"{describe(corpus.tasks)}, seed {seed}: " if flags.restarts > 1 else ""
    checkpoint = Checkpoint(run, name, corpus_digest, flags.evaluation_interval, flags.epochs)
    report = Report(corpus, flags.epochs, flags.evaluation_interval, checkpoint, heading)
    callbacks = [report]
    if flags.tensorboard:
        callbacks.append(keras.callbacks.TensorBoard(run.path(f"tensorboard{name}"), write_graph=False))
    trainer = training.train(flags, corpus, seed, callbacks, checkpoint)
    outcome = Outcome(seed, training.score(trainer, corpus), training.cross_entropy(trainer, corpus.validation))
    checkpoints.save_model(trainer.finish(), run.path(f"model{name}.keras"))
    checkpoint.finish(outcome._asdict())
    return outcome


def start_worker(allow_soft_placement, log_device_placement, run, parent):
    """Sets up a process that shares the machine with others like it: one thread each.

    Args:
        allow_soft_placement, log_device_placement: flags.
        run: the `Run`, which goes on as long as one of its processes lives.
        parent: the number of the process that wants the results.
    """
    threading.Thread(target=end_with, args=(parent,), daemon=True).start()
    if checkpoints.hold(run.path(checkpoints.RECORD), fcntl.LOCK_SH) is None:
        os._exit(1)  # the parent is dead, and another has taken the run up
    checkpoints.take_signals(worker=True)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, checkpoints.STOP_SIGNALS)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    set_devices(allow_soft_placement, log_device_placement)


def end_with(parent):
    """Ends this process soon after its parent, however that ends: nobody would take its results."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def set_devices(allow_soft_placement, log_device_placement):
    tf.config.set_soft_device_placement(allow_soft_placement)
    tf.debugging.set_log_device_placement(log_device_placement)


def outcomes(flags, corpora, run):
    """Trains the models of all corpora and yields, for each corpus, the outcomes of its restarts, in order.

    Several are trained at once, each in a process and a thread of its own: steps are too small for a second
    thread to help, so this is as many times faster than one after another as there are cores. What the run
    has finished before is not trained again.
    """
    seeds = range(flags.random_state, flags.random_state + flags.restarts)
    finished = {name: Outcome.of(done) for name, done in run.progress()["outcomes"].items()}
    jobs = [
        (flags, corpus, seed, run, digest)
        for corpus, digest in zip(corpora, run.record["corpora"], strict=True)
        for seed in seeds
    ]
    known = [finished.get(suffix(flags, corpus.tasks, seed)) for _, corpus, seed, *_ in jobs]
    devices = flags.allow_soft_placement, flags.log_device_placement
    if flags.restarts == 1:
        set_devices(*devices)
        for job, outcome in zip(jobs, known, strict=True):
            print_sizes(job[1])
            yield [outcome or train_and_score(*job)]
        return
    for corpus in corpora:
        print_sizes(corpus)
    workers = min(flags.workers or len(os.sched_getaffinity(0)), max(known.count(None), 1))
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, spawn, start_worker, (*devices, run, os.getpid())) as pool:
        try:
            with signals_blocked():  # workers inherit it, until they can take them
                futures = [
                    outcome or pool.submit(train_and_score, *job) for job, outcome in zip(jobs, known, strict=True)
                ]
            for start in range(0, len(jobs), flags.restarts):
                yield [result(future) for future in futures[start : start + flags.restarts]]
        except BaseException:
            for process in multiprocessing.active_children():
                process.terminate()  # it saves its state first
            pool.shutdown(cancel_futures=True)
            raise


class WorkerKilled(InputError):
    """A process of the pool is gone."""


def result(future):
    """The outcome of a future, or of what has been one before this process began."""
    if isinstance(future, Outcome):
        return future
    try:
        with signals_wait(False):
            return future.result()
    except concurrent.futures.BrokenExecutor as error:
        raise WorkerKilled("a process that trained a model was killed, perhaps for lack of memory.") from error


@contextlib.contextmanager
def signals_blocked():
    """Within the block, this process and those it starts do not even take note of signals."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, checkpoints.STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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


# Flags that have no part in what comes out, and those that name files.
FREE = ("resume", "log_dir", "workers", "command")
FILES = ("data_dir", "output_file", "param_output_file")


def run(script, parser, models_of, argv=None):
    """Trains and scores models one after another, and writes their files; or continues a run that did.

    Args:
        script: the script's name, and the beginning of that of the run's folder.
        parser: of its flags.
        models_of: a function from flags to a list: for each model, the tasks that go into it.
        argv: the command line, or None for this process's own.
    """
    flags = parser.parse_args(argv)
    if flags.resume is None:
        run, corpora = begin(script, flags, models_of)
    else:
        unset = object()
        given = vars(parser.parse_args(argv, argparse.Namespace(**dict.fromkeys(vars(flags), unset))))
        folder = flags.resume or checkpoints.newest(flags.log_dir, script, asked(flags))
        run = Run.reopen(folder, script)
        try:
            flags = stored_flags(run, flags, {name: value for name, value in given.items() if value is not unset})
            if run.progress()["finished"]:
                print(f"{folder}: this run is finished; its scores are in {run.record['score_file']}.")
                run.close()
                return
            corpora = load_again(run, flags, models_of)
        except BaseException:
            run.close()
            raise
    try:
        with signals_wait():
            train_all(run, flags, corpora)
    except checkpoints.Stopped as stopped:
        stopped.folder = run.folder
        raise
    except (InputError, OSError) as error:
        raise explained(error, run) from error
    finally:
        run.close()


def asked(flags):
    """What makes two command lines the same for --resume: a dict of flags, files with their whole names."""
    values = {name: value for name, value in vars(flags).items() if name not in FREE}
    values |= {name: os.path.abspath(values[name]) for name in FILES if values.get(name)}
    return json.loads(json.dumps(values))  # as it comes back from a file


def begin(script, flags, models_of):
    """Settles what flags leave open, reads the corpora and makes the run's folder.

    Returns:
        The `Run` and its corpora, one for each model.
    """
    wanted = asked(flags)
    del flags.resume
    if flags.random_state is None:
        flags.random_state = int.from_bytes(os.urandom(3), "little")
    if flags.output_file:
        files.check_score_file(flags.output_file)
    if vars(flags).get("param_output_file"):
        files.check_writable(flags.param_output_file, "--param_output_file")
        if os.path.realpath(flags.param_output_file) == os.path.realpath(flags.output_file or ""):
            raise InputError(f"{flags.output_file}: cannot hold scores and flags; change --param_output_file.")
    if flags.tensorboard and not importlib.util.find_spec("tensorboard"):
        raise InputError("--tensorboard needs the package of that name; run: pip install tensorboard")
    files.check_log_dir(flags.log_dir)
    flags.data_dir, flags.simulated = data_utils.find_corpus(flags.data_dir)
    corpora = [training.load(flags, tasks) for tasks in models_of(flags)]
    digests = [checkpoints.digest_of(corpus) for corpus in corpora]
    if flags.simulated:
        say_simulated(flags.data_dir)

    with signals_wait():
        folder = files.new_run_folder(flags.log_dir, script)
        stamp = os.path.basename(folder).partition("_")[2]
        score_file = flags.output_file or os.path.join(flags.log_dir, f"scores_{stamp}.csv")
        params = dict(sorted(vars(flags).items())) | {"score_file": score_file}
        params_file = None
        if "task_id" in params:
            params["task_id"] = ",".join(map(str, flags.task_id))
        if "param_output_file" in params:
            params_file = flags.param_output_file or os.path.join(flags.log_dir, f"params_{stamp}.csv")
        files.write(os.path.join(folder, "params.csv"), params_bytes(params), durable=False)
        record = {
            "script": script,
            "asked": wanted,
            "flags": {**vars(flags), "data_dir": os.path.abspath(flags.data_dir)},
            "params": params,
            "score_file": os.path.abspath(score_file),
            "params_file": params_file and os.path.abspath(params_file),
            "corpora": digests,
            "machine": machine(),
        }
        return Run.create(folder, record), corpora


def machine():
    """What a continued run must have in common with its beginning to end in the same bytes."""
    return {**checkpoints.versions(), "cores": len(os.sched_getaffinity(0))}


def stored_flags(run, flags, given):
    """The flags of a stored run.

    Args:
        run: the `Run`.
        flags: those of this command line; only which there are counts.
        given: a dict of those that were given: all but FREE ones and --data_dir must be as stored.
    """
    stored = run.record["flags"]
    if set(stored) | {"resume"} != set(vars(flags)) | {"simulated"}:
        raise InputError(f"{run.folder}: was begun by another version of this program; it cannot be continued.")
    wanted = asked(argparse.Namespace(**given))
    for name in wanted.keys() - {"data_dir"}:
        if wanted[name] not in (stored[name], run.record["asked"][name]):
            raise InputError(
                f"{run.folder}: this run has --{name} {stored[name]}, not {given[name]}; leave --{name} out, or begin "
                "another run without --resume."
            )
    return argparse.Namespace(**{**stored, **{name: given[name] for name in ("data_dir", "workers") if name in given}})


def load_again(run, flags, models_of):
    """Reads the corpora of a stored run, and sees that nothing has changed that it depends on."""
    here, there = machine(), run.record["machine"]
    for name in here:
        if here[name] != there[name]:
            print(f"note: this run began with {name} {there[name]}, and goes on with {here[name]}: digits may differ.")
    if os.path.exists(run.record["score_file"]):
        files.check_score_file(run.record["score_file"])
    corpora = [training.load(flags, tasks) for tasks in models_of(flags)]
    for corpus, digest in zip(corpora, run.record["corpora"], strict=True):
        if checkpoints.digest_of(corpus) != digest:
            raise InputError(
                f"{flags.data_dir}: {describe(corpus.tasks)}: the stories have changed since {run.folder} was begun; "
                "it cannot be continued with others."
            )
    finished = run.progress()["outcomes"]
    for name in finished:
        if not os.path.exists(run.path(f"model{name}.keras")):
            raise InputError(f"{run.path(f'model{name}.keras')}: this finished model is missing.")
    count = len(corpora) * flags.restarts
    print(f"{run.folder}: continued; {len(finished)} of {count} models are finished.", flush=True)
    return corpora


def train_all(run, flags, corpora):
    """Trains and scores what a run has not finished, and writes what it has not written."""
    record, score_file = run.record, os.path.relpath(run.record["score_file"])
    if record["params_file"]:
        run.append_once("params", record["params_file"], lambda there: params_bytes(record["params"], there))
    found, chosen_rows, all_written = [], [], []
    for corpus, restarts in zip(corpora, outcomes(flags, corpora, run), strict=True):
        chosen = max(restarts, key=Outcome.validation)
        if flags.restarts > 1:
            for name in ("model{}.keras", "history{}.csv"):
                path = run.path(name.format(suffix(flags, corpus.tasks, chosen.seed)))
                files.copy_file(path, path.replace(f"_seed{chosen.seed}.", "."))
        written = [row for outcome in restarts for row in score_cells(flags, outcome, outcome is chosen)]
        all_written += written
        files.write(run.path("scores.csv"), csv_bytes(all_written), durable=False)
        run.append_once(
            f"scores {len(found)}", record["score_file"], lambda there, rows=written: csv_bytes(rows, after=there)
        )
        found.append(restarts)
        chosen_rows += chosen.rows
    if flags.pictures:
        pictures.draw(run.folder)
    with run.changing_progress() as progress:
        progress["finished"] = True
    if flags.restarts > 1:
        print("scores of the models that validation chose:")
    print_scores(chosen_rows)
    if flags.restarts > 1:
        print_restarts(found)
    print(f"scores in {score_file}; models, histories and flags in {run.folder}")
    if flags.simulated:
        say_simulated(flags.data_dir)


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EPIPE)  # what may befall a print


def explained(error, run):
    """An error that ended a run, with what is saved of it and how to go on."""
    if isinstance(error, OSError):
        if error.errno not in FULL:
            return error
        error = Unsaved(error.filename or "standard output", error.strerror)
        with contextlib.suppress(OSError):  # so that Python does not fail at it once more when it ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    text = str(error).rstrip(".")
    try:
        progress = run.progress()
    except InputError:
        if os.path.exists(run.folder):
            return error
        rows = run.record["score_file"]
        rest = f"all but the rows in {rows}" if os.path.exists(rows) else "all that was saved"
        return InputError(f"{text}; the folder {run.folder} is gone, and with it {rest}.")
    done, states = len(progress["outcomes"]), len(set(progress["begun"]) - set(progress["outcomes"]))
    kept = f"{done} finished models" + f" and the state of {states} unfinished" * bool(states)
    if isinstance(error, (Unsaved, WorkerKilled)):
        return InputError(f"{text}; {kept} are in {run.folder}; once that is mended, {how_to_continue(run.folder)}")
    if isinstance(error, training.Diverged):
        return InputError(f"{text}; {kept}, with the last good numbers, are in {run.folder}.")
    return error


def how_to_continue(folder):
    return f"continue with: python {sys.argv[0]} --resume {shlex.quote(folder)}"


def command(main):
    """Runs a script's `main()`: a person's mistake ends in one sentence and status 2, a bug in its traceback.

    Ctrl-C and SIGTERM end in one sentence and status 130 and 143.
    """
    name = os.path.basename(sys.argv[0])
    give_back = checkpoints.take_signals()
    try:
        main()
    except InputError as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(2)
    except checkpoints.Stopped as stopped:
        folder = getattr(stopped, "folder", None)
        print(f"{name}: stopped; {how_to_continue(folder) if folder else 'nothing was begun.'}", file=sys.stderr)
        sys.exit(128 + stopped.number)
    finally:
        give_back()

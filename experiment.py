"""Runs an experiment, from flags to score files: models, restarts, workers, resuming, the files of a run.

TensorFlow is imported when a model is trained, in the process that trains it, so wrong files and flags answer at once.
"""

import argparse
import concurrent.futures
import contextlib
import glob
import importlib.util
import json
import multiprocessing
import os
import shlex
import shutil
import sys
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import checkpoint
import cluster
import corpus as story_source
import data_utils
import files
import movie_utils
import plots
import scores
from cluster import WorkerKilled
from flags import UNUSED, InputError, say_when_stopped, without_signals

SAVE_SECONDS = 3.0  # the state of a model is saved at the end of an epoch if so many have passed
MODELS_PER_PROCESS = 8  # each needs up to 5,000 memory mappings, which XLA never frees; Linux allows a process 65,530
FREE_FLAGS = ("resume", "log_dir", "workers", "cluster", "command", "given", "name")  # do not affect results
FILE_FLAGS = ("data_dir", "output_file", "param_output_file")


_latest_trainer = {}  # of this process, by the corpus and the flags of its model: restarts differ only by their seed


# --- one model ------------------------------------------------------------------------------------------


class Job(NamedTuple):
    """One model to train."""

    flags: argparse.Namespace
    corpus: data_utils.Corpus
    seed: int
    folder: str  # of the run
    parallel: bool  # whether the run has other models

    @property
    def name(self):
        """The part of file names that tells this model from others of the run."""
        tasks = self.corpus.tasks
        task = f"_task{tasks[0]}" if len(tasks) == 1 and not self.corpus.entities else ""
        return f"{task}_seed{self.seed}" if self.flags.restarts > 1 else task

    def path(self, kind, extension):
        """The path of one of the model's files in the run's folder."""
        return os.path.join(self.folder, f"{kind}{self.name}.{extension}")

    def heading(self):
        """What precedes a line about the model where several train at once."""
        seed = f", seed {self.seed}" if self.flags.restarts > 1 else ""
        return f"{describe(self.corpus.tasks)}{seed}: " if self.parallel else ""


class Outcome(NamedTuple):
    """The scores of one trained model."""

    seed: int
    rows: list  # (task, test, training, validation accuracy)
    validation_loss: float
    seconds: float

    def merit(self):
        """What chooses a restart: validation accuracy (`scores.overall`), then validation cross-entropy."""
        return scores.overall(self.rows, 3), -self.validation_loss


def describe(tasks):
    """The tasks of a model in words."""
    if tasks[-1] == "all":
        return "questions about films"
    if len(tasks) == 1:
        return f"task {tasks[0]}"
    contiguous = tasks[-1] - tasks[0] == len(tasks) - 1
    return f"tasks {tasks[0]}-{tasks[-1]}" if contiguous else f"tasks {','.join(map(str, tasks))}"


def compiled(flags, corpus):
    """Whether a model's steps are compiled with XLA; with `auto`, they are if that saves more time than it takes.

    Compiling takes 2 s (bow), 5 s (GRU) or a minute (both) on two cores; above about this many slots, faster steps
    save more than that.
    """
    epochs = vars(flags).get("epochs_at_first", flags.epochs)  # a run that is extended stays as it began
    slots = len(corpus.training) * epochs * corpus.memory_size
    worth_it = slots > {"bow": 5_000_000, "simple_gru": 1_250_000, "both": 60_000_000}[flags.reader]
    return flags.jit_compile == "on" or flags.jit_compile == "auto" and worth_it


def hyperparameters(flags, seed):
    """The flags of a model as numbers and texts, by name, for TensorBoard."""
    left_out = (*FREE_FLAGS, *FILE_FLAGS, "score_file", "random_state")
    values = {name: value for name, value in vars(flags).items() if name not in left_out}
    return {"seed": seed} | {n: value if isinstance(value, int | float) else str(value) for n, value in values.items()}


def train_model(job, say=print):
    """Trains one model, or continues it from its saved state, scores it and saves it: from a `Job` to an `Outcome`.

    `say` prints reports, as `print` does.
    """
    import training

    flags, corpus = job.flags, job.corpus
    state_path, history_path = job.path("state", "npz"), job.path("history", "csv")
    history, seconds, state = [], 0.0, None
    if os.path.exists(state_path):
        history, seconds, state = checkpoint.load_state(state_path)
    elif os.path.exists(history_path):  # written after the first state: a run never silently restarts
        raise InputError(f"{state_path}: the state of this model is missing; it cannot be continued.")
    check_claim = cluster.claim(job.path("claim", "txt"))
    progress_bar = sys.stdout.isatty() and not job.parallel
    report = training.Report(flags, corpus, job.heading(), progress_bar, say)
    report.rows = history
    report.best = state and state.get("best")
    begin = last_save = time.monotonic()

    def save(epoch, logs):
        nonlocal last_save
        check_claim()
        if report.reported or time.monotonic() - last_save > SAVE_SECONDS:
            arrays = report.model.state() | ({} if report.best is None else {"best": report.best})
            checkpoint.save_state(state_path, report.rows, seconds + time.monotonic() - begin, arrays)
            files.write(history_path, scores.csv_bytes(report.rows, report.columns))
            last_save = time.monotonic()

    callbacks = [report, training.keras.callbacks.LambdaCallback(on_epoch_end=save)]
    if flags.tensorboard:
        folder = os.path.join(job.folder, f"tensorboard{job.name}")
        callbacks += training.tensorboard(folder, hyperparameters(flags, job.seed))
    epochs_done = flags.epochs if report.out_of_patience() else len(history)
    key = data_utils.digest(corpus), repr(flags)
    trainer = _latest_trainer.pop(key, None)
    _latest_trainer.clear()
    try:
        trainer = training.train(
            flags, corpus, job.seed, compiled(flags, corpus), callbacks, epochs_done, state, trainer
        )
    except (MemoryError, training.tf.errors.ResourceExhaustedError) as error:
        raise InputError(
            "the memory of this machine is too small for this model; lower --batch_size, --memory_size, "
            "--embedding_size or --workers."
        ) from error
    _latest_trainer[key] = trainer
    files.write(history_path, scores.csv_bytes(report.rows, report.columns))  # a kill may have come before the last one
    rows = training.score(trainer, corpus)
    loss = training.mean_cross_entropy(trainer, corpus.validation)
    with files.replacing(job.path("model", "keras")) as temporary:
        try:
            trainer.network.save(temporary)
        except (RuntimeError, ValueError) as error:  # h5py and zipfile have errors of their own for a full disk
            raise OSError(str(error)) from error
    return Outcome(job.seed, rows, loss, seconds + time.monotonic() - begin)


# --- several models -------------------------------------------------------------------------------------


def train_models(jobs, finished, flags, submit=None):
    """Trains models and yields their outcomes in the order of the jobs.

    One model trains in this process unless a cluster is named; of several, each trains in a process or on a worker.
    Each has one thread, as steps are too small for a second one to help, but one model of films has all cores, as its
    many entities make answering questions slow.

    `finished` is a dict from the name of a model to its `Outcome`; these are not trained again. `submit`: see `run`.
    """
    left = [job for job in jobs if job.name not in finished]
    for job in left:
        cluster.write_claim(job.path("claim", "txt"), "")
    if submit is None and len(jobs) == 1 and not flags.cluster:
        if left:
            threads = flags.threads or (None if jobs[0].corpus.entities else 1)
            print(set_up_devices(flags, threads), flush=True)
        yield finished.get(jobs[0].name) or train_model(jobs[0])
        return
    with contextlib.nullcontext(submit) if submit or not left else executor(flags, len(left)) as submit:
        futures = {job.name: submit(job) for job in left}
        try:
            for job in jobs:
                yield finished.get(job.name) or futures[job.name].result()
        except BaseException:
            for job in left:
                future = futures[job.name]
                if future.cancel() or not future.done():
                    with contextlib.suppress(files.Unsaved):  # models in training stop at the end of their epoch
                        cluster.write_claim(job.path("claim", "txt"), cluster.STOPPED)
            raise


def executor(flags, models, quiet=False):
    """The executor of a run: processes of this machine, or the workers of a Dask cluster.

    Args:
        flags: settled flags, of which --workers, --cluster, and those of the machine are used.
        models: how many are to be trained.
        quiet: print no reports.

    Returns:
        A context manager that yields a function from a `Job` to the `concurrent.futures.Future` of its `Outcome`.
        If its block ends with an error, models in training are killed, or stop at the end of their epoch.
    """
    workers = min(workers_of(flags), models)
    if flags.cluster:
        return cluster.executor(flags.cluster, workers, train_in_worker, quiet)
    return processes(flags, workers, quiet)


def workers_of(flags):
    """How many models train at once on this machine: one per core, or one on a GPU, as each takes all its memory."""
    return flags.workers or (1 if glob.glob("/dev/nvidia[0-9]*") else checkpoint.machine()["cores"])


@contextlib.contextmanager
def processes(flags, workers, quiet):
    """The executor of this machine, see `executor`; each of its processes trains one model at a time.

    A process is replaced after `MODELS_PER_PROCESS` models. `max_tasks_per_child` of `ProcessPoolExecutor` would do
    that, but needs Python 3.11 and can deadlock (python/cpython#115634).
    """
    spawn = multiprocessing.get_context("spawn")
    say = cluster.hush if quiet else print
    of_thread, stopping = threading.local(), threading.Event()

    def kill():
        for process in multiprocessing.active_children():
            process.kill()  # the state of its last saved epoch is complete

    def train(job):
        if stopping.is_set():
            raise concurrent.futures.BrokenExecutor
        models = vars(of_thread).get("models", 0)
        if models % MODELS_PER_PROCESS == 0:
            if models:
                of_thread.pool.shutdown()
            pool = concurrent.futures.ProcessPoolExecutor(1, spawn, _start_worker, (flags, not quiet))
            of_thread.pool = pools.enter_context(pool)
        of_thread.models = models + 1
        try:
            future = without_signals(of_thread.pool.submit, train_in_worker, job, say)
            if stopping.is_set():
                kill()
            return future.result()
        except concurrent.futures.BrokenExecutor:  # one process is gone, so the others need not go on
            stopping.set()
            kill()
            raise

    with contextlib.ExitStack() as pools, concurrent.futures.ThreadPoolExecutor(workers) as threads:
        try:
            yield lambda job: threads.submit(train, job)
        except BaseException as error:
            stopping.set()
            threads.shutdown(wait=False, cancel_futures=True)
            kill()
            if isinstance(error, concurrent.futures.BrokenExecutor):
                raise WorkerKilled("a process that trained a model was killed, perhaps for lack of memory.") from error
            raise


def train_in_worker(job, say=print):
    """Trains a model with one thread, in a process that may train others before and after; see `train_model`."""
    set_up_devices(job.flags, job.flags.threads or 1)
    return train_model(job, say)


def set_up_devices(flags, threads):
    """Configures TensorFlow in this process; see `training.set_up_devices`."""
    import training

    return training.set_up_devices(threads, flags.allow_soft_placement, flags.log_device_placement)


def _start_worker(flags, say):
    """Sets up a worker process, which exits when its parent does, for whatever reason."""

    def end_with_parent():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    devices = set_up_devices(flags, flags.threads or 1)
    if say and multiprocessing.current_process().name.endswith("-1"):
        print(devices, flush=True)


# --- where the questions come from ----------------------------------------------------------------------


class Source(NamedTuple):
    """Where the questions of an experiment come from."""

    name: str  # of what is published
    content: str  # what it consists of
    find: Callable  # a function from --data_dir to (folder, whether its content is simulated)
    load: Callable  # a function from flags and tasks to a `data_utils.Corpus`


def load_stories(flags, tasks):
    """The `data_utils.Corpus` of bAbI tasks that share one model."""
    names = ("data_dir", "memory_size", "only_supporting", "time_noise", "random_state")
    return data_utils.load_corpus(tasks=tasks, **{name: getattr(flags, name) for name in names})


def load_films(flags, tasks=None):
    """The `data_utils.Corpus` of questions about films."""
    names = ("question_hops", "source", "representation", "text", "window", "templates", "conjunction", "coreference")
    return movie_utils.load_corpus(flags.data_dir, flags.memory_size, **{name: getattr(flags, name) for name in names})


STORIES = Source("bAbI", "stories", story_source.find_corpus, load_stories)
FILMS = Source("WikiMovies", "questions", story_source.find_films, load_films)


# --- a run ----------------------------------------------------------------------------------------------


def run(script, flags, task_groups, source=STORIES, submit=None):
    """Trains and scores the models of a run and writes its files, or continues a run that was stopped.

    Args:
        script: the script's name, with which the run's folder begins.
        flags: the parsed flags of `flags.training_parser`.
        task_groups: a function from flags to a list with the tasks of each model.
        source: where the questions come from.
        submit: how models train, as `executor` yields it; None for what the flags say.
    """
    if flags.resume is None:
        the_run, corpora = begin(script, flags, task_groups, source)
    else:
        the_run = checkpoint.Run(flags.resume or checkpoint.newest(flags.log_dir, script, asked(flags)))
    try:
        if flags.resume is not None:
            flags, corpora = resume(the_run, script, flags, task_groups, source)
        if submit is None:  # else the caller has its own way to continue
            say_when_stopped(f"stopped; {how_to_continue(the_run, flags)}")
        if corpora:
            train_all(the_run, flags, corpora, source, submit)
    except (files.Unsaved, WorkerKilled, cluster.Superseded) as error:
        if submit:
            raise
        raise InputError(f"{str(error).rstrip('.')}; once that is fixed, {how_to_continue(the_run, flags)}") from error
    finally:
        the_run.close()


def asked(flags):
    """The flags that make two command lines the same for --resume: a dict, with absolute file names."""
    values = {name: value for name, value in vars(flags).items() if name not in FREE_FLAGS}
    values |= {name: os.path.abspath(values[name]) for name in FILE_FLAGS if values.get(name)}
    return json.loads(json.dumps(values))  # as it comes back from a file


def begin(script, flags, task_groups, source):
    """Checks flags and files, reads the corpora and creates the run.

    Returns:
        (`checkpoint.Run`, a list of `data_utils.Corpus`, one for each model); `flags` are then settled.
    """
    as_given = asked(flags)
    if flags.random_state is None:
        flags.random_state = int.from_bytes(os.urandom(3), "little")
    if flags.output_file:
        scores.check_score_file(flags.output_file)
    if vars(flags).get("param_output_file"):
        files.check_first_line(flags.param_output_file, "--param_output_file", r"\w+=.*|\s*", "NAME=value")
        if os.path.realpath(flags.param_output_file) == os.path.realpath(flags.output_file or ""):
            raise InputError(f"{flags.output_file}: cannot hold scores and flags; change --param_output_file.")
    if flags.tensorboard and not importlib.util.find_spec("tensorboard"):
        raise InputError("--tensorboard needs the package of that name; run: pip install tensorboard")
    if flags.cluster:
        cluster.check(flags.cluster)
    flags.data_dir, flags.simulated = source.find(flags.data_dir)
    corpora = [source.load(flags, tasks) for tasks in task_groups(flags)]
    if flags.simulated:
        say_simulated(flags.data_dir, source)

    the_run = checkpoint.Run.create(flags.log_dir, script)
    stamp = os.path.basename(the_run.folder).partition("_")[2]
    flags.score_file = flags.output_file or os.path.join(flags.log_dir, f"scores_{stamp}.csv")
    params_file = None
    if "param_output_file" in vars(flags):
        params_file = os.path.abspath(flags.param_output_file or os.path.join(flags.log_dir, f"params_{stamp}.csv"))
    the_run.record |= {
        "name": flags.name,
        "asked": as_given,
        "flags": {**vars(flags), "data_dir": os.path.abspath(flags.data_dir)},
        "params": params(flags, corpora),
        "score_file": os.path.abspath(flags.score_file),
        "params_file": params_file,
        "digests": [data_utils.digest(corpus) for corpus in corpora],
        "machine": checkpoint.machine(),
    }
    the_run.save()
    models = len(corpora) * flags.restarts
    print(f"{label(the_run)}: {models} model{'s' if models > 1 else ''} to train; loading TensorFlow", flush=True)
    return the_run, corpora


def params(flags, corpora):
    """The flags as they are used, a dict from name to value, for parameter files."""
    values = {name: value for name, value in sorted(vars(flags).items()) if name not in ("given", "resume", "name")}
    if "task_id" in values:
        values["task_id"] = ",".join(map(str, flags.task_id))
    if flags.restarts * len(corpora) == 1:
        values["workers"] = UNUSED
        if flags.workers:
            print("note: --workers has no effect: there is one model to train.")
    used = {compiled(flags, corpus) for corpus in corpora}
    values["jit_compile"] = "on for some tasks" if len(used) > 1 else "on" if True in used else "off"
    return values


def resume(the_run, script, flags, task_groups, source):
    """Checks that nothing on which a run depends has changed, and extends it if the flags say so.

    Returns:
        (settled flags, a list of `data_utils.Corpus`, one for each model; none if the run is finished).
    """
    folder, record, settled = the_run.folder, the_run.record, the_run.record["flags"]
    if record["script"] != script:
        raise InputError(f"{folder}: is a run of {record['script']}.py; continue it with that script.")
    given = {name: value for name, value in asked(flags).items() if name in flags.given}
    is_longer = given.get("epochs", 0) > settled["epochs"]
    for name, value in given.items():
        may_change = name in ("data_dir", "output_file") or name == "epochs" and is_longer
        if not may_change and value not in (record["asked"].get(name), settled.get(name)):
            raise InputError(f"{folder}: this run has --{name} {settled.get(name)}, not {value}; leave --{name} out.")
    if "name" in flags.given:
        record["name"] = flags.name
    progress = "continued"
    if is_longer:
        progress = f"extended from {settled['epochs']} to {flags.epochs} epochs"
        for name in record["outcomes"]:
            path = the_run.path(f"state{name}.npz")
            if not os.path.exists(path):
                raise InputError(f"{path}: the state of a finished model is missing; the run cannot be extended.")
        if record["appending"].keys() - record["appended"]:
            raise InputError(f"{folder}: this run was stopped while writing its scores; continue it without --epochs.")
        settled.setdefault("epochs_at_first", settled["epochs"])  # for which schedules and compiling are settled
        for values in (record["asked"], settled, record["params"]):
            values["epochs"] = flags.epochs
        record |= {"outcomes": {}, "finished": False}
    changed = {name: getattr(flags, name) for name in ("data_dir", "workers") if name in flags.given}
    flags = argparse.Namespace(**{**vars(flags), **settled, **changed, "cluster": flags.cluster})
    if record["finished"]:
        if "name" in flags.given:
            the_run.save()
        print(f"{label(the_run)}: this run is finished; its scores are in {record['score_file']}.")
        return flags, []
    for name, value in checkpoint.machine().items():
        if value != record["machine"].get(name):
            print(f"note: this run began with {name} {record['machine'].get(name)}, not {value}: digits may differ.")
    record["score_file"] = given.get("output_file", record["score_file"])  # for the rows that are not written yet
    scores.check_score_file(record["score_file"])
    if flags.cluster:
        cluster.check(flags.cluster)
    corpora = [source.load(flags, tasks) for tasks in task_groups(flags)]
    if [data_utils.digest(corpus) for corpus in corpora] != record["digests"]:
        raise InputError(f"{flags.data_dir}: the {source.content} have changed since {folder} began.")
    the_run.save()
    finished, models = len(record["outcomes"]), len(corpora) * flags.restarts
    print(f"{label(the_run)}: {progress}; {finished} of {models} models are finished.", flush=True)
    return flags, corpora


def train_all(the_run, flags, corpora, source, submit):
    """Trains and scores the models that are not finished, and writes the rows that are not written."""
    record, score_file = the_run.record, os.path.relpath(the_run.record["score_file"])
    lines = "".join(f"{name}={value}\n" for name, value in record["params"].items()).encode()
    files.write(the_run.path("params.csv"), lines)
    if record["params_file"]:
        the_run.append_once(f"params of {flags.epochs} epochs", record["params_file"], lines)
    for corpus in corpora:
        print(
            f"{describe(corpus.tasks)}: {len(corpus.training)} training, {len(corpus.validation)} validation, "
            f"{len(corpus.testing)} test questions; {len(corpus.vocabulary)} words, "
            f"{corpus.memory_size} slots of {corpus.sentence_size} words",
            flush=True,
        )
    finished = {name: Outcome(**outcome) for name, outcome in record["outcomes"].items()}
    parallel = len(corpora) * flags.restarts > 1
    jobs = [
        Job(flags, corpus, flags.random_state + i, the_run.folder, parallel)
        for corpus in corpora
        for i in range(flags.restarts)
    ]
    outcomes, chosen, rows = [], [], []
    begin = time.monotonic()
    for job, outcome in zip(jobs, train_models(jobs, finished, flags, submit), strict=True):
        outcomes.append(outcome)
        finish(the_run, job, outcome)
        if len(outcomes) % flags.restarts == 0:
            last = slice(len(outcomes) - flags.restarts, len(outcomes))
            chosen.append(write_scores(the_run, flags, jobs[last], outcomes[last], rows))
        trained, left = len(outcomes) - len(finished), len(jobs) - len(outcomes)
        if left and trained > 0:
            minutes = left * (time.monotonic() - begin) / trained / 60
            print(f"{len(outcomes)} of {len(jobs)} models finished; about {minutes:.1f} min left", flush=True)
    if flags.pictures:
        plots.draw(the_run.folder)
    record["finished"] = True
    the_run.save()
    if flags.restarts > 1:
        print("scores of the models that validation chose:")
    print(scores.summary([row for outcome in chosen for row in outcome.rows]))
    if flags.restarts > 1:
        accuracies = [scores.overall(outcome.rows, 1) for outcome in outcomes]
        errors = [scores.mean_error(accuracies[i :: flags.restarts]) for i in range(flags.restarts)]
        print(scores.restarts_summary(errors))
    print(f"scores in {score_file}; models, histories and flags in {the_run.folder}")
    if flags.simulated:
        say_simulated(flags.data_dir, source)


def finish(the_run, job, outcome):
    """Records the outcome of a model and removes its claim."""
    if job.name not in the_run.record["outcomes"]:
        the_run.record["outcomes"][job.name] = outcome._asdict()
        the_run.save()
    seconds = [[f"model{name}.keras", f"{o['seconds']:.1f}"] for name, o in the_run.record["outcomes"].items()]
    files.write(the_run.path("times.csv"), scores.csv_bytes(seconds, ["Model", "Seconds"]))
    if os.path.exists(job.path("claim", "txt")):
        os.remove(job.path("claim", "txt"))


def write_scores(the_run, flags, jobs, outcomes, earlier_rows):
    """Writes the rows of all restarts of a model, and copies the files of the one that validation chose.

    `jobs` and `outcomes` are those of the restarts; their rows are added to `earlier_rows`, of the models before them.
    Returns the outcome that validation chose.
    """
    chosen = max(outcomes, key=Outcome.merit)
    if flags.restarts == 1:
        rows = scores.rows(chosen.rows, flags.simulated)
    else:
        rows = [row for o in outcomes for row in scores.rows(o.rows, flags.simulated, o.seed, o is chosen)]
        for kind, extension in (("model", "keras"), ("history", "csv")):
            path = jobs[outcomes.index(chosen)].path(kind, extension)
            with files.replacing(path.replace(f"_seed{chosen.seed}.", ".")) as temporary:
                shutil.copyfile(path, temporary)
    key = f"scores of {describe(jobs[0].corpus.tasks)} after {flags.epochs} epochs"
    the_run.append_once(key, the_run.record["score_file"], scores.csv_bytes(rows, ()), scores.csv_bytes([]))
    earlier_rows += rows
    files.write(the_run.path("scores.csv"), scores.csv_bytes(earlier_rows))
    return chosen


def say_simulated(data_dir, source):
    """Prints that the scores of this run are not those of the published questions."""
    print(f"{data_dir}: these {source.content} are simulated, not the published {source.name} {source.content};")
    print(f"the scores of this run are marked as simulated and are not {source.name} scores.", flush=True)


def label(the_run):
    """The folder of a run, with its name if it has one."""
    return f"{the_run.folder} ({the_run.record['name']})" if the_run.record.get("name") else the_run.folder


def how_to_continue(the_run, flags):
    """The command that continues a run, in a sentence."""
    where = f" --cluster {shlex.quote(flags.cluster)}" if flags.cluster else ""
    return f"continue with: python {sys.argv[0]} --resume {shlex.quote(the_run.folder)}{where}"

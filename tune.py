"""Searches flags: Optuna proposes values and prunes, trials train side by side, validation accuracy decides."""

import concurrent.futures
import contextlib
import fcntl
import functools
import glob
import hashlib
import importlib
import json
import math
import os
import re
import shlex
import sys
import time
import warnings

import checkpoint
import cluster
import experiment
import files
import scores
from flags import InputError, Parser, count, path, run_command, say_when_stopped

SCRIPTS = ("single", "joint", "wikimovies")
PER_RUN = ("log_dir", "workers", "cluster", "output_file", "param_output_file", "pictures", "resume")  # not in a recipe
SETTLED = ("random_state", "threads")  # a search gives them to each recipe
HEARTBEAT_SECONDS = 5  # between two signs of life of a trial
GRACE_SECONDS = 20  # without one, after which another terminal continues the trial
POLL_SECONDS = 0.5  # between two looks at the trials
SHOWN = 10  # trials in the table


# --- the command line -----------------------------------------------------------------------------------


def add_search_flags(parser):
    """Adds the flags of a search to a script's own."""
    add = parser.add_argument_group("search").add_argument
    add(
        "--search",
        nargs="+",
        action="extend",
        required=True,
        metavar="NAME=VALUES",
        help="flags to search: a list (hops=2,3,4), a range (learning_rate=0.005..0.03), or a range on a logarithmic "
        "scale (learning_rate=0.005..0.03:log)",
    )
    add("--trials", type=count, default=20, help="trials of the search, in all terminals together")
    add("--study", type=path, help="name of the search (default: the same for the same flags)")
    add("--storage", help="URL of Optuna's database (default: an SQLite file in the search's folder in --log_dir)")


def parse(argv):
    """Parses the command line.

    Returns:
        (the script's module, parsed flags, the script's own words for a recipe, the script's parser).
    """
    if not argv or argv[0] not in SCRIPTS:
        parser = Parser(__doc__, epilog="`tune.py joint -h` also explains the flags of joint.py.")
        parser.add_argument("script", choices=SCRIPTS, help="the script whose flags are searched; its flags follow")
        add_search_flags(parser)
        parser.parse_args(argv)
    script = importlib.import_module(argv[0])
    parser = script.flag_parser()
    parser.prog = f"{parser.prog} {argv[0]}"
    add_search_flags(parser)
    values = parser.parse_args(argv[1:])
    if values.resume is not None:
        parser.error("--resume is not needed: the same command continues a search")
    others = Parser("", add_help=False)
    add_search_flags(others)
    for name in (*PER_RUN, *SETTLED):
        others.add_argument(f"--{name}")
    return script, values, others.parse_known_args(parser.expand(argv[1:]))[1], script.flag_parser()


def search_space(parser, words, searched):
    """The values to search, checked by the script's parser.

    Args:
        parser: of the script.
        words: the script's other flags.
        searched: NAME=VALUES texts.

    Returns:
        A dict from flag to (first and last value, whether the scale is logarithmic), numbers, or a list of texts.
    """

    def refuse(message):
        raise InputError(f"--search {text}: {message}.")

    parser.error = refuse
    space = {}
    for text in searched:
        name, _, values = text.partition("=")
        action = parser._option_string_actions.get(f"--{name}")
        if not values or action is None or name in (*PER_RUN, "help"):
            refuse("expected the name of a flag that changes the training, =, and values, such as hops=2,3")
        ends = re.fullmatch(r"(.+?)\.\.(.+?)(:log)?", values)
        texts = [ends[1], ends[2]] if ends else values.split(",")
        for value in texts:
            with contextlib.redirect_stderr(None):  # notes about flags without effect
                parser.parse_args([*words, f"--{name}={value}"])
        space[name] = texts
        if ends:
            low, high = (action.type(end) if action.type and not action.choices else end for end in texts)
            if isinstance(low, bool) or not isinstance(low, (int, float)) or not low < high or ends[3] and low <= 0:
                refuse("expected a lower and a higher number, both above 0 for a logarithmic scale")
            space[name] = (low, high, bool(ends[3]))
    return space


# --- the study ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def locked(folder):
    """Lets one process at a time into the block."""
    with open(os.path.join(folder, "lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Search:
    """A search, which any number of processes work on.

    Args:
        script: the module of the script.
        values: parsed flags.
        words: the script's own flags, for recipes.
        space: see `search_space`.

    Raises:
        InputError: the database cannot be used, or holds a search with other flags under this name.
    """

    def __init__(self, script, values, words, space):
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.filterwarnings("ignore", "Heartbeat of storage is supposed to be used with")
        self.script, self.values, self.words, self.space = script, values, words, space
        settled = {name: getattr(values, name) for name in SETTLED}
        about = json.loads(json.dumps({"script": script.__name__, "words": words, "space": space, **settled}))
        name = values.study or f"tune_{script.__name__}_{hashlib.sha256(json.dumps(about).encode()).hexdigest()[:6]}"
        self.folder = os.path.join(values.log_dir, name)
        with files.saving(self.folder):
            os.makedirs(self.folder, exist_ok=True)
        url = values.storage or f"sqlite:///{os.path.abspath(self.path('study.db'))}"
        self.again = optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=10)
        with locked(self.folder):
            try:
                self.storage = optuna.storages.RDBStorage(
                    url,
                    {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else None,
                    heartbeat_interval=HEARTBEAT_SECONDS,
                    grace_period=GRACE_SECONDS,
                    heartbeat_stale_trial_callback=self.again,
                )
                self.study = optuna.create_study(
                    study_name=name,
                    storage=self.storage,
                    direction="maximize",
                    load_if_exists=True,
                    pruner=optuna.pruners.MedianPruner(),
                )
            except Exception as error:  # of SQLAlchemy, of a database or of its driver
                problem = " ".join(str(error).split())[:200].rstrip(".")
                raise InputError(f"--storage {url}: cannot be used: {problem}.") from error
            if "about" not in self.study.user_attrs:
                seed = values.random_state
                seed = int.from_bytes(os.urandom(3), "little") if seed is None else seed
                self.study.set_user_attr("random_state", seed)
                self.study.set_user_attr("about", about)
        if self.study.user_attrs["about"] != about:
            raise InputError(f"--study {name}: is a search with other flags; give this one another name.")

    def path(self, name):
        """The path of a file in the folder of the search."""
        return os.path.join(self.folder, name)

    def place(self, trial):
        """The folder of a trial."""
        return self.path(trial.user_attrs["folder"])

    def trials(self, *states):
        """The trials in some states, such as "COMPLETE"; all without states."""
        return [t for t in self.study.get_trials(deepcopy=False) if not states or t.state.name in states]

    def give_back(self, trial):
        """Marks a trial as failed, and puts one in its place that continues it."""
        import optuna

        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):  # another process was faster
            if self.storage.set_trial_state_values(trial._trial_id, optuna.trial.TrialState.FAIL):
                self.again(self.study, self.storage.get_trial(trial._trial_id))

    def ask(self):
        """The next trial to train, first those that were given back; None if all are begun."""
        import optuna

        with locked(self.folder):
            for trial in self.trials("RUNNING"):
                if "folder" not in trial.user_attrs:  # its process was killed in this block
                    self.give_back(trial)
            if not self.trials("WAITING") and len(self.trials()) - len(self.trials("FAIL")) >= self.values.trials:
                return None
            # Another seed for each trial, whichever process asks.
            seed = self.study.user_attrs["random_state"] + len(self.trials()) - len(self.trials("WAITING"))
            self.study.sampler = optuna.samplers.TPESampler(seed=seed)
            trial = self.study.ask({name: distribution(values) for name, values in self.space.items()})
            self.storage.record_heartbeat(trial._trial_id)
            trial.set_user_attr("folder", trial.user_attrs.get("folder", f"trial_{trial.number}"))
        return trial

    def recipe(self, trial):
        """The flags of a trial: the script's own, the searched ones, and what makes its digits those of any run."""
        seed, threads = self.study.user_attrs["random_state"], self.values.threads or 1
        searched = [f"--{name}={value}" for name, value in trial.params.items()]
        return shlex.join([*self.words, f"--random_state={seed}", f"--threads={threads}", *searched])


def distribution(values):
    """Optuna's distribution for a value of a `search_space`."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(values, list):
        return CategoricalDistribution(values)
    low, high, log = values
    kind = IntDistribution if isinstance(low, int) and isinstance(high, int) else FloatDistribution
    return kind(low, high, log=log)


# --- trials ---------------------------------------------------------------------------------------------


def run_of(place):
    """The folder of the run in the folder of a trial, or None."""
    records = glob.glob(os.path.join(glob.escape(place), "*", "run.json"))
    return os.path.dirname(records[0]) if records else None


def train(script, place, submit):
    """Trains the models of a trial, in a thread, as an ordinary run of the recipe in `place`, the trial's folder.

    Returns:
        (validation accuracy, the mean over models of `scores.overall`; seconds).
    """
    words = [f"@{place}/flags", "--log_dir", place, "--output_file", f"{place}/scores.csv", "--pictures", "False"]
    while True:
        try:
            script.main([*words, "--resume"] if run_of(place) else words, submit=submit)
            break
        except checkpoint.StillRunning:  # in a process that was taken for dead, which ends now
            time.sleep(POLL_SECONDS)
    outcomes = checkpoint.read_record(run_of(place))["outcomes"].values()
    accuracies = [scores.overall(outcome["rows"], 3) for outcome in outcomes]
    return sum(accuracies) / len(accuracies), sum(outcome["seconds"] for outcome in outcomes)


def reports(place):
    """Validation accuracy by epoch, the mean over the models of a trial, where all have it; not of a linear start."""
    folder = run_of(place)
    if folder is None:
        return {}
    record = checkpoint.read_record(folder)
    flags = record["flags"]
    pattern = "history*_seed*.csv" if flags["restarts"] > 1 else "history*.csv"
    names = glob.glob(os.path.join(glob.escape(folder), pattern))
    if len(names) < len(record["digests"]) * flags["restarts"]:
        return {}
    by_epoch = zip(*(scores.read_history(name)["validation"].tolist() for name in names), strict=False)
    means = {epoch: sum(accuracies) / len(names) for epoch, accuracies in enumerate(by_epoch, start=1)}
    first = flags["linear_start"] + flags["linear_end"]
    return {epoch: mean for epoch, mean in means.items() if epoch > first and not math.isnan(mean)}


def follow(search, trial, thread, state):
    """Reports a trial to Optuna, and ends it if it is hopeless or no longer this process's.

    Args:
        search: `Search`.
        trial: an Optuna trial.
        thread: the future of `train`.
        state: a dict that remembers the last `epoch` that was reported, and its `accuracy`.

    Returns:
        A line about its end, or None while it trains.
    """
    import optuna

    place = search.place(trial)
    if not thread.done():
        for epoch, accuracy in reports(place).items():
            if epoch > state["epoch"]:
                state.update(epoch=epoch, accuracy=accuracy)
                trial.report(accuracy, epoch)
        ours = search.storage.get_trial(trial._trial_id).state == optuna.trial.TrialState.RUNNING
        if not ours or trial.should_prune():
            for claim in glob.glob(os.path.join(glob.escape(run_of(place) or place), "claim*.txt")):
                cluster.write_claim(claim, cluster.STOPPED)  # the model ends at the end of its epoch
        return None
    try:
        accuracy, seconds = thread.result()
        line = f"validation {accuracy:.4f}, {seconds:.1f} s"
    except cluster.Superseded:
        line = f"pruned at epoch {state['epoch']}, validation {state.get('accuracy', math.nan):.4f}"
    except checkpoint.Diverged as error:
        line = str(error).partition(";")[0]
    except SystemExit:  # the parser has said why
        line = "these flags do not go together"
    if search.storage.get_trial(trial._trial_id).state != optuna.trial.TrialState.RUNNING:
        return "another terminal took it over, as this one gave no sign of life"
    trial.set_user_attr("end", line)
    if line.startswith("validation"):
        trial.set_user_attr("seconds", seconds)
        search.study.tell(trial, accuracy)
    else:
        search.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    return line


def train_trials(search):
    """Trains trials until the search has as many as were asked for, whoever trained them."""
    import optuna

    asked, script = search.values, search.script
    models = asked.restarts * (len(asked.task_id) if script.__name__ == "single" else 1)
    workers = (cluster.check(asked.cluster) if asked.cluster else 0) or experiment.workers_of(asked)
    slots = max(1, workers // models)
    say = functools.partial(print, file=sys.stdout, flush=True)
    say(f"{search.folder}: {len(search.trials('COMPLETE', 'PRUNED'))} of {asked.trials} trials, {slots} at once here")
    running, last_sign, waiting = {}, -math.inf, False
    try:
        with contextlib.ExitStack() as stack:
            threads = stack.enter_context(concurrent.futures.ThreadPoolExecutor(slots))
            stack.callback(lambda: [search.give_back(trial) for trial in running])  # after an error
            submit = stack.enter_context(experiment.executor(asked, slots * models, quiet=True))
            stack.enter_context(contextlib.redirect_stdout(open(os.devnull, "w")))  # a run prints its test accuracy
            while len(search.trials("COMPLETE", "PRUNED")) < asked.trials:
                if time.monotonic() - last_sign > HEARTBEAT_SECONDS:
                    for trial in running:
                        search.storage.record_heartbeat(trial._trial_id)
                    optuna.storages.fail_stale_trials(search.study)
                    last_sign = time.monotonic()
                while len(running) < slots and (trial := search.ask()):
                    place = search.place(trial)
                    os.makedirs(place, exist_ok=True)
                    files.write(os.path.join(place, "flags"), f"{search.recipe(trial)}\n".encode())
                    running[trial] = threads.submit(train, script, place, submit), {"epoch": 0}
                if not running and not waiting:
                    say("waiting for trials of other terminals")
                waiting = not running
                if not any(thread.done() for thread, _ in running.values()):
                    time.sleep(POLL_SECONDS)
                for trial, (thread, state) in list(running.items()):
                    line = follow(search, trial, thread, state)
                    if line:
                        del running[trial]
                        values = " ".join(f"{name}={shown(value)}" for name, value in trial.params.items())
                        say(f"trial {trial.number}: {line}; {values}")
    except (files.Unsaved, experiment.WorkerKilled) as error:
        message = f"{str(error).rstrip('.')}; once that is fixed, the same command continues the search."
        raise InputError(message) from error


# --- results --------------------------------------------------------------------------------------------


def show(search):
    """Prints the best trials, and writes the best recipe and Optuna's pictures."""
    complete = sorted(search.trials("COMPLETE"), key=lambda trial: -trial.value)
    print(f"{len(complete)} trials are complete, {len(search.trials('PRUNED'))} were pruned or diverged")
    if not complete:
        return
    rows = [["trial", *search.space, "validation", "seconds"]]
    for trial in complete[:SHOWN]:
        result = f"{trial.value:.4f}", f"{trial.user_attrs['seconds']:.1f}"
        rows.append([str(trial.number), *map(shown, trial.params.values()), *result])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
    best, recipe = complete[0], search.path("best.flags")
    script = f"{search.script.__name__}.py"
    about = f"# python {script} @{recipe}: trial {best.number}, validation accuracy {best.value:.4f}\n"
    files.write(recipe, f"{about}{search.recipe(best)}\n".encode())
    pictures = draw(search)
    print(f"best flags in {recipe}: python {script} @{recipe}; pictures: {', '.join(pictures)}")


def shown(value):
    """A searched value in a table; a recipe has all digits."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def draw(search):
    """Draws Optuna's pictures of a search; returns their paths."""
    import matplotlib
    import optuna

    matplotlib.use("Agg")
    kinds = {"history": optuna.visualization.matplotlib.plot_optimization_history}
    if len(search.trials("COMPLETE")) > 1 and len(search.space) > 1:
        kinds["importance"] = optuna.visualization.matplotlib.plot_param_importances
    for name, plot in kinds.items():
        figure = plot(search.study, target_name="validation accuracy").figure
        figure.savefig(search.path(f"{name}.png"), bbox_inches="tight", dpi=120)
        matplotlib.pyplot.close(figure)
    return [search.path(f"{name}.png") for name in kinds]


def main(argv=None):
    """Searches flags of a script, and shows what was found."""
    script, values, words, parser = parse(sys.argv[1:] if argv is None else list(argv))
    space = search_space(parser, words, values.search)
    try:
        search = Search(script, values, words, space)
    except ImportError as error:
        raise InputError("tune.py needs Optuna; run: pip install -r requirements-desk.txt") from error
    say_when_stopped("stopped; the same command continues the search.")
    if len(search.trials("COMPLETE", "PRUNED")) < values.trials:
        train_trials(search)
    show(search)


if __name__ == "__main__":
    run_command(main)

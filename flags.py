"""Command-line flags of every script, recipe files, errors in the input, and how every command ends.

Nothing here imports NumPy or TensorFlow, so `-h` and a wrong flag answer at once.
"""

import argparse
import contextlib
import errno
import functools
import os
import shlex
import signal
import sys
import threading
import time

# Before anything imports Keras: training uses TensorFlow itself, so no other backend works, and its log is long.
os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

HERE = os.path.dirname(os.path.abspath(__file__))  # the project: its data, recipes and models are found from anywhere
TASKS = range(1, 21)
TASK_NAMES = dict(zip(TASKS, (
    "single supporting fact", "two supporting facts", "three supporting facts", "two arg relations",
    "three arg relations", "yes no questions", "counting", "lists sets", "simple negation", "indefinite knowledge",
    "basic coreference", "conjunction", "compound coreference", "time reasoning", "basic deduction", "basic induction",
    "positional reasoning", "size reasoning", "path finding", "agents motivations",
), strict=True))  # fmt: skip
KINDS = (  # types of questions about films, which stand in place of task numbers; the last is for all questions
    "actor_to_movie", "director_to_movie", "tag_to_movie", "writer_to_movie", "movie_to_actor", "movie_to_director",
    "movie_to_genre", "movie_to_imdbrating", "movie_to_imdbvotes", "movie_to_language", "movie_to_tags",
    "movie_to_writer", "movie_to_year", "all",
)  # fmt: skip
READERS = ("bow", "simple_gru", "both")
TYINGS = ("shared", "adjacent")
ENCODINGS = ("padded", "length", "none")
GATES = (0, 1, 2)
PAIRS = (1, 2)
ATTENTIONS = ("softmax", "walk")
LINEAR_ATTENTIONS = ("sum", "mean", "capped")
SOURCES = {  # of memories for questions about films: their representations, the first of which is the default
    "kb": ("facts", "triples"),
    "doc": ("title", "centre", "window", "sentence"),
}
LOCAL = "local"  # a Dask cluster that a run starts on its machine
NEWEST = ""  # the value of --resume without a folder
LARGEST_FLOAT = 3.4e38  # of float32, with which TensorFlow computes
UNUSED = "unused"  # recorded for a flag that has no effect beside the others


@contextlib.contextmanager
def quiet_import():
    """Silences an import of TensorFlow, and keeps it from importing packages that are not used here.

    Without a GPU, TensorFlow prints warnings that no setting hides. Keras would also import scikit-learn and pandas
    where they are installed, which takes a quarter of the time.
    """
    unused = [name for name in ("sklearn", "pandas") if name not in sys.modules]
    sys.modules.update(dict.fromkeys(unused))  # None: an import fails
    stderr = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        for name in unused:
            del sys.modules[name]
        os.dup2(stderr, 2)
        os.close(stderr)


class InputError(ValueError):
    """A file, flag or text given by the user cannot be used; the message is one sentence for the user."""


# --- how a command ends -----------------------------------------------------------------------------------

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
GRACE_SECONDS = 1.0  # in which a stopped command cleans up

_stop_message = ["stopped."]


def say_when_stopped(message):
    """Sets the sentence that a command prints at Ctrl-C or SIGTERM, such as how to continue."""
    _stop_message[0] = message


def run_command(main):
    """Runs a script's `main()` and ends the process in the same way for every script.

    Wrong input ends in one sentence and status 2, Ctrl-C and SIGTERM in one sentence and status 130 and 143, a closed
    pipe silently. A bug shows its traceback.

    Args:
        main: a function without arguments; what it returns is the exit status, None meaning 0.
    """
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # closed; opened in this order, each gets its own file descriptor back
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115
        getattr(sys, name).reconfigure(errors="replace")  # a character the terminal lacks does not end a command
    _watch_signals()
    problem = None
    try:
        status = main()
        sys.stdout.flush()
        sys.exit(status)
    except InputError as error:
        problem = error
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python flushes at its end
        if error.errno == errno.ENOSPC:  # a closed pipe is not a problem: its reader, such as `head`, has enough
            problem = f"standard output: {error.strerror}; {_stop_message[0]}"
    except KeyboardInterrupt:
        threading.Event().wait()  # for the thread that ends the process
    except ImportError as error:
        if not isinstance(error.__cause__, KeyboardInterrupt):  # which stopped the import of a C extension
            raise
        threading.Event().wait()
    if problem:
        print(f"{os.path.basename(sys.argv[0])}: {problem}", file=sys.stderr)
        sys.exit(2)


def without_signals(start, *arguments, **options):
    """Calls a function that starts processes; these ignore stop signals, which their parent handles for all."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        return start(*arguments, **options)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def _watch_signals():
    """Makes SIGINT and SIGTERM raise KeyboardInterrupt and, after a second, end the process.

    Python runs signal handlers between bytecodes, so none runs while TensorFlow computes an epoch; a thread that reads
    the wakeup file descriptor ends the process regardless. Files are replaced as a whole, so none is half-written.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)

    def interrupt(number, frame):
        for stop in STOP_SIGNALS:  # once is enough
            signal.signal(stop, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in STOP_SIGNALS:
        signal.signal(number, interrupt)

    def end():
        number = os.read(reader, 1)[0]
        time.sleep(GRACE_SECONDS)
        with contextlib.suppress(OSError):
            print(f"\n{os.path.basename(sys.argv[0])}: {_stop_message[0]}", file=sys.stderr, flush=True)
        os._exit(128 + number)

    threading.Thread(target=end, daemon=True).start()


# --- types of values --------------------------------------------------------------------------------------


def number(kind, low, high=None, above=False):
    """An argparse type: an int or float of at least `low`, or above `low`, and at most `high`."""
    expected = f"number {'above' if above else 'at least'} {low}" + (f" and at most {high}" if high is not None else "")

    def parse(text):
        value = kind(text)
        if not abs(value) < LARGEST_FLOAT:
            raise argparse.ArgumentTypeError(f"expected a number that float32 can hold, found {text!r}")
        if not (value > low if above else value >= low) or (high is not None and value > high):
            raise argparse.ArgumentTypeError(f"expected a {expected}, found {text!r}")
        return value

    parse.__name__ = expected if kind is float else f"whole {expected}"  # argparse prints it
    return parse


count = number(int, 1, 1_000_000)
size = number(int, 1, 10_000)


def epochs(text):
    """An argparse type: a whole number of epochs, or a share of --epochs below 1."""
    value = number(float, 0, above=True)(text)
    if value >= 1 and value != int(value):
        raise argparse.ArgumentTypeError(f"expected a whole number of epochs, or a share below 1, found {text!r}")
    return int(value) if value >= 1 else value


def epochs_or_none(text):
    """An argparse type: as `epochs`, or 0."""
    return 0 if text == "0" else epochs(text)


def boolean(text):
    """An argparse type: True or False."""
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"expected True or False, found {text!r}")
    return text.lower() == "true"


def path(text):
    """An argparse type: a file name that can be printed, so without line breaks and bytes that are not UTF-8."""
    if not text.isprintable():
        raise argparse.ArgumentTypeError(f"{text!r}: expected a file name of printable characters")
    return text


def output_path(text):
    """An argparse type: the name of a regular file that can be created or appended to; changes nothing."""
    try:
        os.close(os.open(path(text), os.O_RDWR | os.O_NONBLOCK))  # does not wait for the other end of a pipe
        problem = None if os.path.isfile(text) else "it is not a regular file"
    except FileNotFoundError:
        parent = os.path.dirname(os.path.realpath(text))
        problem = None if os.access(parent, os.W_OK) else f"the folder {parent} does not exist or is not writable"
    except OSError as error:
        problem = error.strerror
    if problem:
        raise argparse.ArgumentTypeError(f"{text}: cannot be written: {problem}")
    return text


def title(text):
    """An argparse type: a short text that can be printed in a line."""
    if not text.isprintable() or not 0 < len(text.strip()) <= 60:
        raise argparse.ArgumentTypeError(f"expected 1 to 60 printable characters, found {text!r}")
    return text.strip()


def address(text):
    """An argparse type: the address of a Dask scheduler, or `LOCAL`."""
    if text != LOCAL and not text.rpartition(":")[2].isdecimal():
        raise argparse.ArgumentTypeError(
            f"expected the address of a Dask scheduler such as tcp://10.0.0.1:8786, or {LOCAL}, found {text!r}"
        )
    return text


def folder(text, expected="a folder of bAbI files (qa1_..._train.txt, qa1_..._test.txt)"):
    """An argparse type: the name of an existing folder."""
    if not os.path.isdir(path(text)):
        raise argparse.ArgumentTypeError(f"{text}: expected {expected}")
    return text


def task_numbers(text):
    """An argparse type: numbers and ranges of tasks, such as "3", "1,4" or "1-5,19", or "all".

    Returns:
        The task numbers in ascending order, each once.
    """
    if text.strip() == "all":
        return list(TASKS)
    numbers = set()
    for part in text.split(","):
        ends = part.split("-")
        if len(ends) > 2 or not all(end.strip().isdecimal() for end in ends):
            raise argparse.ArgumentTypeError(
                f"expected numbers and ranges of tasks such as 3 or 1-5,19, or all, found {text!r}"
            )
        first, last = int(ends[0]), int(ends[-1])
        if not TASKS[0] <= first <= last <= TASKS[-1]:
            raise argparse.ArgumentTypeError(f"expected tasks from 1 to {len(TASKS)}, found {part.strip()!r}")
        numbers.update(range(first, last + 1))
    return sorted(numbers)


# --- parsers ----------------------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` whose errors are one sentence and which never guesses abbreviated flags."""

    def __init__(self, description, **options):
        super().__init__(description=description, allow_abbrev=False, **options)

    def error(self, message):
        self.exit(2, f"{self.prog}: {message.rstrip('.')} (-h explains every flag).\n")


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows each default, except None."""

    def _get_help_string(self, action):
        return action.help if action.default is None else super()._get_help_string(action)


class RecipeParser(Parser):
    """A parser that also takes flags from files: `@FILE` stands for the flags in FILE; later flags override them.

    A recipe holds flags as a shell would read them, on any number of lines; `#` begins a comment. A recipe cannot name
    another recipe.

    The parsed flags have two more attributes: `command`, the command line, and `given`, the names of the flags that
    were given in it or in its recipes.
    """

    def parse_args(self, args=None, namespace=None):
        args = sys.argv[1:] if args is None else list(args)
        words = self.expand(args)
        flags = super().parse_args(words, namespace)
        flags.command = shlex.join([self.prog, *args])
        given = [word[2:].partition("=")[0] for word in words if word.startswith("--")]
        for earlier, later in (("decay_steps", "decay_epochs"), ("decay_epochs", "decay_steps")):
            if later in given and earlier not in given[given.index(later) :]:
                setattr(flags, earlier, None)
        flags.given = sorted(set(given))
        self._settle(flags, {arg[2:].partition("=")[0] for arg in args if arg.startswith("--")})
        return flags

    def expand(self, args):
        """The words of a command line, with each `@FILE` replaced by the words of that recipe."""
        return [word for arg in args for word in (self._read_recipe(arg[1:]) if arg.startswith("@") else [arg])]

    def _read_recipe(self, path):
        """The words of a recipe file."""
        words = []
        try:
            with open(path, encoding="utf-8") as file:
                lines = file.readlines()
        except (OSError, UnicodeDecodeError) as error:
            problem = getattr(error, "strerror", None) or "expected UTF-8 text"
            self.error(f"{path}: {problem}; expected the name of a recipe, a file of flags, after @")
        for line_number, line in enumerate(lines, 1):
            try:
                words += shlex.split(line, comments=True)
            except ValueError as error:
                self.error(f"{path}, line {line_number}: {str(error).lower()}; expected flags and their values")
            if words and not words[0].startswith("--"):
                self.error(f"{path}, line {line_number}: expected a flag, found {words[0]!r}")
        return words

    def _settle(self, flags, typed):
        """Checks flags against each other, and marks those without effect as `UNUSED`.

        Args:
            flags: the parsed flags, which are changed.
            typed: names of flags on the command line itself; for these, a line says that they have no effect.
        """
        for name in ("linear_start", "linear_end", "decay_epochs"):
            value = getattr(flags, name)
            if value and value < 1:
                setattr(flags, name, max(1, round(value * flags.epochs)))
        gru, adjacent = flags.reader == "simple_gru", flags.tying == "adjacent"
        no_effect = {
            "feature_size": not gru and adjacent and "adjacent tying uses --embedding_size for features",
            "encoding": gru and "only the bag of words has a position encoding",
            "epsilon": flags.optimizer == "sgd" and "SGD has no epsilon",
            "linear_attention": not flags.linear_start and "--linear_start is 0",
            "linear_end": not flags.linear_start and "--linear_start is 0",
        }
        in_effect = {"feature_size": flags.embedding_size, "linear_end": 0}
        for name, reason in no_effect.items():
            if reason and name in typed:
                print(f"note: --{name} has no effect: {reason}.", file=sys.stderr)
            if reason:
                setattr(flags, name, in_effect.get(name, UNUSED))
        if flags.linear_start + flags.linear_end >= flags.epochs and flags.resume is None:
            both = f"--linear_start {flags.linear_start} plus --linear_end {flags.linear_end}"
            self.error(f"{both} must be less than --epochs {flags.epochs}")


# --- the flags of training --------------------------------------------------------------------------------


def training_parser(description, films=False, **defaults):
    """The parser of the scripts that train.

    Args:
        description: what the script does.
        films: whether the questions are about films, with the flags that this needs, or about bAbI's stories.
        **defaults: the defaults in which the scripts differ. Without `param_output_file` the script has no such flag.

    Returns:
        A `RecipeParser`.
    """
    parser = RecipeParser(description, formatter_class=HelpFormatter)
    (_add_film_flags if films else _add_story_flags)(parser)

    add = parser.add_argument_group("training").add_argument
    add("--epochs", type=count, help="passes over the training questions")
    add("--batch_size", type=count, help="questions in a step")
    add("--optimizer", choices=("adam", "sgd"), default="adam", help="Adam or plain SGD")
    add("--learning_rate", type=number(float, 0, above=True), default=0.001, help="initial learning rate")
    add("--decay_steps", type=count, help="steps between two decays of the learning rate")
    add("--decay_epochs", type=epochs, help="the same in epochs, or as a share of --epochs; the last of the two wins")
    add("--decay_rate", type=number(float, 0, 1, above=True), default=0.96, help="decay factor of the learning rate")
    add("--linear_start", type=epochs_or_none, default=0, help="first epochs (or share) without softmax, at half rate")
    add("--linear_attention", choices=LINEAR_ATTENTIONS, default="sum", help="its scores / 1, slots, max(1, slots/10)")
    add("--linear_end", type=epochs_or_none, default=0, help="epochs (or share) over which linear attention fades out")
    add("--epsilon", type=number(float, 0, above=True), default=0.1, help="epsilon of Adam")
    add("--l2_lambda", type=number(float, 0), help="weight of half the squared norm of all variables")
    add("--max_grad_norm", type=number(float, 0, above=True), default=20.0, help="norm to which gradients are clipped")
    add("--clip", choices=("each", "global"), default="each", help="clip per variable, or by global norm")
    add("--gradient_noise", type=number(float, 0), default=0.001, help="standard deviation of noise on gradients")
    add("--keep_prob", type=number(float, 0, 1, above=True), default=1.0, help="share of a reading that dropout keeps")
    share = number(float, 0, 0.9)
    add("--state_dropout", type=share, default=0.0, help="dropout rate of states before hops, after the linear start")
    if not films:
        add("--word_dropout", type=share, default=0.0, help="dropout rate of words, after the linear start")
        add("--time_noise", type=share, default=0.0, help="share of empty slots inserted between statements")
    add("--focus", type=share, default=0.0, help="share of an epoch for unsure answers, after the linear start")
    add("--evaluation_interval", type=count, help="epochs between two reports of accuracy")
    add("--keep", choices=("last", "best"), default="last", help="save the last epoch or the best report on validation")
    add("--patience", type=number(int, 0), default=0, help="end after this many reports without a better one; 0: never")
    add("--random_state", type=number(int, 0, 2**31 - 1), help="seed; the same seed gives the same scores")
    add("--restarts", type=size, default=1, help="train models from this many seeds; validation chooses one")
    add("--workers", type=count, help="models trained at once (default: one per core, or one where there is a GPU)")

    add = parser.add_argument_group("files").add_argument
    add("--name", type=title, help="name of the run, for its record and its first line of output")
    default = "" if defaults.get("output_file") else " (default: logs/scores_<unix time>.csv)"
    add("--output_file", type=output_path, help=f"score file, appended to if it exists{default}")
    if "param_output_file" in defaults:
        add("--param_output_file", type=output_path, help="flags as used (default: logs/params_<unix time>.csv)")
    add("--log_dir", type=path, default="logs", help="folder in which each run creates its own folder")
    add("--pictures", type=boolean, default=True, help="draw curves and scores into the run's folder")
    add("--tensorboard", type=boolean, default=False, help="write TensorBoard logs into the run's folder")
    resume = "continue the run in FOLDER with its own flags, or extend it by a larger --epochs; without FOLDER, the "
    resume += "newest unfinished run in --log_dir that this script began with the same flags"
    add("--resume", type=path, nargs="?", const=NEWEST, metavar="FOLDER", help=resume)

    add = parser.add_argument_group("machine").add_argument
    add("--cluster", type=address, help="train on the Dask workers of this scheduler; local: on this machine")
    add("--threads", type=count, help="threads per operation (default: one; all cores if one model of films trains)")
    if not films:  # batches about films vary in size: XLA would compile each of them
        add("--jit_compile", choices=("auto", "on", "off"), default="auto", help="compile with XLA; auto: in long runs")
    add("--allow_soft_placement", type=boolean, default=True, help="run an operation elsewhere if its device cannot")
    add("--log_device_placement", type=boolean, default=False, help="print where operations run")
    parser.set_defaults(**defaults)
    return parser


def _add_story_flags(parser):
    """Adds the flags of data and network for questions about bAbI's stories."""
    add = parser.add_argument_group("data").add_argument
    add("--data_dir", type=folder, help="folder of bAbI files (default: the published English files, else simulated)")
    add("--task_id", type=task_numbers, help="task 1 to 20, a list (3,7,9), a range (1-20) or all")
    add("--only_supporting", type=boolean, default=False, help="keep only the statements that support an answer")

    add = parser.add_argument_group("network").add_argument
    add("--reader", choices=READERS, default="bow", help="how a sentence becomes a vector; both: two networks")
    add("--embedding_size", type=size, help="size of a word vector")
    add("--feature_size", type=size, help="size of keys, values and state")
    add("--hops", type=size, default=3, help="how often the memory is read")
    add("--attention", choices=ATTENTIONS, default="softmax", help="how hops attend: softmax over slots, or walks")
    add("--pairs", type=int, choices=PAIRS, default=1, help="key-value pairs of each statement; the state chooses one")
    add("--inner_hops", type=number(int, 0, 100), default=0, help="hops after the first that the linear start skips")
    add("--memory_size", type=size, help="maximum number of memory slots; older statements are dropped")
    add("--mask_padding", type=boolean, default=False, help="keep empty slots out of the attention")
    add("--tying", choices=TYINGS, default="shared", help="one reading for all hops, or MemN2N's adjacent tying")
    add("--gates", type=int, choices=GATES, default=0, help="gates of a hop's update: none, Gated MemN2N's, or two")
    add("--encoding", choices=ENCODINGS, default="padded", help="word positions over padded or true length, or none")


def _add_film_flags(parser):
    """Adds the flags of data and network for questions about films."""
    add = parser.add_argument_group("data").add_argument
    films = functools.partial(folder, expected="the folder of MetaQA (kb.txt) or WikiMovies (knowledge_source)")
    add("--data_dir", type=films, help="folder of MetaQA or WikiMovies (default: the latter, else simulated)")
    add("--question_hops", type=int, choices=(1, 2), default=1, help="facts that a question needs; 2: MetaQA only")
    add("--source", choices=SOURCES, default="kb", help="what is read: a knowledge base, or documents")
    add(
        "--representation",
        choices=[name for names in SOURCES.values() for name in names],
        help="what keys and values are made of (default: facts of a knowledge base; windows and title of documents)",
    )
    add("--text", type=path, help="file of documents like wiki.txt (default: the data set's own, else synthetic)")
    add("--window", type=size, default=15, help="number of tokens in a window of text")
    add("--templates", choices=("one", "all"), default="one", help="sentence templates of synthetic documents")
    share = number(float, 0, 1)
    add("--conjunction", type=share, default=0.0, help="probability that synthetic sentences are conjoined")
    add("--coreference", type=share, default=0.0, help="probability that a synthetic title becomes `it`")

    add = parser.add_argument_group("network").add_argument
    add("--embedding_size", type=size, help="size of the vectors of words and entities")
    add("--hops", type=size, default=1, help="how often the memory is read")
    add("--memory_size", type=size, help="maximum number of memory slots")
    add("--answer", choices=("state", "read"), default="read", help="from the state, or from what the last hop read")
    parser.set_defaults(
        reader="bow", tying="adjacent", gates=0, encoding="none", mask_padding=True, feature_size=None,
        attention="softmax", pairs=1, inner_hops=0, word_dropout=0.0, time_noise=0.0, jit_compile="off",
    )  # fmt: skip

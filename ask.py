"""Asks a trained model: it answers questions about a story and shows where in the story it looked.

    python ask.py                      # type statements, then a question that ends in ?
    python ask.py --story FILE         # every question of a file, or of standard input, and the accuracy
    python ask.py --web                # the same as a page in the browser

From Python, `Answerer` loads a model once and answers any number of questions.

The file reads from the model up to the person: model file, answers, text, pictures, the terminal, flags.
"""

import inspect
import io
import json
import os
import re
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

import babi_simulator
import data_utils
from data_utils import InputError

DEFAULT_MODEL = Path(__file__).resolve().parent / "pretrained" / "joint_1k.keras"
REGISTERED_NAME = "memn2n_kv>MemN2N_KV"  # how Keras calls the network in a file
LARGEST = {  # sizes that a file may ask for; what they ask for together has to be in the file
    "vocab_size": 100_000,
    "sentence_size": 10_000,
    "memory_size": 10_000,
    "embedding_size": 2_000,
    "feature_size": 2_000,
    "hops": 100,
}
LARGEST_CONFIG, LARGEST_FILE = 10_000_000, 1_000_000_000  # bytes
BATCH_SIZE = 500
TOP = 4
EXAMPLES = 5  # stories of each task to pick from

# --- a model file ---------------------------------------------------------------------------------------


def read_config(path):
    """Reads the configuration of a model file, and trusts none of it.

    A `.keras` file names Python modules and classes, and how far Keras goes in fetching them depends on its version
    (before 3.9, any module: CVE-2025-1550). Here the file only gives plain values to the one class that is expected,
    and Keras reads nothing but the weights.

    Args:
        path: a `.keras` file.

    Returns:
        A dict of arguments for `MemN2N_KV`; their names are not checked yet.

    Raises:
        InputError: it is no complete file of such a model.
    """
    wanted = "expected a model.keras file that single.py or joint.py made"
    if os.path.isdir(path):
        raise InputError(f"{path}: is a folder; {wanted}.")
    if not str(path).endswith(".keras"):
        raise InputError(f"{path}: {wanted}, found a file of another name.")
    try:
        saved, weights = _read_archive(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}; {wanted}.") from error
    except Exception as error:  # zip, its packers, JSON and UTF-8 have errors of their own, all of them the file's
        raise InputError(f"{path}: {wanted}, found a damaged file or another kind of file.") from error

    if not isinstance(saved, dict) or saved.get("registered_name") != REGISTERED_NAME:
        found = saved.get("registered_name") or saved.get("class_name") if isinstance(saved, dict) else None
        raise InputError(f"{path}: {wanted}, found a model of another kind ({str(found)[:40]!r}).")
    config = saved.get("config")
    problem = _config_problem(config) or _missing_weights(config, weights)
    if problem:
        raise InputError(f"{path}: {wanted}, found a configuration in which {problem}.")
    # What every Keras layer has, and this model never sets; a dtype would name a class to import.
    return {name: value for name, value in config.items() if name not in ("name", "trainable", "dtype")}


def _read_archive(path):
    """The parsed `config.json` of a `.keras` file whose parts are all there and whole, and the bytes of its weights."""
    import h5py  # it takes a moment, and there are quicker checks before it

    with zipfile.ZipFile(path) as archive:
        if sum(part.file_size for part in archive.infolist()) > LARGEST_FILE:
            raise ValueError("no file of ours")
        if archive.testzip():  # the first part whose checksum is wrong
            raise ValueError("damaged")
        if archive.getinfo("config.json").file_size > LARGEST_CONFIG:
            raise ValueError("no configuration of ours")
        saved = json.loads(archive.read("config.json"))
        weights, claimed = archive.read("model.weights.h5"), []
        try:
            with h5py.File(io.BytesIO(weights)) as file:
                file.visititems(lambda _, item: claimed.append(getattr(item, "nbytes", 0)))
        except OSError as error:
            raise ValueError("no weights") from error
        if sum(claimed) > len(weights):  # Keras packs nothing, and reads what is claimed before it looks at it
            raise ValueError("weights that are not there")
        return saved, sum(claimed)


def _config_problem(config):
    """What is wrong with the configuration of a file, as half a sentence, or None."""
    if not isinstance(config, dict):
        return "there are no values"
    for name, largest in LARGEST.items():
        size = config.get(name)
        if type(size) is not int or not 1 <= size <= largest:
            return f"{name} is no whole number from 1 to {largest}"
    words = config.get("vocabulary")
    if not isinstance(words, list) or not all(isinstance(word, str) and word for word in words):
        return "vocabulary is no list of words"
    if len(words) + 1 != config["vocab_size"] or len(set(words)) != len(words) or data_utils.UNKNOWN not in words:
        return f"vocabulary does not fit vocab_size, repeats a word or lacks {data_utils.UNKNOWN}"
    tasks = config.get("tasks")
    if tasks is not None:
        if not isinstance(tasks, list) or not all(type(task) is int and task in babi_simulator.TASKS for task in tasks):
            return "tasks is no list of task numbers"
    return None


def _missing_weights(config, weights):
    """Whether tables alone would be larger than the weights of a file (in bytes), as half a sentence, or None."""
    chain = config.get("tying") == "adjacent"
    words = (config["vocab_size"] - 1) * config["embedding_size"]
    times = config["memory_size"] * min(config["embedding_size"], config["feature_size"])
    tables = words * (config["hops"] + 1 if chain and config.get("reader") == "bow" else 2)
    tables += times * 2 * (config["hops"] if chain else 1)
    return "the sizes are not those of its weights" if 4 * tables > weights else None


def load_network(path):
    """Loads a network from a file without running anything that the file says.

    Args:
        path: a `.keras` file.

    Returns:
        A `MemN2N_KV`.

    Raises:
        InputError: the file is missing, damaged or not of such a model.
    """
    config = read_config(path)
    import training  # here, as it imports TensorFlow (quietly), which takes longer than all other checks

    network_class = training.MemN2N_KV
    known = inspect.signature(network_class).parameters
    strange = [name for name in config if name not in known or name == "kwargs"]
    if strange:
        raise InputError(f"{path}: its configuration has {strange[0][:40]!r}, which this version does not know.")
    try:
        network = network_class(**config)
        network.load_weights(path)
    except (ValueError, TypeError, KeyError, AttributeError, OSError, RuntimeError) as error:
        raise InputError(
            f"{path}: its weights and configuration do not fit this version's network; "
            "expected a model.keras file that single.py or joint.py made."
        ) from error
    return network


# --- answers --------------------------------------------------------------------------------------------


class Answer(NamedTuple):
    """What a model answers to one question, and why."""

    question: str
    answer: str  # the likeliest word
    top: list  # of (word, probability), the likeliest first
    statements: list  # what the memory held, oldest first
    attention: np.ndarray  # (statements, hops), where each hop looked
    empty: np.ndarray  # (hops,), the attention that fell on empty slots
    unknown: list  # words that the model never saw in training, each once
    dropped: list  # statements that found no room in the memory, oldest first
    cut: list  # of (sentence, words of it that found no room)

    def remarks(self):
        """What the model could not read as it was told, in sentences; most answers have none."""
        found = []
        if self.unknown:
            found.append(f"Unknown words, which the model all reads as one: {', '.join(self.unknown)}.")
        if self.dropped:
            which = "statement is" if len(self.dropped) == 1 else f"{len(self.dropped)} are"
            room = len(self.statements)
            found.append(f"The memory holds {room}: the oldest {which} dropped, up to {self.dropped[-1]!r}.")
        for sentence, words in self.cut:
            found.append(f"Too long a sentence, read without its end ({' '.join(words)}): {sentence}")
        return found

    def as_dict(self):
        """The same in lists, strings and rounded numbers, for JSON."""
        return {
            "question": self.question,
            "answer": self.answer,
            "top": [{"word": word, "probability": round(probability, 4)} for word, probability in self.top],
            "memory": [
                {"statement": statement, "attention": [round(float(p), 4) for p in row]}
                for statement, row in zip(self.statements, self.attention, strict=True)
            ],
            "empty": [round(float(p), 4) for p in self.empty],
            "unknown": self.unknown,
            "dropped": self.dropped,
            "cut": [{"sentence": sentence, "words": words} for sentence, words in self.cut],
            "remarks": self.remarks(),
        }


class Sentence(NamedTuple):
    text: str
    tokens: tuple
    unknown: list  # words that the model never saw in training
    cut: list  # words beyond sentence_size


class Answerer:
    """A trained model that answers questions.

    Args:
        path: a model file that `single.py` or `joint.py` made.

    Raises:
        InputError: the file cannot be used.
    """

    def __init__(self, path=DEFAULT_MODEL):
        self.network = load_network(path)
        self.config = self.network.config
        self.words = ("<NIL>", *self.config["vocabulary"])  # padding is one of the V words, so it may be an answer
        self.vocabulary = {word: number for number, word in enumerate(self.config["vocabulary"], start=1)}

    def answer(self, questions, top=TOP):
        """Answers questions, each about a story of its own; the more in one call, the faster.

        Args:
            questions: list of (statements, question): a list of sentences, oldest first, and a sentence. A
                sentence is a str, or a tuple of tokens as in `data_utils.Example`.
            top: how many of the likeliest words to give.

        Returns:
            A list of `Answer`.

        Raises:
            InputError: a sentence has no word.
        """
        sentences = {}  # they repeat a lot, so each is looked at once

        def read(sentence):
            if sentence not in sentences:
                sentences[sentence] = self.read(sentence)
            return sentences[sentence]

        stories = [([read(s) for s in statements], read(question)) for statements, question in questions]
        encoded = data_utils.encode(
            [([s.tokens for s in statements], question.tokens, None) for statements, question in stories],
            self.vocabulary,
            self.config["sentence_size"],
            self.config["memory_size"],
        )
        answers = []
        for start in range(0, len(stories), BATCH_SIZE):
            some = slice(start, start + BATCH_SIZE)
            probabilities, attention = self._probabilities(encoded, some)
            likeliest = np.argsort(-probabilities, axis=-1, kind="stable")[:, :top]  # the first is the argmax
            for story, row, words, looked in zip(stories[some], probabilities, likeliest, attention, strict=True):
                found = [(self.words[word], float(row[word])) for word in words]
                answers.append(self._explained(*story, found, looked))
        return answers

    def read(self, sentence):
        """A `Sentence` of a str or a tuple of tokens."""
        if isinstance(sentence, str):
            text, tokens = sentence.strip(), data_utils.sentence_tokens(sentence)
        else:
            text, tokens = " ".join(sentence), tuple(sentence)
        if not tokens:
            raise InputError(f"expected a sentence, found {text[:40]!r}, which has no word.")
        room = self.config["sentence_size"]
        unknown = [word for word in tokens[:room] if word not in self.vocabulary]
        return Sentence(text, tokens, unknown, list(tokens[room:]))

    def _probabilities(self, encoded, some):
        """Probabilities (B, V) and attention (B, H, M) for a slice of `EncodedExamples`."""
        logits, attention = map(np.asarray, self.network(encoded.compact(some), return_attention=True))
        odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return odds / odds.sum(axis=-1, keepdims=True), attention

    def _explained(self, statements, question, top, looked):
        """The `Answer` for one story; looked: (H, M)."""
        dropped = max(0, len(statements) - self.config["memory_size"])
        kept = statements[dropped:]
        sentences = [*kept, question]
        return Answer(
            question=question.text,
            answer=top[0][0],
            top=top,
            statements=[sentence.text for sentence in kept],
            attention=looked[:, : len(kept)][:, ::-1].T,  # slot 0 is the newest statement
            empty=looked[:, len(kept) :].sum(axis=-1),
            unknown=list(dict.fromkeys(word for sentence in sentences for word in sentence.unknown)),
            dropped=[sentence.text for sentence in statements[:dropped]],
            cut=list({sentence.text: sentence.cut for sentence in sentences if sentence.cut}.items()),
        )


# --- text -> questions ----------------------------------------------------------------------------------


class Asked(NamedTuple):
    """A question of a file, with what was told before it."""

    statements: tuple  # of str, oldest first
    question: str
    truth: str | None
    story: int  # which story of its file it belongs to, counted from 0
    line: int


def read_questions(lines, source):
    """Reads statements and questions in the bAbI format or as plain sentences.

    In the bAbI format every line starts with its number in the story, and the truth may follow a question after a
    tab. Plain sentences stand one a line; an empty line starts a new story. A line that ends in `?`, or has a
    tab, is a question.

    Args:
        lines: list of str.
        source: what to call the text in an error.

    Returns:
        A list of `Asked`, at least one.

    Raises:
        InputError: a line breaks the format, or there is no question.
    """
    asked = []
    statements, story, previous = [], 0, None
    while lines and not lines[-1].strip():
        lines = lines[:-1]
    first = next((line.strip() for line in lines if line.strip()), "")
    numbered = re.match("[0-9]+ ", first) is not None
    for number, line in enumerate(lines, start=1):

        def error(what, number=number):
            return InputError(f"{source}, line {number}: {what}.")

        text = line.strip(" \r\n")
        head = re.match("([0-9]{1,9}) ", text)
        if numbered:
            if not head:
                raise error(f"expected a line number and a sentence, as in line 1, found {text[:40]!r}")
            text, line_id = text[head.end() :], int(head[1])
            if line_id != 1 and line_id - 1 != previous:
                expected = "1" if previous is None else f"{previous + 1} or 1"
                raise error(f"expected line number {expected}, found {line_id}")
            if line_id == 1 and previous is not None:
                statements, story = [], story + 1
            previous = line_id
        elif head:
            raise error(f"expected a sentence without a number, as in line 1, found {text[:40]!r}")
        elif not text:
            statements, story = [], story + 1
            continue

        sentence, *fields = text.split("\t")
        if not data_utils.sentence_tokens(sentence):
            raise error(f"expected a sentence, found {sentence[:40]!r}, which has no word")
        if not fields and not text.endswith("?"):
            statements.append(text)
            continue
        truth = fields[0].strip().lower() if fields else ""
        asked.append(Asked(tuple(statements), sentence.strip(), truth or None, story, number))
    if not asked:
        raise InputError(f"{source}: expected at least one question (a line that ends in ?), found none.")
    return asked


def read_file(path):
    """The `Asked` of a file; see `read_questions`. `-` is standard input."""
    source = "standard input" if path == "-" else path
    try:
        content = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{source}: cannot be read: {error.strerror}.") from error
    return read_questions(data_utils.utf8_lines(content, source), source)


def examples(data_dir, tasks, stories=EXAMPLES):
    """Some stories of each task to pick from: of bAbI files, or else simulated.

    Args:
        data_dir: a folder of bAbI files; None for the published corpus where it is there, and else the simulator.
        tasks: task numbers.
        stories: how many of each task.

    Returns:
        A list of dicts: the task's `number` and `name`, and a list `examples` of dicts with `story`, a list of
        sentences, `question` and `truth`.

    Raises:
        InputError: the folder given has no file of any of the tasks, or one of them breaks the format.
    """
    folder = Path(data_utils.PUBLISHED if data_dir is None else data_dir)
    found = []
    for task in tasks:
        path = data_utils.task_file(folder, task, "test") if folder.is_dir() else None
        if path:
            asked = read_file(path)
        elif data_dir is None:
            made = babi_simulator.stories(task, 10 * stories, split="test")
            asked = read_questions([line for story in made for line in story], "simulated stories")
        else:
            continue
        by_story = {}
        for question in asked:
            by_story.setdefault(question.story, []).append(question)
        chosen = [questions[len(questions) // 2] for questions in list(by_story.values())[:stories]]
        found.append(
            {
                "number": task,
                "name": babi_simulator.TASKS[task].__name__.replace("_", " "),
                "examples": [
                    {"story": list(q.statements), "question": q.question, "truth": q.truth} for q in chosen
                ],
            }
        )
    if not found:
        raise InputError(f"{data_dir}: expected a folder of bAbI test files (qa1_..._test.txt), found none.")
    return found


# --- pictures -------------------------------------------------------------------------------------------


def check_picture(path):
    """Raises InputError unless a heat map can be drawn at path, before time is spent on what it shows."""
    folder = os.path.dirname(path) or "."
    if not path.endswith(".png") or not os.path.isdir(folder) or os.path.isdir(path):
        raise InputError(f"{path}: expected a file name that ends in .png, in a folder that exists.")
    try:
        import matplotlib  # noqa: F401 (only to know that it is there)
    except ImportError as error:
        raise InputError("--save_attention needs matplotlib: pip install matplotlib.") from error


def save_attention(answer, path):
    """Draws a heat map: a row for each statement of the memory, a column for each hop, numbers in the cells.

    Args:
        answer: `Answer`.
        path: of a PNG file, which is overwritten.

    Raises:
        InputError: the file cannot be written.
    """
    from matplotlib.figure import Figure  # here, as few need it; pyplot would look for a screen

    rows = np.vstack([answer.attention, answer.empty])
    labels = [_shortened(statement) for statement in answer.statements] + ["(empty slots)"]
    hops = rows.shape[1]
    figure = Figure(figsize=(4.5 + 0.7 * hops, 1.2 + 0.26 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.imshow(rows, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    # A dollar sign in a person's text is a dollar sign, not the start of a formula.
    axes.set_yticks(range(len(rows)), labels, parse_math=False)
    axes.set_xticks(range(hops), [f"hop {hop}" for hop in range(1, hops + 1)])
    for (row, hop), weight in np.ndenumerate(rows):
        axes.text(hop, row, f"{weight:.2f}", ha="center", va="center", color="white" if weight > 0.6 else "black")
    word, probability = answer.top[0]
    figure.suptitle(f"{_shortened(answer.question)}  {word} ({probability:.2f})", parse_math=False)
    try:
        figure.savefig(path, dpi=120, format="png")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}.") from error


def _shortened(text, longest=60):
    return _printable(text if len(text) <= longest else text[: longest - 3] + "...")


def _printable(text):
    """Text without control characters, which could rewrite a terminal's screen or title."""
    return "".join(character if character.isprintable() else "?" for character in text)


# --- the terminal ---------------------------------------------------------------------------------------


class Screen:
    """How answers are printed on one stream: with shading it can show, and colour if a person looks at it.

    Args:
        stream: a text stream.
    """

    def __init__(self, stream):
        try:
            "░▒▓█".encode(stream.encoding or "ascii")
            self.shades = " ░▒▓█"
        except UnicodeEncodeError:
            self.shades = " .:*#"
        # https://no-color.org: present and not empty means no colour.
        self.coloured = stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    def _styled(self, text, code):
        return f"\x1b[{code}m{text}\x1b[0m" if self.coloured else text

    def print_answer(self, answer):
        """Prints the answer with its runners-up, the memory with the attention of each hop, and remarks."""
        (word, probability), *others = answer.top
        line = f"{self._styled(_printable(word), 1)} {probability:.2f}"
        if others:
            line += "  (then " + ", ".join(f"{_printable(word)} {p:.2f}" for word, p in others) + ")"
        print(line)
        hops = len(answer.empty)
        print("  " + "".join(f"hop {hop}".ljust(9) for hop in range(1, hops + 1)) + "memory")
        rows = [*zip(answer.attention, answer.statements, strict=True), (answer.empty, "(empty slots)")]
        for weights, statement in rows:
            print("  " + "".join(self._cell(weight) for weight in weights) + _printable(statement))
        for remark in answer.remarks():
            print(_printable(remark))

    def _cell(self, weight):
        shade = self.shades[0 if weight < 0.05 else min(4, 1 + int(4 * weight))] * 2
        return f"{weight:.2f} {self._styled(shade, 34)}  "


def answer_all(answerer, asked, top, as_json, table):
    """Answers the questions of one text and prints the answers.

    Args:
        answerer: `Answerer`.
        asked: list of `Asked`.
        top: how many words to give for an answer.
        as_json: print one JSON object a line.
        table: print the attention of questions with a truth, too.

    Returns:
        The last `Answer`.
    """
    screen = Screen(sys.stdout)
    answers = answerer.answer([(q.statements, q.question) for q in asked], top)
    right = [answer.answer == question.truth for answer, question in zip(answers, asked, strict=True)]
    for question, answer, is_right in zip(asked, answers, right, strict=True):
        verdict = None if question.truth is None else is_right
        if as_json:
            print(json.dumps({"line": question.line, **answer.as_dict(), "truth": question.truth, "right": verdict}))
            continue
        line = f"line {question.line}: {_printable(question.question)}"
        if verdict is not None:
            mark = "right" if verdict else f"wrong, the truth is {_printable(question.truth)}"
            line += f"  {_printable(answer.answer)}, {mark}"
        print(line)
        if verdict is None or table:
            screen.print_answer(answer)
    judged = [is_right for is_right, question in zip(right, asked, strict=True) if question.truth is not None]
    if judged and not as_json:
        print(f"accuracy {np.mean(judged):.4f} ({sum(judged)} of {len(judged)} questions)")
    return answers[-1]


HELP = """\
A line that ends in ? is a question; any other is a statement that the memory keeps.
/story          show the statements
/undo           take back the newest statement
/clear          forget all of them
/load FILE [N]  take the story of question N (or 1) of a bAbI file, and ask that question
/help           this
/quit           leave; so do Ctrl-D and Ctrl-C"""


class Dialogue:
    """A story that grows line by line, and commands.

    Args:
        answerer: `Answerer`.
        top: how many words to give for an answer.
        picture: where to save the heat map of each answer, or None.
    """

    def __init__(self, answerer, top, picture=None):
        self.answerer, self.top, self.picture = answerer, top, picture
        self.screen = Screen(sys.stdout)
        self.statements = []

    def run(self):
        """Reads lines until the person leaves."""
        try:
            import readline  # noqa: F401 (gives `input` editing and history where Python has it)
        except ImportError:
            pass
        c = self.answerer.config
        print(f"A model of {len(c['vocabulary'])} words and a memory of {c['memory_size']} statements.")
        print("Type statements, then a question that ends in ?; /help lists the commands.")
        try:
            while self.take(input("> ").strip()):
                pass
        except (EOFError, KeyboardInterrupt):
            print()

    def take(self, line):
        """Does what one line asks for; returns whether to go on."""
        command, _, rest = line.partition(" ")
        try:
            if line.startswith("/"):
                return self._command(command, rest.strip())
            if line.endswith("?"):
                self._ask(line)
            elif line:
                self.answerer.read(line)  # a mistake is told at once
                self.statements.append(line)
        except InputError as error:
            print(_printable(str(error)))
        return True

    def _command(self, command, rest):
        if command == "/quit":
            return False
        if command == "/load":
            self._load(rest)
        elif command == "/clear":
            self.statements = []
        elif command == "/undo":
            print(f"Taken back: {_printable(self.statements.pop())}" if self.statements else "There is no statement.")
        elif command == "/story":
            print("\n".join(map(_printable, self.statements)) or "There is no statement.")
        elif command == "/help":
            print(HELP)
        else:
            raise InputError(f"{command}: no such command; /help lists them.")
        return True

    def _load(self, rest):
        name, _, number = rest.rpartition(" ")
        if not (name and number.isdecimal()):
            name, number = rest, "1"
        if not name:
            raise InputError("/load: expected a file name, and perhaps the number of a question in it.")
        asked = read_file(name)
        if not 1 <= int(number) <= len(asked):
            raise InputError(f"{name}: expected a question number from 1 to {len(asked)}, found {number}.")
        question = asked[int(number) - 1]
        self.statements = list(question.statements)
        print(_printable(question.question))
        answer = self._ask(question.question)
        if question.truth:
            verdict = "right" if answer == question.truth else "wrong"
            print(f"The file's answer: {_printable(question.truth)} ({verdict})")

    def _ask(self, question):
        (answer,) = self.answerer.answer([(self.statements, question)], self.top)
        self.screen.print_answer(answer)
        if self.picture:
            save_attention(answer, self.picture)
            print(f"Heat map in {self.picture}")
        return answer.answer


# --- flags ----------------------------------------------------------------------------------------------


def flag_parser():
    """This script's flags."""
    parser = babi_simulator.Parser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    add = parser.add_argument
    add("--model", default=str(DEFAULT_MODEL), metavar="FILE", help="model to ask (default: pretrained/joint_1k.keras)")
    add("--story", metavar="FILE", help="answer every question of a file, bAbI or plain text (-: standard input)")
    add("--json", action="store_true", help="print one JSON object a question")
    add("--top", type=babi_simulator.question_count, default=TOP, help=f"likeliest words to give (default: {TOP})")
    add("--table", action="store_true", help="print the attention also for questions whose answer is given")
    add("--save_attention", metavar="FILE.png", help="draw the attention of the last answer as a heat map")
    add = parser.add_argument_group("page").add_argument
    add("--web", action="store_true", help="serve a page to ask with the browser")
    add("--host", default="127.0.0.1", help="address to serve at (default: 127.0.0.1, for this machine alone)")
    add("--port", type=babi_simulator.question_count, default=8000, help="port to serve at (default: 8000)")
    add("--data_dir", help=f"bAbI files for examples (default: {data_utils.PUBLISHED}, or else simulated)")
    return parser


def main(argv=None):
    """Asks as the flags say."""
    parser = flag_parser()
    flags = parser.parse_args(argv)
    if flags.web:
        for name in ("story", "json", "table", "save_attention"):
            if getattr(flags, name):
                parser.error(f"--{name} does not go with --web")
        serve_page(flags)
        return
    if flags.save_attention:
        check_picture(flags.save_attention)
    if not flags.story and not flags.json and sys.stdin.isatty():
        Dialogue(Answerer(flags.model), flags.top, flags.save_attention).run()
        return
    asked = read_file(flags.story or "-")
    last = answer_all(Answerer(flags.model), asked, flags.top, flags.json, flags.table)
    if flags.save_attention:
        save_attention(last, flags.save_attention)


def serve_page(flags):
    """Serves the page until Ctrl-C."""
    try:
        import ask_web  # here, as it needs what requirements-web.txt lists
    except ImportError as error:
        raise InputError("--web needs more packages: pip install -r requirements-web.txt.") from error
    answerer = Answerer(flags.model)
    tasks = answerer.config.get("tasks") or babi_simulator.TASKS
    ask_web.serve(answerer, examples(flags.data_dir, tasks), flags.top, flags.host, flags.port)


def command():
    """Runs `main`: a person's mistake ends in one sentence and status 2, a bug in its traceback."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # what an encoding cannot say is no reason to stop
    try:
        main()
        sys.stdout.flush()
    except InputError as error:
        print(f"ask.py: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print()
        sys.exit(130)


if __name__ == "__main__":
    command()

"""Asks a trained model: it answers questions about a story and shows where in the story it looked.

    python ask.py                      # type statements, then a question that ends in ?
    python ask.py --story FILE         # every question of a file, or of standard input, and the accuracy
    python ask.py --web                # the same as a page in the browser

From Python, `Answerer` loads a model once and answers any number of questions.
"""

import contextlib
import inspect
import io
import itertools
import json
import os
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

import data_utils
import plots
from flags import HERE, KINDS, TASKS, InputError, Parser, count, folder, number, run_command

DEFAULT_MODEL = os.path.join(HERE, "pretrained", "joint_10k.keras")
EXPECTED = "expected a model.keras file that single.py or joint.py made"
LARGEST_FILE = 1_000_000_000  # bytes of a model file, unpacked
# Sizes that a file may ask for, at most; the weights for them must be in the file, too.
LARGEST = {"sentence_size": 10_000, "memory_size": 10_000, "embedding_size": 2_000, "feature_size": 2_000}
LARGEST |= {"hops": 100, "inner_hops": 100}
BATCH_SIZE = 500
TOP = 4  # likeliest words to give
QUESTION_WORDS = frozenset("who whom whose what which where when why how is are was were do does did".split())

# --- a model file ---------------------------------------------------------------------------------------


class _Unusable(Exception):
    """A model file cannot be used; the message is what was found instead."""


def load_network(path):
    """Loads a `MemN2N_KV` from a `.keras` file without running anything that the file names.

    A `.keras` file names Python modules and classes, and how far Keras goes in importing them depends on its version
    (before 3.9, any module: CVE-2025-1550). Here the file gives plain values to the one class that is expected. Keras
    reads nothing but the weights, after a check that all of them are in the file.

    Raises:
        InputError: the file is missing, damaged or not of such a model.
    """
    try:
        with open(path, "rb") as file:
            content = io.BytesIO(file.read(LARGEST_FILE))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}; {EXPECTED}.") from error
    try:
        if not str(path).endswith(".keras"):
            raise _Unusable("a file of another name")
        return _build(*_read_archive(content), path)
    except _Unusable as reason:
        raise InputError(f"{path}: {EXPECTED}, found {reason}.") from reason
    except Exception as error:  # zip, its compressors, JSON, HDF5 and Keras raise errors of many types
        found = "a damaged file, or weights and a configuration that do not fit this version's network"
        raise InputError(f"{path}: {EXPECTED}, found {found}.") from error


def _read_archive(file):
    """(arguments of `MemN2N_KV`, how many bytes of weights are stored) of an open model file."""
    archive = zipfile.ZipFile(file)
    if sum(part.file_size for part in archive.infolist()) > LARGEST_FILE:
        raise _Unusable("a file that is larger than any such model")
    saved = json.loads(archive.read("config.json"))  # `read` verifies checksums
    kind = "TwoReaders" if saved["config"]["reader"] == "both" else "MemN2N_KV"
    if saved["registered_name"] != f"memn2n_kv>{kind}":
        raise _Unusable("a model of another kind")
    # Every Keras layer has these, and this model never sets them; a dtype would name a class to import.
    config = {name: value for name, value in saved["config"].items() if name not in ("name", "trainable", "dtype")}
    return config, _stored_bytes(archive.read("model.weights.h5"))


def _stored_bytes(weights):
    """The size of all tables in an HDF5 file, which must be stored in the file itself, as Keras does it.

    HDF5 can also link to other files, read a table from any file or device, or claim a table that is nowhere.
    """
    import h5py  # late, because it takes a moment

    links = {}
    with h5py.File(io.BytesIO(weights)) as file:
        file.visititems_links(links.__setitem__)
        is_whole = all(isinstance(link, h5py.HardLink) for link in links.values())
        tables = [file[name] for name in links if is_whole and isinstance(file[name], h5py.Dataset)]
        size = sum(table.nbytes for table in tables)
        is_whole = is_whole and all(table.id.get_offset() for table in tables)  # Keras compresses nothing
    if not is_whole or size > len(weights):
        raise _Unusable("weights that are not in the file")
    return size


def _check_config(config):
    """Raises `_Unusable` unless the sizes, the vocabulary and the tasks of a configuration make sense."""
    sizes = {name: config.get(name, 0) for name in LARGEST}
    words, tasks, entities = config.get("vocabulary"), config.get("tasks") or [], config.get("entities")
    known = TASKS if entities is None else KINDS
    are_words = isinstance(words, list) and all(isinstance(word, str) for word in words)
    valid = {
        name: type(size) is int and (0 if name == "inner_hops" else 1) <= size <= LARGEST[name]
        for name, size in sizes.items()
    }
    valid["vocabulary"] = are_words and data_utils.UNKNOWN in words and len({*words}) + 1 == config.get("vocab_size")
    valid["tasks"] = isinstance(tasks, list) and all(type(task) in (int, str) and task in known for task in tasks)
    valid["entities"] = entities in (None, [])  # their names come from a knowledge base, not from the file
    for name in valid:
        if not valid[name]:
            raise _Unusable(f"a configuration in which {name} has another value than such a model can have")


def _build(config, weight_bytes, path):
    """Makes the network of a configuration and loads its weights."""
    _check_config(config)
    import training  # late, because it imports TensorFlow (quietly), which takes longer than all other checks

    network_class = training.TwoReaders if config["reader"] == "both" else training.MemN2N_KV
    unknown = config.keys() - (inspect.signature(training.MemN2N_KV).parameters.keys() - {"kwargs"})
    if unknown:
        raise _Unusable(f"a configuration with {min(unknown)[:40]!r}, which this version does not know")

    def count_parameters():
        with training.keras.StatelessScope(initialize_variables=False):  # variables have shapes but no values
            return network_class(**config).count_params()

    with ThreadPoolExecutor(1) as thread:  # Keras remembers variables without values, for each thread
        parameters = thread.submit(count_parameters).result()
    if 4 * parameters > weight_bytes:
        raise _Unusable(f"fewer weights than the {parameters:,} of its configuration")
    network = network_class(**config)
    network.load_weights(path)
    if not all(np.isfinite(weight).all() for weight in network.get_weights()):
        raise _Unusable("weights that are not finite numbers")
    return network


# --- answers --------------------------------------------------------------------------------------------


class Answer(NamedTuple):
    """A model's answer to one question, and where it comes from."""

    question: str
    answer: str  # the likeliest word
    top: list  # of (word, probability), the likeliest first
    statements: list  # what the memory held, oldest first
    attention: np.ndarray  # (statements, hops), where each hop looked
    empty: np.ndarray  # (hops,), the attention on all empty slots together
    unknown: list  # words that are not in the vocabulary, each once
    dropped: list  # statements that did not fit into the memory, oldest first
    cut: list  # of (sentence, list of the words at its end that the model does not read)

    def remarks(self):
        """Sentences that say which parts of the text the model did not read as written; most answers have none."""
        remarks = []
        if self.unknown:
            remarks.append(f"Words that the model does not know and cannot tell apart: {', '.join(self.unknown)}.")
        if self.dropped:
            which = "statement is" if len(self.dropped) == 1 else f"{len(self.dropped)} statements are"
            slots = len(self.statements)
            remarks.append(f"The memory holds {slots}, so the oldest {which} dropped, up to {self.dropped[-1]!r}.")
        for sentence, words in self.cut:
            remarks.append(f"This sentence is too long, and the model does not read '{' '.join(words)}': {sentence}")
        for statement in filter(looks_like_question, self.statements):
            remarks.append(f"This is read as a statement, because it does not end in '?': {statement}")
        return remarks

    def as_dict(self):
        """The answer in lists, strings and rounded numbers, for JSON."""
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


def looks_like_question(sentence):
    """Whether a sentence begins like a question but lacks the question mark that would make it one."""
    tokens = data_utils.sentence_tokens(sentence)
    return bool(tokens) and tokens[0] in QUESTION_WORDS and not sentence.endswith("?")


def checked(sentence):
    """A sentence without blanks around it; InputError if it has no word or too many."""
    sentence, words = sentence.strip(), len(data_utils.sentence_tokens(sentence))
    if not 1 <= words <= data_utils.MAX_WORDS:
        limits = f"1 to {data_utils.MAX_WORDS:,} words"
        raise InputError(f"expected a sentence of {limits}, found {sentence[:40]!r}, which has {words:,}.")
    return sentence


def probabilities_of(logits):
    """The softmax of logits (B, V); InputError if a number is not finite."""
    if not np.isfinite(logits).all():
        raise InputError("a model computes numbers that are not finite: its weights are too large.")
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def load_answerer(path, data_dir=None):
    """The `Answerer` of a model file, or the `ask_films.FilmAnswerer` if its model answers questions about films.

    `data_dir` is the folder with the facts about films. InputError: the file or the folder cannot be used.
    """
    network = load_network(path)
    if network.config["entities"] is None:
        return Answerer(path, network)
    import ask_films  # late, because few models need it

    return ask_films.FilmAnswerer(network, data_dir)


class Answerer:
    """A trained model that answers questions.

    Args:
        path: a model file of `single.py` or `joint.py`.
        network: what `load_network` returned for it; None to load it.

    Raises:
        InputError: the file cannot be used.
    """

    reads_statements = True

    def __init__(self, path=DEFAULT_MODEL, network=None):
        self.network = network or load_network(path)
        self.config = self.network.config
        self.words = ("<NIL>", *self.config["vocabulary"])  # nil is one of the V words, so it can be an answer
        self.vocabulary = {word: index for index, word in enumerate(self.words) if index > 0}

    def answer(self, questions, top=TOP):
        """Answers questions, each about its own story; many in one call are faster than many calls.

        Args:
            questions: list of (statements, question): a list of sentences, oldest first, and a sentence.
            top: how many of the likeliest words to give, at least 1.

        Returns:
            A list of `Answer`.

        Raises:
            InputError: a sentence has no word or too many, `top` is below 1, or the model's weights are so large that
                it computes no probabilities.
        """
        if top < 1:
            raise InputError(f"top: expected at least 1, found {top}.")
        stories = [([*map(checked, statements)], checked(question)) for statements, question in questions]
        sizes = self.config["sentence_size"], self.config["memory_size"]
        encoded = data_utils.encode([(*story, None) for story in stories], self.vocabulary, *sizes)
        answers = []
        for start in range(0, len(stories), BATCH_SIZE):
            batch = slice(start, start + BATCH_SIZE)
            # (B, V) and (B, H, M)
            logits, attention = map(np.asarray, self.network(encoded.compact(batch), return_attention=True))
            answers += map(self._answer, stories[batch], probabilities_of(logits), attention, itertools.repeat(top))
        return answers

    def introduction(self):
        """Lines that begin a dialogue."""
        size, words = self.config["memory_size"], len(self.config["vocabulary"])
        return (
            f"A model of {words} words and a memory of {size} statements.\n"
            "Type statements, then a question that ends in ?; /help lists the commands."
        )

    def _answer(self, story, probabilities, attention, top):
        """The `Answer` for a (statements, question); probabilities: (V,), attention: (H, M)."""
        statements, question = story
        dropped = max(0, len(statements) - self.config["memory_size"])
        kept, size = statements[dropped:], self.config["sentence_size"]
        tokens = {sentence: data_utils.sentence_tokens(sentence) for sentence in (*kept, question)}
        words = dict.fromkeys(word for sentence in tokens.values() for word in sentence[:size])
        likeliest = np.argsort(-probabilities, kind="stable")[:top]  # the first is the argmax
        return Answer(
            question=question,
            answer=self.words[likeliest[0]],
            top=[(self.words[word], float(probabilities[word])) for word in likeliest],
            statements=kept,
            attention=attention[:, : len(kept)][:, ::-1].T,  # slot 0 is the newest statement
            empty=attention[:, len(kept) :].sum(axis=-1),
            unknown=[word for word in words if word not in self.vocabulary],
            dropped=statements[:dropped],
            cut=[(sentence, list(all_words[size:])) for sentence, all_words in tokens.items() if all_words[size:]],
        )


# --- the terminal ---------------------------------------------------------------------------------------


def read_questions(path):
    """The `data_utils.Question`s of a file in the bAbI format or in plain sentences; `-` is standard input."""
    if path == "-":
        name = "standard input"
        return data_utils.parse_text(data_utils.utf8_lines(sys.stdin.buffer.read(), name), name, plain=True)
    return data_utils.parse_text(data_utils.read_lines(path), path, plain=True)


def print_answer(answer):
    """Prints the answer, the next likeliest words, the memory with the attention of each hop, and remarks."""
    shades = " ░▒▓█"
    try:
        shades.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        shades = " .:*#"
    (word, probability), *others = answer.top
    then = ", ".join(f"{plots.printable(word)} {p:.2f}" for word, p in others)
    print(f"{plots.printable(word)} {probability:.2f}" + (f"  (then {then})" if then else ""))
    print("  " + "".join(f"hop {hop}".ljust(9) for hop in range(1, len(answer.empty) + 1)) + "memory")
    rows = [*zip(answer.statements, answer.attention, strict=True), ("(empty slots)", answer.empty)]
    for statement, weights in rows:
        levels = [0 if weight < 0.05 else min(4, 1 + int(4 * weight)) for weight in weights]
        cells = [f"{w:.2f} {2 * shades[level]}  " for w, level in zip(weights, levels, strict=True)]
        print("  " + "".join(cells) + plots.printable(statement))
    for remark in answer.remarks():
        print(plots.printable(remark))


def draw(answer, path):
    """Draws the attention of an `Answer` into a PNG file."""
    title = f"{answer.question}  {answer.answer} ({answer.top[0][1]:.2f})"
    plots.attention(path, answer.statements, answer.attention, answer.empty, title)


def answer_all(answerer, questions, top, as_json, table):
    """Answers a list of `data_utils.Question`, prints as the flags of the same names say, returns the last `Answer`."""
    verdicts = []
    answers = answerer.answer([(q.statements, q.question) for q in questions], top)
    for question, answer in zip(questions, answers, strict=True):
        right = None if question.answer is None else answer.answer.lower() == question.answer
        verdicts += [] if right is None else [right]
        if as_json:
            print(json.dumps({"line": question.line, **answer.as_dict(), "truth": question.answer, "right": right}))
            continue
        verdict = "" if right is None else "right" if right else f"wrong, the answer is {question.answer}"
        line = f"line {question.line}: {question.question}" + (f"  {answer.answer}, {verdict}" if verdict else "")
        print(plots.printable(line))
        if right is None or table:
            print_answer(answer)
    if verdicts and not as_json:
        print(f"accuracy {np.mean(verdicts):.4f} ({sum(verdicts)} of {len(verdicts)} questions)")
    return answers[-1]


HELP = """\
A line that ends in ? is a question; any other is a statement that the memory keeps.
/story          show the statements
/undo           remove the newest statement
/clear          remove all statements
/load FILE [N]  take the story of question N (or 1) of a bAbI file, and ask that question
/help           show this
/quit           leave; so do Ctrl-D and Ctrl-C"""


class Dialogue:
    """A story that grows line by line, and commands; `picture` is the PNG file for each answer's attention, or None."""

    def __init__(self, answerer, top, picture=None):
        self.answerer, self.top, self.picture = answerer, top, picture
        self.statements = []

    def run(self):
        """Reads lines until the user leaves."""
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 (gives `input` editing and history where Python has it)
        print(self.answerer.introduction())
        try:
            while self.take(input("> ").strip()):
                pass
        except EOFError:
            print()

    def take(self, line):
        """Executes one line; returns whether the dialogue goes on."""
        command, _, argument = line.partition(" ")
        try:
            if command == "/load":
                self._load(argument.strip())
            elif command == "/clear":
                self.statements = []
            elif command == "/undo":
                removed = self.statements.pop() if self.statements else None
                print(f"Removed: {plots.printable(removed)}" if removed else "The story has no statements.")
            elif command == "/story":
                print("\n".join(map(plots.printable, self.statements)) or "The story has no statements.")
            elif command == "/help":
                print(HELP)
            elif line.startswith("/") and command != "/quit":
                raise InputError(f"{command}: no such command; /help lists them.")
            elif line.endswith("?"):
                self._ask(line)
            elif line and command != "/quit":
                if not self.answerer.reads_statements:
                    raise InputError("this model answers from a knowledge base: type a question that ends in ?")
                self.statements.append(checked(line))
                if looks_like_question(line):
                    print("This is read as a statement, because it does not end in '?'. /undo removes it.")
        except InputError as error:
            print(plots.printable(str(error)))
        return command != "/quit"

    def _load(self, argument):
        """Takes over the story of a file's question, and asks the question."""
        path, _, index = argument.rpartition(" ")
        if not (path and index.isdecimal()):
            path, index = argument, "1"
        if not path:
            raise InputError("/load: expected a file name, and perhaps the number of a question in it.")
        questions = read_questions(path)
        if not 1 <= int(index) <= len(questions):
            raise InputError(f"{path}: expected a question number from 1 to {len(questions)}, found {index}.")
        question = questions[int(index) - 1]
        self.statements = list(question.statements)
        print(plots.printable(question.question))
        answer = self._ask(question.question)
        if question.answer:
            verdict = "right" if answer.lower() == question.answer else "wrong"
            print(f"The file's answer: {plots.printable(question.answer)} ({verdict})")

    def _ask(self, question):
        """Prints the answer to a question about the statements, and returns the word."""
        (answer,) = self.answerer.answer([(self.statements, question)], self.top)
        print_answer(answer)
        if self.picture:
            draw(answer, self.picture)
            print(f"Attention drawn in {self.picture}")
        return answer.answer


# --- the command ----------------------------------------------------------------------------------------


def main(argv=None):
    """Asks as the flags say."""
    parser = Parser(__doc__.splitlines()[0])
    add = parser.add_argument
    add("--model", default=DEFAULT_MODEL, metavar="FILE", help="model to ask (default: pretrained/joint_10k.keras)")
    add("--story", metavar="FILE", help="answer every question of a file, bAbI or plain text (-: standard input)")
    add("--json", action="store_true", help="print one JSON object a question")
    add("--top", type=count, default=TOP, help=f"likeliest words to print (default: {TOP})")
    add("--table", action="store_true", help="print the attention also of questions whose answer is given")
    add("--save_attention", metavar="FILE.png", help="draw the attention of the last answer as a heat map")
    add("--data_dir", type=folder, help="folder of facts about films, or of examples for the page")
    add = parser.add_argument_group("page").add_argument
    add("--web", action="store_true", help="serve a page for the browser")
    add("--host", default="127.0.0.1", help="address to serve at (default: 127.0.0.1, for this machine only)")
    add("--port", type=number(int, 1, 65535), default=8000, help="port to serve at (default: 8000)")
    flags = parser.parse_args(argv)
    if flags.web:
        for name in ("story", "json", "table", "save_attention"):
            if getattr(flags, name):
                parser.error(f"--{name} has no effect with --web")
        try:
            import ask_web  # late, because it needs the packages of requirements-web.txt
        except ImportError as error:
            raise InputError("--web needs more packages: pip install -r requirements-web.txt.") from error
        answerer = load_answerer(flags.model, flags.data_dir)
        if answerer.config["entities"] is None:
            examples = ask_web.examples(flags.data_dir, answerer.config.get("tasks") or TASKS)
        else:
            examples = answerer.examples()
        ask_web.serve(answerer, examples, flags.top, flags.host, flags.port)
        return
    if flags.save_attention:
        plots.check_picture(flags.save_attention, "--save_attention")
    if not flags.story and not flags.json and sys.stdin.isatty():
        Dialogue(load_answerer(flags.model, flags.data_dir), flags.top, flags.save_attention).run()
        return
    questions = read_questions(flags.story or "-")
    last = answer_all(load_answerer(flags.model, flags.data_dir), questions, flags.top, flags.json, flags.table)
    if flags.save_attention:
        draw(last, flags.save_attention)


if __name__ == "__main__":
    run_command(main)

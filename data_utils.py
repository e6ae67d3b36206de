"""bAbI text -> examples -> key, value, query and answer tensors.

The text format (Weston et al., 2015, arXiv:1502.05698): a line is `ID text`; IDs count up from 1 in every
story; a question line is `ID question<TAB>answer<TAB>supporting IDs`. Everything here is plain Python and
NumPy: nothing imports TensorFlow, but for a download at the very end.
"""

import os
import re
import shutil
import socket
import sys
import tarfile
import tempfile
from dataclasses import dataclass, replace
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

import numpy as np

import babi_simulator

TASKS = len(babi_simulator.TASKS)
NIL = 0  # the id of padding
UNKNOWN = "<UNK>"  # the vocabulary's entry for all other words; no word is spelled so, as text is lower-cased
NEVER_SEEN = -1  # the label of an answer that the training text does not have: no prediction equals it


class InputError(ValueError):
    """Something a person gave (a file, a flag) cannot be used; the message is one sentence for that person."""


class Example(NamedTuple):
    """A question with what was told before it."""

    statements: tuple  # of token tuples, oldest first
    question: tuple  # tokens
    answer: str  # one label, even where it is written with commas
    story: int  # which story of its file it belongs to, counted from 0


# --- text -> examples -----------------------------------------------------------------------------------


def tokenize(sentence):
    """Splits a sentence into lower-case words and runs of punctuation.

    >>> tokenize("Where is the apple?")
    ['where', 'is', 'the', 'apple', '?']
    """
    return re.findall(r"\w+|[^\w\s]+", sentence.lower())


def sentence_tokens(sentence):
    tokens = tokenize(sentence)
    if tokens and tokens[-1] in (".", "?"):
        tokens.pop()
    return tuple(tokens)


def parse_stories(lines, only_supporting=False, source="bAbI text"):
    """Turns the lines of a bAbI file into examples, one for each question.

    Args:
        lines: iterable of str, with or without line ends (Unix or Windows).
        only_supporting: keep only the statements that support the answer, in the order the file names them.
        source: what to call the text in an error.

    Returns:
        A list of `Example`.

    Raises:
        InputError: a line breaks the format; the message says which and how.
    """
    examples = []
    tokens_of = {}  # sentences repeat a lot, so each is split once
    statements, statement_of_id = [], {}
    line_id, story = 0, -1

    def tokens(sentence):
        if sentence not in tokens_of:
            tokens_of[sentence] = sentence_tokens(sentence)
        return tokens_of[sentence]

    for number, line in enumerate(lines, start=1):

        def error(what, number=number):
            return InputError(f"{source}, line {number}: {what}.")

        head, _, text = line.strip(" \r\n").partition(" ")
        previous, line_id = line_id, _number(head)
        if line_id is None:
            raise error(f"expected a line number and a sentence, found {_quoted(line)}")
        if line_id == 1:
            statements, statement_of_id = [], {}
            story += 1
        elif line_id != previous + 1 or story < 0:
            expected = f"{previous + 1} or 1" if story >= 0 else "1"
            raise error(f"expected line number {expected}, found {line_id}")

        if "\t" not in text and not text.endswith("?"):
            statement = tokens(text)
            if not statement:
                raise error("expected a sentence after the line number, found none")
            statements.append(statement)
            statement_of_id[line_id] = statement
            continue

        fields = text.split("\t")
        if len(fields) != 3:
            raise error(
                "expected question, answer and supporting line numbers separated by tabs, "
                f"found {len(fields)} field{'s' if len(fields) > 1 else ''}"
            )
        question, answer = tokens(fields[0]), fields[1].strip().lower()
        if not question or not answer:
            raise error(f"expected {'an answer' if question else 'a question'}, found none")
        supporting = []
        for support in fields[2].split():
            statement = statement_of_id.get(_number(support))
            if statement is None:
                raise error(f"supporting line {_quoted(support)} is no statement before it in the story")
            supporting.append(statement)
        visible = supporting if only_supporting else statements
        examples.append(Example(tuple(visible), question, answer, story))
    return examples


def _number(text):
    """The line number that text spells, or None."""
    return int(text) if re.fullmatch("[0-9]{1,9}", text) else None


def _quoted(text, longest=40):
    text = text.strip()
    return repr(text if len(text) <= longest else text[:longest] + "...")


def utf8_lines(content, source):
    """The lines of a text file.

    Args:
        content: its bytes; a byte order mark is no part of the text.
        source: what errors call it.

    Raises:
        InputError: it is not UTF-8.
    """
    try:
        return content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1  # its object is the content after a byte order mark
        raise InputError(f"{source}, line {line}: expected UTF-8 text, found other bytes.") from error


def get_stories(path, only_supporting=False):
    """Reads the examples of one bAbI file.

    Args:
        path: the file's name.
        only_supporting: see `parse_stories`.

    Returns:
        A list of `Example`, at least one.

    Raises:
        InputError: the file cannot be read, is not UTF-8, breaks the format or holds no question.
    """
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}.") from error
    lines = utf8_lines(content, path)
    while lines and not lines[-1].strip():
        lines.pop()
    examples = parse_stories(lines, only_supporting, source=path)
    if not examples:
        raise InputError(f"{path}: expected at least one question, found none.")
    return examples


def task_file(data_dir, task_id, split):
    """The path of `qa<N>_<name>_<split>.txt` or `qa<N>_<split>.txt`, or None."""
    try:
        names = sorted(os.listdir(data_dir))
    except OSError as error:
        raise InputError(
            f"{data_dir}: expected a folder of bAbI files (qa1_..._train.txt, qa1_..._test.txt): {error.strerror}."
        ) from error
    pattern = re.compile(rf"qa{task_id}_(.*_)?{split}\.txt")
    found = [name for name in names if pattern.fullmatch(name)]
    if len(found) > 1:
        raise InputError(f"{data_dir}: task {task_id} has more than one {split} file: {', '.join(found)}.")
    return os.path.join(data_dir, found[0]) if found else None


def _required_task_file(data_dir, task_id, split):
    path = task_file(data_dir, task_id, split)
    if path is None:
        raise InputError(
            f"{data_dir}: task {task_id} has no {split} file "
            f"(expected qa{task_id}_{split}.txt or qa{task_id}_<name>_{split}.txt)."
        )
    return path


def load_task(data_dir, task_id, only_supporting=False):
    """Reads the training and the test examples of one task.

    Args:
        data_dir: a folder of bAbI files.
        task_id: 1 to 20.
        only_supporting: see `parse_stories`.

    Returns:
        (training examples, test examples), two lists of `Example`.

    Raises:
        InputError: the folder or one of the two files is missing or cannot be used.
    """
    paths = [_required_task_file(data_dir, task_id, split) for split in ("train", "test")]
    return tuple(get_stories(path, only_supporting) for path in paths)


def load_validation(data_dir, task_id, only_supporting=False):
    """The examples of a task's own validation file (`qa<N>_..._valid.txt`), or None where it has none."""
    path = task_file(data_dir, task_id, "valid")
    return get_stories(path, only_supporting) if path else None


def split_by_story(examples, fraction=0.1, random_state=None):
    """Parts examples into training and validation so that no story stands on both sides.

    Args:
        examples: list of `Example` of one file.
        fraction: share of the stories that go to validation.
        random_state: seed, or None for another split each time.

    Returns:
        (training examples, validation examples), each in the order of the file.

    Raises:
        InputError: there are not two stories to part.
    """
    from sklearn.model_selection import GroupShuffleSplit

    stories = [example.story for example in examples]
    if len(set(stories)) < 2:
        raise InputError("validation is split off by story, which needs at least two training stories.")
    splitter = GroupShuffleSplit(n_splits=1, test_size=fraction, random_state=random_state)
    training, validation = next(splitter.split(examples, groups=stories))
    return [examples[i] for i in sorted(training)], [examples[i] for i in sorted(validation)]


# --- examples -> tensors --------------------------------------------------------------------------------


def build_vocabulary(examples):
    """Numbers the words and answers of training examples.

    Args:
        examples: iterable of `Example`.

    Returns:
        A dict from word to id: 1, 2, ... in alphabetical order, then `UNKNOWN`. Id 0 is nil, so a model
        needs `len(vocabulary) + 1` ids.
    """
    words, sentences = set(), set()
    for statements, question, answer, *_ in examples:
        sentences.update(statements)
        sentences.add(question)
        words.add(answer)
    for sentence in sentences:
        words.update(sentence)
    vocabulary = {word: number for number, word in enumerate(sorted(words), start=1)}
    vocabulary[UNKNOWN] = len(vocabulary) + 1
    return vocabulary


class MemoryTensors(NamedTuple):
    """What `vectorize_data` gives for N examples; all int32."""

    memory_key: np.ndarray  # (N, memory_size, sentence_size)
    memory_value: np.ndarray  # (N, memory_size, sentence_size)
    query: np.ndarray  # (N, sentence_size)
    answer: np.ndarray  # (N,) label id, NEVER_SEEN for a label outside the vocabulary


@dataclass(frozen=True)
class EncodedExamples:
    """N examples as a table of distinct statements plus row numbers.

    A corpus repeats its statements (joint 1k has 3,182 distinct ones in 40,000 examples), so this form
    grows with the text while the padded tensors grow with examples x slots x words.

    Attributes:
        statements: (S, sentence_size) int32, the distinct statements; row 0 is the empty statement.
        slots: (N, memory_size) int32, the row of each memory slot, newest statement first, 0 = empty.
        query: (N, sentence_size) int32.
        answer: (N,) int32 label id, or NEVER_SEEN.
        task: (N,) int32 task number.
    """

    statements: np.ndarray
    slots: np.ndarray
    query: np.ndarray
    answer: np.ndarray
    task: np.ndarray

    def __len__(self):
        return len(self.answer)

    def take(self, chosen):
        """The examples with the given numbers, in that order."""
        return replace(
            self,
            slots=self.slots[chosen],
            query=self.query[chosen],
            answer=self.answer[chosen],
            task=self.task[chosen],
        )

    def compact(self, some):
        """The inputs of the network for a slice of the examples, each of their distinct statements once.

        Returns:
            A dict of int32 arrays: `statements` (U, sentence_size), row 0 the empty statement, `key_slots`
            (B, memory_size) with the rows of the slots, and `query` (B, sentence_size).
        """
        rows = self.slots[some]
        distinct, place = np.unique(np.append(0, rows), return_inverse=True)  # the empty statement first
        return {
            "statements": self.statements[distinct],
            "key_slots": place[1:].reshape(rows.shape).astype(np.int32),
            "query": self.query[some],
        }

    def padded(self):
        """The same examples as `MemoryTensors`; keys and values are the statements."""
        memory = self.statements[self.slots]
        return MemoryTensors(memory, memory, self.query, self.answer)


def encode(examples, vocabulary, sentence_size, memory_size, task=0):
    """Turns examples into ids in the compact form.

    Args:
        examples: list of `Example`, or of (statements, question, answer).
        vocabulary: from `build_vocabulary`.
        sentence_size: words beyond it are dropped.
        memory_size: older statements beyond it are dropped.
        task: the task number of all examples, or one of each.

    Returns:
        `EncodedExamples`.
    """
    row_of = {(): 0}
    slots = np.zeros((len(examples), memory_size), np.int32)
    for i, example in enumerate(examples):
        recent = [row_of.setdefault(s, len(row_of)) for s in map(tuple, reversed(example[0][-memory_size:]))]
        slots[i, : len(recent)] = recent
    return EncodedExamples(
        statements=_sentence_ids(row_of, vocabulary, sentence_size),
        slots=slots,
        query=_sentence_ids([example[1] for example in examples], vocabulary, sentence_size),
        answer=np.array([vocabulary.get(example[2], NEVER_SEEN) for example in examples], np.int32),
        task=np.broadcast_to(np.int32(task), len(examples)),
    )


def _sentence_ids(sentences, vocabulary, sentence_size):
    """(number of sentences, sentence_size) int32, padded with NIL."""
    unknown = vocabulary[UNKNOWN]
    ids = np.full((len(sentences), sentence_size), NIL, np.int32)
    for row, sentence in zip(ids, sentences, strict=True):
        numbers = [vocabulary.get(word, unknown) for word in sentence[:sentence_size]]
        row[: len(numbers)] = numbers
    return ids


def vectorize_data(examples, vocabulary, sentence_size, memory_size):
    """Turns examples into padded tensors: a view, for tests and people, of what `encode` keeps.

    Args and the meaning of each tensor: see `encode` and `MemoryTensors`.
    """
    return encode(examples, vocabulary, sentence_size, memory_size).padded()


def longest(examples):
    """(words of the longest sentence, statements of the longest memory) in examples; at least (1, 1)."""
    sentences = {s for example in examples for s in (*example.statements, example.question)}
    return max(map(len, sentences), default=1), max(1, max(len(e.statements) for e in examples))


# --- where the corpus comes from ------------------------------------------------------------------------

DATA = "data"  # like every path here, seen from the current folder
TREE = "tasks_1-20_v1-2"  # the folder of the published corpus, in DATA and in every archive
PUBLISHED = os.path.join(DATA, TREE, "en", "")
SIMULATED = os.path.join(DATA, "simulated", "en", "")
SIMULATED_QUESTIONS = 1000  # of each task, for training and again for the test, as in the published corpus
SOURCES = (  # (address, SHA-256) of the archives; the second has the same texts
    (
        "http://www.thespermwhale.com/jaseweston/babi/tasks_1-20_v1-2.tar.gz",
        "0364ebde659f14d11bc21744516c5ec49d3d06cb692733f66680771244998898",
    ),
    (
        "http://parl.ai/downloads/babi/babi.tar.gz",
        "f7f0bee187efca0d81c3daac1b162cda4eb7f9505dee5ad6846eabbed3dbf92e",
    ),
)
SILENCE = 5  # seconds without a byte after which a host is given up


def find_corpus(data_dir=None):
    """The folder of bAbI files to read: the one given, or else the published corpus, or else a simulated one.

    Without a folder given, `PUBLISHED` is used where it is there. Where it is not, the official archive is
    fetched, checked and unpacked; no file of a damaged download is kept. If no host in `SOURCES` gives it,
    `SIMULATED` is used, and made if need be; the next call tries the hosts again. What happens is printed. Any
    number of processes may do all this at once: the first to finish puts its folder in place, the others use it.

    A host is given up after `SILENCE` seconds without a byte, at each of its network addresses. Nothing limits
    the whole time of a download that goes on, however slowly, or of the look-up of a host's name.

    Args:
        data_dir: a folder, which is returned as it is, there or not; None to find one.

    Returns:
        (folder, whether its stories are simulated).

    Raises:
        InputError: a folder cannot be written, the simulated one is incomplete, or an archive is no archive or
            has a member that is neither file nor folder or would land outside.
    """
    if data_dir is not None:
        return data_dir, is_simulated(data_dir)
    try:
        if not _is_there(PUBLISHED) and not _fetch_corpus():
            if babi_simulator.write_corpus(
                SIMULATED, list(babi_simulator.TASKS), SIMULATED_QUESTIONS, SIMULATED_QUESTIONS, seed=0
            ):
                print(f"{SIMULATED}: made, with simulated stories of all {TASKS} tasks.", flush=True)
            return SIMULATED, True
    except OSError as error:
        what = f"{error.filename or DATA}: cannot be written: {error.strerror}" if error.strerror else str(error)
        raise InputError(f"{what.rstrip('.')} (--data_dir names a folder of bAbI files to read instead).") from error
    return PUBLISHED, is_simulated(PUBLISHED)


def is_simulated(folder):
    """Whether a folder, or one it is in, has the simulator's marker; what is around the published tree is no matter."""
    folder = Path(os.path.realpath(folder))
    for place in (folder, *folder.parents):
        if os.path.exists(place / babi_simulator.MARKER):
            return True
        if place.name == TREE:
            break
    return False


def _is_there(folder):
    """Whether there is anything at a folder's place but an empty folder; reading it may still fail, and say why."""
    try:
        return bool(os.listdir(folder))
    except FileNotFoundError:
        return False
    except OSError:
        return True


def _fetch_corpus():
    """Puts the published corpus in place from the first host that has it; False if none has."""
    print(f"{PUBLISHED} is not there: fetching the bAbI tasks, 16 MB.", flush=True)
    os.makedirs(DATA, exist_ok=True)
    for url, sha256 in SOURCES:
        with tempfile.TemporaryDirectory(prefix=".fetching-", dir=DATA) as workshop:
            archive = _download(url, sha256, workshop)
            tree = archive and _unpack(archive, os.path.join(workshop, "unpacked"), url)
            if tree:
                _put_in_place(tree)
        if _is_there(PUBLISHED):  # perhaps from another process
            return True
    return False


def _download(url, sha256, folder):
    """Fetches a file into a folder of its own; returns its path if it is complete and right, else None."""
    import keras  # here, as it brings TensorFlow with it, which few need this module for
    from six.moves.urllib.error import HTTPError, URLError

    timeout, bar = socket.getdefaulttimeout(), sys.stdout.isatty()
    logging = keras.config.is_interactive_logging_enabled()
    socket.setdefaulttimeout(SILENCE)
    if not bar:
        keras.config.disable_interactive_logging()  # in a file, a progress bar is hundreds of lines
    try:
        return keras.utils.get_file(
            "archive",
            url,
            file_hash=sha256,
            hash_algorithm="sha256",
            cache_dir=os.path.abspath(folder),
            cache_subdir="",
        )
    except Exception as error:
        # A URLError arrives as the context of a bare Exception, a wrong checksum as a ValueError, all else as it is.
        cause = error.__context__ if isinstance(error.__context__, URLError) else error
        if not isinstance(cause, (OSError, HTTPException, ValueError)):
            raise
        if isinstance(cause, HTTPError):
            cause.close()
            reason = str(cause)
        else:
            reason = str(getattr(cause, "reason", cause)) or type(cause).__name__
        start = "\r\x1b[K" if bar else ""  # over what there is of the progress bar
        print(f"{start}{url}: not fetched: {' '.join(reason.split()).rstrip('.')}.", flush=True)
        return None
    finally:
        socket.setdefaulttimeout(timeout)
        if logging:
            keras.config.enable_interactive_logging()


def _unpack(archive, folder, source):
    """Unpacks an archive of nothing but files and folders; returns the `TREE` in it, None if none has `en`."""
    try:
        with tarfile.open(archive) as tar:
            members = tar.getmembers()
            for member in members:
                inside = not os.path.isabs(member.name) and ".." not in member.name.split("/")
                if not inside or not (member.isreg() or member.isdir()):
                    what = "a link or device" if inside else "outside the archive's folder"
                    raise InputError(f"{source}: not unpacked: its member {_quoted(member.name)} is {what}.")
            # By hand, as `extractall` takes over owners and permissions, and is safe in recent Pythons only.
            for member in members:
                path = os.path.join(folder, member.name)
                os.makedirs(path if member.isdir() else os.path.dirname(path), exist_ok=True)
                if member.isreg():
                    with tar.extractfile(member) as packed, open(path, "wb") as file:
                        shutil.copyfileobj(packed, file)
    except (tarfile.TarError, EOFError) as error:
        raise InputError(f"{source}: not unpacked: expected a complete tar archive, found another file.") from error
    for tree in sorted(Path(folder).rglob(TREE)):
        if (tree / "en").is_dir():
            return tree
    print(f"{source}: not used: it has no folder {TREE}/en.", flush=True)
    return None


def _put_in_place(tree):
    """Moves an unpacked tree to its place, or its `en` alone beside what is there; keeps an `en` that is there."""
    for made, place in ((tree, os.path.join(DATA, TREE)), (tree / "en", os.path.join(DATA, TREE, "en"))):
        try:
            os.rename(made, place)
        except OSError as error:
            failure = error
        if _is_there(PUBLISHED):
            return
    raise failure

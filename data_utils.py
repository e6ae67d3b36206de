"""bAbI text -> questions, split into training and validation -> vocabulary -> key, value, query and answer tensors.

The text format (Weston et al., 2015, arXiv:1502.05698): a line is `ID text`; IDs count up from 1 in every story; a
question line is `ID question<TAB>answer<TAB>supporting IDs`. `ask.py` also reads plain text, without IDs or answers.
"""

import codecs
import functools
import hashlib
import json
import math
import os
import re
from dataclasses import dataclass
from reprlib import repr as quoted  # shortened where it is long
from typing import NamedTuple

import numpy as np

from flags import InputError

TREE = "tasks_1-20_v1-2"  # the folder of the published corpus; its English files are in `en` and `en-10k`
ROW_SIZE = 8
MAX_WORDS = 1000  # of a sentence; every sentence is padded to the longest
LINE_ID = re.compile("([0-9]{1,9})[ \t]")
UNKNOWN = "<UNK>"  # the vocabulary's entry for all other words; no token equals it, as tokens are lower-case
NEVER_SEEN = -1  # the label of an answer that is not in the training text; no prediction equals it


# --- text -> questions ------------------------------------------------------------------------------------


class Question(NamedTuple):
    """An example: a question of a text, with the part of its story that comes before it."""

    statements: tuple  # of str, as written, oldest first
    question: str  # as written
    answer: str | None  # one lower-case label, even when it is written with commas
    supporting: tuple  # of int, indexes into statements, in the order of the text
    story: int  # number of the story in its text, counted from 0
    line: int  # number of the line in its text, counted from 1

    def only_supporting(self):
        """The question with only the statements that support its answer, in the order of the text."""
        return self._replace(statements=tuple(self.statements[i] for i in self.supporting))


@functools.lru_cache(maxsize=50_000)  # sentences repeat a lot
def sentence_tokens(sentence):
    """A sentence as a tuple of lower-case words and runs of punctuation, without a final `.` or `?`."""
    tokens = re.findall(r"\w+|[^\w\s]+", sentence.lower())
    return tuple(tokens[:-1] if tokens[-1:] in (["."], ["?"]) else tokens)


def parse_text(lines, source="bAbI text", plain=False):
    """Reads the questions of a text in the bAbI format or in plain sentences.

    A line that has a tab or ends in `?` is a question, any other line a statement. Empty lines at the end are ignored.

    Args:
        lines: iterable of str, with or without line ends.
        source: name of the text in errors.
        plain: whether answers and supporting IDs may be missing. The sentences may then also stand without IDs, where
            an empty line starts a new story and supporting IDs are ignored.

    Returns:
        A list of `Question`, at least one.

    Raises:
        InputError: a line is malformed, or the text has no questions.
    """

    def error(problem):
        return InputError(f"{source}, line {number}: {problem}.")

    lines = [line.strip(" \r\n") for line in lines]
    while lines and not lines[-1].strip():
        lines.pop()
    first = next((line for line in lines if line.strip()), "")
    numbered = not plain or LINE_ID.match(first)
    story, line_id = -1 if numbered else 0, 0
    statements, index_of_id = [], {}  # of the story so far
    questions = []
    for number, line in enumerate(lines, start=1):
        match = LINE_ID.match(line)
        if numbered:
            if not match:
                raise error(f"expected a line number and a sentence, found {quoted(line)}")
            previous_id, line_id = line_id, int(match[1])
            if line_id not in (1, previous_id + 1):
                expected = "1" if story < 0 else f"{previous_id + 1} or 1"
                raise error(f"expected line number {expected}, found {line_id}")
            line = line[match.end() :]
        elif match:
            raise error(f"expected a sentence without a number, as in the first line, found {quoted(line)}")
        if line_id == 1 or not (numbered or line.strip()):
            statements, index_of_id = [], {}
            story += 1
            if not numbered:
                continue

        sentence, *fields = line.split("\t")
        sentence = sentence.strip()
        is_question = fields or sentence.endswith("?")
        words = len(sentence_tokens(sentence))
        if words == 0:
            kind = "question" if is_question else "sentence"
            raise error(f"expected a {kind}, found {quoted(sentence)}, which has no word")
        if words > MAX_WORDS:
            raise error(f"expected a sentence of at most {MAX_WORDS:,} words, found one of {words:,}")
        if not is_question:
            index_of_id[str(line_id)] = len(statements)
            statements.append(sentence)
            continue

        if len(fields) > 2 or (len(fields) < 2 and not plain):
            raise error(
                "expected question, answer and supporting line numbers separated by tabs, "
                f"found {len(fields) + 1} field{'s' if fields else ''}"
            )
        answer = fields[0].strip().lower() if fields else ""
        if not answer and not plain:
            raise error("expected an answer, found none")
        supporting = []
        for support in fields[1].split() if numbered and len(fields) == 2 else ():
            if support not in index_of_id:
                raise error(f"supporting line {quoted(support)} is not an earlier statement of its story")
            supporting.append(index_of_id[support])
        questions.append(Question(tuple(statements), sentence, answer or None, tuple(supporting), story, number))
    if not questions:
        raise InputError(f"{source}: expected at least one question (a line that ends in ?), found none.")
    return questions


# --- files ------------------------------------------------------------------------------------------------


def utf8_lines(content, source):
    r"""The lines of the bytes of a UTF-8 file, ended by `\n`, `\r\n` or `\r`; `source` names it in the InputError."""
    content = content.removeprefix(codecs.BOM_UTF8).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    try:
        return content.decode().split("\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{source}, line {line}: expected UTF-8 text, found other bytes.") from error


def read_lines(path):
    """The lines of a UTF-8 file; InputError if it cannot be read or is not UTF-8."""
    try:
        with open(path, "rb") as file:
            return utf8_lines(file.read(), path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}.") from error


def task_file(data_dir, task_id, split, required=False):
    """The path of `qa<N>_<name>_<split>.txt` or `qa<N>_<split>.txt`; None if it is missing and not required.

    Raises:
        InputError: `data_dir` is not a folder, it has several such files, or the required one is missing.
    """
    try:
        names = sorted(os.listdir(data_dir))
    except OSError as error:
        raise InputError(
            f"{data_dir}: expected a folder of bAbI files (qa1_..._train.txt, qa1_..._test.txt): {error.strerror}."
        ) from error
    pattern = re.compile(rf"qa{task_id}_(.*_)?{split}\.txt")
    matches = [name for name in names if pattern.fullmatch(name)]
    if len(matches) > 1:
        raise InputError(f"{data_dir}: task {task_id} has more than one {split} file: {', '.join(matches)}.")
    if matches:
        return os.path.join(data_dir, matches[0])
    if not required:
        return None
    hint = ""
    for folder in ("en", f"{TREE}/en", "../en"):  # the data folder is a parent of `en`, or is `en-10k`
        folder = os.path.normpath(os.path.join(data_dir, folder))
        if not hint and os.path.isdir(folder) and task_file(folder, task_id, split):
            hint = f"; {folder} has one: --data_dir {folder}"
    raise InputError(
        f"{data_dir}: task {task_id} has no {split} file "
        f"(expected qa{task_id}_{split}.txt or qa{task_id}_<name>_{split}.txt{hint})."
    )


def get_stories(path, only_supporting=False):
    """The questions of one bAbI file, with all statements before them or only the supporting ones; see `parse_text`."""
    questions = parse_text(read_lines(path), path)
    return [question.only_supporting() for question in questions] if only_supporting else questions


def load_task(data_dir, task_id, only_supporting=False):
    """(training, test) questions of a task; see `task_file` and `get_stories`."""
    paths = [task_file(data_dir, task_id, split, required=True) for split in ("train", "test")]
    return tuple(get_stories(path, only_supporting) for path in paths)


def split_by_story(questions, random_state=None, source="training"):
    """Splits questions of one file into (training, validation), a tenth of the stories, both in the order of the file.

    `random_state` is a seed; None splits differently each time. `source` names the questions in the InputError that
    says that there are fewer than two stories.
    """
    stories = sorted({question.story for question in questions})
    if len(stories) < 2:
        raise InputError(f"{source}: validation is split off by story, which needs at least two training stories.")
    # The same split as scikit-learn's GroupShuffleSplit, whose import takes longer than reading all twenty tasks.
    shuffled = np.random.RandomState(random_state).permutation(len(stories))
    chosen = {stories[i] for i in shuffled[: math.ceil(0.1 * len(stories))]}
    validation = [question for question in questions if question.story in chosen]
    return [question for question in questions if question.story not in chosen], validation


# --- questions -> tensors ---------------------------------------------------------------------------------


def distinct_sentences(questions):
    """The token tuples of all statements and questions, each once."""
    texts = {text for question in questions for text in (*question.statements, question.question)}
    return set(map(sentence_tokens, texts))


def build_vocabulary(questions):
    """Numbers the words and answers of a list of `Question`.

    Returns:
        A dict from word to id: 1, 2, ... in alphabetical order, then `UNKNOWN`. Id 0 is nil, so a model needs
        `len(vocabulary) + 1` ids.
    """
    words = {question.answer for question in questions}.union(*distinct_sentences(questions))
    return {word: number for number, word in enumerate([*sorted(words), UNKNOWN], start=1)}


@dataclass(frozen=True)
class EncodedExamples:
    """N examples as a table of distinct statements plus row numbers.

    Statements repeat a lot (joint 1k has 3,182 distinct ones in 40,000 examples), so this form is small.

    Attributes:
        statements: (S, sentence_size) int32, the distinct statements; row 0 is the empty statement.
        slots: (N, memory_size) int32, the row of each memory slot, newest statement first, 0 = empty.
        query: (N, sentence_size) int32.
        answer: (N,) int32 label id, or NEVER_SEEN.
        task: (N,) task numbers (int32) or names.
        value_statements: (S', J') int32, where values are not the keys: a table like `statements`; else None.
        value_slots: (N, memory_size) int32, the row of each slot's value in it.
        answers: (N, A) int32, where a question has several right answers: all of them, padded with NEVER_SEEN; else
            None.
        entities: the number of entities, if these are the answers: token ids 1 to `entities`.
    """

    statements: np.ndarray
    slots: np.ndarray
    query: np.ndarray
    answer: np.ndarray
    task: np.ndarray
    value_statements: np.ndarray = None
    value_slots: np.ndarray = None
    answers: np.ndarray = None
    entities: int = 0

    def __len__(self):
        return len(self.answer)

    def arrays(self):
        """The arrays that are not None, a dict by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}

    def right_answers(self):
        """The right answers to each question (N, A), padded with NEVER_SEEN."""
        return self.answer[:, np.newaxis] if self.answers is None else self.answers

    def compact(self, selection):
        """The inputs of the network for B examples, a slice or an array of indexes, with each statement once.

        Returns:
            A dict of int32 arrays, see `MemN2N_KV.call`: `statements` (U, sentence_size), `key_slots` (R, ROW_SIZE),
            `occupied_rows` (R,) and `query` (B, sentence_size); where values are not the keys, also
            `value_statements` and `value_slots`.
        """
        rows = memory_rows(self.slots[selection])
        occupied = np.flatnonzero(rows.any(axis=1)).astype(np.int32)
        statements, key_slots = _used_rows(self.statements, rows[occupied])
        query = self.query[selection]
        inputs = {"statements": statements, "key_slots": key_slots, "occupied_rows": occupied, "query": query}
        if self.value_slots is not None:
            value_rows = memory_rows(self.value_slots[selection])[occupied]
            values, value_slots = _used_rows(self.value_statements, value_rows)
            inputs |= {"value_statements": values, "value_slots": value_slots}
        return inputs


def memory_rows(slots):
    """Memories (B, M) cut into rows of slots: (B * rows of a memory, ROW_SIZE), the last padded with 0."""
    return np.pad(slots, [(0, 0), (0, -slots.shape[1] % ROW_SIZE)]).reshape(-1, ROW_SIZE)


def _used_rows(table, rows):
    """The rows of a table that occur in `rows`, after row 0, and `rows` as numbers of rows in that smaller table."""
    distinct, new_rows = np.unique(np.append(0, rows), return_inverse=True)
    return table[distinct], new_rows[1:].reshape(rows.shape).astype(np.int32)


def encode(questions, vocabulary, sentence_size, memory_size, task=0):
    """Turns questions into ids in the compact form.

    Args:
        questions: sequence of `Question`, or of (statements, question, answer).
        vocabulary: from `build_vocabulary`.
        sentence_size: tokens per padded sentence; tokens beyond it are dropped.
        memory_size: slots per example; older statements beyond it are dropped.
        task: the task number of all questions, or one number per question.

    Returns:
        `EncodedExamples`.
    """
    rows = {(): 0}

    @functools.cache
    def row_of(statement):
        return rows.setdefault(sentence_tokens(statement), len(rows))

    slots = np.zeros((len(questions), memory_size), np.int32)
    for occupied, (statements, *_) in zip(slots, questions, strict=True):
        newest = statements[: -memory_size - 1 : -1]
        occupied[: len(newest)] = [*map(row_of, newest)]
    queries = [sentence_tokens(question) for _, question, *_ in questions]
    return EncodedExamples(
        statements=_sentence_ids(rows, vocabulary, sentence_size),
        slots=slots,
        query=_sentence_ids(queries, vocabulary, sentence_size),
        answer=np.array([vocabulary.get(answer, NEVER_SEEN) for _, _, answer, *_ in questions], np.int32),
        task=np.broadcast_to(np.int32(task), len(questions)),
    )


def _sentence_ids(sentences, vocabulary, sentence_size):
    """(number of sentences, sentence_size) int32, padded with 0."""
    unknown = vocabulary[UNKNOWN]
    ids = np.zeros((len(sentences), sentence_size), np.int32)
    for row, sentence in zip(ids, sentences, strict=True):
        numbers = [vocabulary.get(word, unknown) for word in sentence[:sentence_size]]
        row[: len(numbers)] = numbers
    return ids


def longest(questions):
    """(tokens of the longest sentence, statements of the longest memory) of questions, each at least 1."""
    return max(map(len, distinct_sentences(questions))), max(1, max(len(q.statements) for q in questions))


# --- the corpus of one model ------------------------------------------------------------------------------


class Corpus(NamedTuple):
    """The examples of one model."""

    tasks: list  # of task numbers, or of names, of which the last is "all"
    vocabulary: dict
    sentence_size: int
    memory_size: int
    training: EncodedExamples
    validation: EncodedExamples
    testing: EncodedExamples
    entities: list = ()  # names with token ids 1, 2, ..., where the answers are entities


def load_corpus(data_dir, tasks, memory_size, only_supporting=False, time_noise=0.0, random_state=None):
    """Reads the tasks that share one model.

    A task without a file for validation (`qa<N>_..._valid.txt`) is split. The vocabulary is that of the training
    questions that remain; sentence and memory sizes are those of training and validation. Nothing is taken from the
    test files.

    Args:
        data_dir: a folder of bAbI files.
        tasks: task numbers.
        memory_size: slots per example at most.
        only_supporting: see `get_stories`.
        time_noise: share of empty slots that training inserts; the memory is larger to make room for them.
        random_state: seed of the split into training and validation.

    Returns:
        `Corpus`.

    Raises:
        InputError: a file is missing or cannot be used.
    """
    splits, task_of = ([], [], []), ([], [], [])  # training, validation, testing: examples, and the task of each
    for task in tasks:
        training, testing = load_task(data_dir, task, only_supporting)
        validation_file = task_file(data_dir, task, "valid")
        if validation_file:
            validation = get_stories(validation_file, only_supporting)
        else:
            training, validation = split_by_story(training, random_state, f"{data_dir}: task {task}")
        for split, numbers, examples in zip(splits, task_of, (training, validation, testing), strict=True):
            split += examples
            numbers += [task] * len(examples)

    vocabulary = build_vocabulary(splits[0])
    sentence_size, statements = longest(splits[0] + splits[1])
    with_noise = math.ceil((1 + 2 * time_noise) * statements) + (4 if time_noise else 0)
    memory_size = min(memory_size, with_noise)
    encoded = [
        encode(split, vocabulary, sentence_size, memory_size, numbers)
        for split, numbers in zip(splits, task_of, strict=True)
    ]
    return Corpus(list(tasks), vocabulary, sentence_size, memory_size, *encoded)


def digest(corpus):
    """A SHA-256 digest of all that a model sees of its `Corpus`."""
    about = [list(corpus.tasks), corpus.vocabulary, corpus.memory_size, list(corpus.entities)]
    sha256 = hashlib.sha256(json.dumps(about).encode())
    for examples in (corpus.training, corpus.validation, corpus.testing):
        for array in examples.arrays().values():
            sha256.update(str((array.shape, array.dtype)).encode())
            sha256.update(np.ascontiguousarray(array).data)
    return sha256.hexdigest()

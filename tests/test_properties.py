"""Properties that hold for every input: Hypothesis generates the inputs and shrinks one that breaks a rule.

By default each property is checked on about a hundred cases, always the same ones. With PROPERTY_CASES, it is checked
on that many, different ones each time:

    PROPERTY_CASES=10000 python -m pytest tests/test_properties.py

The rules of the parser are in `parser_rules.py`, which `tools/fuzz_parser.py` also uses.
"""

import itertools
import os
import re
import tempfile
from datetime import timedelta
from pathlib import Path

import parser_rules
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import babi_simulator
import data_utils
import files
from data_utils import NEVER_SEEN, UNKNOWN, Question, sentence_tokens
from flags import TASKS, InputError

CASES = os.environ.get("PROPERTY_CASES")
settings.register_profile(
    "properties",
    max_examples=int(CASES or 50),
    derandomize=not CASES,
    database=None,
    deadline=timedelta(seconds=20),  # far more than any case takes on a busy machine, unless it hangs
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    print_blob=True,
)
# A decorator, as a profile loaded here would apply to the other test files too.
cases = settings.get_profile("properties")


@pytest.fixture(scope="module")
def folder():
    """A folder in memory if possible: on a busy disk, a thousand small files take ten times as long."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as name:
        yield Path(name)


# --- inputs ---------------------------------------------------------------------------------------------


def written_texts():
    """Real texts to change: the small corpus, and two simulated stories of each task."""
    corpus = Path(__file__).resolve().parent / "corpus"
    texts = [file.read_text(encoding="utf-8") for file in sorted(corpus.iterdir())]
    for task_id in TASKS:
        stories = itertools.islice(babi_simulator.stories(task_id, questions=10, seed=0), 2)
        texts.append("".join("\n".join(story) + "\n" for story in stories))
    return [text.encode() for text in texts]


TEXTS = written_texts()
PIECES = [
    *(b"\t", b"\t\t", b" ", b"\n", b"\n\n", b"\r", b"\r\n", b"\0", b"?", b".", b"\xef\xbb\xbf", b"\xff"),
    *(b"\xed\xa0\x80", b"\xe2\x82", b"\xc0\x80", "\u0661".encode(), "\uff11".encode(), "\u00b2".encode()),
    *("\u2028".encode(), "\x85".encode(), b"\x1c", "\u0130".encode(), "\U0001f600".encode()),
    *(b"0", b"1", b"01", b"-1", b"999999999", b"1" + b"0" * 5000, b"1 A b.\n", b"2 Who?\tb\t1\n", b"<UNK>"),
]


@st.composite
def changed_texts(draw):
    """Real stories after one to five changes of lines, numbers, tabs, bytes, line ends or length."""
    content = draw(st.sampled_from(TEXTS))
    for _ in range(draw(st.integers(1, 5))):
        lines = content.split(b"\n")
        line = draw(st.integers(0, len(lines) - 1))
        place = draw(st.integers(0, len(content)))
        number, blank, text = lines[line].partition(b" ")
        change = draw(st.sampled_from(CHANGES))
        if change == "delete lines":
            del lines[line : line + draw(st.integers(1, 3))]
        elif change == "swap lines":
            other = draw(st.integers(0, len(lines) - 1))
            lines[line], lines[other] = lines[other], lines[line]
        elif change == "repeat a line":
            lines.insert(line, lines[line])
        elif change == "another number":
            numbers = (b"0", b"1", b"01", b"1e3", b"-1", b"9" * 9, b"9" * 5000, "\u0662".encode(), b"%d" % (line + 1))
            lines[line] = draw(st.sampled_from(numbers)) + blank + text
        elif change == "other support":
            support = b" ".join(b"%d" % n for n in draw(st.lists(st.integers(0, 20), max_size=4)))
            lines[line] = lines[line].rpartition(b"\t")[0] + b"\t" + support
        elif change == "other tabs":
            lines[line] = lines[line].replace(b"\t", draw(st.sampled_from((b"", b" ", b"\t\t", b"\\t", b"\t\n"))))
        elif change == "long line":
            lines[line] += draw(st.sampled_from((b" word", b"x", b"\t1", b" 1", b"?", b"\0"))) * 30_000
        elif change == "Windows":
            lines = [line + b"\r" for line in lines]
        elif change == "bare carriage returns":
            lines = [b"\r".join(lines)]
        elif change == "upper case":
            lines = [line.upper() for line in lines]
        elif change == "insert":
            lines = [content[:place] + draw(st.sampled_from(PIECES)) + content[place:]]
        elif change == "mark":
            lines = [b"\xef\xbb\xbf" + content]
        elif change == "cut":
            lines = [content[:place]]
        elif change == "other bytes":
            lines = [content[:place] + draw(st.binary(min_size=1, max_size=4)) + content[place + draw(LENGTHS) :]]
        elif change == "another text":
            lines = [content, draw(st.sampled_from(TEXTS))]
        content = b"\n".join(lines)
    return content


CHANGES = (
    *("delete lines", "swap lines", "repeat a line", "another number", "other support", "other tabs", "long line"),
    *("Windows", "bare carriage returns", "upper case", "insert", "mark", "cut", "other bytes", "another text"),
)
LENGTHS = st.integers(0, 8)
any_content = st.one_of(st.binary(max_size=300), st.lists(st.sampled_from(PIECES), max_size=30).map(b"".join))

letters = st.characters(categories=("Ll", "Nd")).filter(lambda letter: letter == letter.lower())
words = st.text(letters, min_size=1, max_size=4)
sentences = st.lists(words, min_size=1, max_size=5).map(tuple)


@st.composite
def stories_with_text(draw):
    """(statements as tokens, question as tokens, answer, story) of a few stories, and their text in the bAbI format."""
    lines, examples = [], []
    for story in range(draw(st.integers(1, 3))):
        statements, numbers = [], []
        for number in range(1, draw(st.integers(1, 6)) + 1):
            sentence = draw(sentences)
            if draw(st.booleans()):
                lines.append(f"{number} {' '.join(sentence)}{draw(st.sampled_from(('.', ' .', '')))}")
                statements.append(sentence)
                numbers.append(number)
                continue
            answer = ",".join(draw(st.lists(words, min_size=1, max_size=3)))
            support = draw(st.lists(st.sampled_from(numbers), max_size=3)) if numbers else []
            mark = draw(st.sampled_from(("?", " ? ", "")))
            lines.append(f"{number} {' '.join(sentence)}{mark}\t{answer}\t{' '.join(map(str, support))}")
            examples.append(([*statements], sentence, answer, story))
    end, start = draw(st.sampled_from(("\n", "\r\n"))), draw(st.sampled_from(("", "\ufeff")))
    return examples, start + end.join(lines) + draw(st.sampled_from(("", end, end + " " + end)))


# --- the parser -----------------------------------------------------------------------------------------


@cases
@given(any_content)
@example(b"\xef\xbb\xbf1 A b.\n\xff")
def test_any_bytes_are_examples_or_one_sentence(folder, content):
    parser_rules.check_file(folder / "qa1_train.txt", content)


@cases
@given(changed_texts())
def test_changed_stories_are_examples_or_one_sentence(folder, content):
    parser_rules.check_file(folder / "qa1_train.txt", content)


@cases
@given(st.lists(st.text(st.characters(), max_size=30) | st.sampled_from(["1 A b.", "2 Who?\tb\t1", "1 \ud800?\tb\t"])))
def test_any_lines_are_examples_or_one_sentence(lines):
    try:
        examples = data_utils.parse_text(lines, "text")
    except InputError as error:
        assert len(str(error).splitlines()) == 1, str(error)
        if str(error).startswith("text: expected at least one question"):
            assert not any("\t" in line for line in lines)
            return
        number = re.match(r"text, line (\d+): .*\.$", str(error))
        data_utils.parse_text([*lines[: int(number[1]) - 1], "1 Who?\tb\t"])  # the lines before it are right
    else:
        assert len(examples) == sum("\t" in line for line in lines)


@cases
@given(stories_with_text())
def test_text_is_read_as_its_examples(folder, examples_and_text):
    expected, text = examples_and_text
    path = folder / "qa2_train.txt"
    path.write_bytes(text.encode())
    examples, sentence = parser_rules.parse(path)
    if expected:
        tokens = [
            ([*map(sentence_tokens, e.statements)], sentence_tokens(e.question), e.answer, e.story) for e in examples
        ]
        assert tokens == expected
        parser_rules.check_encoding(examples)
    else:
        assert "expected at least one question" in sentence


@cases
@given(st.dictionaries(st.sampled_from(["train", "test"]), st.sampled_from(TEXTS) | changed_texts()))
def test_a_task_is_its_files_or_one_sentence(folder, contents):
    task = {split: folder / f"qa3_{split}.txt" for split in ("train", "test")}
    for split, path in task.items():
        path.unlink(missing_ok=True)
        if split in contents:
            path.write_bytes(contents[split])
    parsed = {split: parser_rules.parse(path)[0] for split, path in task.items()}
    try:
        examples = data_utils.load_task(folder, 3)
    except InputError as error:
        missing = [folder for split in task if split not in contents]
        refused = [path for split, path in task.items() if parsed[split] is None]
        assert str(error).startswith(str((missing + refused)[0]))
        assert len(str(error).splitlines()) == 1
    else:
        assert examples == (parsed["train"], parsed["test"])


# --- splits and tensors ---------------------------------------------------------------------------------


@cases
@given(st.lists(st.integers(0, 12), min_size=1, max_size=60), st.none() | st.integers(0, 2**32 - 1))
def test_split_keeps_stories_whole_and_every_example(stories, seed):
    examples = [Question((f"s{n}",), f"q{n}", "yes", (0,), story, n) for n, story in enumerate(sorted(stories))]
    if len(set(stories)) < 2:
        with pytest.raises(InputError, match="at least two training stories"):
            data_utils.split_by_story(examples, random_state=seed)
        return
    parts = data_utils.split_by_story(examples, random_state=seed)
    assert sorted(parts[0] + parts[1], key=examples.index) == examples
    assert all(part and part == sorted(part, key=examples.index) for part in parts)
    training, validation = ({e.story for e in part} for part in parts)
    assert not training & validation
    assert len(validation) == -(-len(set(stories)) // 10)


@cases
@given(stories_with_text(), st.integers(0, 9), st.integers(1, 9), st.integers(1, 9))
def test_ids_at_any_size_and_of_any_vocabulary(examples_and_text, known, sentence_size, memory_size):
    """Unknown words, unseen answers and words and statements beyond the sizes are encoded correctly."""
    examples, text = examples_and_text
    if not examples:
        return
    questions = data_utils.parse_text(data_utils.utf8_lines(text.encode(), "text"))
    vocabulary = data_utils.build_vocabulary(questions[:known])
    encoded = data_utils.encode(questions, vocabulary, sentence_size, memory_size)
    memories = encoded.statements[encoded.slots]

    def ids(sentence):
        numbers = [vocabulary.get(word, vocabulary[UNKNOWN]) for word in sentence[:sentence_size]]
        return numbers + [0] * (sentence_size - len(numbers))

    assert memories.shape == (len(examples), memory_size, sentence_size)
    for number, (statements, question, answer, _) in enumerate(examples):
        memory = [ids(statement) for statement in reversed(statements)][:memory_size]
        assert memories[number, : len(memory)].tolist() == memory
        assert not memories[number, len(memory) :].any()
        assert encoded.query[number].tolist() == ids(question)
        assert encoded.answer[number] == vocabulary.get(answer, NEVER_SEEN)


# --- appended lines -------------------------------------------------------------------------------------


@cases
@given(any_content)
def test_lines_are_appended_whole_to_any_content(folder, content):
    path = folder / "params.csv"
    path.write_bytes(content)
    files.append(path, b"hops=3\n", b"header\n")
    unfinished = content and not content.endswith(b"\n")
    assert path.read_bytes() == (content or b"header\n") + b"\n" * bool(unfinished) + b"hops=3\n"

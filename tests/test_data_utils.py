"""bAbI text to examples to tensors: format, splits, ids, bad input, the published files' sizes."""

import subprocess
import sys

import numpy as np
import pytest

import data_utils
from data_utils import NEVER_SEEN, UNKNOWN, InputError

ALL_TASKS = range(1, 21)


@pytest.fixture
def text_file(tmp_path):
    """A function that writes bytes or text into a file and returns its path."""

    def write(content):
        path = tmp_path / "qa1_train.txt"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


def words(text):
    return tuple(text.split())


# Text to examples -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sentence", "tokens"),
    [
        ("Where is the apple?", ["where", "is", "the", "apple", "?"]),
        ("Anna went to the barn.", ["anna", "went", "to", "the", "barn", "."]),
        ("Bread, milk", ["bread", ",", "milk"]),
        ("  two   blanks ", ["two", "blanks"]),
        ("Où est le café ?", ["où", "est", "le", "café", "?"]),
        ("", []),
    ],
)
def test_tokenize(sentence, tokens):
    assert data_utils.tokenize(sentence) == tokens


STORIES = """\
1 Anna walked to the barn.
2 Otto ran to the well.
3 Where is Anna? \tbarn\t1
4 Anna took the bread.
5 What has Anna?\tBread,Milk\t4 1
1 Ines slept.
2 Who slept?\tines\t1
"""


def test_parse_stories():
    examples = data_utils.parse_stories(STORIES.splitlines(keepends=True))
    walked, ran, took = words("anna walked to the barn"), words("otto ran to the well"), words("anna took the bread")
    assert [tuple(example) for example in examples] == [
        ((walked, ran), words("where is anna"), "barn", 0),
        ((walked, ran, took), words("what has anna"), "bread,milk", 0),
        ((words("ines slept"),), words("who slept"), "ines", 1),
    ]


def test_only_supporting_keeps_the_supporting_statements_in_their_order():
    examples = data_utils.parse_stories(STORIES.splitlines(), only_supporting=True)
    assert [example.statements for example in examples] == [
        (words("anna walked to the barn"),),
        (words("anna took the bread"), words("anna walked to the barn")),
        (words("ines slept"),),
    ]
    assert [example.answer for example in examples] == ["barn", "bread,milk", "ines"]


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "byte order mark"])
@pytest.mark.parametrize("last", [True, False], ids=["last line ended", "last line open"])
def test_line_ends_and_byte_order_mark_change_nothing(text_file, line_end, mark, last):
    expected = data_utils.parse_stories(STORIES.splitlines())
    text = mark + STORIES.replace("\n", line_end)
    assert data_utils.get_stories(text_file(text if last else text.rstrip("\r\n"))) == expected


def test_question_before_any_statement_has_an_empty_memory(text_file):
    path = text_file("1 Where is Anna?\tbarn\t\n2 Anna ran to the mill.\n3 Where is Anna?\tmill\t2\n")
    first, second = data_utils.get_stories(path)
    assert (first.statements, first.answer) == ((), "barn")
    assert second.statements == (words("anna ran to the mill"),)
    tensors = data_utils.vectorize_data([first], data_utils.build_vocabulary([first, second]), 6, 3)
    assert not tensors.memory_key.any() and not tensors.memory_value.any() and tensors.query.any()


@pytest.mark.parametrize("only_supporting", [False, True])
def test_statements_are_those_of_the_story_so_far(small_corpus, only_supporting):
    training, testing = data_utils.load_task(small_corpus, 1, only_supporting)
    assert [example.story for example in training] == [0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 4, 4]
    assert [example.story for example in testing] == [0, 0, 1, 1]
    for example in training:
        last = [statement for statement in example.statements if statement[0] == example.question[-1]][-1]
        assert last[-1] == example.answer
    assert max(len(example.statements) for example in training) == (1 if only_supporting else 3)


# Files ------------------------------------------------------------------------------------------


def test_validation_file_is_optional(small_corpus, tmp_path):
    assert data_utils.load_validation(small_corpus, 1) is None
    for split, answer in (("train", "barn"), ("valid", "mill"), ("test", "well")):
        (tmp_path / f"qa7_{split}.txt").write_text(f"1 Anna ran.\n2 Where is Anna?\t{answer}\t1\n")
    (tmp_path / "qa17_valid.txt").write_text("not a story of task 7")
    training, testing = data_utils.load_task(tmp_path, 7)
    validation = data_utils.load_validation(tmp_path, 7)
    assert [[example.answer for example in part] for part in (training, validation, testing)] == [
        ["barn"],
        ["mill"],
        ["well"],
    ]


def test_tasks_do_not_take_each_others_files(small_corpus):
    with pytest.raises(InputError, match="task 20 has no train file"):
        data_utils.load_task(small_corpus, 20)
    assert len(data_utils.load_task(small_corpus, 2)[0]) == 7


# Bad input: what stands in the file, the line at fault (None: the whole file), words of the sentence.
BAD_TEXT = {
    "no number": ("1 Anna ran.\nOtto ran.\n", 2, "expected a line number"),
    "no number, first line": ("Anna ran.\n", 1, "expected a line number"),
    "empty line": ("1 Anna ran.\n\n1 Otto ran.\n", 2, "expected a line number"),
    "negative number": ("-1 Anna ran.\n", 1, "expected a line number"),
    "number skips": ("1 Anna ran.\n3 Otto ran.\n", 2, "expected line number 2 or 1, found 3"),
    "number repeats": ("1 Anna ran.\n2 Otto ran.\n2 Ines ran.\n", 3, "expected line number 3 or 1, found 2"),
    "number starts at 2": ("2 Anna ran.\n", 1, "expected line number 1, found 2"),
    "number alone": ("1 Anna ran.\n2 \n", 2, "expected a sentence"),
    "punctuation alone": ("1 .\n", 1, "expected a sentence"),
    "one field": ("1 Anna ran.\n2 Where is Anna?\n", 2, "found 1 field"),
    "two fields": ("1 Anna ran.\n2 Where is Anna?\tbarn\n", 2, "found 2 fields"),
    "four fields": ("1 Anna ran.\n2 Where is Anna?\tbarn\t1\t1\n", 2, "found 4 fields"),
    "no question": ("1 Anna ran.\n2 \tbarn\t1\n", 2, "expected a question"),
    "no answer": ("1 Anna ran.\n2 Where is Anna?\t\t1\n", 2, "expected an answer"),
    "support is later": ("1 Where is Anna?\tbarn\t2\n2 Anna ran.\n", 1, "supporting line '2'"),
    "support is a question": ("1 Anna ran.\n2 Who?\tanna\t1\n3 Who?\tanna\t2\n", 3, "supporting line '2'"),
    "support is the line itself": ("1 Anna ran.\n2 Who?\tanna\t2\n", 2, "supporting line '2'"),
    "support of another story": ("1 A b.\n2 C d.\n3 E f.\n1 G h.\n2 Who?\tg\t3\n", 5, "supporting line '3'"),
    "support is no number": ("1 Anna ran.\n2 Who?\tanna\tone\n", 2, "supporting line 'one'"),
    "not UTF-8": (b"1 Anna ran.\n2 The caf\xe9.\n3 Who?\tanna\t1\n", 2, "expected UTF-8"),
    "not UTF-8, after a byte order mark": (b"\xef\xbb\xbf1 Anna ran.\n\xe9\n", 2, "expected UTF-8"),
    "UTF-16": ("1 Anna ran.\n".encode("utf-16"), 1, "expected UTF-8"),
    "no lines": ("", None, "expected at least one question"),
    "no question line": ("1 Anna ran.\n", None, "expected at least one question"),
}


@pytest.mark.parametrize("name", BAD_TEXT)
def test_bad_text_is_one_sentence_with_file_and_line(text_file, name):
    content, line, expected = BAD_TEXT[name]
    path = text_file(content)
    with pytest.raises(InputError) as error:
        data_utils.get_stories(path)
    sentence = str(error.value)
    assert sentence.startswith(f"{path}: " if line is None else f"{path}, line {line}: ")
    assert expected in sentence
    assert sentence.endswith(".") and "\n" not in sentence


def test_bad_line_is_quoted_shortly(text_file):
    with pytest.raises(InputError) as error:
        data_utils.get_stories(text_file("1 Anna ran.\n" + "endless " * 1000))
    assert "endless" in str(error.value) and len(str(error.value)) < 500


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (None, "expected a folder"),
        ([], "task 1 has no train file"),
        (["qa1_a_test.txt"], "task 1 has no train file"),
        (["qa1_a_train.txt"], "task 1 has no test file"),
        (["qa2_a_train.txt", "qa2_a_test.txt"], "task 1 has no train file"),
        (["qa1_train.txt", "qa1_a_train.txt", "qa1_test.txt"], "more than one train file"),
    ],
)
def test_bad_folder_is_one_sentence(tmp_path, files, expected):
    folder = tmp_path / "en"
    if files is not None:
        folder.mkdir()
        for name in files:
            (folder / name).write_text(STORIES)
    with pytest.raises(InputError) as error:
        data_utils.load_task(folder, 1)
    sentence = str(error.value)
    assert str(folder) in sentence and expected in sentence
    assert sentence.endswith(".") and "\n" not in sentence


def test_file_that_is_no_folder_and_folder_that_is_no_file(tmp_path):
    (tmp_path / "file").write_text(STORIES)
    with pytest.raises(InputError, match="file: expected a folder"):
        data_utils.load_task(tmp_path / "file", 1)
    (tmp_path / "qa1_train.txt").mkdir()
    (tmp_path / "qa1_test.txt").write_text(STORIES)
    with pytest.raises(InputError, match=r"qa1_train.txt: cannot be read"):
        data_utils.load_task(tmp_path, 1)


# Validation -------------------------------------------------------------------------------------


def many_stories(stories, questions):
    return [
        data_utils.Example(((f"s{story}",),), (f"q{question}",), "yes", story)
        for story in range(stories)
        for question in range(1 + (story + questions) % questions)
    ]


@pytest.mark.parametrize("seed", [0, 1, None])
def test_stories_never_straddle_the_split(seed):
    examples = many_stories(stories=50, questions=6)
    training, validation = data_utils.split_by_story(examples, random_state=seed)
    assert not {example.story for example in training} & {example.story for example in validation}
    assert sorted(training + validation, key=examples.index) == examples
    assert len({example.story for example in validation}) == 5  # one tenth
    for part in (training, validation):
        assert part == sorted(part, key=examples.index)


def test_split_depends_on_the_seed_alone():
    examples = many_stories(stories=50, questions=6)
    assert data_utils.split_by_story(examples, random_state=3) == data_utils.split_by_story(examples, random_state=3)
    assert data_utils.split_by_story(examples, random_state=3) != data_utils.split_by_story(examples, random_state=4)


def test_split_needs_two_stories():
    training, validation = data_utils.split_by_story(many_stories(stories=2, questions=1))
    assert (len(training), len(validation)) == (1, 1)
    with pytest.raises(InputError, match="two training stories"):
        data_utils.split_by_story(many_stories(stories=1, questions=9))


# Examples to tensors ----------------------------------------------------------------------------


def test_vocabulary_numbers_words_and_answers_from_one():
    examples = data_utils.parse_stories(STORIES.splitlines())
    vocabulary = data_utils.build_vocabulary(examples)
    told = STORIES.replace(".", "").replace("?", "").replace("Bread,Milk", "").lower().split()
    expected = {word for word in told if not word.isdecimal()} | {"bread,milk", UNKNOWN}
    assert set(vocabulary) == expected
    assert sorted(vocabulary.values()) == list(range(1, len(expected) + 1))
    assert vocabulary == data_utils.build_vocabulary(examples[::-1])


def test_vectorize_data():
    told = [words("a b c"), words("b"), words("c a"), words("a")]
    examples = [(told, words("b c"), "a"), (told[:1], words("a"), "b,c"), ([], words("c c c c"), "b")]
    vocabulary = {"a": 1, "b": 2, "c": 3, "b,c": 4, UNKNOWN: 5}
    tensors = data_utils.vectorize_data(examples, vocabulary, sentence_size=4, memory_size=3)
    newest_first = [
        [[1, 0, 0, 0], [3, 1, 0, 0], [2, 0, 0, 0]],  # the oldest, "a b c", does not fit
        [[1, 2, 3, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
        [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
    ]
    np.testing.assert_array_equal(tensors.memory_key, newest_first)
    np.testing.assert_array_equal(tensors.memory_value, newest_first)
    np.testing.assert_array_equal(tensors.query, [[2, 3, 0, 0], [1, 0, 0, 0], [3, 3, 3, 3]])
    np.testing.assert_array_equal(tensors.answer, [1, 4, 2])
    assert {tensor.dtype for tensor in tensors} == {np.dtype(np.int32)}


def test_unknown_words_share_one_id_and_unseen_answers_match_no_prediction():
    vocabulary = data_utils.build_vocabulary(data_utils.parse_stories(STORIES.splitlines()))
    examples = data_utils.parse_stories(["1 Zoe walked to the moon.", "2 Where is Zoe?\tmoon\t1"])
    tensors = data_utils.vectorize_data(examples, vocabulary, 5, 1)
    ids = [vocabulary.get(word, vocabulary[UNKNOWN]) for word in words("zoe walked to the moon")]
    assert tensors.memory_key[0, 0].tolist() == ids
    assert ids[0] == ids[-1] == vocabulary[UNKNOWN]
    assert tensors.answer.tolist() == [NEVER_SEEN]
    assert NEVER_SEEN not in range(len(vocabulary) + 1)


def test_words_beyond_the_sentence_size_are_dropped():
    vocabulary = {"a": 1, "b": 2, "c": 3, UNKNOWN: 4}
    tensors = data_utils.vectorize_data([([words("a b c")], words("c b a"), "a")], vocabulary, 2, 2)
    np.testing.assert_array_equal(tensors.memory_key, [[[1, 2], [0, 0]]])
    np.testing.assert_array_equal(tensors.query, [[3, 2]])


@pytest.mark.parametrize("memory_size", [1, 3, 5])
def test_compact_form_is_the_padded_form(small_corpus, memory_size):
    training, testing = data_utils.load_task(small_corpus, 1)
    other, _ = data_utils.load_task(small_corpus, 2)
    examples = training + testing + other
    vocabulary = data_utils.build_vocabulary(training + other)
    sentence_size = 7
    task = np.repeat([1, 2], [len(training + testing), len(other)])
    encoded = data_utils.encode(examples, vocabulary, sentence_size, memory_size, task)
    padded = encoded.padded()

    def ids(sentence):
        numbers = [vocabulary.get(word, vocabulary[UNKNOWN]) for word in sentence]
        return numbers + [0] * (sentence_size - len(numbers))

    for i, example in enumerate(examples):
        memory = [ids(statement) for statement in example.statements[::-1]][:memory_size]
        memory += [[0] * sentence_size] * (memory_size - len(memory))
        assert padded.memory_key[i].tolist() == padded.memory_value[i].tolist() == memory
        assert padded.query[i].tolist() == ids(example.question)
        assert padded.answer[i] == vocabulary.get(example.answer, NEVER_SEEN)
    assert len(encoded) == len(examples)
    assert encoded.task.tolist() == task.tolist()


def test_compact_form_keeps_each_statement_once(small_corpus):
    training, _ = data_utils.load_task(small_corpus, 1)
    encoded = data_utils.encode(training * 100, data_utils.build_vocabulary(training), 7, 50)
    assert not encoded.statements[0].any()
    assert len(encoded.statements) == 1 + len({s for example in training for s in example.statements})


def test_longest(small_corpus):
    examples, _ = data_utils.load_task(small_corpus, 2)
    assert data_utils.longest(examples) == (7, 4)
    assert data_utils.longest([data_utils.Example((), ("why",), "so", 0)]) == (1, 1)


def test_needs_no_tensorflow():
    code = "import sys, data_utils; print('tensorflow' in sys.modules, 'sklearn' in sys.modules)"
    where = data_utils.__file__.rpartition("/")[0]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=where)
    assert (done.stdout.strip(), done.stderr) == ("False False", "")


# The published files ----------------------------------------------------------------------------


@pytest.mark.parametrize("language", ["en", "hn", "shuffled"])
def test_published_tasks_have_a_thousand_questions_each(published, language):
    if not (published / language).is_dir():
        pytest.skip(f"no folder {language} among the published bAbI files")
    for task_id in ALL_TASKS:
        training, testing = data_utils.load_task(published / language, task_id)
        assert (len(training), len(testing)) == (1000, 1000)


def test_published_statements(published):
    tasks = [data_utils.load_task(published / "en", task_id) for task_id in ALL_TASKS]
    training = [example for task in tasks for example in task[0]]
    examples = training + [example for task in tasks for example in task[1]]
    assert len({statement for example in examples for statement in example.statements}) == 3182
    assert data_utils.longest(examples) == (11, 228)
    task_3 = [len(example.statements) for example in tasks[2][1]]
    assert [sum(length > size for length in task_3) for size in (20, 50)] == [847, 387]

"""bAbI text to examples to tensors: format, splits, ids, bad input, the published files' sizes."""

import re
import subprocess
import sys
import time

import numpy as np
import pytest

import data_utils
from data_utils import NEVER_SEEN, UNKNOWN
from flags import InputError

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


def questions_of(text, plain=False):
    return data_utils.parse_text(data_utils.utf8_lines(text.encode(), "text"), plain=plain)


def memories(encoded):
    """The word ids of every slot, (N, memory_size, sentence_size)."""
    return encoded.statements[encoded.slots]


# --- text to examples -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sentence", "tokens"),
    [
        ("Where is the apple?", "where is the apple"),
        ("Anna went to the barn.", "anna went to the barn"),
        ("Bread, milk", "bread , milk"),
        ("  two   blanks ", "two blanks"),
        ("Où est le café ?", "où est le café"),
        ("Who? What?", "who ? what"),
        ("Well ...", "well ..."),
        ("?", ""),
        ("", ""),
    ],
)
def test_sentences_are_split_into_words_and_punctuation(sentence, tokens):
    assert data_utils.sentence_tokens(sentence) == words(tokens)


STORIES = """\
1 Anna walked to the barn.
2 Otto ran to the well.
3 Where is Anna? \tbarn\t1
4 Anna took the bread.
5 What has Anna?\tBread,Milk\t4 1
1 Ines slept.
2 Who slept?\tines\t1
"""


def test_only_supporting_keeps_the_supporting_statements_in_their_order(text_file):
    questions = data_utils.get_stories(text_file(STORIES), only_supporting=True)
    assert [question.statements for question in questions] == [
        ("Anna walked to the barn.",),
        ("Anna took the bread.", "Anna walked to the barn."),
        ("Ines slept.",),
    ]
    assert [question.answer for question in questions] == ["barn", "bread,milk", "ines"]


def test_questions_are_kept_as_they_are_written():
    where, what, who = questions_of(STORIES)
    walked, ran, took = "Anna walked to the barn.", "Otto ran to the well.", "Anna took the bread."
    assert where == ((walked, ran), "Where is Anna?", "barn", (0,), 0, 3)
    assert what == ((walked, ran, took), "What has Anna?", "bread,milk", (2, 0), 0, 5)
    assert who == (("Ines slept.",), "Who slept?", "ines", (0,), 1, 7)


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "byte order mark"])
@pytest.mark.parametrize("last", [True, False], ids=["last line ended", "last line open"])
def test_line_ends_and_byte_order_mark_change_nothing(text_file, line_end, mark, last):
    expected = data_utils.parse_text(STORIES.splitlines(keepends=True))
    text = mark + STORIES.replace("\n", line_end)
    assert data_utils.get_stories(text_file(text if last else text.rstrip("\r\n"))) == expected


def test_ids_may_be_followed_by_a_tab():
    assert questions_of(STORIES) == questions_of(re.sub(r"^(\d) ", r"\1\t", STORIES, flags=re.M))


def test_question_before_any_statement_has_an_empty_memory(text_file):
    path = text_file("1 Where is Anna?\tbarn\t\n2 Anna ran to the mill.\n3 Where is Anna?\tmill\t2\n")
    first, second = data_utils.get_stories(path)
    assert (first.statements, first.answer) == ((), "barn")
    assert second.statements == ("Anna ran to the mill.",)
    encoded = data_utils.encode([first], data_utils.build_vocabulary([first, second]), 6, 3)
    assert not memories(encoded).any() and encoded.query.any()


@pytest.mark.parametrize("only_supporting", [False, True])
def test_statements_are_those_of_the_story_so_far(small_corpus, only_supporting):
    training, testing = data_utils.load_task(small_corpus, 1, only_supporting)
    assert [example.story for example in training] == [0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 4, 4]
    assert [example.story for example in testing] == [0, 0, 1, 1]
    for example in training:
        statements = [data_utils.sentence_tokens(statement) for statement in example.statements]
        name = data_utils.sentence_tokens(example.question)[-1]
        assert [statement for statement in statements if statement[0] == name][-1][-1] == example.answer
    assert max(len(example.statements) for example in training) == (1 if only_supporting else 3)


# --- plain text -----------------------------------------------------------------------------------------


def test_plain_text_needs_neither_ids_nor_answers():
    text = "Anna ran.\nWhere is Anna?\n\nOtto ran\nWhere is Otto?\tThe Well\nWho?\twell\t7 8\n"
    assert questions_of(text, plain=True) == [
        (("Anna ran.",), "Where is Anna?", None, (), 0, 2),
        (("Otto ran",), "Where is Otto?", "the well", (), 1, 5),
        (("Otto ran",), "Who?", "well", (), 1, 6),
    ]


def test_plain_text_may_be_numbered():
    text = "1 Anna ran.\n2 Where is Anna?\n3 Otto ran.\n4 Where is Otto?\twell\n1 Ines slept.\n2 Who slept?\tInes\t1\n"
    assert questions_of(text, plain=True) == [
        (("Anna ran.",), "Where is Anna?", None, (), 0, 2),
        (("Anna ran.", "Otto ran."), "Where is Otto?", "well", (), 0, 4),
        (("Ines slept.",), "Who slept?", "ines", (0,), 1, 6),
    ]
    assert questions_of(STORIES, plain=True) == questions_of(STORIES)


def test_a_question_without_a_question_mark_is_a_statement():
    (question,) = questions_of("Where is Anna\nWho is Otto?", plain=True)
    assert question.statements == ("Where is Anna",)


def test_bare_carriage_returns_end_lines():
    (question,) = questions_of("Anna ran.\rOtto ran.\rWhere is Anna?\r", plain=True)
    assert question[:2] == (("Anna ran.", "Otto ran."), "Where is Anna?")


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        ("1 Anna ran.\nOtto ran.\n2 Who?", 2, "expected a line number and a sentence, found 'Otto ran.'"),
        ("Anna ran.\n2 Otto ran.\nWho?", 2, "expected a sentence without a number"),
        ("1 Anna ran.\n3 Who?", 2, "expected line number 2 or 1, found 3"),
        ("5 Anna ran.\n6 Who?", 1, "expected line number 1, found 5"),
        ("Anna ran.\n...\n.\nWho?", 3, "expected a sentence, found '.', which has no word"),
        ("Anna ran.\n?", 2, "expected a question, found '?', which has no word"),
        ("Who?\ta\t1\t2", 1, "found 4 fields"),
        ("1 Who?\ta\t1", 1, "supporting line '1'"),
        ("Anna ran.", None, "expected at least one question (a line that ends in ?)"),
        ("", None, "expected at least one question"),
    ],
)
def test_bad_plain_text_is_one_sentence(text, line, expected):
    with pytest.raises(InputError) as error:
        questions_of(text, plain=True)
    assert str(error.value).startswith("bAbI text: " if line is None else f"bAbI text, line {line}: ")
    assert expected in str(error.value)


@pytest.mark.parametrize("plain", [False, True])
def test_sentences_have_at_most_a_thousand_words(plain):
    longest = "1 " + "word " * 1000 + ".\n2 Who?\tword\t1\n"
    (question,) = questions_of(longest, plain)
    assert len(data_utils.sentence_tokens(question.statements[0])) == 1000
    with pytest.raises(InputError, match="line 1: expected a sentence of at most 1,000 words, found one of 1,001"):
        questions_of("1 one" + longest[1:], plain)


def test_empty_lines_at_the_end_take_linear_time():
    start = time.process_time()
    assert len(questions_of("Anna ran.\nWho?\n" + "\n" * 300_000, plain=True)) == 1
    assert len(questions_of(STORIES + "\r" * 300_000)) == 3
    assert time.process_time() - start < 5


# --- files ----------------------------------------------------------------------------------------------


def test_validation_file_is_optional(small_corpus, tmp_path):
    assert data_utils.task_file(small_corpus, 1, "valid") is None
    for split, answer in (("train", "barn"), ("valid", "mill"), ("test", "well")):
        (tmp_path / f"qa7_{split}.txt").write_text(f"1 Anna ran.\n2 Where is Anna?\t{answer}\t1\n")
    (tmp_path / "qa17_valid.txt").write_text("not a story of task 7")
    training, testing = data_utils.load_task(tmp_path, 7)
    validation = data_utils.get_stories(data_utils.task_file(tmp_path, 7, "valid"))
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
    "number alone": ("1 Anna ran.\n2 \n", 2, "expected a line number and a sentence"),
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
    "support is not a number": ("1 Anna ran.\n2 Who?\tanna\tone\n", 2, "supporting line 'one'"),
    "not UTF-8": (b"1 Anna ran.\n2 The caf\xe9.\n3 Who?\tanna\t1\n", 2, "expected UTF-8"),
    "not UTF-8, after a byte order mark": (b"\xef\xbb\xbf1 Anna ran.\n\xe9\n", 2, "expected UTF-8"),
    "UTF-16": ("1 Anna ran.\n".encode("utf-16"), 1, "expected UTF-8"),
    "too many words": ("1 Anna ran.\n2 " + "very " * 1001 + "\n", 2, "at most 1,000 words"),
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


def test_folder_with_the_files_is_suggested(tmp_path):
    english, larger = tmp_path / "tasks_1-20_v1-2/en", tmp_path / "tasks_1-20_v1-2/en-10k"
    for folder in (english, larger):
        folder.mkdir(parents=True)
        for split in ("train", "test"):
            (folder / f"qa1_{split}.txt").write_text(STORIES)
            if folder == english:
                (folder / f"qa3_{split}.txt").write_text(STORIES)
    for folder in (tmp_path, english.parent):
        with pytest.raises(InputError, match=f"task 1 has no train file .*; {english} has one: --data_dir {english}"):
            data_utils.load_task(folder, 1)
    with pytest.raises(InputError, match=f"en-10k: task 3 has no train file .*; {english} has one"):
        data_utils.load_task(larger, 3)
    with pytest.raises(InputError) as error:
        data_utils.load_task(english, 2)
    assert "has one" not in str(error.value)


def test_file_that_is_no_folder_and_folder_that_is_no_file(tmp_path):
    (tmp_path / "file").write_text(STORIES)
    with pytest.raises(InputError, match="file: expected a folder"):
        data_utils.load_task(tmp_path / "file", 1)
    (tmp_path / "qa1_train.txt").mkdir()
    (tmp_path / "qa1_test.txt").write_text(STORIES)
    with pytest.raises(InputError, match=r"qa1_train.txt: cannot be read"):
        data_utils.load_task(tmp_path, 1)


# --- validation -----------------------------------------------------------------------------------------


def many_stories(stories, questions):
    return [
        data_utils.Question((f"s{story}",), f"q{question}", "yes", (0,), story, 1)
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


# --- examples to tensors --------------------------------------------------------------------------------


def test_vocabulary_numbers_words_and_answers_from_one():
    examples = data_utils.parse_text(STORIES.splitlines())
    vocabulary = data_utils.build_vocabulary(examples)
    text = STORIES.replace(".", "").replace("?", "").replace("Bread,Milk", "").lower().split()
    expected = {word for word in text if not word.isdecimal()} | {"bread,milk", UNKNOWN}
    assert set(vocabulary) == expected
    assert sorted(vocabulary.values()) == list(range(1, len(expected) + 1))
    assert vocabulary == data_utils.build_vocabulary(examples[::-1])


def test_encode():
    statements = ["A b c.", "b", "c a", "a"]
    examples = [(statements, "b c?", "a"), (statements[:1], "a", "b,c"), ([], "c c c c", "b")]
    vocabulary = {"a": 1, "b": 2, "c": 3, "b,c": 4, UNKNOWN: 5}
    encoded = data_utils.encode(examples, vocabulary, sentence_size=4, memory_size=3)
    newest_first = [
        [[1, 0, 0, 0], [3, 1, 0, 0], [2, 0, 0, 0]],  # the oldest, "a b c", does not fit
        [[1, 2, 3, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
        [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
    ]
    np.testing.assert_array_equal(memories(encoded), newest_first)
    np.testing.assert_array_equal(encoded.query, [[2, 3, 0, 0], [1, 0, 0, 0], [3, 3, 3, 3]])
    np.testing.assert_array_equal(encoded.answer, [1, 4, 2])
    assert {array.dtype for array in encoded.arrays().values()} == {np.dtype(np.int32)}


def test_unknown_words_share_one_id_and_unseen_answers_match_no_prediction():
    vocabulary = data_utils.build_vocabulary(data_utils.parse_text(STORIES.splitlines()))
    examples = data_utils.parse_text(["1 Zoe walked to the moon.", "2 Where is Zoe?\tmoon\t1"])
    encoded = data_utils.encode(examples, vocabulary, 5, 1)
    ids = [vocabulary.get(word, vocabulary[UNKNOWN]) for word in words("zoe walked to the moon")]
    assert memories(encoded)[0, 0].tolist() == ids
    assert ids[0] == ids[-1] == vocabulary[UNKNOWN]
    assert encoded.answer.tolist() == [NEVER_SEEN]
    assert NEVER_SEEN not in range(len(vocabulary) + 1)


def test_words_beyond_the_sentence_size_are_dropped():
    vocabulary = {"a": 1, "b": 2, "c": 3, UNKNOWN: 4}
    encoded = data_utils.encode([(["a b c"], "c b a", "a")], vocabulary, 2, 2)
    np.testing.assert_array_equal(memories(encoded), [[[1, 2], [0, 0]]])
    np.testing.assert_array_equal(encoded.query, [[3, 2]])


@pytest.mark.parametrize("memory_size", [1, 3, 5])
def test_slots_hold_the_newest_statements_first(small_corpus, memory_size):
    training, testing = data_utils.load_task(small_corpus, 1)
    other, _ = data_utils.load_task(small_corpus, 2)
    examples = training + testing + other
    vocabulary = data_utils.build_vocabulary(training + other)
    sentence_size = 7
    task = np.repeat([1, 2], [len(training + testing), len(other)])
    encoded = data_utils.encode(examples, vocabulary, sentence_size, memory_size, task)

    def ids(sentence):
        numbers = [vocabulary.get(word, vocabulary[UNKNOWN]) for word in data_utils.sentence_tokens(sentence)]
        return numbers + [0] * (sentence_size - len(numbers))

    for i, example in enumerate(examples):
        memory = [ids(statement) for statement in example.statements[::-1]][:memory_size]
        memory += [[0] * sentence_size] * (memory_size - len(memory))
        assert memories(encoded)[i].tolist() == memory
        assert encoded.query[i].tolist() == ids(example.question)
        assert encoded.answer[i] == vocabulary.get(example.answer, NEVER_SEEN)
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
    assert data_utils.longest([data_utils.Question((), "why?", "so", (), 0, 1)]) == (1, 1)


# --- the corpus of one model ----------------------------------------------------------------------------


def load(folder, tasks, memory_size=20, **options):
    return data_utils.load_corpus(str(folder), tasks, memory_size, random_state=1, **options)


def test_vocabulary_and_sizes_are_those_of_the_training_text(small_corpus):
    corpus = load(small_corpus, [1, 2])
    assert "bread,milk" in corpus.vocabulary and "barn" in corpus.vocabulary
    assert "cellar" not in corpus.vocabulary  # in a test file only: a statement and an answer
    assert (corpus.testing.answer == NEVER_SEEN).sum() == 1
    assert (corpus.testing.statements == corpus.vocabulary[UNKNOWN]).any()
    assert (corpus.training.answer != NEVER_SEEN).all()
    assert (corpus.sentence_size, corpus.memory_size) == (7, 4)
    assert corpus.testing.task.tolist() == [1] * 4 + [2] * 3
    assert len(corpus.training) + len(corpus.validation) == 12 + 7


@pytest.mark.parametrize(
    ("memory_size", "time_noise", "expected"), [(20, 0.0, 4), (3, 0.0, 3), (1, 0.0, 1), (20, 0.1, 9), (6, 0.1, 6)]
)
def test_memory_is_no_larger_than_the_longest_story(small_corpus, memory_size, time_noise, expected):
    corpus = load(small_corpus, [2], memory_size, time_noise=time_noise)
    assert corpus.memory_size == corpus.training.slots.shape[1] == corpus.testing.slots.shape[1] == expected


def test_validation_file_is_used_instead_of_a_split(small_corpus, tmp_path):
    for split, source in (("train", "train"), ("valid", "test"), ("test", "test")):
        text = (small_corpus / f"qa1_whereabouts_{source}.txt").read_text()
        (tmp_path / f"qa1_{split}.txt").write_text(text)
    corpus = load(tmp_path, [1])
    assert (len(corpus.training), len(corpus.validation), len(corpus.testing)) == (12, 4, 4)
    np.testing.assert_array_equal(corpus.validation.answer, corpus.testing.answer)


def test_corpus_that_cannot_be_split_names_its_task(small_corpus, tmp_path):
    for split in ("train", "test"):
        (tmp_path / f"qa1_{split}.txt").write_text("1 Anna ran.\n2 Who ran?\tAnna\t1\n")
    with pytest.raises(InputError, match=f"^{tmp_path}: task 1: validation is split off by story"):
        load(tmp_path, [1])


def test_digest_is_that_of_all_that_a_model_sees(small_corpus):
    corpora = [load(small_corpus, *arguments) for arguments in (([1, 2],), ([2, 1],), ([1],), ([1, 2], 2))]
    corpora.append(load(small_corpus, [1, 2], only_supporting=True))
    digests = [data_utils.digest(corpus) for corpus in corpora]
    assert len(set(digests)) == len(digests)
    assert data_utils.digest(load(small_corpus, [1, 2])) == digests[0]


def test_needs_neither_tensorflow_nor_scikit_learn():
    code = "import sys, data_utils; print({'tensorflow', 'keras', 'sklearn'} & set(sys.modules))"
    folder = data_utils.__file__.rpartition("/")[0]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder)
    assert (done.stdout.strip(), done.stderr) == ("set()", "")


# --- the published files --------------------------------------------------------------------------------


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

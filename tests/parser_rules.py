"""What the parser owes for any bytes whatever: `test_properties.py` and `fuzz_parser.py` hold it to this.

The rules are written from the format, not from `data_utils.py`: they read accepted text a second time, in the
plainest way, and compare.
"""

import re

import numpy as np

import data_utils
from data_utils import InputError

NOT_UTF_8 = "expected UTF-8 text"


def check_file(path, content):
    """Gives the parser a file and checks all that comes of it.

    Args:
        path: name of a file to write.
        content: its bytes.

    Returns:
        The examples, or None where the parser refused the file.

    Raises:
        AssertionError: a rule is broken.
        Exception: any other that the parser let through; only InputError is its to raise.
    """
    write(path, content)
    examples, sentence = parse(path)
    supported, same_sentence = parse(path, only_supporting=True)
    assert sentence == same_sentence
    if examples is None:
        check_sentence(path, sentence, content)
        return None
    check_examples(examples, content)
    check_examples(supported, content, only_supporting=True)
    check_encoding(examples)
    return examples


def write(path, content):
    """Puts bytes in a file."""
    with open(path, "wb") as file:
        file.write(content)


def parse(path, only_supporting=False):
    """(examples, None), or (None, the error's sentence)."""
    try:
        return data_utils.get_stories(path, only_supporting), None
    except InputError as error:
        return None, str(error)


def check_sentence(path, sentence, content):
    """An error is one short line that names the file and its first bad line, if it is one."""
    assert len(sentence.splitlines()) == 1 and sentence.endswith("."), sentence
    assert len(sentence) < len(str(path)) + 700, sentence
    found = re.match(rf"{re.escape(str(path))}(?:, line (\d+))?: ", sentence)
    assert found, sentence
    if found[1] is None:
        assert "expected at least one question, found none" in sentence, sentence
        return
    lines = content.split(b"\n")
    number = int(found[1])
    assert 1 <= number <= len(lines), sentence
    write(path, b"\n".join(lines[: number - 1]))
    _, before = parse(path)
    write(path, b"\n".join(lines[:number]))
    _, until = parse(path)
    if NOT_UTF_8 in sentence:  # looked for before all else
        assert until == sentence and NOT_UTF_8 not in (before or ""), (before, until, sentence)
    else:
        empty = not lines[number - 1].decode("utf-8-sig").strip()  # at the end of a file, empty lines are none
        assert empty or until == sentence, (until, sentence)
        assert before is None or "at least one question" in before, (before, sentence)


def check_examples(examples, content, only_supporting=False):
    """Examples are the questions of the text, all of them, in order, with what was told before each."""
    lines = content.decode("utf-8").removeprefix("\ufeff").split("\n")
    written = max(number for number, line in enumerate(lines, start=1) if not line.isspace() and line)
    questions, told, stories = iter(examples), {}, 0
    for line in lines[:written]:  # empty ones may follow
        number, _, sentence = line.strip(" \r").partition(" ")
        if int(number) == 1:
            told, stories = {}, stories + 1
        if "\t" not in sentence:
            told[int(number)] = sentence
            continue
        question, answer, supporting = sentence.split("\t")
        example = next(questions)
        memory = [told[int(s)] for s in supporting.split()] if only_supporting else list(told.values())
        assert example.story == stories - 1
        assert len(example.statements) == len(memory)
        for statement, spelled in zip((*example.statements, example.question), (*memory, question), strict=True):
            assert statement and all(statement)
            letters = "".join(spelled.lower().split())
            assert "".join(statement) in (letters, letters.removesuffix("."), letters.removesuffix("?"))
        assert example.answer == answer.strip().lower() != ""
    assert next(questions, None) is None


def check_encoding(examples):
    """Ids can be turned back into every word of every example, and the padded form is the compact one."""
    vocabulary = data_utils.build_vocabulary(examples)
    words = {number: word for word, number in vocabulary.items()}
    assert sorted(words) == list(range(1, len(vocabulary) + 1))
    sentence_size, memory_size = data_utils.longest(examples)
    encoded = data_utils.encode(examples, vocabulary, sentence_size, memory_size, task=3)

    def spelled(row):
        used = row[: np.count_nonzero(row)]
        assert used.all()  # padding stands at the end
        return tuple(words[number] for number in used.tolist())

    sentences = [spelled(row) for row in encoded.statements]
    assert len(set(sentences)) == len(sentences) and sentences[0] == ()
    assert len(encoded) == len(examples) and (encoded.task == 3).all()
    for example, slots, query, answer in zip(examples, encoded.slots, encoded.query, encoded.answer, strict=True):
        used = slots[: np.count_nonzero(slots)].tolist()
        assert tuple(sentences[slot] for slot in reversed(used)) == example.statements
        assert spelled(query) == example.question
        assert words[int(answer)] == example.answer
    if len(examples) * memory_size * sentence_size < 100_000:
        key, value, query, answer = data_utils.vectorize_data(examples, vocabulary, sentence_size, memory_size)
        assert (key == encoded.statements[encoded.slots]).all() and (value == key).all()
        assert (query == encoded.query).all() and (answer == encoded.answer).all()
    small = data_utils.encode(examples, vocabulary, 1, 1)
    for example, slot, query in zip(examples, small.slots[:, 0], small.query[:, 0], strict=True):
        newest = spelled(small.statements[slot])
        assert newest == (example.statements[-1][:1] if example.statements else ())
        assert words[int(query)] == example.question[0]

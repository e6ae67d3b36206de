"""Rules that the bAbI parser obeys for any bytes: `test_properties.py` and `tools/fuzz_parser.py` check them.

The rules are written from the format, not from `data_utils.py`: they read accepted text a second time, in the plainest
way, and compare.
"""

import re

import numpy as np

import data_utils
from flags import InputError

NOT_UTF_8 = "expected UTF-8 text"


def check_file(path, content):
    """Parses a file and checks the result.

    Args:
        path: name of a file to write.
        content: its bytes.

    Returns:
        The examples, or None if the parser refused the file.

    Raises:
        AssertionError: a rule is broken.
        Exception: the parser raised something other than InputError.
    """
    write(path, content)
    examples, sentence = parse(path)
    supported, same_sentence = parse(path, only_supporting=True)
    assert sentence == same_sentence
    check_plain(content, examples)
    if examples is None:
        check_sentence(path, sentence, content)
        return None
    check_examples(examples, content)
    check_examples(supported, content, only_supporting=True)
    check_encoding(examples)
    return examples


def lines_of(content):
    """The lines of a file's bytes."""
    return content.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")


def write(path, content):
    """Writes bytes into a file."""
    with open(path, "wb") as file:
        file.write(content)


def parse(path, only_supporting=False):
    """(examples, None), or (None, the error's sentence)."""
    try:
        return data_utils.get_stories(path, only_supporting), None
    except InputError as error:
        return None, str(error)


def check_plain(content, examples):
    """As plain text, a file is questions or refused in one short line; what is bAbI text is the same as plain text."""
    try:
        questions = data_utils.parse_text(data_utils.utf8_lines(content, "text"), "text", plain=True)
    except InputError as error:
        assert len(str(error).splitlines()) == 1 and len(str(error)) < 700, str(error)
        assert examples is None, str(error)
    else:
        assert questions
        lines = lines_of(content)
        for question in questions:
            assert question.question.encode() in lines[question.line - 1]
            for sentence in (*question.statements, question.question):
                assert 1 <= len(data_utils.sentence_tokens(sentence)) <= data_utils.MAX_WORDS
        if examples is not None:
            assert [(q.answer, q.story) for q in questions] == [(e.answer, e.story) for e in examples]


def check_sentence(path, sentence, content):
    """An error is one short line that names the file and, except for a file without questions, its first bad line."""
    assert len(sentence.splitlines()) == 1 and sentence.endswith("."), sentence
    assert len(sentence) < len(str(path)) + 700, sentence
    match = re.match(rf"{re.escape(str(path))}(?:, line (\d+))?: ", sentence)
    assert match, sentence
    if match[1] is None:
        assert "expected at least one question" in sentence, sentence
        return
    lines = lines_of(content)
    number = int(match[1])
    assert 1 <= number <= len(lines), sentence
    write(path, b"\n".join(lines[: number - 1]))
    _, before = parse(path)
    write(path, b"\n".join(lines[:number]))
    _, until = parse(path)
    if NOT_UTF_8 in sentence:  # checked first
        assert until == sentence and NOT_UTF_8 not in (before or ""), (before, until, sentence)
    else:
        empty = not lines[number - 1].decode("utf-8-sig").strip()  # allowed at the end of a file
        assert empty or until == sentence, (until, sentence)
        assert before is None or "at least one question" in before, (before, sentence)


def check_examples(examples, content, only_supporting=False):
    """Examples are the questions of the text, all of them, in order, with the statements before each."""
    lines = b"\n".join(lines_of(content)).decode("utf-8").removeprefix("\ufeff").split("\n")
    written = max(number for number, line in enumerate(lines, start=1) if not line.isspace() and line)
    questions, statements, stories = iter(examples), {}, 0
    for line in lines[:written]:  # empty ones may follow
        number, sentence = re.split("[ \t]", line.strip(" "), maxsplit=1)
        if int(number) == 1:
            statements, stories = {}, stories + 1
        if "\t" not in sentence:
            statements[int(number)] = sentence
            continue
        question, answer, supporting = sentence.split("\t")
        example = next(questions)
        memory = list(statements.values())
        if only_supporting:
            memory = [statements[int(line_id)] for line_id in supporting.split()]
        assert example.story == stories - 1
        assert len(example.statements) == len(memory)
        for text, spelled in zip((*example.statements, example.question), (*memory, question), strict=True):
            statement = data_utils.sentence_tokens(text)
            assert statement and all(statement)
            letters = "".join(spelled.lower().split())
            assert "".join(statement) in (letters, letters.removesuffix("."), letters.removesuffix("?"))
        assert example.answer == answer.strip().lower() != ""
    assert next(questions, None) is None


def check_encoding(examples):
    """Ids can be turned back into every word of every example."""
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
    tokens = [
        ([*map(data_utils.sentence_tokens, e.statements)], data_utils.sentence_tokens(e.question)) for e in examples
    ]
    for (statements, question), slots, query in zip(tokens, encoded.slots, encoded.query, strict=True):
        used = slots[: np.count_nonzero(slots)].tolist()
        assert [sentences[slot] for slot in reversed(used)] == statements
        assert spelled(query) == question
    assert [words[int(answer)] for answer in encoded.answer] == [example.answer for example in examples]
    small = data_utils.encode(examples, vocabulary, 1, 1)
    for (statements, question), slot, query in zip(tokens, small.slots[:, 0], small.query[:, 0], strict=True):
        newest = spelled(small.statements[slot])
        assert newest == (statements[-1][:1] if statements else ())
        assert words[int(query)] == question[0]

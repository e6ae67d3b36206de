"""Asking a trained model: answers, files, the terminal, and model files that are refused."""

import fcntl
import io
import json
import os
import pty
import resource
import select
import subprocess
import sys
import termios
import time
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

import ask
import data_utils
import flags
from flags import InputError

STORY = ["Mary went to the kitchen.", "John moved to the garden."]
SCRIPT = ask.__file__


def plain(lines):
    """Standard input that is not a terminal."""
    return io.TextIOWrapper(io.BytesIO("".join(f"{line}\n" for line in lines).encode()))


def test_file(trained):
    (path,) = Path(trained.data_dir).glob("qa1_*_test.txt")
    return str(path)


test_file.__test__ = False


# Answers ----------------------------------------------------------------------------------------


def test_an_answer_says_what_and_where(answerer):
    (answer,) = answerer.answer([(STORY, "Where is Mary?")])
    assert (answer.question, answer.answer, answer.statements) == ("Where is Mary?", "kitchen", STORY)
    words, probabilities = zip(*answer.top, strict=True)
    assert words[0] == "kitchen" and len(set(words)) == ask.TOP
    assert list(probabilities) == sorted(probabilities, reverse=True) and probabilities[0] > 0.5
    hops = answerer.config["hops"]
    assert answer.attention.shape == (2, hops) and answer.empty.shape == (hops,)
    np.testing.assert_allclose(answer.attention.sum(axis=0) + answer.empty, 1, rtol=1e-5)
    assert answer.attention[0].max() > 0.5 > answer.attention[1].max()  # in whichever hop
    assert answer.unknown == answer.dropped == answer.cut == []


def test_a_full_list_of_words_has_all_probability(answerer):
    (answer,) = answerer.answer([(STORY, "Where is John?")], top=10_000)
    assert len(answer.top) == answerer.config["vocab_size"]
    assert sum(probability for _, probability in answer.top) == pytest.approx(1, abs=1e-5)


def test_a_batch_gives_what_single_questions_give(answerer, trained, monkeypatch):
    asked = [(q.statements, q.question) for q in ask.read_questions(test_file(trained))[:23]]
    monkeypatch.setattr(ask, "BATCH_SIZE", 7)
    together = answerer.answer(asked)
    for one, question in zip(together, asked, strict=True):
        (alone,) = answerer.answer([question])
        assert alone.statements == one.statements and alone.answer == one.answer
        np.testing.assert_allclose(alone.attention, one.attention, atol=1e-5)
    assert answerer.answer([]) == []


def test_unknown_words_long_stories_and_long_sentences_are_named(answerer):
    room, longest = answerer.config["memory_size"], answerer.config["sentence_size"]
    ending = [f"word{i}" for i in range(longest)]
    story = ["Bilbo left."] + ["John went to the office."] * room + ["Bilbo went to " + " ".join(ending) + "."]
    (answer,) = answerer.answer([(story, "Where is Frodo?")])
    assert len(answer.statements) == room and answer.statements[-1] == story[-1]
    assert answer.dropped == story[:2]
    assert answer.unknown == ["bilbo", *ending[: longest - 3], "frodo"]
    assert answer.cut == [(story[-1], ending[longest - 3 :])]
    remarks = " ".join(answer.remarks())
    assert "bilbo" in remarks and f"holds {room}, so the oldest 2 statements are dropped" in remarks
    assert ending[-1] in remarks


def test_an_empty_memory_is_no_error(answerer):
    (answer,) = answerer.answer([([], "Where is Mary?")])
    assert answer.statements == [] and answer.attention.shape == (0, answerer.config["hops"])
    np.testing.assert_allclose(answer.empty, 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("statements", "question"),
    [(["."], "Where is Mary?"), (STORY, " ? "), (["word " * (data_utils.MAX_WORDS + 1)], "Where is Mary?")],
)
def test_a_sentence_without_words_or_with_too_many_is_refused(answerer, statements, question):
    with pytest.raises(InputError, match="expected a sentence of 1 to 1,000 words"):
        answerer.answer([(statements, question)])


@pytest.mark.parametrize("top", [0, -1])
def test_top_below_1_is_refused(answerer, top):
    with pytest.raises(InputError, match=f"top: expected at least 1, found {top}"):
        answerer.answer([(STORY, "Where is Mary?")], top=top)


def test_a_statement_that_looks_like_a_question_is_remarked(answerer):
    (answer,) = answerer.answer([([*STORY, "Where is Bob"], "Where is Mary?")])
    assert answer.statements[-1] == "Where is Bob"
    (remark,) = [remark for remark in answer.as_dict()["remarks"] if "statement" in remark]
    assert remark == "This is read as a statement, because it does not end in '?': Where is Bob"
    assert not any(map(ask.looks_like_question, [*STORY, "Will went home.", "Where is Bob?", "..."]))


def test_a_thousand_questions_take_less_than_a_second(answerer, trained):
    asked = [(q.statements, q.question) for q in ask.read_questions(test_file(trained))]
    answerer.answer(asked[:1])
    start = time.process_time()  # of both cores together, so stricter, but blind to what else the machine does
    assert len(answerer.answer(asked)) == 1000
    assert time.process_time() - start < 1


def test_loading_takes_less_than_half_a_second_after_tensorflow(trained):
    start = time.process_time()
    ask.Answerer(trained.model)
    assert time.process_time() - start < 0.5


# Files of questions -----------------------------------------------------------------------------


def write(path, content):
    path.write_bytes(content.encode())
    return str(path)


def test_plain_sentences_and_the_bAbI_format_are_read(tmp_path):
    plain_text = "A b.\n\nC d.\nWhere is c?\tD\nE f\nWhere?\n \n"
    numbered = "1 A b.\n1 C d.\n2 Where is c? \tD\t1\n3 E f\n4 Where?\n"
    expected = [(("C d.",), "Where is c?", "d", 1), (("C d.", "E f"), "Where?", None, 1)]
    for content in (plain_text, numbered):
        questions = ask.read_questions(write(tmp_path / "story.txt", content))
        assert [(q.statements, q.question, q.answer, q.story) for q in questions] == expected


def test_lines_may_end_in_carriage_returns_and_ids_in_tabs(tmp_path):
    for content in ("Mary left.\rWhere is Mary?\r", "1\tMary left.\r\n2\tWhere is Mary?\r\n"):
        (question,) = ask.read_questions(write(tmp_path / "story.txt", content))
        assert (question.statements, question.question, question.line) == (("Mary left.",), "Where is Mary?", 2)


def test_many_empty_lines_at_the_end_take_no_time(tmp_path):
    path = write(tmp_path / "story.txt", "Mary left.\nWhere is Mary?\n" + "\n" * 200_000)
    start = time.process_time()
    assert len(ask.read_questions(path)) == 1
    assert time.process_time() - start < 2


def test_a_text_that_cannot_be_read_is_one_sentence(tmp_path, monkeypatch):
    path = write(tmp_path / "story.txt", f"Mary left.\n{'very ' * (data_utils.MAX_WORDS + 1)}long.\nWho?\n")
    with pytest.raises(InputError, match="story.txt, line 2: expected a sentence of at most 1,000 words"):
        ask.read_questions(path)
    (tmp_path / "story.txt").write_bytes(b"Mary left.\nJohn\xff left.\nWho?\n")
    with pytest.raises(InputError, match="line 2: expected UTF-8"):
        ask.read_questions(path)
    with pytest.raises(InputError, match="cannot be read: No such file"):
        ask.read_questions(str(tmp_path / "nowhere.txt"))
    monkeypatch.setattr(sys, "stdin", plain(["Mary left."]))
    with pytest.raises(InputError, match="standard input: expected at least one question"):
        ask.read_questions("-")


def test_a_test_file_gives_the_accuracy_of_the_score_file(trained, capsys):
    ask.main(["--model", trained.model, "--story", test_file(trained)])
    *lines, last = capsys.readouterr().out.splitlines()
    right = sum(line.endswith(", right") for line in lines)
    assert len(lines) == 1000 and right + sum(", wrong, the answer is " in line for line in lines) == 1000
    assert last == f"accuracy {trained.accuracy} ({right} of 1000 questions)"
    assert 500 < right


def test_json_has_an_object_a_line(trained, capsys):
    ask.main(["--model", trained.model, "--story", test_file(trained), "--json", "--top", "2"])
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(found) == 1000
    assert f"{np.mean([answer['right'] for answer in found]):.4f}" == trained.accuracy
    fields = "line question answer top memory empty unknown dropped cut remarks truth right"
    assert list(found[0]) == fields.split()
    assert all(a["right"] == (a["answer"] == a["truth"] == a["top"][0]["word"]) for a in found)
    assert len(found[0]["top"]) == 2 and len(found[0]["memory"][0]["attention"]) == len(found[0]["empty"])


def test_a_question_without_truth_is_neither_right_nor_wrong(trained, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", plain(["1 Mary went to the kitchen.", "2 Where is Mary?"]))
    ask.main(["--model", trained.model, "--json"])
    (found,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert (found["answer"], found["truth"], found["right"]) == ("kitchen", None, None)
    monkeypatch.setattr(sys, "stdin", plain(["1 Mary went to the kitchen.", "2 Where is Mary?"]))
    ask.main(["--model", trained.model])
    printed = capsys.readouterr().out
    assert "kitchen" in printed and "hop 1" in printed and "accuracy" not in printed


def test_a_table_can_be_asked_for(trained, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", plain([*STORY, "Where is Mary?\tkitchen"]))
    ask.main(["--model", trained.model, "--table"])
    printed = capsys.readouterr().out
    assert "kitchen, right" in printed and "hop 1" in printed
    assert printed.endswith("accuracy 1.0000 (1 of 1 questions)\n")


# The screen -------------------------------------------------------------------------------------


@pytest.fixture
def printed(answerer, monkeypatch):
    """A function that prints an answer in an encoding and returns the text."""
    (answer,) = answerer.answer([([STORY[0], "John \x1b[2J moved."], "Where is Mary?")])

    def print_in(encoding):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr(sys, "stdout", stream)
        ask.print_answer(answer)
        stream.flush()
        return stream.buffer.getvalue().decode(encoding)

    print_in.answer = answer
    return print_in


def test_shading_is_what_the_screen_can_show(printed):
    assert "██" in printed("utf-8") and "##" in printed("ascii")


def test_the_table_has_a_row_a_statement_and_a_column_a_hop(printed):
    first, head, *rows = printed("utf-8").splitlines()
    assert first.startswith("kitchen ")
    assert head.split() == ["hop", "1", "hop", "2", "hop", "3", "memory"]
    table = [*printed.answer.attention, printed.answer.empty]
    texts = [STORY[0], "John  [2J moved.", "(empty slots)"]  # an escape sequence does not reach the terminal
    for row, weights, text in zip(rows, table, texts, strict=False):
        assert row.endswith(text)
        assert [part for part in row.split() if part[0].isdigit()][:3] == [f"{weight:.2f}" for weight in weights]


# The dialogue -----------------------------------------------------------------------------------


@pytest.fixture
def dialogue(answerer):
    return ask.Dialogue(answerer, top=ask.TOP)


def test_statements_can_be_taken_back(dialogue, capsys):
    for line in [*STORY, "Mary went to the office.", "/undo"]:
        assert dialogue.take(line)
    assert dialogue.statements == STORY
    assert "Removed: Mary went to the office." in capsys.readouterr().out
    assert dialogue.take("/clear") and dialogue.statements == []
    assert dialogue.take("/undo") and "The story has no statements." in capsys.readouterr().out
    assert not dialogue.take("/quit")


def test_an_example_can_be_loaded(dialogue, trained, capsys):
    path = test_file(trained)
    assert dialogue.take(f"/load {path} 3")
    third = ask.read_questions(path)[2]
    printed = capsys.readouterr().out
    assert dialogue.statements == list(third.statements)
    assert third.question in printed and f"The file's answer: {third.answer}" in printed
    assert dialogue.take(f"/load {path}") and dialogue.statements == list(ask.read_questions(path)[0].statements)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/load", "expected a file name"),
        ("/load nowhere.txt 3", "nowhere.txt: cannot be read"),
        ("/load {path} 1001", "from 1 to 1000"),
        ("/lod", "no such command"),
        ("?", "expected a sentence of 1 to 1,000 words, found '?'"),
        ("...", None),
        ("", None),
    ],
)
def test_a_mistake_is_a_sentence_and_the_dialogue_goes_on(dialogue, trained, capsys, line, said):
    assert dialogue.take(line.format(path=test_file(trained)))
    printed = capsys.readouterr().out
    assert said in printed if said else printed == ""


def test_a_question_without_its_mark_is_noticed(dialogue, capsys):
    assert dialogue.take("Where is Bob")
    assert capsys.readouterr().out == "This is read as a statement, because it does not end in '?'. /undo removes it.\n"
    assert dialogue.take("/undo") and dialogue.statements == []


class Person:
    """Someone at a terminal: types lines into a script and reads what it shows."""

    def __init__(self, *arguments):
        self.terminal, its_side = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", "PYTHONIOENCODING": "utf-8"}
        self.process = subprocess.Popen(
            [sys.executable, SCRIPT, *arguments], stdin=its_side, stdout=its_side, stderr=its_side, env=environment,
            start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(its_side)
        self.shown = ""

    def read_until(self, text, seconds=60):
        """What is shown up to a text."""
        end = time.monotonic() + seconds
        while text not in self.shown:
            ready, _, _ = select.select([self.terminal], [], [], max(0, end - time.monotonic()))
            assert ready, f"{text!r} was not shown, but {self.shown!r}"
            try:
                self.shown += os.read(self.terminal, 65536).decode()
            except OSError:  # the other side is closed
                raise AssertionError(f"{text!r} was not shown, but {self.shown!r}") from None
        before, self.shown = self.shown.split(text, 1)
        return before

    def type(self, line):
        os.write(self.terminal, f"{line}\n".encode())
        self.read_until(line)  # the terminal's echo

    def leave(self, key):
        self.read_until("> ")  # before the prompt, the key would be lost: the terminal is not yet Readline's
        os.write(self.terminal, key)
        status = self.process.wait(timeout=60)
        os.close(self.terminal)
        return status


def test_a_dialogue_at_a_terminal(trained):
    person = Person("--model", trained.model)
    assert "Traceback" not in person.read_until("/help lists the commands.")
    for line in (*STORY, "Mary went to the hallwai.", "/undo", "Where is Mary?"):
        person.type(line)
    shown = person.read_until("(empty slots)")
    assert "kitchen" in shown and "hop 3" in shown and all(statement in shown for statement in STORY)
    person.type("/story")
    assert "hallwai" not in person.read_until(STORY[1])
    assert person.leave(b"\x04") == 0


def test_ctrl_c_ends_the_dialogue(trained):
    person = Person("--model", trained.model)
    person.read_until("/help lists the commands.")
    person.type(STORY[0])
    assert person.leave(b"\x03") == 130
    assert "Traceback" not in person.shown


# Model files ------------------------------------------------------------------------------------


@pytest.fixture
def variant(trained, tmp_path):
    """Makes a model file like the trained one, with another configuration or other weights."""

    def make(change=lambda saved: None, weights=None):
        path = tmp_path / "variant.keras"
        with zipfile.ZipFile(trained.model) as original, zipfile.ZipFile(path, "w") as changed:
            saved = json.loads(original.read("config.json"))
            change(saved)
            changed.writestr("metadata.json", original.read("metadata.json"))
            changed.writestr("config.json", json.dumps(saved))
            changed.writestr("model.weights.h5", original.read("model.weights.h5") if weights is None else weights)
        return str(path)

    return make


def test_a_model_file_carries_all_that_is_needed(variant):
    assert ask.Answerer(variant()).answer([(STORY, "Where is John?")])[0].answer == "garden"


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_refused(trained, tmp_path, share):
    content = Path(trained.model).read_bytes()
    path = tmp_path / "model.keras"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match="model.keras: expected a model.keras file"):
        ask.Answerer(str(path))


def test_a_file_with_one_wrong_byte_is_refused(trained, tmp_path):
    content = bytearray(Path(trained.model).read_bytes())
    content[len(content) // 2] ^= 1
    path = tmp_path / "model.keras"
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        ask.Answerer(str(path))


def test_weights_that_are_claimed_and_not_there_are_refused(variant):
    """A file of a few bytes may say of a table that it has gigabytes, all of them zero."""
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file.create_dataset("W", shape=(10**5, 10**5), chunks=(10**3, 10**3), dtype="float32")
    assert len(content.getvalue()) < 10**6
    with pytest.raises(InputError, match="weights that are not in the file"):
        ask.Answerer(variant(weights=content.getvalue()))


@pytest.fixture
def changed_weights(trained):
    """Gives the weights file of the trained model after a change: a function of the `h5py.File`."""

    def make(change):
        with zipfile.ZipFile(trained.model) as archive:
            content = io.BytesIO(archive.read("model.weights.h5"))
        with h5py.File(content, "r+") as file:
            change(file)
        return content.getvalue()

    return make


TABLE = "vars/0"


def replace(file, name, **options):
    shape, dtype = file[name].shape, file[name].dtype
    del file[name]
    file.create_dataset(name, shape=shape, dtype=dtype, **options)


def stored_outside(file, path):
    replace(file, TABLE, external=[(path, 0, h5py.h5f.UNLIMITED)])


def virtual(file, path):
    layout = h5py.VirtualLayout(file[TABLE].shape, file[TABLE].dtype)
    layout[:] = h5py.VirtualSource(path, "W", shape=file[TABLE].shape)
    del file[TABLE]
    file.create_virtual_dataset(TABLE, layout)


def external_link(file, path):
    del file[TABLE]
    file[TABLE] = h5py.ExternalLink(path, "W")


def soft_link(file, path):
    file["elsewhere"] = file[TABLE][()]
    del file[TABLE]
    file[TABLE] = h5py.SoftLink("/elsewhere")


@pytest.mark.parametrize("change", [stored_outside, virtual, external_link, soft_link])
def test_weights_outside_the_file_are_refused_before_keras_reads_them(
    variant, changed_weights, trained, tmp_path, monkeypatch, change
):
    import training

    with zipfile.ZipFile(trained.model) as archive, h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as file:
        table = file[TABLE][()]
    secret = str(tmp_path / "secret")
    if change is stored_outside:
        table.tofile(secret)
    else:
        with h5py.File(secret, "w") as file:
            file["W"] = table
    path = variant(weights=changed_weights(lambda file: change(file, secret)))
    monkeypatch.setattr(training.MemN2N_KV, "load_weights", None)  # Keras 3.15 refuses some of them itself
    with pytest.raises(InputError, match="found weights (behind a link|that are not in the file)"):
        ask.Answerer(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(variant, changed_weights, value):
    def change(file):
        file[TABLE][0, 0] = value

    with pytest.raises(InputError, match="found weights that are not finite numbers"):
        ask.Answerer(variant(weights=changed_weights(change)))


def test_weights_too_large_to_compute_with_give_no_nan(variant, changed_weights):
    def change(file):
        file[TABLE][:] = 1e38

    with pytest.raises(InputError, match="its weights are too large"):
        ask.Answerer(variant(weights=changed_weights(change))).answer([(STORY, "Where is Mary?")])


def test_weights_that_do_not_fit_are_refused(variant):
    for weights in (b"", b"something else"):
        with pytest.raises(InputError, match="damaged"):
            ask.Answerer(variant(weights=weights))
    for change in ({"feature_size": 39}, {"reader": "telepathy"}):
        with pytest.raises(InputError, match="do not fit"):
            ask.Answerer(variant(lambda saved, change=change: saved["config"].update(change)))


@pytest.mark.parametrize(
    "sizes",
    [
        {"feature_size": 41},
        {"embedding_size": 2000, "memory_size": 10_000},
        {"feature_size": 2000, "hops": 100},
        {"feature_size": 2000, "hops": 100, "reader": "simple_gru", "tying": "adjacent"},
    ],
)
def test_sizes_beyond_the_weights_are_refused_before_memory_is_taken(variant, sizes):
    import training

    path = variant(lambda saved: saved["config"].update(sizes))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match="found fewer weights than the [0-9,]+ of its configuration"):
        ask.Answerer(path)
    with training.keras.StatelessScope():
        pass  # now Keras initializes all variables that it was still to initialize
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("memory_size", 0),
        ("memory_size", "20"),
        ("hops", True),
        ("hops", 10**9),
        ("inner_hops", -1),
        ("inner_hops", 10**9),
        ("feature_size", 2.5),
        ("embedding_size", None),
        ("vocabulary", None),
        ("vocabulary", {"class_name": "__lambda__"}),
        ("vocabulary", ["one", 2]),
        ("vocabulary", ["one", "<UNK>"]),
        ("vocabulary", ["one"] * 3),
        ("tasks", [{"class_name": "Task"}]),
        ("tasks", [99]),
    ],
)
def test_a_configuration_of_other_values_is_refused(variant, name, value):
    with pytest.raises(InputError, match=f"configuration in which {name}"):
        ask.Answerer(variant(lambda saved: saved["config"].update({name: value})))


def named(module):
    return {"module": module, "class_name": "Evil", "registered_name": "Evil", "config": {}}


@pytest.mark.parametrize(
    "change",
    [
        lambda saved, evil: saved.update(named(evil)),
        lambda saved, evil: saved.update({"class_name": "Functional", "registered_name": None}),
        lambda saved, evil: saved["config"].update(activity_regularizer=named(evil)),
        lambda saved, evil: saved["config"].update(inputs=named(evil)),
        lambda saved, evil: saved["config"].update(kwargs=named(evil)),
        lambda saved, evil: saved["config"].update(reader=named(evil)),
        lambda saved, evil: saved["config"].update(dtype=named(evil), name=named(evil)),
        lambda saved, evil: saved.update(module=evil, build_config=named(evil), compile_config={"loss": named(evil)}),
    ],
)
def test_nothing_that_a_file_names_is_run(variant, tmp_path, monkeypatch, change):
    (tmp_path / "evil_module.py").write_text("raise SystemExit('this ran')\n")
    monkeypatch.syspath_prepend(tmp_path)
    path = variant(lambda saved: change(saved, "evil_module"))
    try:
        found = ask.Answerer(path).answer([(STORY, "Where is Mary?")])
    except InputError:
        pass
    else:  # what the file named was not looked at, and is not needed
        assert found[0].answer == "kitchen"
    assert "evil_module" not in sys.modules


# Pictures ---------------------------------------------------------------------------------------


def test_the_attention_is_drawn(trained, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    path = tmp_path / "attention.png"
    monkeypatch.setattr(sys, "stdin", plain([r"Mary paid $\frac{ and 5$.", *STORY, "Where is Mary?"]))
    ask.main(["--model", trained.model, "--save_attention", str(path)])
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_picture_that_cannot_be_drawn_is_one_sentence(tmp_path):
    for path in (tmp_path / "nowhere" / "a.png", tmp_path / "a.jpg"):
        with pytest.raises(InputError, match="ends in .png, in a folder that exists"):
            ask.main(["--save_attention", str(path)])


# The command ------------------------------------------------------------------------------------


def run(*arguments, text="", **environment):
    return subprocess.run(
        [sys.executable, SCRIPT, *arguments], input=text, text=True, capture_output=True, timeout=120,
        env={**os.environ, **environment},
    )  # fmt: skip


def test_the_command_answers_standard_input(trained):
    text = "\n".join([*STORY, "Where is Mary?\n"])
    done = run("--model", trained.model, text=text, PYTHONIOENCODING="ascii", TF_CPP_MIN_LOG_LEVEL="3")
    assert (done.returncode, done.stderr) == (0, "")
    question, answer, _, first, *_ = done.stdout.splitlines()
    assert question == "line 3: Where is Mary?" and answer.startswith("kitchen ")
    assert first.endswith(STORY[0]) and "##" in first and "\x1b" not in done.stdout


def test_help_imports_no_tensorflow():
    check = "import sys, ask; print(sorted({'tensorflow', 'keras', 'flask', 'h5py', 'matplotlib'} & {*sys.modules}))"
    done = subprocess.run([sys.executable, "-c", check], cwd=flags.HERE, capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n"
    assert run("-h").returncode == 0


def test_the_default_model_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert ask.Answerer().answer([(STORY, "Where is Mary?")])[0].answer == "kitchen"


@pytest.mark.parametrize(
    ("arguments", "text", "said"),
    [
        (["--model", "nowhere.keras"], "A b.\nWho?", "nowhere.keras: cannot be read: No such file"),
        (["--model", "{folder}/a.keras"], "A b.\nWho?", "a.keras: cannot be read: Is a directory; expected a model"),
        (["--model", "{folder}/story.txt"], "A b.\nWho?", "found a file of another name"),
        (["--model", "{folder}/story.keras"], "A b.\nWho?", "story.keras: expected a model.keras file"),
        (["--story", "{folder}/story.txt"], "", "line 2: expected a sentence without a number"),
        ([], "A b.", "standard input: expected at least one question"),
        (["--web", "--json"], "", "--json has no effect with --web"),
        (["--top", "0"], "", "--top"),
        (["--port", "high", "--web"], "", "--port"),
    ],
)
def test_a_mistake_ends_in_one_sentence_and_status_2(tmp_path, arguments, text, said):
    (tmp_path / "a.keras").mkdir()
    for name in ("story.txt", "story.keras"):
        (tmp_path / name).write_text("Mary left.\n1 John left.\nWho?\n")
    done = run(*(argument.format(folder=tmp_path) for argument in arguments), text=text)
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.count("\n") == 1
    assert done.stderr.startswith("ask.py: ") and said in done.stderr


def test_the_page_without_its_packages_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "ask_web", None)
    with pytest.raises(InputError, match="pip install -r requirements-web.txt"):
        ask.main(["--web"])

"""Flags, number types, recipes, and how a command ends."""

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import ROOT, command

import flags
import joint
import single
import wikimovies

RECIPES = ROOT / "recipes"
TOOLS = sorted(f"tools/{path.name}" for path in (ROOT / "tools").glob("*.py"))
both_scripts = pytest.mark.parametrize("script", [single, joint], ids=["single", "joint"])


def parse(script, text=""):
    """The parsed flags of a command line."""
    return script.flag_parser().parse_args(text.split())


def refusal(capsys, script, text):
    """The sentence with which a parser refuses a command line."""
    with pytest.raises(SystemExit) as ended:
        parse(script, text)
    out, sentence = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    assert sentence.count("\n") == 1 and sentence.endswith(" (-h explains every flag).\n")
    return sentence


# --- values -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "tasks"),
    [("7", [7]), ("3,7,9", [3, 7, 9]), ("1-20", list(range(1, 21))), ("all", list(range(1, 21)))]
    + [("2-3,19, 5", [2, 3, 5, 19]), ("4,4,3-5", [3, 4, 5]), ("20-20", [20])],
)
def test_task_numbers(text, tasks):
    assert flags.task_numbers(text) == tasks


@pytest.mark.parametrize(
    "text", ["0", "21", "1-21", "7-5", "", "one", "1,,2", "-3", "1-", "-", "1-2-3", "1.5", "1;2", "1-1000000", "²"]
)
def test_wrong_task_numbers(text):
    with pytest.raises(argparse.ArgumentTypeError, match="expected"):
        flags.task_numbers(text)


@pytest.mark.parametrize(
    "text",
    ["--task_id 0", "--task_id 21", "--task_id one"]
    + ["--hops 0", "--hops 1.5", "--epochs 0", "--batch_size 0", "--batch_size -1", "--memory_size 0", "--reader lstm"]
    + ["--embedding_size 0", "--embedding_size 1000000000", "--restarts 100000000", "--feature_size 0"]
    + ["--keep_prob 0", "--keep_prob 1.1", "--learning_rate 0", "--learning_rate fast", "--epsilon 0"]
    + ["--l2_lambda -0.1", "--max_grad_norm 0", "--evaluation_interval 0", "--random_state -1"]
    + ["--only_supporting maybe", "--mask_padding 2", "--allow_soft_placement yes", "--speed 9", "--epoch 3"]
    + ["--epochs", "--gates 3", "--jit_compile yes", "--decay_rate 0", "--decay_epochs 0", "--state_dropout 1"]
    + ["--data_dir none", "--linear_start 100", "--random_state 2147483648"]
    + ["--keep first", "--patience -1", f"--name {'x' * 61}"],
)
def test_wrong_flags_are_one_sentence(text, capsys):
    assert text.split()[0] in refusal(capsys, single, text)


@pytest.mark.parametrize("value", ["inf", "1e39", "1e300", "nan"])
def test_numbers_beyond_float32_are_refused(value, capsys):
    assert f"expected a number that float32 can hold, found '{value}'" in refusal(
        capsys, single, f"--learning_rate {value}"
    )
    refusal(capsys, single, f"--gradient_noise {value}")
    refusal(capsys, single, f"--l2_lambda {value}")


@pytest.mark.parametrize("name", ["data_dir", "output_file", "log_dir", "resume"])
def test_file_names_that_cannot_be_printed_are_refused(name, capsys):
    for value in ("two\nlines", "\udcff"):
        with pytest.raises(SystemExit):
            single.flag_parser().parse_args([f"--{name}", value])
        assert "file name of printable characters" in capsys.readouterr().err


def test_tasks_of_each_script():
    assert (parse(single).task_id, parse(joint).task_id) == ([1], list(range(1, 21)))
    assert parse(joint, "--task_id 1,2,4-6").task_id == [1, 2, 4, 5, 6]


def test_schedules_may_be_shares_of_the_epochs(capsys):
    values = parse(joint, "--epochs 30 --linear_start 0.1 --decay_epochs 0.25")
    assert (values.linear_start, values.decay_epochs) == (3, 8)
    assert parse(joint, "--epochs 5 --linear_start 0.01").linear_start == 1
    assert parse(joint, "--epochs 5 --linear_start 3").linear_start == 3
    assert parse(joint, "--epochs 30 --linear_start 3 --linear_end 0.1").linear_end == 3
    refusal(capsys, joint, "--linear_start 2.5")


# --- help -------------------------------------------------------------------------------------------------

DEFAULTS = {  # the defaults of the original's flags in single.py and joint.py; None if the script lacks the flag
    "learning_rate": ("0.001", "0.001"),
    "epsilon": ("0.1", "0.1"),
    "l2_lambda": ("0.2", "0.1"),
    "max_grad_norm": ("20.0", "20.0"),
    "keep_prob": ("1.0", "1.0"),
    "evaluation_interval": ("50", "20"),
    "batch_size": ("32", "50"),
    "feature_size": ("40", "50"),
    "hops": ("3", "3"),
    "epochs": ("100", "200"),
    "embedding_size": ("30", "40"),
    "memory_size": ("20", "50"),
    "task_id": ("1", "all"),
    "random_state": ("", ""),
    "data_dir": ("the published English files", "the published English files"),
    "reader": ("bow", "bow"),
    "output_file": ("single_scores.csv", "logs/scores_<unix time>.csv"),
    "param_output_file": (None, "logs/params_<unix time>.csv"),
    "jit_compile": ("auto", "auto"),
    "allow_soft_placement": ("True", "True"),
    "log_device_placement": ("False", "False"),
}


@both_scripts
def test_help_lists_every_flag_with_its_default(script, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    with pytest.raises(SystemExit) as ended:
        script.main(["-h"])
    assert ended.value.code == 0
    text = re.sub(r"\s+", " ", capsys.readouterr().out)
    entries = dict(re.findall(r" --(\w+) (?:[A-Z0-9_]+|\{[\w,]+\}) ([a-z].*?)(?= --\w+ |$)", text))
    for name, defaults in DEFAULTS.items():
        default = defaults[script is joint]
        if default is None:
            assert name not in entries
        else:
            assert not default or ("default: " in entries[name] and default in entries[name])


COMMANDS = [("single.py", "--hops 0"), ("joint.py", "--epochs"), ("ask.py", "--hops 2"), ("plots.py", "--hops 2")]
COMMANDS += [("compare.py", "--hops 2"), ("evaluate.py", "--hops 2")]
COMMANDS += [(tool, "--hops 2") for tool in TOOLS]


@pytest.mark.parametrize(("script", "wrong"), COMMANDS, ids=[script for script, _ in COMMANDS])
def test_help_and_wrong_flags_do_not_wait_for_tensorflow(script, wrong):
    for arguments, status in (("-h", 0), (wrong, 2)):
        words = [sys.executable, "-X", "importtime", str(ROOT / script), *arguments.split()]
        ended = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        modules = {line.rpartition("|")[2].strip().partition(".")[0] for line in ended.stderr.splitlines()}
        assert "argparse" in modules and not modules & {"tensorflow", "keras", "sklearn", "pandas"}
        message = "".join(line for line in ended.stderr.splitlines(True) if not line.startswith("import time:"))
        assert (ended.returncode, message.count("\n")) == (status, 1 if status else 0), message
        assert bool(ended.stdout) == (status == 0)


# --- recipes ----------------------------------------------------------------------------------------------


def test_later_flags_override_a_recipe(tmp_path):
    recipe = tmp_path / "small.flags"
    recipe.write_text("# a comment\n--hops 2  # another\n\n--epochs 7 --log_dir 'two words'\n")
    values = parse(joint, f"@{recipe} --epochs 9")
    assert (values.hops, values.epochs, values.log_dir) == (2, 9, "two words")
    assert parse(joint, f"--epochs 9 @{recipe}").epochs == 7
    assert values.command.endswith(f"@{recipe} --epochs 9")
    assert values.given == ["epochs", "hops", "log_dir"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["no.flags", "No such file"]),
        (b"\xff\xfe", ["no.flags", "UTF-8"]),
        (b"--hops 2\n--epochs '7\n", ["no.flags", "line 2", "quot"]),
        (b"hello there\n", ["no.flags", "line 1", "'hello'"]),
        (b"--hops two\n", ["--hops", "two"]),
        (b"--colour red\n", ["--colour"]),
    ],
)
def test_bad_recipes_are_one_sentence(content, words, tmp_path, capsys):
    path = tmp_path / "no.flags"
    if content is not None:
        path.write_bytes(content)
    sentence = refusal(capsys, joint, f"@{path}")
    assert all(word in sentence for word in words)


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.flags")), ids=lambda path: path.name)
def test_recipes_of_the_project_are_valid(recipe, capsys):
    script = wikimovies if "films" in recipe.stem else single if "single" in recipe.stem else joint
    values = vars(parse(script, f"@{recipe}"))
    assert capsys.readouterr().err == ""  # a note about flags without effect is for those that a user types
    if recipe.stem.startswith("original"):  # it spells out the defaults
        ignored = {"command": values["command"], "given": values["given"]}
        assert values == vars(parse(script)) | ignored
    else:
        assert values["tying"] == "adjacent"


# --- flags that depend on each other ----------------------------------------------------------------------


def test_the_later_of_two_decay_flags_wins(tmp_path):
    recipe = tmp_path / "decay.flags"
    recipe.write_text("--decay_epochs 15\n")
    values = parse(joint, f"@{recipe} --decay_steps 300")
    assert (values.decay_steps, values.decay_epochs) == (300, None)
    values = parse(joint, f"--decay_steps 300 @{recipe}")
    assert (values.decay_steps, values.decay_epochs) == (None, 15)
    assert (parse(joint).decay_steps, parse(joint).decay_epochs) == (90_000, None)


@pytest.mark.parametrize(
    ("text", "name", "recorded"),
    [
        ("--tying adjacent --embedding_size 17 --feature_size 99", "feature_size", 17),
        ("--reader simple_gru --encoding length", "encoding", "unused"),
        ("--optimizer sgd --epsilon 0.5", "epsilon", "unused"),
        ("--linear_attention mean", "linear_attention", "unused"),
        ("--linear_end 2", "linear_end", 0),
    ],
)
def test_flags_without_effect_are_noted_and_recorded_as_such(text, name, recorded, tmp_path, capsys):
    assert getattr(parse(single, text), name) == recorded
    note = capsys.readouterr().err
    assert note.startswith(f"note: --{name} has no effect: ") and note.count("\n") == 1
    recipe = tmp_path / "recipe.flags"
    recipe.write_text(text)
    assert getattr(parse(single, f"@{recipe}"), name) == recorded
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "text",
    ["--tying adjacent --reader simple_gru --feature_size 99", "--encoding length", "--epsilon 0.5", "--feature_size 9"]
    + [
        "--linear_start 2 --linear_attention mean",
        "--linear_start 2 --linear_end 3",
        "--inner_hops 2",
        "--reader simple_gru --feature_size 9",
    ],
)
def test_flags_with_an_effect_are_recorded_as_given(text, capsys):
    values, words = vars(parse(single, text)), text.split()
    assert str(values[words[-2][2:]]) == words[-1]
    assert capsys.readouterr().err == ""


# --- how a command ends -----------------------------------------------------------------------------------


def start(tmp_path, body, **options):
    """Starts a script whose `main` has a body and ends as every command does."""
    path = tmp_path / "script.py"
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    head = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nimport flags\ndef main():\n"
    path.write_text(f"{head}{lines}\nflags.run_command(main)\n")
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return subprocess.Popen([sys.executable, str(path)], **{**pipes, **options})


def ended(process):
    """(status, output, errors) of a process."""
    out, errors = process.communicate(timeout=60)
    return process.returncode, out, errors


def test_wrong_input_ends_in_one_sentence(tmp_path):
    process = start(tmp_path, "print('begun')\nraise flags.InputError('a file is missing.')")
    assert ended(process) == (2, "begun\n", "script.py: a file is missing.\n")


def test_a_bug_shows_its_traceback(tmp_path):
    status, _, errors = ended(start(tmp_path, "1 / 0"))
    assert status == 1 and "Traceback" in errors and "ZeroDivisionError" in errors


def test_the_status_is_what_main_returns(tmp_path):
    assert ended(start(tmp_path, "print('done')")) == (0, "done\n", "")
    assert ended(start(tmp_path, "return 3")) == (3, "", "")


BUSY = "import hashlib\nhashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)"  # like TensorFlow, runs no signal handlers


# As Python does when a signal stops the import of a C extension.
WAITING = "import time\ntime.sleep(60)"
WRAPPED = "import time\ntry:\n    time.sleep(60)\nexcept KeyboardInterrupt as error:\n    raise ImportError from error"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("work", [BUSY, WAITING, WRAPPED], ids=["computing", "waiting", "importing"])
def test_a_signal_ends_a_command_within_two_seconds(work, number, tmp_path):
    process = start(tmp_path, f"flags.say_when_stopped('stopped; go on.')\nprint('begun', flush=True)\n{work}")
    assert process.stdout.readline() == "begun\n"
    time.sleep(0.1)
    begin = time.monotonic()
    process.send_signal(number)
    assert ended(process) == (128 + number, "", "\nscript.py: stopped; go on.\n")
    assert time.monotonic() - begin < 2.5


def test_a_stopped_command_cleans_up(tmp_path):
    body = "import time\ntry:\n    print('begun', flush=True)\n    time.sleep(60)\nfinally:\n    print('cleaned up')"
    process = start(tmp_path, f"{body}\n    sys.stdout.flush()")
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "cleaned up\n"
    for _ in range(3):  # an impatient user
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
    assert ended(process) == (130, "", "\nscript.py: stopped.\n")


def test_a_closed_pipe_ends_a_command_silently(tmp_path):
    process = start(tmp_path, "for number in range(10**6):\n    print(number)")
    assert process.stdout.readline() == "0\n"
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 0


def test_a_full_disk_behind_standard_output_is_one_sentence(tmp_path):
    with open("/dev/full", "w") as full:
        process = start(tmp_path, "flags.say_when_stopped('stopped; go on.')\nprint('out')", stdout=full)
        expected = "script.py: standard output: No space left on device; stopped; go on.\n"
        assert ended(process) == (2, None, expected)


@pytest.mark.parametrize("descriptor", [0, 1, 2])
def test_closed_standard_streams(descriptor, tmp_path):
    body = "print('out')\nprint('err', file=sys.stderr)\nassert sys.stdin.read() == ''\nreturn 5"
    process = start(tmp_path, body, stdin=subprocess.DEVNULL, preexec_fn=lambda: os.close(descriptor))
    assert ended(process) == (5, "" if descriptor == 1 else "out\n", "" if descriptor == 2 else "err\n")


def test_characters_that_the_terminal_lacks_are_replaced(tmp_path):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    assert ended(start(tmp_path, "print('± 1')", env=environment)) == (0, "? 1\n", "")


def test_the_project_is_found_from_any_folder(tmp_path):
    assert Path(flags.HERE) == ROOT == Path(single.__file__).parent
    done = command("single.py", "@recipes/no.flags", cwd=tmp_path)
    assert done.returncode == 2 and "single.py: recipes/no.flags: No such file" in done.stderr

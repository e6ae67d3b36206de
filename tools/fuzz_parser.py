"""Searches for a file that the bAbI parser does not handle, with a coverage-guided fuzzer.

    pip install atheris
    nice python tools/fuzz_parser.py --seconds 600

The fuzzer (Atheris, on libFuzzer) mutates stories, keeps every mutation that reaches a new branch of `data_utils.py`,
and checks every file against the rules in `tests/parser_rules.py`, as bAbI text and as plain text. It ends with the
number of files tried and status 0; or, at the first file that breaks a rule, with the traceback and the path of that
file. `tests/test_properties.py` checks the same rules on its own cases.
"""

import os
import random
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "tests"
sys.path[:0] = [str(ROOT), str(TESTS)]  # for the project and `parser_rules`

from flags import HelpFormatter, InputError, Parser, count, number, run_command

# Pieces with a meaning in the format or in Unicode.
PIECES = [
    *("1", "2", "01", "0", "-1", "999999999", "9999999999", "\u0661", "\uff11", "\u00b2"),
    *(" ", "\t", "\t\t", "\n", "\n\n", "\r", "\r\n", "\u2028", "\x85", "\xa0", "\x1c", "\u200b"),
    *("?", ".", "a,b", "_", "<UNK>", "\0", "\ufeff", "\u0130", "\u03a3", "\ud55c", "\U0001f600", "e\u0301"),
    *("1 A b.\n", "2 Who?\tb\t1\n", "1 Who?\tb\t\n"),
]
BYTES = [*(piece.encode() for piece in PIECES), b"\xff", b"\xe2\x82", b"\xed\xa0\x80", b"\xc0\x80", b"\xef\xbb\xbf"]


def mutate(content, size, seed, mutate_bytes):
    """Mutates a file by line, by piece, or with the fuzzer's own mutation.

    Args:
        content: the bytes of a file.
        size: the most bytes of the new one.
        seed: seed of the mutation.
        mutate_bytes: the fuzzer's own mutation, a function of bytes and size.

    Returns:
        The new bytes.
    """
    dice = random.Random(seed)
    kind = dice.randrange(6)
    lines = content.split(b"\n")
    place = dice.randrange(len(lines))
    if kind == 0:
        return mutate_bytes(content, size)
    if kind == 1:
        lines.insert(place, dice.choice(lines))
    elif kind == 2:
        lines.pop(place)
    elif kind == 3:  # consecutive IDs, which chance alone rarely finds
        start = dice.randrange(place + 1)
        for number, i in enumerate(range(start, len(lines)), start=1):
            lines[i] = b"%d %s" % (number, lines[i].partition(b" ")[2])
    else:
        borders = (0, sum(len(line) + 1 for line in lines[:place]), dice.randrange(len(content) + 1))
        at = dice.choice(borders)  # byte order marks and broken characters matter at the start of files and lines
        return (content[:at] + dice.choice(BYTES) + content[at + dice.choice((0, 0, 1, 3)) :])[:size]
    return b"\n".join(lines)[:size]


def fuzz(folder, seconds, seed):
    """Searches for a file that breaks a rule, and ends the process.

    Args:
        folder: for the files that reach new branches, and the one that breaks a rule.
        seconds: duration of the search.
        seed: seed of the fuzzer; 0 draws one.
    """
    import atheris

    with atheris.instrument_imports(include=["data_utils"]):
        import data_utils  # noqa: F401 (the module whose branches are counted)
    import parser_rules

    seeds = folder / "seeds"
    seeds.mkdir()
    for file in sorted((TESTS / "corpus").iterdir()):
        seeds.joinpath(file.name).write_bytes(file.read_bytes()[:600])
    path = str(folder / "qa1_train.txt")
    options = [
        *(f"-max_total_time={seconds}", f"-seed={seed}", "-max_len=4096", "-timeout=20"),
        *("-rss_limit_mb=2048", "-print_final_stats=1", f"-artifact_prefix={folder}/broke-"),
    ]
    atheris.Setup(
        [sys.argv[0], *options, str(seeds)],
        lambda content: parser_rules.check_file(path, content),
        custom_mutator=lambda content, size, seed: mutate(content, size, seed, atheris.Mutate),
    )
    atheris.Fuzz()


def main(argv=None):
    parser = Parser(__doc__.partition("\n")[0], formatter_class=HelpFormatter)
    parser.add_argument("--seconds", type=count, default=600, help="duration of the search")
    parser.add_argument("--seed", type=number(int, 0), default=0, help="seed of the fuzzer; 0 draws one")
    parser.add_argument("--file", help="check only this file, such as one that a search kept")
    flags = parser.parse_args(argv)
    if flags.file:
        return check(flags.file)
    try:
        import atheris  # noqa: F401 (only to check that it is installed)
    except ImportError as error:
        raise InputError("needs Atheris: pip install atheris.") from error
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None  # ten times as fast as a disk
    folder = Path(tempfile.mkdtemp(prefix="fuzz_parser-", dir=memory))
    child = os.fork()
    if not child:
        fuzz(folder, flags.seconds, flags.seed)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == 0:
        shutil.rmtree(folder)  # otherwise it holds the file that breaks a rule
    return status


def check(path):
    """Checks one file against the rules."""
    import parser_rules

    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}.") from error
    with tempfile.TemporaryDirectory() as folder:
        parser_rules.check_file(os.path.join(folder, "qa1_train.txt"), content)
    print(f"{path}: keeps the rules.")


if __name__ == "__main__":
    run_command(main)

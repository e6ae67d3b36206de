"""Lets a coverage-guided fuzzer look for a file that the bAbI parser cannot take.

    pip install atheris
    nice python tests/fuzz_parser.py --seconds 600

The fuzzer (Atheris, on libFuzzer) changes stories, keeps each change that reaches a branch of `data_utils.py` it
had not reached, and checks every file by `parser_rules.py`. It ends with the number of files tried and what it
covered, status 0; or, at the first file that breaks a rule, with the traceback and the place where the file is kept.
No part of pytest: the same rules run there on the cases of `test_properties.py`.
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

# Pieces that mean something to the format, or to Unicode.
PIECES = [
    *("1", "2", "01", "0", "-1", "999999999", "9999999999", "\u0661", "\uff11", "\u00b2"),
    *(" ", "\t", "\t\t", "\n", "\n\n", "\r", "\r\n", "\u2028", "\x85", "\xa0", "\x1c", "\u200b"),
    *("?", ".", "a,b", "_", "<UNK>", "\0", "\ufeff", "\u0130", "\u03a3", "\ud55c", "\U0001f600", "e\u0301"),
    *("1 A b.\n", "2 Who?\tb\t1\n", "1 Who?\tb\t\n"),
]
BYTES = [*(piece.encode() for piece in PIECES), b"\xff", b"\xe2\x82", b"\xed\xa0\x80", b"\xc0\x80", b"\xef\xbb\xbf"]


def mutate(content, size, seed, mutate_bytes):
    """A changed file: by line, by piece, or as the fuzzer itself would change bytes.

    Args:
        content: the bytes of a file.
        size: the most bytes of the new one.
        seed: the same seed makes the same change.
        mutate_bytes: the fuzzer's own change.

    Returns:
        Bytes.
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
    elif kind == 3:  # numbered as the format wants it, which chance alone rarely finds
        start = dice.randrange(place + 1)
        for number, i in enumerate(range(start, len(lines)), start=1):
            lines[i] = b"%d %s" % (number, lines[i].partition(b" ")[2])
    else:
        borders = (0, sum(len(line) + 1 for line in lines[:place]), dice.randrange(len(content) + 1))
        at = dice.choice(borders)  # byte order marks and broken characters matter at the start of things
        return (content[:at] + dice.choice(BYTES) + content[at + dice.choice((0, 0, 1, 3)) :])[:size]
    return b"\n".join(lines)[:size]


def fuzz(folder, seconds, seed):
    """Looks for a file that breaks a rule, and ends the process.

    Args:
        folder: for the files that reached something new, and the one that breaks a rule.
        seconds: how long to look.
        seed: of the fuzzer's dice; 0 draws one.
    """
    import atheris

    with atheris.instrument_imports(include=["data_utils"]):
        import data_utils  # noqa: F401  the module whose branches are counted
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=600, help="how long to look (default: 600)")
    parser.add_argument("--seed", type=int, default=0, help="of the fuzzer's dice; 0 draws one (default: 0)")
    parser.add_argument("--file", help="check this one file, such as one that was kept, and do nothing else")
    flags = parser.parse_args()
    if flags.file:
        import parser_rules

        with tempfile.TemporaryDirectory() as folder:
            parser_rules.check_file(os.path.join(folder, "qa1_train.txt"), Path(flags.file).read_bytes())
        print(f"{flags.file}: keeps the rules.")
        return
    try:
        import atheris  # noqa: F401  here only to say so if there is none
    except ImportError:
        sys.exit("fuzz_parser.py: needs atheris: pip install atheris.")
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None  # where there is one, ten times the speed of a disk
    folder = Path(tempfile.mkdtemp(prefix="fuzz_parser-", dir=memory))
    child = os.fork()
    if not child:
        fuzz(folder, flags.seconds, flags.seed)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == 0:
        shutil.rmtree(folder)  # else it stays, for the file in it that breaks a rule
    sys.exit(status)


if __name__ == "__main__":
    main()

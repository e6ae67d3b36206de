"""Kills real runs by SIGKILL at random moments, continues each until it is done, and compares what they leave.

What must be equal, byte for byte, to what an uninterrupted run leaves: the score file that others append to as well,
the score file of the run's folder, and the histories. Nothing may be left behind that another run does not leave.

    python tests/kill_runs.py --kills 50
"""

import argparse
import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import babi_simulator  # noqa: E402

OTHERS = "Task,Testing Accuracy,Training Accuracy,Validation Accuracy\n9,0.1000,0.2000,0.3000\n"  # rows that are there
SMALL = "--embedding_size 8 --feature_size 9 --random_state 3 --output_file scores.csv"
SINGLE = f"single.py --data_dir {HERE / 'corpus'} {SMALL} --task_id 1,2 --batch_size 4 --evaluation_interval 4"
JOINT = f"joint.py --data_dir ../sim {SMALL} --evaluation_interval 2 --param_output_file params.csv"
DROPOUT = "--keep_prob 0.8 --state_dropout 0.1 --word_dropout 0.1 --time_noise 0.1"
CASES = {
    "single, bow": f"{SINGLE} --epochs 200",
    "single, restarts": f"{SINGLE} --epochs 100 --restarts 2 --workers 2",
    "joint, gru": f"{JOINT} --epochs 12 --reader simple_gru {DROPOUT}",
    "joint, bow": f"{JOINT} --epochs 40 --optimizer sgd --tying adjacent --linear_start 9",
    "joint, restarts": f"{JOINT} --epochs 10 --restarts 3 --workers 2",
    "single, gru": f"{SINGLE} --epochs 100 --reader simple_gru {DROPOUT}",
    "joint, compiled": f"{JOINT} --epochs 25 --data_dir ../large",
}


class Failure(Exception):
    """A run did not do what it should."""


def start(arguments, cwd):
    """Starts a script in a process group of its own."""
    script, *flags = arguments.split()
    command = [sys.executable, str(HERE.parent / script), *flags]
    return subprocess.Popen(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def finish(process):
    """Waits for a process; raises Failure unless it ends well."""
    out, _ = process.communicate()
    if process.returncode or "Traceback" in out:
        raise Failure(f"status {process.returncode}:\n{out}")


def begun(folder):
    """Whether there is a run with a record."""
    return any(folder.glob("logs/*/run.json"))


def uninterrupted(arguments, folder):
    """Seconds of a run from its record to its end."""
    folder.mkdir()
    (folder / "scores.csv").write_text(OTHERS)
    process = start(arguments, folder)
    while not begun(folder) and process.poll() is None:
        time.sleep(0.01)
    begin = time.monotonic()
    finish(process)
    return time.monotonic() - begin


def results(folder):
    """What a run leaves: a dict from name to bytes, or where they may differ to the number of lines or to nothing."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            name = re.sub(r"(single|joint)_\d+", "run", str(path.relative_to(folder)))
            content = path.read_bytes() if path.suffix == ".csv" else b""
            found[name] = content.count(b"\n") if path.name in ("params.csv", "times.csv") else content
    return found


def temporary_files(folder):
    return [path for path in folder.rglob(".tmp*") if path.is_file()]


def kill(process, folder, seconds, moments):
    """Kills a run, or lets it end: returns whether it was killed, and whether that was while it wrote a file.

    Args:
        process: what `start` gave.
        folder: where it runs.
        seconds: how long a whole run takes from its record on.
        moments: a `random.Random`.
    """
    while not begun(folder) and process.poll() is None:
        time.sleep(0.005)
    end = time.monotonic() + moments.uniform(0, seconds)
    while time.monotonic() < end and process.poll() is None:
        time.sleep(0.001)
    if moments.random() < 0.5:  # the next time that it writes
        while process.poll() is None and not temporary_files(folder):
            pass
    with contextlib.suppress(ProcessLookupError):
        if moments.random() < 0.5:
            os.killpg(process.pid, signal.SIGKILL)
        else:  # its workers, if it has any, are on their own
            os.kill(process.pid, signal.SIGKILL)
    killed = process.wait() == -signal.SIGKILL
    writing = bool(temporary_files(folder))
    process.stdout.close()
    return killed, writing


def trial(case, seconds, folder, seed):
    """Kills one run until a kill has hit it, and sometimes once more, and continues it until it is done.

    Returns:
        (number of kills, those of them while a file was written).
    """
    moments = random.Random(seed)
    for attempt in range(100):
        place = folder / f"{seed}_{attempt}"
        place.mkdir()
        (place / "scores.csv").write_text(OTHERS)
        arguments = CASES[case]
        killed, writing = kill(start(arguments, place), place, seconds, moments)
        if killed:
            break
        seconds *= 0.8
    kills, writings = 1, int(writing)
    while True:
        (run,) = (path.parent for path in place.glob("logs/*/run.json"))
        whole = (place / "scores.csv").read_text()
        if not re.fullmatch(r"(Task,.*\n)(\d+[^,\n]*(,[01]\.\d{4}){3}\n)+", whole):
            raise Failure(f"{case}: after a kill the score file holds {whole!r}")
        by_name = f"{arguments.split()[0]} --resume {run.relative_to(place)}"
        process = start(by_name if moments.random() < 0.5 else f"{arguments} --resume", place)
        if moments.random() < 0.2:
            killed, writing = kill(process, place, seconds / 2, moments)
            kills, writings = kills + killed, writings + (killed and writing)
            continue
        finish(process)
        break
    expected, found = results(folder / case), results(place)
    if found != expected:
        names = [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)]
        raise Failure(f"{case}, {place}: differs in {', '.join(names)}")
    return kills, writings


def kill_runs(folder, kills, seed=0, cases=None, jobs=2, say=print):
    """Makes trials.

    Returns:
        The number of equal ones, a list of failures, all kills, and those of them while a file was written.
    """
    cases = list(cases or CASES)
    trials = [(cases[number % len(cases)], seed + number) for number in range(kills)]
    babi_simulator.write_corpus(str(folder / "sim"), range(1, 21), 20, 5, 0)
    if "joint, compiled" in cases:
        babi_simulator.write_corpus(str(folder / "large"), range(1, 21), 250, 5, 0)
    with ThreadPoolExecutor(jobs) as pool:
        seconds = dict(zip(cases, pool.map(lambda case: uninterrupted(CASES[case], folder / case), cases), strict=True))
        futures = [pool.submit(trial, case, seconds[case], folder, number) for case, number in trials]
        equal, failures, all_kills, writings = 0, [], 0, 0
        for (case, number), future in zip(trials, futures, strict=True):
            try:
                hit, writing = future.result()
                equal, all_kills, writings = equal + 1, all_kills + hit, writings + writing
                say(f"{case}, seed {number}: equal")
            except Failure as failure:
                failures.append(str(failure))
                say(f"{case}, seed {number}: {failure}")
    return equal, failures, all_kills, writings


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="runs that are killed (default: 50)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--only", default="", help="cases with this in their name")
    options = parser.parse_args()
    cases = [case for case in CASES if options.only in case]
    with tempfile.TemporaryDirectory() as folder:
        equal, failures, kills, writings = kill_runs(
            Path(folder), options.kills, options.seed, cases, options.jobs, lambda line: print(line, flush=True)
        )
    print(f"{equal} of {options.kills} runs equal; {kills} kills, {writings} of them while a file was written")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()

"""Kills real runs at random moments, continues each until it ends, and compares what they leave.

The score file, to which other runs append too, the score file of the run's folder and the histories, apart from their
seconds, must be equal, byte for byte, to those of an uninterrupted run, and the files must have the same names. Stories
are simulated.

    python tools/kill_runs.py --kills 50
"""

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

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import babi_simulator
from flags import TASKS, Parser, count, number, run_command

OLD_ROWS = "Task,Testing Accuracy,Training Accuracy,Validation Accuracy\n9,0.1000,0.2000,0.3000\n"
SMALL = "--data_dir ../sim --embedding_size 8 --feature_size 9 --random_state 3 --output_file scores.csv"
SINGLE = f"single.py {SMALL} --batch_size 4"
JOINT = f"joint.py {SMALL} --evaluation_interval 2 --param_output_file params.csv"
DROPOUT = "--keep_prob 0.8 --state_dropout 0.1 --word_dropout 0.1 --time_noise 0.1"
CASES = {
    "single, bow": f"{SINGLE} --task_id 1 --epochs 300 --evaluation_interval 4",
    "single, best": f"{SINGLE} --task_id 1 --epochs 300 --evaluation_interval 4 --keep best --patience 12",
    "single, restarts": f"{SINGLE} --task_id 1,2 --epochs 100 --evaluation_interval 4 --restarts 2 --workers 2",
    "joint, gru": f"{JOINT} --epochs 12 --reader simple_gru {DROPOUT}",
    "joint, bow": f"{JOINT} --epochs 40 --optimizer sgd --tying adjacent --linear_start 9 --focus 0.5",
    "joint, restarts": f"{JOINT} --epochs 10 --restarts 3 --workers 2",
    "single, gru": f"{SINGLE} --task_id 1,6 --epochs 100 --evaluation_interval 4 --reader simple_gru {DROPOUT}",
    "joint, compiled": f"{JOINT} --epochs 60 --jit_compile on",
}
SIGNALS = [signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM]


class Failure(Exception):
    """A run does not do what it must."""


def start(arguments, folder):
    """Starts a script in a process group of its own."""
    script, *flags = arguments.split()
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return subprocess.Popen([sys.executable, ROOT / script, *flags], cwd=folder, start_new_session=True, **pipes)


def finish(process):
    """Waits for the end of a process; raises Failure unless its status is 0."""
    out, _ = process.communicate()
    if process.returncode or "Traceback" in out:
        raise Failure(f"status {process.returncode}:\n{out}")


def new_folder(place):
    """Makes a folder for a run, with a score file to which it appends."""
    place.mkdir()
    (place / "scores.csv").write_text(OLD_ROWS)
    return place


def wait_for_record(process, folder):
    """Waits until a run can be continued, or has ended."""
    while not any(folder.glob("logs/*/run.json")) and process.poll() is None:
        time.sleep(0.005)


def uninterrupted(arguments, folder):
    """Seconds of a run from its record to its end."""
    process = start(arguments, new_folder(folder))
    wait_for_record(process, folder)
    begin = time.monotonic()
    finish(process)
    return time.monotonic() - begin


def without_seconds(history):
    """The bytes of a history without its last column, the seconds of each epoch."""
    return re.sub(rb",[^,\n]*$", b"", history, flags=re.M)


def results(folder):
    """What a run leaves: a dict from each file's name to what must be equal, bytes or a number of lines."""
    contents = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            name = re.sub(r"(single|joint)_\d+", "run", str(path.relative_to(folder)))
            content = path.read_bytes() if path.suffix == ".csv" else b""
            content = content.count(b"\n") if path.name in ("params.csv", "times.csv") else content
            contents[name] = without_seconds(content) if path.name.startswith("history") else content
    return contents


def is_writing(folder):
    """Whether a file in a folder is being replaced."""
    return any(".tmp" in name for run in os.scandir(folder / "logs") if run.is_dir() for name in os.listdir(run))


def kill(process, folder, seconds, moments):
    """Kills a run at a random moment, or lets it end.

    Args:
        process: see `start`.
        folder: where it runs.
        seconds: time of a whole run from its record on.
        moments: a `random.Random`.

    Returns:
        (whether it was killed, whether that was while it wrote a file).

    Raises:
        Failure: a signal other than SIGKILL did not end it with its status and how to continue.
    """
    wait_for_record(process, folder)
    end = time.monotonic() + moments.uniform(0, seconds)
    signal_number = moments.choice(SIGNALS)
    send = moments.choice([os.kill, os.killpg])  # after os.kill, worker processes have to notice by themselves
    at_a_write = moments.random() < 0.5
    while time.monotonic() < end and process.poll() is None:
        time.sleep(0.001)
    while at_a_write and process.poll() is None and not is_writing(folder):
        pass
    with contextlib.suppress(ProcessLookupError):
        send(process.pid, signal_number)
    status = process.wait()
    writing = is_writing(folder)
    if signal_number == signal.SIGKILL:  # its orphans may still hold its output open
        process.stdout.close()
        return status == -signal.SIGKILL, writing
    out, _ = process.communicate()
    has_begun = "loading TensorFlow" in out or ": continued; " in out
    has_ended = status == -signal_number and "\nscores in " in out  # the signal came while Python shut down
    if status == 0 or has_ended:
        return False, False
    stopped = status == 128 + signal_number and "stopped; continue with: python " in out and "Traceback" not in out
    if has_begun and not stopped:
        raise Failure(f"status {status} after signal {signal_number}:\n{out}")
    return True, writing


def trial(case, seconds, folder, seed):
    """Starts a run until a kill hits it, continues it until it ends, and sometimes kills it again meanwhile.

    Args:
        case: a key of `CASES`.
        seconds: see `kill`.
        folder: where runs make their folders; the one named `case` has the results of an uninterrupted run.
        seed: seed of the moments.

    Returns:
        (number of kills, number of those while a file was written).

    Raises:
        Failure: what the run leaves differs.
    """
    moments = random.Random(seed)
    arguments = CASES[case]
    for attempt in range(100):
        place = new_folder(folder / f"{seed}_{attempt}")
        killed, writing = kill(start(arguments, place), place, seconds, moments)
        if killed:
            break
        seconds *= 0.8
    kills, writings = int(killed), int(writing)
    while True:
        (run,) = (path.parent for path in place.glob("logs/*/run.json"))
        text = (place / "scores.csv").read_text()
        if not re.fullmatch(r"(Task,.*\n)(\d+[^,\n]*(,[01]\.\d{4}){3}\n)+", text):
            raise Failure(f"{case}: after a kill the score file holds {text!r}")
        by_name = f"{arguments.split()[0]} --resume {run.relative_to(place)}"
        process = start(by_name if moments.random() < 0.5 else f"{arguments} --resume", place)
        if moments.random() >= 0.2:
            finish(process)
            break
        killed, writing = kill(process, place, seconds / 2, moments)
        kills, writings = kills + killed, writings + (killed and writing)
    expected, contents = results(folder / case), results(place)
    if contents != expected:
        names = [name for name in expected.keys() | contents.keys() if expected.get(name) != contents.get(name)]
        raise Failure(f"{case}, {place}: differs in {', '.join(sorted(names))}")
    return kills, writings


def kill_runs(folder, kills, seed=0, cases=None, jobs=2, say=print):
    """Makes trials.

    Args:
        folder: an empty folder.
        kills: number of trials.
        seed: seed of the first trial.
        cases: keys of `CASES`, which are tried in turn; None for all.
        jobs: trials at a time.
        say: is called with a line for each trial.

    Returns:
        (number of equal runs, list of failures, number of kills, number of those while a file was written).
    """
    cases = list(cases or CASES)
    trials = [(cases[number % len(cases)], seed + number) for number in range(kills)]
    babi_simulator.write_files(str(folder / "sim"), TASKS, 20, 5, seed=0)
    with ThreadPoolExecutor(jobs) as pool:
        seconds = dict(zip(cases, pool.map(lambda case: uninterrupted(CASES[case], folder / case), cases), strict=True))
        futures = [pool.submit(trial, case, seconds[case], folder, number) for case, number in trials]
        equal, failures, all_kills, all_writings = 0, [], 0, 0
        for (case, number), future in zip(trials, futures, strict=True):
            try:
                kills_of_trial, writings = future.result()
                equal, all_kills, all_writings = equal + 1, all_kills + kills_of_trial, all_writings + writings
                say(f"{case}, seed {number}: equal")
            except Failure as failure:
                failures.append(str(failure))
                say(f"{case}, seed {number}: {failure}")
    return equal, failures, all_kills, all_writings


def main():
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("--kills", type=count, default=50, help="runs to kill (default: 50)")
    parser.add_argument("--seed", type=number(int, 0), default=0, help="seed of the moments (default: 0)")
    parser.add_argument("--jobs", type=count, default=2, help="runs at a time (default: 2)")
    parser.add_argument("--only", default="", metavar="TEXT", help="run the cases whose name has this in it")
    options = parser.parse_args()
    cases = [case for case in CASES if options.only in case]
    if not cases:
        parser.error(f"--only {options.only}: expected a part of a name: {'; '.join(CASES)}")
    with tempfile.TemporaryDirectory() as folder:
        equal, failures, kills, writings = kill_runs(
            Path(folder), options.kills, options.seed, cases, options.jobs, lambda line: print(line, flush=True)
        )
    print(f"{equal} of {options.kills} runs equal; {kills} kills, {writings} of them while a file was written")
    return bool(failures)


if __name__ == "__main__":
    run_command(main)

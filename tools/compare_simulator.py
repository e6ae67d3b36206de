"""Measures how much simulated bAbI stories differ from the published ones, task by task.

    python tools/compare_simulator.py [--task_id 1-20] [--questions 10000] [--seed 0]

BABI_DIR names the folder of the published files, which holds `en` and `en-10k`. The reference is the 10k training file
and the test file together. Where a task has no 10k file (task 3 in some copies), its 2,000 published questions are the
reference, and more questions are simulated, since chance moves the shares of so small a sample by a point. Measured are

- words that only the published or only the simulated stories have; none is allowed;
- shares: the largest difference, in percentage points, between the shares of any sentence template (names replaced by
  their kind), question template, answer, number of questions in a story, pair of successive statements, and question
  with its answer and supporting facts (in the last two, names are replaced so that only their identity counts). Three
  points are allowed;
- lengths: quantiles of statements per story. Both samples are finite, so each published quantile is known only up to an
  interval (of probability, `SIGMAS` standard errors of the difference of two samples either way). A simulated quantile
  may be one statement outside that interval. For most tasks the interval is a point or two; for task 3, with 400
  published stories of up to 228 statements, it is wide, as it would be for a second sample of the published process.

Exit status 1 if a difference is out of bounds.
"""

import math
import os
import re
import sys
from collections import Counter
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # for the project and `babi_rules`

import babi_rules

import babi_simulator
from flags import HelpFormatter, InputError, Parser, count, run_command, task_numbers

POINTS = 3.0  # largest difference of two shares
STATEMENTS = 1  # largest distance of a simulated quantile from the interval of the published one
SIGMAS = 3.0
QUANTILES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)

SHARES = ("statements", "questions", "answers", "questions in a story", "successions", "grounds")

KINDS = {
    "person": "Mary John Sandra Daniel Bill Fred Julie Jeff Gertrude Winona Jessica Emily Lily"
    " Bernhard Greg Julius Brian Antoine Jason Sumit Yann",
    "place": "bathroom bedroom garden hallway kitchen office cinema park school",
    "thing": "apple football milk pajamas",
    "animal": "mouse mice sheep wolf wolves cat cats swan lion frog rhino",
    "color": "gray white yellow green",
    "shape": "triangle blue_square pink_rectangle red_square red_sphere yellow_square",
    "box": "suitcase container chest box",
    "sweet": "box_of_chocolates chocolate",
}
KIND_OF = {name.replace("_", " ").lower(): kind for kind, names in KINDS.items() for name in names.split()}
SINGULAR = {"mice": "mouse", "wolves": "wolf", "cats": "cat"}
# Longer names first, since "box of chocolates" starts with "box".
NAME = re.compile(r"\b(" + "|".join(sorted(KIND_OF, key=len, reverse=True)) + r")\b", flags=re.IGNORECASE)
SYNONYMS = (
    (re.compile(r"\b(journeyed|travelled|went back|moved) to\b"), "went to"),
    (re.compile(r"\b(took|grabbed|picked up)\b"), "got"),
    (re.compile(r"\b(left|put down|discarded) the\b"), "dropped the"),
    (re.compile(r"\b(handed|passed)\b"), "gave"),
    (re.compile(r"^(After that|Following that|Afterwards)\b"), "Then"),
    (re.compile(r" there\."), "."),
)


@lru_cache(maxsize=100_000)
def pieces(text):
    """Splits a text at its names.

    Returns:
        (the text between the names, with one word for all synonyms; the names in lower case and in the singular).
    """
    for pattern, word in SYNONYMS:
        text = pattern.sub(word, text)
    parts = NAME.split(text)
    names = [SINGULAR.get(name.lower(), name.lower()) for name in parts[1::2]]
    return parts[::2], names


@lru_cache(maxsize=100_000)
def template(text):
    """The text with each name replaced by its kind."""
    return NAME.sub(lambda name: KIND_OF[name[0].lower()], text)


@lru_cache(maxsize=100_000)
def words(text):
    """The words of a text, in lower case."""
    return re.findall(r"\w+", text.lower())


def who_is_who(texts):
    """Joins texts, with names replaced by kind and number (the first person is person1) and synonyms by one word."""
    numbers, counts, plain = {}, Counter(), []
    for text in texts:
        between, names = pieces(text)
        plain.append(between[0])
        for name, after in zip(names, between[1:], strict=True):
            if name not in numbers:
                kind = KIND_OF[name]
                counts[kind] += 1
                numbers[name] = f"{kind}{counts[kind]}"
            plain += numbers[name], after
        plain.append(" ")
    return "".join(plain)


def measure(stories):
    """Counts what is compared.

    Args:
        stories: lists of lines.

    Returns:
        {what: Counter}: "words", "statements", "questions", "answers", "questions in a story",
        "successions", "grounds" and "lengths" (of stories, in statements).
    """
    counters = {what: Counter() for what in (*SHARES, "words", "lengths")}
    stories = list(stories)
    for number, story in enumerate(stories, start=1):
        statements = {}
        questions, latest = 0, None
        for line in babi_rules.parse(story):
            counters["words"].update(words(line.text))
            if line.answer is None:
                counters["statements"][template(line.text)] += 1
                if latest:
                    counters["successions"][who_is_who((latest, line.text))] += 1
                latest = statements[line.number] = line.text
            else:
                questions += 1
                counters["words"].update(words(line.answer))
                counters["questions"][template(line.text)] += 1
                counters["answers"][line.answer] += 1
                # Only the last facts, as long lists of facts are too rare to compare.
                support = [statements[fact] for fact in line.support[-3:]]
                counters["grounds"][who_is_who([line.text, line.answer, *support])] += 1
        if number < len(stories):  # a file ends at a number of questions, not with a story
            counters["questions in a story"][questions] += 1
            counters["lengths"][len(statements)] += 1
    return counters


def largest_difference(one, two):
    """(percentage points, what): where two counters' shares differ most."""
    all_one, all_two = sum(one.values()), sum(two.values())
    return max((100 * abs(one[key] / all_one - two[key] / all_two), str(key)) for key in one | two)


def quantile(counts, probability):
    """The smallest value such that at least this share of a counter's values does not exceed it."""
    rank = probability * sum(counts.values())
    for value in sorted(counts):
        rank -= counts[value]
        if rank <= 1e-9:
            return value
    return max(counts)


def length_misses(published, simulated):
    """Compares quantiles of two counters of story lengths.

    Returns:
        (largest plain difference of quantiles, descriptions of those out of bounds).
    """
    size = 1 / sum(published.values()) + 1 / sum(simulated.values())
    largest, misses = 0, []
    for probability in QUANTILES:
        error = SIGMAS * math.sqrt(probability * (1 - probability) * size)
        low = quantile(published, max(probability - error, 0)) - STATEMENTS
        high = quantile(published, min(probability + error, 1)) + STATEMENTS
        length = quantile(simulated, probability)
        largest = max(largest, abs(length - quantile(published, probability)))
        if not low <= length <= high:
            misses.append(f"{probability:.0%} of stories: {length} statements, not {low} to {high}")
    return largest, misses


def compare(published, simulated):
    """Compares two results of `measure`.

    Returns:
        (a table row with the largest difference of each column, a list of what is out of bounds).
    """
    missing = sorted(published["words"].keys() - simulated["words"].keys())
    extra = sorted(simulated["words"].keys() - published["words"].keys())
    misses = [f"words only published: {', '.join(missing)}"] if missing else []
    misses += [f"words only simulated: {', '.join(extra)}"] if extra else []
    row = [str(len(missing) + len(extra))]
    for what in SHARES:
        points, where = largest_difference(published[what], simulated[what])
        row.append(f"{points:.2f}")
        if points > POINTS:
            misses.append(f"{what}: {points:.2f} points at {where!r}")
    largest, length_errors = length_misses(published["lengths"], simulated["lengths"])
    row.append(str(largest))
    means = [
        sum(length * count for length, count in counts.items()) / sum(counts.values())
        for counts in (published["lengths"], simulated["lengths"])
    ]
    row += [f"{mean:.1f}" for mean in means]
    return row, misses + length_errors


def published_folder():
    """The folder of the published corpus, or None if there is none."""
    folder = os.environ.get("BABI_DIR") or ROOT.parent / "shared/data/tasks_1-20_v1-2"
    return Path(folder) if (Path(folder) / "en").is_dir() else None


def published_stories(folder, task_id, small=False):
    """The published English stories of a task: test file and the largest training file.

    Args:
        folder: see `published_folder`.
        task_id: 1 to 20.
        small: whether to use the small training file even if there is a large one.
    """
    sizes = ("en",) if small else ("en-10k", "en")
    test, train = (babi_simulator.file_name(task_id, split) for split in ("test", "train"))
    train = next(path for size in sizes if (path := folder / size / train).exists())
    stories = []
    for path in (folder / "en" / test, train):
        with open(path, encoding="ascii") as file:
            stories += babi_rules.stories_of(file)
    return stories


def main(argv=None):
    parser = Parser(__doc__.partition("\n")[0], formatter_class=HelpFormatter)
    parser.add_argument("--task_id", type=task_numbers, default="all", help="tasks: 3, 1,4, 1-5,19 or all")
    parser.add_argument("--questions", type=count, default=10_000, help="simulated questions of each task")
    parser.add_argument("--seed", type=int, default=0, help="seed of the simulator")
    flags = parser.parse_args(argv)
    folder = published_folder()
    if folder is None:
        raise InputError("set BABI_DIR to the folder that holds en and en-10k.")
    columns = ("task", "words", "stat.", "quest.", "answer", "q/story", "succ.", "ground", "length", "publ.", "simul.")
    print("Largest differences: number of words; shares in points; story lengths; mean lengths")
    print("".join(f"{column:>8}" for column in columns))
    failed = False
    for task_id in flags.task_id:
        published = measure(published_stories(folder, task_id))
        questions = flags.questions * (4 if task_id == 3 else 1)
        simulated = measure(babi_simulator.stories(task_id, questions, flags.seed))
        row, misses = compare(published, simulated)
        print("".join(f"{cell:>8}" for cell in (task_id, *row)), flush=True)
        for miss in misses:
            print(f"    MISS {miss}")
        failed = failed or bool(misses)
    print("Some differences are out of bounds." if failed else "All differences are within bounds.")
    return int(failed)


if __name__ == "__main__":
    run_command(main)

"""Reads bAbI stories by rule: answer and supporting facts of every question from its text alone.

Independent of the simulator: nothing is shared with it but the language of the stories. A rule
sees the statements so far, in order, and the question. Where chance, not the text, decides which of
several facts a question is about (tasks 5 and 18), a rule returns all readings that can be meant,
the likeliest first.
"""

import re
from functools import lru_cache
from typing import NamedTuple


class Line(NamedTuple):
    """One line of a story; `answer` and `support` are None for a statement."""

    number: int
    text: str
    answer: str | None
    support: tuple | None


class Reading(NamedTuple):
    """A question, what the file says of it, and the (answer, support) pairs a rule allows."""

    line: Line
    allowed: list

    @property
    def first(self):
        """Whether the file has the likeliest reading."""
        return self.allowed[:1] == [(self.line.answer, self.line.support)]

    @property
    def possible(self):
        """Whether the file has one of the readings."""
        return (self.line.answer, self.line.support) in self.allowed


def parse(lines):
    """Yields the lines of a story as `Line`, without the blank before the tab of a question.

    Raises:
        ValueError: if a line has no number or a question not three parts.
    """
    for line in lines:
        number, text = line.split(" ", 1)
        if "\t" in text:
            question, answer, support = text.split("\t")
            support = tuple(int(fact) for fact in support.split(" "))
            yield Line(int(number), question.rstrip(" "), answer, support)
        else:
            yield Line(int(number), text, None, None)


def stories_of(file):
    """Yields the stories of an open file, or of any lines, as lists of lines."""
    story = []
    for line in file:
        line = line.rstrip("\n")
        if line.startswith("1 ") and story:
            yield story
            story = []
        story.append(line)
    if story:
        yield story


def read(task_id, story):
    """Yields a `Reading` for each question of a story (a list of lines) of a task."""
    told = []
    for line in parse(story):
        if line.answer is None:
            told.append(line)
        else:
            yield Reading(line, RULES[task_id](told, line.text))


# Statements about people ------------------------------------------------------------------------


class Fact(NamedTuple):
    """What a statement tells: of whom, and a place, thing or receiver."""

    number: int
    kind: str
    people: tuple
    what: str
    other: str = ""


STATEMENTS = {
    "go": r"(.+?) (?:went|journeyed|travelled|went back|moved) to the (\w+)\.",
    "get": r"(\w+) (?:got|took|grabbed|picked up) the (\w+)(?: there)?\.",
    "drop": r"(\w+) (?:dropped|left|put down|discarded) the (\w+)(?: there)?\.",
    "give": r"(\w+) (?:gave|handed|passed) the (\w+) to (\w+)\.",
    "in": r"(\w+) is in the (\w+)\.",
    "out": r"(\w+) is (?:not|no longer) in the (\w+)\.",
    "either": r"(\w+) is either in the (\w+) or the (\w+)\.",
}
PRONOUN = r"(?:After that|Following that|Then|Afterwards) (?:he|she|they)$"


def match(pattern, text):
    """The groups of a pattern that must cover the text, or None."""
    found = re.fullmatch(pattern, text)
    return found.groups() if found else None


@lru_cache(maxsize=10_000)
def fact_parts(text):
    """The kind of a statement about people and what its pattern catches.

    Raises:
        ValueError: if it is none of these.
    """
    for kind, pattern in STATEMENTS.items():
        groups = match(pattern, text)
        if groups:
            return kind, *groups
    raise ValueError(f"No rule for the statement {text!r}.")


def facts_of(told):
    """What statements about people tell, with the people that pronouns stand for."""
    facts = []
    for line in told:
        kind, subject, what, *other = fact_parts(line.text)
        if re.match(PRONOUN, subject):
            people = facts[-1].people
        else:
            people = tuple(subject.split(" and "))
        facts.append(Fact(line.number, kind, people, what, *other))
    return facts


def last(facts, kinds, person=None, what=None, before=None):
    """The latest fact of some kinds, of a person, of a thing, before a line; None if none."""
    for fact in reversed(facts):
        if (
            fact.kind in kinds
            and (person is None or person in fact.people)
            and (what is None or fact.what == what)
            and (before is None or fact.number < before)
        ):
            return fact
    return None


# Rules, by task ---------------------------------------------------------------------------------


def person_place(told, question):
    """Tasks 1 and 12: the person's latest move."""
    (person,) = match(r"Where is (\w+)\?", question)
    move = last(facts_of(told), ["go"], person)
    return [(move.what, (move.number,))]


def person_place_by_pronoun(told, question):
    """Tasks 11 and 13: the latest sentence with the person's name and the pronoun sentence."""
    (person,) = match(r"Where is (\w+)\?", question)
    facts = facts_of(told)
    naming = max(i for i, line in enumerate(told) if re.search(rf"\b{person}\b", line.text))
    return [(facts[naming + 1].what, (facts[naming].number, facts[naming + 1].number))]


def thing_place(told, question):
    """Task 2: held, where the holder went last; dropped, where the dropper was."""
    (thing,) = match(r"Where is the (\w+)\?", question)
    facts = facts_of(told)
    handled = last(facts, ["get", "drop"], what=thing)
    before = handled.number if handled.kind == "drop" else None
    move = last(facts, ["go"], handled.people[0], before=before)
    return [(move.what, (handled.number, move.number))]


def thing_place_before(told, question):
    """Task 3: of the way the thing was last carried, the stop before the last visit."""
    thing, place = match(r"Where was the (\w+) before the (\w+)\?", question)
    facts = facts_of(told)
    handled = last(facts, ["get", "drop"], what=thing)
    taken = last(facts, ["get"], what=thing)
    way = [
        fact
        for fact in facts
        if fact.kind == "go"
        and taken.people[0] in fact.people
        and taken.number < fact.number
        and (handled.kind == "get" or fact.number < handled.number)
    ]
    visit = max(i for i, fact in enumerate(way) if fact.what == place)
    if visit == 0:
        return []
    before = way[visit - 1]
    return [(before.what, (handled.number, way[visit].number, before.number))]


OPPOSITE = {"north": "south", "south": "north", "east": "west", "west": "east"}


def map_of(told):
    """{(place, direction): (what lies there, line)} of statements about a map."""
    chart = {}
    for line in told:
        there, way, place = match(r"The (\w+) is (\w+) of the (\w+)\.", line.text)
        chart[place, way] = there, line.number
        chart[there, OPPOSITE[way]] = place, line.number
    return chart


def neighbour(told, question):
    """Task 4: the only place on that side."""
    groups = match(r"What is (\w+) of the (\w+)\?", question)
    if groups:
        way, place = groups
    else:
        place, way = match(r"What is the (\w+) (\w+) of\?", question)
        way = OPPOSITE[way]
    there, number = map_of(told)[place, way]
    return [(there, (number,))]


def giving(told, question):
    """Task 5: the latest gift that fits the question.

    "What did P give to Q?" can mean any thing that P gave to Q and nobody gave away since, if it
    was given by somebody within the last five statements.
    """
    facts = facts_of(told)
    questions = {
        r"What did (?P<giver>\w+) give to (?P<receiver>\w+)\?": "thing",
        r"Who gave the (?P<thing>\w+)\?": "giver",
        r"Who gave the (?P<thing>\w+) to (?P<receiver>\w+)\?": "giver",
        r"Who received the (?P<thing>\w+)\?": "receiver",
        r"Who did (?P<giver>\w+) give the (?P<thing>\w+) to\?": "receiver",
    }
    (known, asked), *_ = [
        (known.groupdict(), asked)
        for pattern, asked in questions.items()
        if (known := re.fullmatch(pattern, question))
    ]
    allowed = []
    for fact in reversed([fact for fact in facts if fact.kind == "give"]):
        gift = {"giver": fact.people[0], "thing": fact.what, "receiver": fact.other}
        if known.items() <= gift.items():
            latest = last(facts, ["give"], what=fact.what)
            if fact is latest and fact in facts[-5:] or not allowed:
                allowed.append((gift[asked], (fact.number,)))
    return allowed


def person_in(told, question):
    """Tasks 6, 9 and 10: what the latest sentence about the person's place says."""
    person, place = match(r"Is (\w+) in the (\w+)\?", question)
    fact = last(facts_of(told), ["go", "in", "out", "either"], person)
    if fact.kind == "out":
        # Whether the person is elsewhere is not told, and never asked.
        answer = "no" if place == fact.what else None
    elif fact.kind == "either":
        answer = "maybe" if place in (fact.what, fact.other) else "no"
    else:
        answer = "yes" if place == fact.what else "no"
    return [(answer, (fact.number,))]


def holdings(told, person):
    """Things a person holds and lines about each thing that passed through his or her hands."""
    held, lines = set(), {}
    for fact in facts_of(told):
        mine = person in fact.people
        if fact.kind in ("get", "drop", "give") and (mine or person == fact.other):
            lines.setdefault(fact.what, []).append(fact.number)
            if fact.kind == "get" or (fact.kind == "give" and not mine):
                held.add(fact.what)
            else:
                held.discard(fact.what)
    return held, lines


def count_held(told, question):
    """Task 7: how many things; every line about them supports it."""
    (person,) = match(r"How many objects is (\w+) carrying\?", question)
    held, lines = holdings(told, person)
    numbers = ("none", "one", "two", "three")
    return [(numbers[len(held)], tuple(sorted(sum(lines.values(), []))))]


def list_held(told, question):
    """Task 8: which things, in the order in which they were first taken, and lines by thing."""
    (person,) = match(r"What is (\w+) carrying\?", question)
    held, lines = holdings(told, person)
    answer = ",".join(thing for thing in lines if thing in held)
    return [(answer or "nothing", tuple(sum(lines.values(), [])))]


TIMES = ("yesterday", "this morning", "this afternoon", "this evening")


def place_before_in_time(told, question):
    """Task 14: the place of the time just before the latest time at a place."""
    person, place = match(r"Where was (\w+) before the (\w+)\?", question)
    day = {}
    when = "|".join(TIMES)
    for line in told:
        text = line.text[0].lower() + line.text[1:]
        groups = match(rf"({when}) (\w+) (?:\w+|went back) to the (\w+)\.", text)
        if groups:
            time, who, where = groups
        else:
            who, where, time = match(rf"(\w+) (?:\w+|went back) to the (\w+) ({when})\.", line.text)
        if who == person:
            day[TIMES.index(time)] = where, line.number
    visit = max(time for time, (where, _) in day.items() if where == place)
    if visit - 1 not in day:
        return []
    before, before_line = day[visit - 1]
    return [(before, (day[visit][1], before_line))]


def fear(told, question):
    """Task 15: what the person's kind is afraid of."""
    (person,) = match(r"What is (\w+) afraid of\?", question)
    singular = {"mice": "mouse", "sheep": "sheep", "wolves": "wolf", "cats": "cat"}
    kind, fears = {}, {}
    for line in told:
        groups = match(r"(\w+) are afraid of (\w+)\.", line.text)
        if groups:
            fears[singular[groups[0].lower()]] = singular[groups[1]], line.number
        else:
            who, animal = match(r"(\w+) is an? (\w+)\.", line.text)
            kind[who.lower()] = animal, line.number
    animal, kind_line = kind[person]
    answer, fear_line = fears[animal]
    return [(answer, (kind_line, fear_line))]


def color(told, question):
    """Task 16: the colour of the latest other one of the same kind."""
    (person,) = match(r"What color is (\w+)\?", question)
    kind, colors = {}, {}
    for line in told:
        groups = match(r"(\w+) is an? (\w+)\.", line.text)
        if groups:
            kind[groups[0]] = groups[1], line.number
        else:
            who, shade = match(r"(\w+) is (\w+)\.", line.text)
            colors[who] = shade, line.number
    animal, own_line = kind[person]
    kind_line, model = max(
        (number, who) for who, (what, number) in kind.items() if what == animal and who != person
    )
    shade, color_line = colors[model]
    return [(shade, (own_line, kind_line, color_line))]


SIDES = {
    "to the left of": (-1, 0),
    "to the right of": (1, 0),
    "above": (0, 1),
    "below": (0, -1),
}


def position(told, question):
    """Task 17: the middle shape is the one both statements mention; the others by coordinates."""
    side = "|".join(SIDES)
    statements = [match(rf"The (.+) is ({side}) the (.+)\.", line.text) for line in told]
    (middle,) = set(statements[0][::2]) & set(statements[1][::2])
    place, number = {}, {}
    for (one, relation, two), line in zip(statements, told, strict=True):
        east, north = SIDES[relation]
        if two == middle:
            place[one], number[one] = (east, north), line.number
        else:
            place[two], number[two] = (-east, -north), line.number
    one, relation, two = match(rf"Is the (.+) ({side}) the (.+)\?", question)
    distance = sum(
        step * (a - b) for step, a, b in zip(SIDES[relation], place[one], place[two], strict=True)
    )
    return [("yes" if distance > 0 else "no", (number[one], number[two]))]


def size(told, question):
    """Task 18: a chain of two facts from the first thing to the second by way of a middle thing.

    With U the first fact's own thing and M the middle: the second fact is the first other one that
    mentions M at all; the first fact is one of the five newest, or the first that leads to M.
    """
    facts = []
    for line in told:
        groups = match(r"The (.+) is bigger than the (.+)\.", line.text)
        if groups is None:
            groups = match(r"The (.+) fits inside the (.+)\.", line.text)[::-1]
        facts.append((line.number, groups))
    groups = match(r"Is the (.+) bigger than the (.+)\?", question)
    if groups is None:
        groups = match(r"Does the (.+) fit in the (.+)\?", question)[::-1]
    start, end = groups

    def is_bigger(one, two):
        return any(
            big == one and (small == two or is_bigger(small, two)) for _, (big, small) in facts
        )

    yes = is_bigger(start, end)
    answer = "yes" if yes else "no"
    allowed = []
    for index, (number, pair) in reversed(list(enumerate(facts))):
        near, far = pair if yes else pair[::-1]
        if near != start:
            continue
        mentions = [fact for fact in facts if far in fact[1] and fact[0] != number]
        if not mentions:
            continue
        link_number, link = mentions[0]
        if (link if yes else link[::-1]) != (far, end):
            continue
        leads = [other for other, (big, small) in facts if far == (small if yes else big)]
        if index >= len(facts) - 5 or number == leads[0]:
            allowed.append((answer, (number, link_number)))
    return allowed


def path(told, question):
    """Task 19: the only way."""
    start, goal = match(r"How do you go from the (\w+) to the (\w+)\?", question)
    chart = map_of(told)
    routes = [
        (f"{way[0]},{onward[0]}", (number, onward_number))
        for (place, way), (middle, number) in chart.items()
        if place == start
        for (via, onward), (there, onward_number) in chart.items()
        if via == middle and there == goal
    ]
    return routes if len(routes) == 1 else []


def motive(told, question):
    """Task 20: what the person was said to be."""
    leads_to = {"hungry": "kitchen", "thirsty": "kitchen", "bored": "garden", "tired": "bedroom"}
    person = match(r"(?:Where will|Why did) (\w+) .*", question)[0]
    for line in told:
        groups = match(rf"(?i:{person}) is (\w+)\.", line.text)
        if groups:
            why = groups[0]
            return [(leads_to[why] if question.startswith("Where") else why, (line.number,))]
    return []


RULES = {
    1: person_place,
    2: thing_place,
    3: thing_place_before,
    4: neighbour,
    5: giving,
    6: person_in,
    7: count_held,
    8: list_held,
    9: person_in,
    10: person_in,
    11: person_place_by_pronoun,
    12: person_place,
    13: person_place_by_pronoun,
    14: place_before_in_time,
    15: fear,
    16: color,
    17: position,
    18: size,
    19: path,
    20: motive,
}

"""Rules that derive the answer and the supporting facts of every bAbI question from its text alone.

They are independent of the simulator and share only the language of the stories with it. A rule sees the statements so
far, in order, and the question. If chance rather than the text decides which of several facts a question is about
(tasks 5 and 18), a rule returns all possible readings, the likeliest first.
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
    """A question line with the answer and support of the file, and the (answer, support) pairs that a rule allows."""

    line: Line
    allowed: list

    @property
    def first(self):
        """Whether the file agrees with the likeliest reading."""
        return self.allowed[:1] == [(self.line.answer, self.line.support)]

    @property
    def possible(self):
        """Whether the file agrees with one of the readings."""
        return (self.line.answer, self.line.support) in self.allowed


def parse(lines):
    """Yields the lines of a story as `Line`, without the blank before the tab of a question.

    Raises:
        ValueError: a line has no number, or a question does not have three parts.
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
    statements = []
    for line in parse(story):
        if line.answer is None:
            statements.append(line)
        else:
            yield Reading(line, RULES[task_id](statements, line.text))


# --- statements about people ----------------------------------------------------------------------------


class Fact(NamedTuple):
    """What a statement says: about whom, and a place, thing or receiver."""

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
    """The groups of a pattern that must match the whole text, or None."""
    result = re.fullmatch(pattern, text)
    return result.groups() if result else None


@lru_cache(maxsize=10_000)
def fact_parts(text):
    """The kind of a statement about people and the groups of its pattern.

    Raises:
        ValueError: no pattern matches.
    """
    for kind, pattern in STATEMENTS.items():
        groups = match(pattern, text)
        if groups:
            return kind, *groups
    raise ValueError(f"No rule for the statement {text!r}.")


def facts_of(statements):
    """The `Fact`s of statements about people, with the people that pronouns stand for."""
    facts = []
    for line in statements:
        kind, subject, what, *other = fact_parts(line.text)
        if re.match(PRONOUN, subject):
            people = facts[-1].people
        else:
            people = tuple(subject.split(" and "))
        facts.append(Fact(line.number, kind, people, what, *other))
    return facts


def last(facts, kinds, person=None, what=None, before=None):
    """The latest fact of the given kinds, person, thing and lines before `before`, or None."""
    for fact in reversed(facts):
        if (
            fact.kind in kinds
            and (person is None or person in fact.people)
            and (what is None or fact.what == what)
            and (before is None or fact.number < before)
        ):
            return fact
    return None


# --- rules, by task -------------------------------------------------------------------------------------


def person_place(statements, question):
    """Tasks 1 and 12: the person's latest move."""
    (person,) = match(r"Where is (\w+)\?", question)
    move = last(facts_of(statements), ["go"], person)
    return [(move.what, (move.number,))]


def person_place_by_pronoun(statements, question):
    """Tasks 11 and 13: the latest sentence with the person's name and the pronoun sentence."""
    (person,) = match(r"Where is (\w+)\?", question)
    facts = facts_of(statements)
    naming = max(i for i, line in enumerate(statements) if re.search(rf"\b{person}\b", line.text))
    return [(facts[naming + 1].what, (facts[naming].number, facts[naming + 1].number))]


def thing_place(statements, question):
    """Task 2: a held thing is where its holder last went, a dropped one where its dropper then was."""
    (thing,) = match(r"Where is the (\w+)\?", question)
    facts = facts_of(statements)
    handled = last(facts, ["get", "drop"], what=thing)
    before = handled.number if handled.kind == "drop" else None
    move = last(facts, ["go"], handled.people[0], before=before)
    return [(move.what, (handled.number, move.number))]


def thing_place_before(statements, question):
    """Task 3: the stop before the last visit, on the way that the thing was last carried."""
    thing, place = match(r"Where was the (\w+) before the (\w+)\?", question)
    facts = facts_of(statements)
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


def map_of(statements):
    """{(place, direction): (its neighbour, line)} of statements about a map."""
    chart = {}
    for line in statements:
        subject, way, place = match(r"The (\w+) is (\w+) of the (\w+)\.", line.text)
        chart[place, way] = subject, line.number
        chart[subject, OPPOSITE[way]] = place, line.number
    return chart


def neighbour(statements, question):
    """Task 4: the only place on that side."""
    groups = match(r"What is (\w+) of the (\w+)\?", question)
    if groups:
        way, place = groups
    else:
        place, way = match(r"What is the (\w+) (\w+) of\?", question)
        way = OPPOSITE[way]
    answer, number = map_of(statements)[place, way]
    return [(answer, (number,))]


def giving(statements, question):
    """Task 5: the latest gift that fits the question.

    "What did P give to Q?" can mean any thing that P gave to Q and that nobody has given since, if that was within the
    last five statements.
    """
    facts = facts_of(statements)
    questions = {
        r"What did (?P<giver>\w+) give to (?P<receiver>\w+)\?": "thing",
        r"Who gave the (?P<thing>\w+)\?": "giver",
        r"Who gave the (?P<thing>\w+) to (?P<receiver>\w+)\?": "giver",
        r"Who received the (?P<thing>\w+)\?": "receiver",
        r"Who did (?P<giver>\w+) give the (?P<thing>\w+) to\?": "receiver",
    }
    (known, asked), *_ = [
        (known.groupdict(), asked) for pattern, asked in questions.items() if (known := re.fullmatch(pattern, question))
    ]
    allowed = []
    for fact in reversed([fact for fact in facts if fact.kind == "give"]):
        gift = {"giver": fact.people[0], "thing": fact.what, "receiver": fact.other}
        if known.items() <= gift.items():
            latest = last(facts, ["give"], what=fact.what)
            if fact is latest and fact in facts[-5:] or not allowed:
                allowed.append((gift[asked], (fact.number,)))
    return allowed


def person_in(statements, question):
    """Tasks 6, 9 and 10: by the latest sentence about the person's place."""
    person, place = match(r"Is (\w+) in the (\w+)\?", question)
    fact = last(facts_of(statements), ["go", "in", "out", "either"], person)
    if fact.kind == "out":
        # Where the person is instead is not stated, and no question asks for it.
        answer = "no" if place == fact.what else None
    elif fact.kind == "either":
        answer = "maybe" if place in (fact.what, fact.other) else "no"
    else:
        answer = "yes" if place == fact.what else "no"
    return [(answer, (fact.number,))]


def holdings(statements, person):
    """The things a person holds, and the lines about each thing the person ever held."""
    held, lines = set(), {}
    for fact in facts_of(statements):
        mine = person in fact.people
        if fact.kind in ("get", "drop", "give") and (mine or person == fact.other):
            lines.setdefault(fact.what, []).append(fact.number)
            if fact.kind == "get" or (fact.kind == "give" and not mine):
                held.add(fact.what)
            else:
                held.discard(fact.what)
    return held, lines


def count_held(statements, question):
    """Task 7: the number of things held; every line about the things supports it."""
    (person,) = match(r"How many objects is (\w+) carrying\?", question)
    held, lines = holdings(statements, person)
    numbers = ("none", "one", "two", "three")
    return [(numbers[len(held)], tuple(sorted(sum(lines.values(), []))))]


def list_held(statements, question):
    """Task 8: the things held, in the order in which they were first held; support is sorted by thing."""
    (person,) = match(r"What is (\w+) carrying\?", question)
    held, lines = holdings(statements, person)
    answer = ",".join(thing for thing in lines if thing in held)
    return [(answer or "nothing", tuple(sum(lines.values(), [])))]


TIMES = ("yesterday", "this morning", "this afternoon", "this evening")


def place_before_in_time(statements, question):
    """Task 14: the place just before the latest visit, by time of day."""
    person, place = match(r"Where was (\w+) before the (\w+)\?", question)
    day = {}
    when = "|".join(TIMES)
    for line in statements:
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


def fear(statements, question):
    """Task 15: what the person's kind is afraid of."""
    (person,) = match(r"What is (\w+) afraid of\?", question)
    singular = {"mice": "mouse", "sheep": "sheep", "wolves": "wolf", "cats": "cat"}
    kind, fears = {}, {}
    for line in statements:
        groups = match(r"(\w+) are afraid of (\w+)\.", line.text)
        if groups:
            fears[singular[groups[0].lower()]] = singular[groups[1]], line.number
        else:
            who, animal = match(r"(\w+) is an? (\w+)\.", line.text)
            kind[who.lower()] = animal, line.number
    animal, kind_line = kind[person]
    answer, fear_line = fears[animal]
    return [(answer, (kind_line, fear_line))]


def color(statements, question):
    """Task 16: the colour of the latest other person of the same kind."""
    (person,) = match(r"What color is (\w+)\?", question)
    kind, colors = {}, {}
    for line in statements:
        groups = match(r"(\w+) is an? (\w+)\.", line.text)
        if groups:
            kind[groups[0]] = groups[1], line.number
        else:
            who, shade = match(r"(\w+) is (\w+)\.", line.text)
            colors[who] = shade, line.number
    animal, own_line = kind[person]
    kind_line, model = max((number, who) for who, (what, number) in kind.items() if what == animal and who != person)
    shade, color_line = colors[model]
    return [(shade, (own_line, kind_line, color_line))]


SIDES = {
    "to the left of": (-1, 0),
    "to the right of": (1, 0),
    "above": (0, 1),
    "below": (0, -1),
}


def position(statements, question):
    """Task 17: by coordinates around the middle shape, the one that both statements mention."""
    side = "|".join(SIDES)
    relations = [match(rf"The (.+) is ({side}) the (.+)\.", line.text) for line in statements]
    (middle,) = set(relations[0][::2]) & set(relations[1][::2])
    place, number = {}, {}
    for (one, relation, two), line in zip(relations, statements, strict=True):
        east, north = SIDES[relation]
        if two == middle:
            place[one], number[one] = (east, north), line.number
        else:
            place[two], number[two] = (-east, -north), line.number
    one, relation, two = match(rf"Is the (.+) ({side}) the (.+)\?", question)
    distance = sum(step * (a - b) for step, a, b in zip(SIDES[relation], place[one], place[two], strict=True))
    return [("yes" if distance > 0 else "no", (number[one], number[two]))]


def size(statements, question):
    """Task 18: a chain of two facts from the first thing to the second through a middle thing M.

    The second fact is the first other fact that mentions M; the first fact is one of the five newest facts, or the
    first that leads to M.
    """
    facts = []
    for line in statements:
        groups = match(r"The (.+) is bigger than the (.+)\.", line.text)
        if groups is None:
            groups = match(r"The (.+) fits inside the (.+)\.", line.text)[::-1]
        facts.append((line.number, groups))
    groups = match(r"Is the (.+) bigger than the (.+)\?", question)
    if groups is None:
        groups = match(r"Does the (.+) fit in the (.+)\?", question)[::-1]
    start, end = groups

    def is_bigger(one, two):
        return any(big == one and (small == two or is_bigger(small, two)) for _, (big, small) in facts)

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


def path(statements, question):
    """Task 19: the only way."""
    start, goal = match(r"How do you go from the (\w+) to the (\w+)\?", question)
    chart = map_of(statements)
    routes = [
        (f"{way[0]},{onward[0]}", (number, onward_number))
        for (place, way), (middle, number) in chart.items()
        if place == start
        for (via, onward), (end, onward_number) in chart.items()
        if via == middle and end == goal
    ]
    return routes if len(routes) == 1 else []


def motive(statements, question):
    """Task 20: by the person's state, such as hungry."""
    leads_to = {"hungry": "kitchen", "thirsty": "kitchen", "bored": "garden", "tired": "bedroom"}
    person = match(r"(?:Where will|Why did) (\w+) .*", question)[0]
    for line in statements:
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

"""Stories of the twenty bAbI tasks (Weston et al., 2015, arXiv:1502.05698), made on the spot.

    python babi_simulator.py --task_id 1-20 --train 1000 --test 1000 --seed 0 \
        --output_dir data/simulated/en

writes the files of the published corpus under their official names and in their format, supporting
facts included. From Python, `stories` yields stories without any file.

The file reads from the ground up: words, dice, the story being told, the world it is told of, the
question asked about recent events, then one function per task, then files and flags.

The random processes are those measured on the published English files, v1.2. The same seed gives
the same bytes on every Python version, because the only source of chance is `random.random()`, the
one method of `random` whose sequence Python promises never to change.
"""

import argparse
import hashlib
import os
import random
import sys
import tempfile
from dataclasses import dataclass, field
from itertools import chain

# Words ------------------------------------------------------------------------------------------

# The order counts where somebody gives something away: the first person in reach receives it.
PEOPLE = ("John", "Mary", "Sandra", "Daniel")
GIVING_PEOPLE = ("Mary", "Fred", "Bill", "Jeff")
OTHER_PEOPLE = ("Bill", "Fred", "Julie", "Mary")
PRONOUN = {"John": "he", "Daniel": "he", "Mary": "she", "Sandra": "she"}

PLACES = ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office")
OTHER_PLACES = ("bedroom", "cinema", "kitchen", "office", "park", "school")
THINGS = ("apple", "football", "milk")  # in this order they are looked at for giving

WENT = ("went to", "journeyed to", "travelled to", "went back to", "moved to")
GOT = ("got", "took", "grabbed", "picked up")
DROPPED = ("dropped", "left", "put down", "discarded")
GAVE = ("gave", "handed", "passed")
THEN = ("After that", "Following that", "Then", "Afterwards")
THERE = 0.2  # how often "there" ends a sentence in which it may be left out

TIMES = ("yesterday", "this morning", "this afternoon", "this evening")
NUMBERS = ("none", "one", "two", "three")

PLURAL = {"mouse": "mice", "sheep": "sheep", "wolf": "wolves", "cat": "cats"}
FEARFUL_PEOPLE = ("Gertrude", "Winona", "Jessica", "Emily")

ANIMAL_PEOPLE = ("Lily", "Bernhard", "Greg", "Julius", "Brian")
ANIMALS = ("swan", "lion", "frog", "rhino")
COLORS = ("gray", "white", "yellow", "green")

SHAPES = ("triangle", "blue square", "pink rectangle", "red square", "red sphere", "yellow square")
BOXES = ("suitcase", "container", "box", "chest")  # of any order of size
SWEETS = ("box of chocolates", "chocolate")  # smaller than every box, the bigger one first

# A step on the grid (east, north), and how a sentence calls what lies there.
NORTH, SOUTH, EAST, WEST = (0, 1), (0, -1), (1, 0), (-1, 0)
STEPS = (NORTH, SOUTH, EAST, WEST)
COMPASS = {NORTH: "north", SOUTH: "south", EAST: "east", WEST: "west"}
SIDES = {NORTH: "above", SOUTH: "below", EAST: "to the right of", WEST: "to the left of"}

MOTIVES = {  # motive: (the place it leads to, the thing it makes one take)
    "hungry": ("kitchen", "apple"),
    "thirsty": ("kitchen", "milk"),
    "bored": ("garden", "football"),
    "tired": ("bedroom", "pajamas"),
}
MOTIVATED_PEOPLE = ("Antoine", "Jason", "Sumit", "Yann")

WINDOW = 5  # a question is about one of so many newest events
DRAWS = 50  # so often an event is drawn before the story goes on without a question
FROM_MIDDLE = 0.25  # task 18: how often a question starts from its middle thing, fitted
QUESTIONS = 5  # in a story of most tasks
SPLITS = ("train", "test")


# Chance -----------------------------------------------------------------------------------------


class Dice(random.Random):
    """Chance, drawn from `random()` alone so that every Python version draws alike."""

    def pick(self, items):
        """One of a sequence of items, all equally likely."""
        return items[int(self.random() * len(items))]

    def pick_except(self, items, *taken):
        """One of the items that is none of those taken, all others equally likely."""
        while True:
            item = self.pick(items)
            if item not in taken:
                return item

    def deal(self, items, number):
        """A list of so many different items, in random order."""
        pool = list(items)
        return [pool.pop(int(self.random() * len(pool))) for _ in range(number)]

    def chance(self, probability):
        """True with this probability."""
        return self.random() < probability


# A story and its world --------------------------------------------------------------------------


class Story:
    """The numbered lines of one story.

    Question texts bring their own blank after the question mark: tasks 1-3 and 5-14 of the
    published files have one there, the others have none.
    """

    def __init__(self):
        self.lines = []

    def tell(self, statement):
        """Adds a statement and returns its line number."""
        self.lines.append(f"{len(self.lines) + 1} {statement}")
        return len(self.lines)

    def ask(self, question, answer, support):
        """Adds a question with its answer and the line numbers of its supporting facts."""
        facts = " ".join(map(str, support))
        self.lines.append(f"{len(self.lines) + 1} {question}\t{answer}\t{facts}")


@dataclass(slots=True, eq=False)
class Event:
    """Something a statement tells of one person.

    Attributes:
        line: number of the statement.
        kind: "move", "get", "drop" or "give"; "leave" and "either" for moves told vaguely.
        person: who did it.
        place: the place the statement names (a tuple of two for "either").
        thing: what was taken, dropped or given.
        receiver: to whom it was given.
        moved: the person's latest move when it happened.
    """

    line: int
    kind: str
    person: "Person"
    place: str | tuple = None
    thing: "Thing" = None
    receiver: "Person" = None
    moved: "Event" = None


@dataclass(slots=True, eq=False)
class Person:
    """A person: `place` is the truth, `moved` the latest event that told of a change of place.

    `handled` has the lines about each thing the person took, dropped, gave or received, in the
    order in which the things first came into these hands.
    """

    name: str
    place: str
    moved: Event = None
    handled: dict = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Thing:
    """A thing that lies in a place or is held, with what was told of it.

    Attributes:
        place: where it lies, or lay when it was last taken.
        holder: the person who has it, or None.
        handled: latest event in which it was taken, dropped or given.
        given: latest event in which it was given.
        carried: the moves made with it between the latest taking and dropping (or now).
    """

    name: str
    place: str
    holder: Person = None
    handled: Event = None
    given: Event = None
    carried: list = field(default_factory=list)


class World:
    """People in places, things in places or hands, and the story told of them.

    Everybody and everything starts in a place of which nothing is told.

    Args:
        dice: a `Dice`.
        people: names, in the order in which they are considered for receiving a thing.
        places: names.
        things: names, in the order in which they are considered for being given.
        there: probability that a sentence about taking a thing ends in "there".
    """

    def __init__(self, dice, people, places, things=(), there=1.0):
        self.dice = dice
        self.people = [Person(name, dice.pick(places)) for name in people]
        self.places = places
        self.things = [Thing(name, dice.pick(places)) for name in things]
        self.there = there
        self.story = Story()
        self.events = []

    def go(self, people, subject, place):
        """Moves people, and all they hold, to a place and tells it in one sentence.

        Args:
            people: those who go. Each goes by an event of his or her own.
            subject: how the sentence names them.
            place: a place where none of them is.
        """
        self.relocate(people, place, f"{subject} {self.dice.pick(WENT)} the {place}.")

    def relocate(self, people, place, statement, kind="move", told=None):
        """Moves people to a place and tells it in the words of a statement.

        Args:
            people, place: who goes where.
            statement: the sentence.
            kind, told: `kind` and `place` of the events, if the sentence hides the new place.
        """
        line = self.story.tell(statement)
        for person in people:
            person.place = place
            person.moved = Event(line, kind, person, told or place)
            self.events.append(person.moved)
            for thing in self.things:
                if thing.holder is person:
                    thing.carried.append(person.moved)

    def handle(self, kind, person, thing, statement, receiver=None):
        """Tells of a thing taken, dropped or given, and records who had a hand in it."""
        line = self.story.tell(statement)
        event = Event(line, kind, person, None, thing, receiver, person.moved)
        self.events.append(event)
        thing.handled = event
        for hand in (person, receiver) if receiver else (person,):
            hand.handled.setdefault(thing, []).append(line)
        return event

    # The four actions: each returns False, and does nothing, where the person cannot act so.

    def move(self, person):
        """The person goes to a place drawn from all, unless he or she is there."""
        place = self.dice.pick(self.places)
        if place == person.place:
            return False
        self.go([person], person.name, place)
        return True

    def get(self, person):
        """The person takes one of the things that lie where he or she is."""
        within_reach = [t for t in self.things if t.holder is None and t.place == person.place]
        if not within_reach:
            return False
        thing = self.dice.pick(within_reach)
        thing.holder, thing.carried = person, []
        there = " there" if self.dice.chance(self.there) else ""
        verb = self.dice.pick(GOT)
        self.handle("get", person, thing, f"{person.name} {verb} the {thing.name}{there}.")
        return True

    def drop(self, person):
        """The person drops one of the things he or she holds."""
        held = [thing for thing in self.things if thing.holder is person]
        if not held:
            return False
        thing = self.dice.pick(held)
        thing.holder, thing.place = None, person.place
        there = " there" if self.dice.chance(THERE) else ""
        verb = self.dice.pick(DROPPED)
        self.handle("drop", person, thing, f"{person.name} {verb} the {thing.name}{there}.")
        return True

    def give(self, person):
        """The first thing that can be given is given to the first person who can receive it.

        The person drawn does not matter: this is how the published stories are, and why the apple
        changes hands more often than the milk.
        """
        for thing in self.things:
            for receiver in self.people:
                giver = thing.holder
                if giver and receiver is not giver and receiver.place == giver.place:
                    thing.holder = receiver
                    thing.given = self.handle(
                        "give",
                        giver,
                        thing,
                        f"{giver.name} {self.dice.pick(GAVE)} the {thing.name} to {receiver.name}.",
                        receiver,
                    )
                    return True
        return False

    def act(self, *actions):
        """Lets one person do one thing: who and what are drawn until it is possible."""
        while not self.dice.pick(actions)(self.dice.pick(self.people)):
            pass


def back(step):
    """The step that undoes a step."""
    return -step[0], -step[1]


class Grid:
    """Places, or shapes, side by side.

    Attributes:
        sides: {place: {step: the place one step away}}. Only joined places are neighbours; that
            two places happen to come to lie on one spot means nothing.
    """

    def __init__(self, places):
        self.sides = {place: {} for place in places}

    def join(self, place, step, neighbour):
        """Puts a neighbour one step from a place."""
        self.sides[place][step] = neighbour
        self.sides[neighbour][back(step)] = place

    def links(self, dice):
        """Yields every link once as (place, step, neighbour), in random order and direction.

        A place is drawn, then one of its links, until all have come; so links of places with few
        neighbours tend to come first, seen from those places.
        """
        places = tuple(self.sides)
        untold = sum(map(len, self.sides.values())) // 2
        told = set()
        while untold:
            place = dice.pick(places)
            step, neighbour = dice.pick(tuple(self.sides[place].items()))
            if (place, neighbour) not in told:
                told |= {(place, neighbour), (neighbour, place)}
                untold -= 1
                yield place, step, neighbour


# Questions about recent events ------------------------------------------------------------------


def ask_recent(story, events, dice, question):
    """Asks about one of the newest events.

    Args:
        story: the `Story` to which the question is added.
        events: all events so far.
        dice: a `Dice`.
        question: maps an event to (question, answer, support), or None if it yields no question.

    Returns:
        Whether something was asked.
    """
    recent = events[-WINDOW:]
    for _ in range(DRAWS):
        asked = question(dice.pick(recent))
        if asked:
            story.ask(*asked)
            return True
    return False


def tell_and_ask(world, tell, question):
    """Alternates two statements and, as soon as there is one to ask, a question.

    Args:
        world: the `World`.
        tell: function that tells two statements.
        question: as for `ask_recent`.

    Returns:
        The story, after its last question.
    """
    for _ in range(QUESTIONS):
        tell()
        while not ask_recent(world.story, world.events, world.dice, question):
            tell()
    return world.story


def act_and_ask(world, actions, question):
    """`tell_and_ask` of a world in which people do what they can."""

    def tell():
        world.act(*actions)
        world.act(*actions)

    return tell_and_ask(world, tell, question)


def where_is(person):
    """The question for a person's place as the latest move told it, supported by that move."""
    return f"Where is {person.name}? ", person.moved.place, [person.moved.line]


def is_in(person, place, answer):
    """The question whether a person is in a place, supported by the latest change of place."""
    return f"Is {person.name} in the {place}? ", answer, [person.moved.line]


# The twenty tasks. A function makes one story; the task's official name is the function's name. ---


def single_supporting_fact(dice):
    """Task 1: people go about; where is one of them?"""
    world = World(dice, PEOPLE, PLACES)

    def tell():
        for _ in range(2):
            person = dice.pick(world.people)
            world.go([person], person.name, dice.pick_except(PLACES, person.place))

    return tell_and_ask(world, tell, lambda event: where_is(event.person))


def two_supporting_facts(dice):
    """Task 2: where is the thing that somebody carries, or has dropped?"""
    world = World(dice, PEOPLE, PLACES, THINGS)

    def question(event):
        thing = event.thing
        if thing is None:
            return None
        if thing.holder:
            move = thing.carried[-1] if thing.carried else None
        else:
            move = thing.handled.moved
        if move is None:  # nothing told where this was
            return None
        return f"Where is the {thing.name}? ", move.place, [thing.handled.line, move.line]

    return act_and_ask(world, (world.move, world.get, world.drop), question)


def three_supporting_facts(dice):
    """Task 3: where was a thing before it came to some place, while it was carried?"""
    world = World(dice, PEOPLE, PLACES, THINGS, there=THERE)

    def question(event):
        thing = event.thing
        if thing is None or len(thing.carried) < 2:
            return None
        place = dice.pick(thing.carried).place
        last = max(i for i, move in enumerate(thing.carried) if move.place == place)
        if last == 0:
            return None
        before, there = thing.carried[last - 1 : last + 1]
        support = [thing.handled.line, there.line, before.line]
        return f"Where was the {thing.name} before the {place}? ", before.place, support

    return act_and_ask(world, (world.move, world.get, world.drop), question)


def two_arg_relations(dice):
    """Task 4: three places in a row; what lies next to one of them?"""
    story = Story()
    first, middle, last = dice.deal(PLACES, 3)
    step = dice.pick(STEPS)
    grid = Grid((first, middle, last))
    grid.join(middle, step, last)
    grid.join(middle, back(step), first)
    facts = []
    for place, step, neighbour in grid.links(dice):
        line = story.tell(f"The {place} is {COMPASS[back(step)]} of the {neighbour}.")
        facts.append((line, place, step, neighbour))
    line, place, step, neighbour = dice.pick(facts)
    if dice.chance(0.5):
        question = f"What is {COMPASS[back(step)]} of the {neighbour}?"
    else:
        question = f"What is the {neighbour} {COMPASS[step]} of?"
    story.ask(question, place, [line])
    return story


def three_arg_relations(dice):
    """Task 5: people give things to each other; who gave what to whom?"""
    world = World(dice, GIVING_PEOPLE, PLACES, THINGS)

    def question(event):
        if event.kind != "give":
            return None
        given = event.thing.given
        giver, receiver, thing = given.person.name, given.receiver.name, given.thing.name
        what = f"What did {giver} give to {receiver}? ", thing
        text, answer = dice.pick(
            (
                what,
                what,  # twice as likely as each of the others
                (f"Who gave the {thing}? ", giver),
                (f"Who gave the {thing} to {receiver}? ", giver),
                (f"Who received the {thing}? ", receiver),
                (f"Who did {giver} give the {thing} to? ", receiver),
            )
        )
        return text, answer, [given.line]

    return act_and_ask(world, (world.move, world.get, world.drop, world.give), question)


def yes_no_questions(dice):
    """Task 6: is somebody in some place?"""
    world = World(dice, PEOPLE, PLACES, THINGS)

    def question(event):
        if event.kind != "move":
            return None
        person = event.person
        if dice.chance(0.5):
            return is_in(person, person.place, "yes")
        return is_in(person, dice.pick_except(PLACES, person.place), "no")

    return act_and_ask(world, (world.move, world.get, world.drop), question)


def counting(dice):
    """Task 7: how many things does somebody hold?"""
    world = World(dice, PEOPLE, PLACES, THINGS)

    def question(event):
        if event.thing is None:
            return None
        person = event.person
        number = sum(thing.holder is person for thing in world.things)
        support = sorted(chain.from_iterable(person.handled.values()))
        return f"How many objects is {person.name} carrying? ", NUMBERS[number], support

    return act_and_ask(world, (world.move, world.get, world.drop, world.give), question)


def lists_sets(dice):
    """Task 8: what does somebody hold?"""
    world = World(dice, PEOPLE, PLACES, THINGS)

    def question(event):
        if event.thing is None:
            return None
        person = event.person
        held = [thing.name for thing in person.handled if thing.holder is person]
        support = chain.from_iterable(person.handled.values())
        return f"What is {person.name} carrying? ", ",".join(held) or "nothing", support

    return act_and_ask(world, (world.move, world.get, world.drop), question)


def simple_negation(dice):
    """Task 9: as task 6, but some sentences only tell where somebody is no longer."""
    world = World(dice, PEOPLE, PLACES)

    def tell():
        for _ in range(2):
            person = dice.pick(world.people)
            old, new = person.place, dice.pick_except(PLACES, person.place)
            way = dice.random()
            if way < 0.5:
                world.go([person], person.name, new)
            elif way < 0.75:
                world.relocate([person], new, f"{person.name} is in the {new}.")
            else:
                no = dice.pick(("not", "no longer"))
                statement = f"{person.name} is {no} in the {old}."
                world.relocate([person], new, statement, "leave", old)

    def question(event):
        person = event.person
        told = person.moved
        if told.kind == "leave":
            return is_in(person, told.place, "no")
        if dice.chance(0.5):
            return is_in(person, told.place, "yes")
        return is_in(person, dice.pick_except(PLACES, told.place), "no")

    return tell_and_ask(world, tell, question)


def indefinite_knowledge(dice):
    """Task 10: as task 6, but some sentences leave two places open."""
    world = World(dice, OTHER_PEOPLE, OTHER_PLACES)

    def tell():
        for _ in range(2):
            person = dice.pick(world.people)
            new = dice.pick_except(OTHER_PLACES, person.place)
            way = dice.random()
            if way < 0.5:
                world.go([person], person.name, new)
            elif way < 0.75:
                world.relocate([person], new, f"{person.name} is in the {new}.")
            else:
                # The other place may be the true one again: "either in the park or the park".
                one, two = either = tuple(dice.deal((new, dice.pick(OTHER_PLACES)), 2))
                statement = f"{person.name} is either in the {one} or the {two}."
                world.relocate([person], new, statement, "either", either)

    def question(event):
        person = event.person
        told = person.moved
        place = person.place
        if dice.chance(0.5):
            place = dice.pick_except(OTHER_PLACES, place)
        if told.kind == "either":
            return is_in(person, place, "maybe" if place in told.place else "no")
        return is_in(person, place, "yes" if place == told.place else "no")

    return tell_and_ask(world, tell, question)


def where_is_after_pair(event):
    """`where_is`, supported by both sentences of the person's latest pair of sentences."""
    question, answer, (line,) = where_is(event.person)
    return question, answer, [line - 1, line]


def basic_coreference(dice):
    """Task 11: every second sentence has a pronoun for the person of the one before."""
    world = World(dice, PEOPLE, PLACES)

    def tell():
        person = dice.pick(world.people)
        then = f"{dice.pick(THEN)} {PRONOUN[person.name]}"
        for subject in (person.name, then):
            world.go([person], subject, dice.pick_except(PLACES, person.place))

    return tell_and_ask(world, tell, where_is_after_pair)


def go_together(world):
    """Two people go to a place where neither is, and are returned.

    Both are drawn again with the place if one is there already. So two people in one place, who
    are kept out of one place only, are likelier to go on together.
    """
    while True:
        one, two = world.dice.deal(world.people, 2)
        place = world.dice.pick(world.places)
        if place not in (one.place, two.place):
            world.go([one, two], f"{one.name} and {two.name}", place)
            return one, two


def conjunction(dice):
    """Task 12: people go about in twos."""
    world = World(dice, PEOPLE, PLACES)

    def tell():
        go_together(world)
        go_together(world)

    return tell_and_ask(world, tell, lambda event: where_is(event.person))


def compound_coreference(dice):
    """Task 13: people go about in twos, and every second sentence calls them "they"."""
    world = World(dice, PEOPLE, PLACES)

    def tell():
        pair = go_together(world)
        then = f"{dice.pick(THEN)} they"
        world.go(pair, then, dice.pick_except(PLACES, pair[0].place))

    return tell_and_ask(world, tell, where_is_after_pair)


def time_reasoning(dice):
    """Task 14: where was somebody before some place, by the time told, not by the order told?"""
    story = Story()
    people = {name: [] for name in OTHER_PEOPLE}  # everybody's events, in the order of time
    events = []

    def happen():
        name = dice.pick([name for name in people if len(people[name]) < len(TIMES)])
        past = people[name]
        place = dice.pick_except(OTHER_PLACES, past[-1].place if past else None)
        past.append(Event(0, "move", name, place))
        events.append(past[-1])
        return past[-1]

    def tell(event):
        time = TIMES[people[event.person].index(event)]
        went = f"{event.person} {dice.pick(WENT)} the {event.place}"
        if dice.chance(0.5):
            event.line = story.tell(f"{went} {time}.")
        else:
            event.line = story.tell(f"{time.capitalize()} {went}.")

    for _ in range(QUESTIONS):
        block = [happen(), happen()]
        while max(map(len, people.values())) < 2:  # nobody was anywhere before
            block += [happen(), happen()]
        # A random cycle (Sattolo): no event is told in its place, so two are always told in turn.
        for last in range(len(block) - 1, 0, -1):
            other = int(dice.random() * last)
            block[last], block[other] = block[other], block[last]
        for event in block:
            tell(event)
        then = None
        while not then:
            recent = dice.pick(events[-WINDOW:])
            past = people[recent.person]
            then = max(i for i, event in enumerate(past) if event.place == recent.place)
        there, before = past[then], past[then - 1]
        question = f"Where was {there.person} before the {there.place}? "
        story.ask(question, before.place, [there.line, before.line])
    return story


def basic_deduction(dice):
    """Task 15: what is somebody afraid of, being an animal of some kind?"""
    story = Story()
    fears = {animal: dice.pick_except(tuple(PLURAL), animal) for animal in PLURAL}
    fear_line, animal_of, person_line = {}, {}, {}
    untold = [*PLURAL, *FEARFUL_PEOPLE]
    while untold:
        subject = dice.pick(untold)
        if subject in PLURAL:
            fear = f"{PLURAL[subject].capitalize()} are afraid of {PLURAL[fears[subject]]}."
            fear_line[subject] = story.tell(fear)
        else:
            animal = dice.pick(tuple(PLURAL))
            if animal not in fear_line:
                continue
            animal_of[subject] = animal
            person_line[subject] = story.tell(f"{subject} is a {animal}.")
        untold.remove(subject)
    for _ in range(4):
        person = dice.pick(FEARFUL_PEOPLE)
        animal = animal_of[person]
        support = [person_line[person], fear_line[animal]]
        story.ask(f"What is {person.lower()} afraid of?", fears[animal], support)
    return story


def basic_induction(dice):
    """Task 16: what colour is somebody, going by another one of the same kind?"""
    others = 0
    while others in (0, 2):  # no published story has two others of the asked kind
        animal_of = {person: dice.pick(ANIMALS) for person in ANIMAL_PEOPLE}
        turns = []
        while len(turns) < 10:
            turns.append(dice.pick([name for name in ANIMAL_PEOPLE if turns.count(name) < 2]))
        asked = turns.pop()
        kind = animal_of[asked]
        others = list(animal_of.values()).count(kind) - 1

    story = Story()
    animal_line, color_line, color_of, color_now = {}, {}, {}, {}
    for person in turns:
        animal = animal_of[person]
        if person not in animal_line:
            animal_line[person] = story.tell(f"{person} is a {animal}.")
            # Each newcomer gives the kind a new colour; those not yet described take it on.
            color_now[animal] = dice.pick(COLORS)
        else:
            color_of[person] = color_now[animal]
            color_line[person] = story.tell(f"{person} is {color_of[person]}.")
    model = [person for person in animal_line if animal_of[person] == kind and person != asked][-1]
    support = [animal_line[asked], animal_line[model], color_line[model]]
    story.ask(f"What color is {asked}?", color_of[model], support)
    return story


def positional_reasoning(dice):
    """Task 17: two shapes lie next to a third; how do they lie to each other?"""
    story = Story()
    middle, *ends = dice.deal(SHAPES, 3)
    position = dict(zip(ends, dice.deal(STEPS, 2), strict=True))
    grid = Grid((middle, *ends))
    for end in ends:
        grid.join(middle, position[end], end)
    line = {}
    for shape, step, neighbour in grid.links(dice):
        end = neighbour if shape == middle else shape
        line[end] = story.tell(f"The {neighbour} is {SIDES[step]} the {shape}.")
    for _ in range(8):
        one, two = dice.deal(ends, 2)
        east, north = (a - b for a, b in zip(position[one], position[two], strict=True))
        truth = {step: step[0] * east + step[1] * north > 0 for step in STEPS}
        yes = dice.chance(0.5)
        side = SIDES[dice.pick([step for step in STEPS if truth[step] == yes])]
        support = [line[one], line[two]]
        story.ask(f"Is the {one} {side} the {two}?", "yes" if yes else "no", support)
    return story


def size_reasoning(dice):
    """Task 18: does something fit into something else, going by a third size in between?

    The published stories hint at more rules than are known here: `FROM_MIDDLE` is fitted, and some
    1% of them end a round of questions early where this function does not.
    """
    story = Story()
    by_size = dice.deal(BOXES, len(BOXES)) + list(SWEETS)
    pairs = [(big, small) for i, big in enumerate(by_size) for small in by_size[i + 1 :]]
    facts = []  # (big, small, line)

    def tell():
        big, small = dice.pick(pairs)
        if dice.chance(0.5):
            line = story.tell(f"The {big} is bigger than the {small}.")
        else:
            line = story.tell(f"The {small} fits inside the {big}.")
        facts.append((big, small, line))

    def question(fact):
        # A chain of two facts, one way (yes: down in size) or the other. The link is the first
        # other fact that mentions the middle; if it points back instead, there is no question.
        yes = dice.chance(0.5)
        near, far = (0, 1) if yes else (1, 0)
        if dice.chance(FROM_MIDDLE):  # the drawn fact only names the middle
            fact = next((other for other in facts if other[far] == fact[near]), None)
            if fact is None:
                return None
        middle = fact[far]
        link = next((other for other in facts if other is not fact and middle in other), None)
        if link is None or link[near] != middle:
            return None
        one, two = fact[near], link[far]
        if dice.chance(0.5):
            text = f"Is the {one} bigger than the {two}?"
        else:
            text = f"Does the {two} fit in the {one}?"
        return text, "yes" if yes else "no", [fact[2], link[2]]

    asked = 0
    while asked < QUESTIONS:
        for _ in range(5):
            tell()
        for _ in range(QUESTIONS):
            asked += ask_recent(story, facts, dice, question)
    return story


def path_finding(dice):
    """Task 19: which two steps lead from one place to another?"""
    story = Story()
    start, middle, goal, *others = dice.deal(PLACES, len(PLACES))
    grid = Grid((start, middle, goal, *others))
    first = dice.pick(STEPS)
    second = dice.pick_except(STEPS, back(first))
    grid.join(start, first, middle)
    grid.join(middle, second, goal)
    for place in others:
        neighbour, step = start, first
        while step in grid.sides[neighbour]:
            neighbour, step = dice.pick((start, middle, goal)), dice.pick(STEPS)
        grid.join(neighbour, step, place)
    line = {}
    for place, step, neighbour in grid.links(dice):
        line[place, neighbour] = line[neighbour, place] = story.tell(
            f"The {place} is {COMPASS[back(step)]} of the {neighbour}."
        )
    route = ",".join(COMPASS[step][0] for step in (first, second))
    support = [line[start, middle], line[middle, goal]]
    story.ask(f"How do you go from the {start} to the {goal}?", route, support)
    return story


def agents_motivations(dice):
    """Task 20: where will somebody go, and why did somebody do what he or she did?"""
    story = Story()
    motive = {person: dice.pick(tuple(MOTIVES)) for person in MOTIVATED_PEOPLE}
    steps = dict.fromkeys(MOTIVATED_PEOPLE, 0)  # how far everybody has come
    line, taken = {}, set()
    while True:
        able = [p for p in steps if steps[p] < 2 or (steps[p] == 2 and motive[p] not in taken)]
        if not able:
            return story
        person = dice.pick(able)
        place, thing = MOTIVES[motive[person]]
        if steps[person] == 0:
            line[person] = story.tell(f"{person} is {motive[person]}.")
            asked = f"Where will {person.lower()} go?", place
        elif steps[person] == 1:
            story.tell(f"{person} {dice.pick(WENT)} the {place}.")
            asked = f"Why did {person.lower()} go to the {place}?", motive[person]
        else:
            taken.add(motive[person])
            story.tell(f"{person} {dice.pick(GOT)} the {thing} there.")
            asked = f"Why did {person.lower()} get the {thing}?", motive[person]
        steps[person] += 1
        story.ask(*asked, [line[person]])


TASKS = dict(
    enumerate(
        (
            single_supporting_fact,
            two_supporting_facts,
            three_supporting_facts,
            two_arg_relations,
            three_arg_relations,
            yes_no_questions,
            counting,
            lists_sets,
            simple_negation,
            indefinite_knowledge,
            basic_coreference,
            conjunction,
            compound_coreference,
            time_reasoning,
            basic_deduction,
            basic_induction,
            positional_reasoning,
            size_reasoning,
            path_finding,
            agents_motivations,
        ),
        start=1,
    )
)
# Task 4 has too few stories to keep training and test apart; they meet in the published files too.
REPEATING_TASKS = (4,)


# Streams of stories -----------------------------------------------------------------------------


def stories(task_id, questions=None, seed=0, split="train"):
    """Yields the stories of one task, one after another, in constant memory.

    What comes depends on nothing but the arguments, and a longer stream begins like a shorter one
    (but for the shorter one's last story, where that had to be cut).

    No story of one split ever occurs in the other, whatever the seeds and numbers: the digest of
    its text says in which split a story may stand, and the others are passed over. Nothing has to
    be remembered, and as a digest has nothing to do with what a story says, both splits look alike.

    Args:
        task_id: 1 to 20.
        questions: the stream stops after exactly so many; the last story may be cut for that. None
            never stops.
        seed: an integer; another seed, other stories.
        split: "train" or "test".

    Yields:
        A story: its lines, without line ends, as in the published files.

    Raises:
        ValueError: if there is no such task or split.
    """
    if task_id not in TASKS:
        raise ValueError(f"There is no task {task_id}; the tasks are 1 to {len(TASKS)}.")
    if split not in SPLITS:
        raise ValueError(f"There is no split {split!r}; the splits are {' and '.join(SPLITS)}.")
    return _stories(task_id, questions, seed, split)


def _stories(task_id, questions, seed, split):
    # A string as a seed would do, but what `random` makes of one may change; of an integer, not.
    key = hashlib.sha256(f"babi {seed} {task_id} {split}".encode()).digest()
    dice = Dice(int.from_bytes(key, "big"))
    side = SPLITS.index(split)
    make = TASKS[task_id]
    left = questions
    while left is None or left > 0:
        lines = make(dice).lines
        asked = [number for number, line in enumerate(lines, start=1) if "\t" in line]
        if left is not None and len(asked) > left:
            asked = asked[:left]
            lines = lines[: asked[-1]]
        if task_id in REPEATING_TASKS or _side("\n".join(lines)) == side:
            yield lines
            if left is not None:
                left -= len(asked)


def _side(text):
    """The number of the only split in which a story of this text may stand."""
    return hashlib.blake2b(text.encode(), digest_size=1).digest()[0] % len(SPLITS)


# Stands in every folder that has simulated files: their scores are none of the published corpus.
MARKER = "SIMULATED.txt"


def file_name(task_id, split):
    """The name of a task's file in the published corpus."""
    return f"qa{task_id}_{TASKS[task_id].__name__.replace('_', '-')}_{split}.txt"


def write_file(path, task_id, questions, seed, split):
    """Writes one file, which appears under its name only when it is complete.

    Args:
        path: the file.
        task_id, questions, seed, split: as for `stories`.

    Raises:
        FileExistsError: if there is such a file.
        OSError: if it cannot be written.
    """
    unfinished = f"{path}.{os.getpid()}.part"
    try:
        with open(unfinished, "w", encoding="ascii", newline="\n") as file:
            for lines in stories(task_id, questions, seed, split):
                file.write("\n".join(lines) + "\n")
        _refuse_existing([path])
        os.rename(unfinished, path)
    finally:
        if os.path.exists(unfinished):
            os.remove(unfinished)


def _refuse_existing(paths):
    existing = [path for path in paths if os.path.lexists(path)]
    if existing:
        more = f" (and {len(existing) - 1} more)" if len(existing) > 1 else ""
        raise FileExistsError(
            f"{existing[0]}{more} exists already and is not overwritten; "
            "remove it or name another folder."
        )


def write_files(output_dir, task_ids, train, test, seed):
    """Writes the training and the test file of some tasks into a folder, and marks it as simulated.

    The marker comes before the first file, so whatever ends this call early, no file stands unmarked.

    Args:
        output_dir: the folder; it is made if need be.
        task_ids: numbers of tasks.
        train, test: how many questions the files of each task have.
        seed: as for `stories`.

    Raises:
        FileExistsError: if one of the files is there; then none is written.
        OSError: if a file cannot be written.
    """
    plan = [
        (os.path.join(output_dir, file_name(task_id, split)), task_id, questions, seed, split)
        for task_id in task_ids
        for split, questions in zip(SPLITS, (train, test), strict=True)
    ]
    _refuse_existing([path for path, *_ in plan])
    os.makedirs(output_dir, exist_ok=True)
    with open(os.path.join(output_dir, MARKER), "a", encoding="ascii", newline="\n") as marker:
        tasks = f"task{'s' if len(task_ids) > 1 else ''} {', '.join(map(str, task_ids))}"
        marker.write(f"Not the published stories: babi_simulator.py made {tasks} with seed {seed}.\n")
    for path, *content in plan:
        write_file(path, *content)


def write_corpus(output_dir, task_ids, train, test, seed):
    """Writes a whole folder, which appears under its name only when it is complete.

    Several processes may do so at once: the first to finish wins, and the others keep its folder.

    Args:
        output_dir, task_ids, train, test, seed: as for `write_files`.

    Returns:
        True if this call made the folder, False if it was there with all its files.

    Raises:
        FileExistsError: if the folder is there and not empty but lacks one of the files or the marker.
        OSError: if it cannot be written.
    """
    output_dir = os.path.abspath(output_dir)
    parent = os.path.dirname(output_dir)
    if not os.path.isdir(output_dir) or not os.listdir(output_dir):
        os.makedirs(parent, exist_ok=True)
        # The inner folder has the usual permissions; that of mkdtemp has not.
        with tempfile.TemporaryDirectory(prefix=".simulating-", dir=parent) as workshop:
            unfinished = os.path.join(workshop, "corpus")
            write_files(unfinished, task_ids, train, test, seed)
            try:
                os.rename(unfinished, output_dir)
                return True
            except OSError:
                if not os.path.isdir(output_dir):
                    raise
    names = [file_name(task_id, split) for task_id in task_ids for split in SPLITS]
    names.append(MARKER)
    missing = [name for name in names if not os.path.exists(os.path.join(output_dir, name))]
    if missing:
        raise FileExistsError(
            f"{output_dir} exists but lacks {missing[0]}; remove it or name another folder."
        )
    return False


# Command line -----------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    """Parser whose errors are one sentence."""

    def error(self, message):
        """Prints what is wrong and exits with status 2."""
        self.exit(2, f"{self.prog}: {message.rstrip('.')} (-h explains every flag).\n")


def task_numbers(text):
    """Reads the tasks a user names.

    Args:
        text: numbers and ranges with commas between, such as "3", "1,4" or "1-5,19", or "all".

    Returns:
        The numbers in ascending order, each once.

    Raises:
        argparse.ArgumentTypeError: if that is something else.
    """
    if text.strip() == "all":
        return list(TASKS)
    numbers = set()
    for part in text.split(","):
        ends = part.split("-")
        if len(ends) > 2 or not all(end.strip().isdecimal() for end in ends):
            raise argparse.ArgumentTypeError(
                f"{text!r} names no tasks; give numbers and ranges such as 3 or 1-5,19, or all"
            )
        first, last = int(ends[0]), int(ends[-1])
        if not 1 <= first <= last <= len(TASKS):
            raise argparse.ArgumentTypeError(
                f"{part.strip()!r} is no task or range of tasks; they go from 1 to {len(TASKS)}"
            )
        numbers.update(range(first, last + 1))
    return sorted(numbers)


def question_count(text):
    """Reads a number of questions, raising argparse.ArgumentTypeError if it is not 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def parse_arguments(argv=None):
    """Reads the flags; exits with status 2 and one sentence if they make no sense."""
    parser = Parser(
        description="Writes simulated stories of the bAbI tasks, in the format of the corpus.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--task_id", type=task_numbers, default="all", help="tasks: 3, 1,4, 1-5,19 or all")
    add("--train", type=question_count, default=1000, help="training questions of each task")
    add("--test", type=question_count, default=1000, help="test questions of each task")
    add("--seed", type=int, default=0, help="the same seed makes the same files, byte by byte")
    add("--output_dir", default="data/simulated/en", help="folder for the files")
    return parser.parse_args(argv)


def main(argv=None):
    """Writes the files that the flags ask for; returns the exit status."""
    flags = parse_arguments(argv)
    try:
        write_files(flags.output_dir, flags.task_id, flags.train, flags.test, flags.seed)
    except OSError as error:
        sentence = str(error)
        if error.strerror:  # from the system, not from this file
            sentence = (
                f"Cannot write {error.filename}: {error.strerror}; "
                "name a folder you can write to with --output_dir."
            )
        print(f"babi_simulator.py: {sentence}", file=sys.stderr)
        return 2
    print(
        f"Wrote {len(SPLITS) * len(flags.task_id)} files to {flags.output_dir}: {flags.train} "
        f"training and {flags.test} test questions a task, seed {flags.seed}."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

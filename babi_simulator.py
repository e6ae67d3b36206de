"""Simulates stories of the twenty bAbI tasks (Weston et al., 2015, arXiv:1502.05698).

    python babi_simulator.py --task_id 1-20 --train 1000 --test 1000 --seed 0 --output_dir data/simulated/en

writes files with the names and the format of the published corpus, supporting facts included. From Python, `stories`
yields stories without writing files.

The random processes are those measured on the published English files, v1.2. The same seed gives the same bytes on
every Python version, because the only source of chance is `random.random()`, the one method of `random` whose sequence
Python promises never to change.
"""

import hashlib
import os
import random
from dataclasses import dataclass, field

import files
from flags import TASK_NAMES, TASKS, HelpFormatter, InputError, Parser, count, run_command, task_numbers

# --- words ------------------------------------------------------------------------------------------------

# The order matters where somebody gives something away: the first person within reach receives it.
PEOPLE = ("John", "Mary", "Sandra", "Daniel")
GIVING_PEOPLE = ("Mary", "Fred", "Bill", "Jeff")
OTHER_PEOPLE = ("Bill", "Fred", "Julie", "Mary")
PRONOUN = {"John": "he", "Daniel": "he", "Mary": "she", "Sandra": "she"}

PLACES = ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office")
OTHER_PLACES = ("bedroom", "cinema", "kitchen", "office", "park", "school")
THINGS = ("apple", "football", "milk")  # in the order in which they are considered for giving

WENT = ("went to", "journeyed to", "travelled to", "went back to", "moved to")
GOT = ("got", "took", "grabbed", "picked up")
DROPPED = ("dropped", "left", "put down", "discarded")
GAVE = ("gave", "handed", "passed")
THEN = ("After that", "Following that", "Then", "Afterwards")
THERE_RATE = 0.2  # probability of an optional "there" at the end of a sentence

TIMES = ("yesterday", "this morning", "this afternoon", "this evening")
NUMBERS = ("none", "one", "two", "three")

PLURAL = {"mouse": "mice", "sheep": "sheep", "wolf": "wolves", "cat": "cats"}
FEARFUL_PEOPLE = ("Gertrude", "Winona", "Jessica", "Emily")

ANIMAL_PEOPLE = ("Lily", "Bernhard", "Greg", "Julius", "Brian")
ANIMALS = ("swan", "lion", "frog", "rhino")
COLORS = ("gray", "white", "yellow", "green")

SHAPES = ("triangle", "blue square", "pink rectangle", "red square", "red sphere", "yellow square")
BOXES = ("suitcase", "container", "box", "chest")  # each story orders them by size at random
SWEETS = ("box of chocolates", "chocolate")  # smaller than every box, the bigger one first

# A step on a map is (east, north).
COMPASS = {(0, 1): "north", (0, -1): "south", (1, 0): "east", (-1, 0): "west"}
SIDES = {(0, 1): "above", (0, -1): "below", (1, 0): "to the right of", (-1, 0): "to the left of"}
STEPS = tuple(COMPASS)

MOTIVES = {  # motive: (the place it leads to, the thing that is taken there)
    "hungry": ("kitchen", "apple"),
    "thirsty": ("kitchen", "milk"),
    "bored": ("garden", "football"),
    "tired": ("bedroom", "pajamas"),
}
MOTIVATED_PEOPLE = ("Antoine", "Jason", "Sumit", "Yann")

WINDOW = 5  # a question is about one of this many newest events
DRAWS = 50  # events drawn before the story goes on without a question
FROM_MIDDLE = 0.25  # task 18: how often a question starts from its middle thing, fitted
QUESTIONS = 5  # in a story of most tasks
SPLITS = ("train", "test")


# --- chance -----------------------------------------------------------------------------------------------


class Dice(random.Random):
    """Random choices made from `random()` alone, so that every Python version makes the same ones."""

    def pick(self, items):
        """One of a sequence of items, all equally likely."""
        return items[int(self.random() * len(items))]

    def pick_except(self, items, *excluded):
        """One of the items that are not excluded, all equally likely."""
        while True:
            item = self.pick(items)
            if item not in excluded:
                return item

    def deal(self, items, number):
        """A list of `number` different items, in random order."""
        pool = list(items)
        return [pool.pop(int(self.random() * len(pool))) for _ in range(number)]

    def chance(self, probability):
        """True with the given probability."""
        return self.random() < probability


# --- stories ----------------------------------------------------------------------------------------------


class Story:
    """The numbered lines of one story.

    Question texts include the blank that follows their question mark: in the published files, tasks 1-3 and 5-14 have
    one before the tab, the other tasks do not.
    """

    def __init__(self, dice):
        self.dice = dice
        self.lines = []
        self.events = []  # what questions can be about, oldest first

    def tell(self, statement):
        """Adds a statement and returns its line number."""
        self.lines.append(f"{len(self.lines) + 1} {statement}")
        return len(self.lines)

    def ask(self, question, answer, support):
        """Adds a question with its answer and the line numbers of its supporting facts."""
        self.lines.append(f"{len(self.lines) + 1} {question}\t{answer}\t{' '.join(map(str, support))}")

    def ask_recent(self, question):
        """Asks about one of the newest events, and returns whether there was something to ask.

        `question` maps an event to (question, answer, support), or to None if it gives no question.
        """
        recent = self.events[-WINDOW:]
        for _ in range(DRAWS):
            parts = question(self.dice.pick(recent))
            if parts:
                self.ask(*parts)
                return True
        return False

    def tell_and_ask(self, tell, question, statements=2, questions=1):
        """Adds rounds of so many calls of `tell()` and of `ask_recent(question)`, and returns the complete story."""
        asked = 0
        while asked < QUESTIONS:
            for _ in range(statements):
                tell()
            asked += sum(self.ask_recent(question) for _ in range(questions))
        return self


# --- people and things ------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class Event:
    """What a statement says about one person."""

    line: int  # number of the statement
    person: "Person"  # who acts
    place: str | tuple = None  # of a move: what the statement says about the new place, see `World.relocate`
    thing: "Thing" = None  # what is taken, dropped or given
    receiver: "Person" = None  # to whom it is given


@dataclass(slots=True, eq=False)
class Person:
    """A person, and what the story says about this person."""

    name: str
    place: str  # where the person is, even if no statement says so
    moved: Event = None  # the latest event about a change of place
    # {thing taken, dropped, given or received: lines about that}, in the order in which the person first had the things
    handled: dict = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Thing:
    """A thing that lies in a place or is held, and what the story says about it."""

    name: str
    place: str  # where it lies, or lay when it was last taken
    holder: Person = None
    handled: int = None  # the latest line in which it was taken, dropped or given
    moved: Event = None  # the move that says where it is, if one does
    carried: list = field(default_factory=list)  # the moves made with it since it was last taken, until it is dropped


class World(Story):
    """A story about people in places, and things in places or hands.

    Everybody and everything starts in a place that no statement mentions. People and things are names in the order in
    which they are considered for receiving and being given; `there_rate` is the probability that a sentence about
    taking a thing ends in "there".
    """

    def __init__(self, dice, people, places, things=(), there_rate=1.0):
        super().__init__(dice)
        self.people = [Person(name, dice.pick(places)) for name in people]
        self.places = places
        self.things = [Thing(name, dice.pick(places)) for name in things]
        self.there_rate = there_rate

    def go(self, people, subject, place):
        """Moves people to a place where none of them is; `subject` names them in the sentence."""
        self.relocate(people, place, f"{subject} {self.dice.pick(WENT)} the {place}.")

    def relocate(self, people, place, statement, stated=None):
        """Moves people, and all they hold, to a place.

        `stated` is what the statement says if not the place: the place left, or a tuple of two possible places.
        """
        line = self.tell(statement)
        for person in people:
            person.place = place
            person.moved = Event(line, person, stated or place)
            self.events.append(person.moved)
            for thing in self.things:
                if thing.holder is person:
                    thing.moved = person.moved
                    thing.carried.append(person.moved)

    def handle(self, person, verbs, thing, ending, receiver=None):
        """Adds a statement about a thing taken, dropped or given."""
        thing.handled = self.tell(f"{person.name} {self.dice.pick(verbs)} the {thing.name}{ending}.")
        self.events.append(Event(thing.handled, person, None, thing, receiver))
        for hand in (person, receiver) if receiver else (person,):
            hand.handled.setdefault(thing, []).append(thing.handled)

    # The four actions. If the person cannot perform one, it changes nothing and returns False.

    def move(self, person):
        """The person goes to a place drawn from all, unless already there."""
        place = self.dice.pick(self.places)
        if place == person.place:
            return False
        self.go([person], person.name, place)
        return True

    def get(self, person):
        """The person takes one of the things in the same place."""
        within_reach = [thing for thing in self.things if thing.holder is None and thing.place == person.place]
        if not within_reach:
            return False
        thing = self.dice.pick(within_reach)
        thing.holder, thing.moved, thing.carried = person, None, []
        self.handle(person, GOT, thing, " there" if self.dice.chance(self.there_rate) else "")
        return True

    def drop(self, person):
        """The person drops one of the things held."""
        held = [thing for thing in self.things if thing.holder is person]
        if not held:
            return False
        thing = self.dice.pick(held)
        thing.holder, thing.moved, thing.place = None, person.moved, person.place
        self.handle(person, DROPPED, thing, " there" if self.dice.chance(THERE_RATE) else "")
        return True

    def give(self, person):
        """The first thing that can be given is given to the first person who can receive it.

        The argument is ignored: the published stories are like that, which is why the apple changes hands more often
        than the milk.
        """
        for thing in self.things:
            for receiver in self.people:
                giver = thing.holder
                if giver and receiver is not giver and receiver.place == giver.place:
                    thing.holder = receiver
                    self.handle(giver, GAVE, thing, f" to {receiver.name}", receiver)
                    return True
        return False

    # Statements of a task.

    def act(self, *more_actions):
        """Draws an action (move, get, drop or one more) and a person until that person can do it."""
        actions = (self.move, self.get, self.drop, *more_actions)
        while not self.dice.pick(actions)(self.dice.pick(self.people)):
            pass

    def walk(self, otherwise=None):
        """Moves somebody to another place.

        With `otherwise`, half of the sentences say where the person went, a quarter where the person is, and a quarter
        is left to `otherwise(person, place)`, which returns a sentence and what it says, as for `relocate`.
        """
        person = self.dice.pick(self.people)
        place = self.dice.pick_except(self.places, person.place)
        form = self.dice.random() if otherwise else 0
        if form < 0.5:
            self.go([person], person.name, place)
        elif form < 0.75:
            self.relocate([person], place, f"{person.name} is in the {place}.")
        else:
            self.relocate([person], place, *otherwise(person, place))

    def leave(self, person, place):
        """For `walk`: a negated sentence, which only rules out the person's last place."""
        return f"{person.name} is {self.dice.pick(('not', 'no longer'))} in the {person.place}.", person.place

    def be_either(self, person, place):
        """For `walk`: a sentence that leaves two places open, perhaps as "either in the park or the park"."""
        one, two = either = tuple(self.dice.deal((place, self.dice.pick(self.places)), 2))
        return f"{person.name} is either in the {one} or the {two}.", either

    def walk_on(self):
        """Somebody goes to a place and on to another; the second sentence has a pronoun."""
        person = self.dice.pick(self.people)
        pronoun = f"{self.dice.pick(THEN)} {PRONOUN[person.name]}"
        for subject in (person.name, pronoun):
            self.go([person], subject, self.dice.pick_except(self.places, person.place))

    def go_together(self):
        """Two people go to a place where neither is; returns them.

        If one of them is there already, people and place are drawn again. So two people in the same place, who are kept
        out of one place only, are likelier to go on together.
        """
        while True:
            one, two = self.dice.deal(self.people, 2)
            place = self.dice.pick(self.places)
            if place not in (one.place, two.place):
                self.go([one, two], f"{one.name} and {two.name}", place)
                return one, two

    def go_on_together(self):
        """Two people go to a place and on to another; the second sentence calls them "they"."""
        pair = self.go_together()
        self.go(pair, f"{self.dice.pick(THEN)} they", self.dice.pick_except(self.places, pair[0].place))

    # Questions about an event, see `ask_recent`.

    def where_is(self, event):
        """Where is a person? Answered and supported by the latest move."""
        move = event.person.moved
        return f"Where is {event.person.name}? ", move.place, [move.line]

    def where_is_after_pair(self, event):
        """`where_is`, supported by both sentences of the person's latest pair of sentences."""
        question, answer, (line,) = self.where_is(event)
        return question, answer, [line - 1, line]

    def is_in(self, person, place, answer):
        """Is a person in a place? Supported by the latest move."""
        return f"Is {person.name} in the {place}? ", answer, [person.moved.line]

    def is_in_or_not(self, event):
        """`is_in` for the person's place, answered yes, or for another, answered no, equally likely."""
        person = event.person
        if event.thing:
            return None
        if self.dice.chance(0.5):
            return self.is_in(person, person.place, "yes")
        return self.is_in(person, self.dice.pick_except(self.places, person.place), "no")

    def is_in_or_left(self, event):
        """`is_in_or_not`, or for the place that the person is said to have left, answered no."""
        stated = event.person.moved.place
        return self.is_in_or_not(event) if stated == event.person.place else self.is_in(event.person, stated, "no")

    def is_maybe_in(self, event):
        """`is_in`, answered maybe if the latest sentence leaves the place open."""
        person, place, stated = event.person, event.person.place, event.person.moved.place
        if self.dice.chance(0.5):
            place = self.dice.pick_except(self.places, place)
        if stated == person.place:
            return self.is_in(person, place, "yes" if place == stated else "no")
        return self.is_in(person, place, "maybe" if place in stated else "no")

    def where_is_thing(self, event):
        """Where is a thing that somebody carries or has dropped?"""
        thing = event.thing
        if thing is None or thing.moved is None:
            return None
        return f"Where is the {thing.name}? ", thing.moved.place, [thing.handled, thing.moved.line]

    def where_was_thing(self, event):
        """Where was a thing before it was carried to a place?"""
        thing = event.thing
        if thing is None or len(thing.carried) < 2:
            return None
        place = self.dice.pick(thing.carried).place
        return where_before(f"the {thing.name}", thing.carried, place, [thing.handled])

    def who_gave_what(self, event):
        """Who gave what to whom, when the thing of the event was last given?"""
        if event.receiver is None:
            return None
        given = [other for other in self.events if other.receiver and other.thing is event.thing][-1]
        giver, receiver, thing = given.person.name, given.receiver.name, given.thing.name
        what = f"What did {giver} give to {receiver}? ", thing
        text, answer = self.dice.pick(
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

    def how_many_are_held(self, event):
        """How many things does somebody hold?"""
        person = event.person
        if event.thing is None:
            return None
        number = NUMBERS[sum(thing.holder is person for thing in person.handled)]
        return f"How many objects is {person.name} carrying? ", number, sorted(sum(person.handled.values(), []))

    def what_is_held(self, event):
        """What does somebody hold?"""
        person = event.person
        if event.thing is None:
            return None
        held = ",".join(thing.name for thing in person.handled if thing.holder is person)
        return f"What is {person.name} carrying? ", held or "nothing", sum(person.handled.values(), [])


def where_before(subject, moves, place, support=()):
    """Where was somebody or something before the latest of its moves to a place? None if that was the first move."""
    last = max(i for i, move in enumerate(moves) if move.place == place)
    if last == 0:
        return None
    before, arrival = moves[last - 1 : last + 1]
    return f"Where was {subject} before the {place}? ", before.place, [*support, arrival.line, before.line]


def in_world(tell, question, people=PEOPLE, places=PLACES, things=(), there_rate=1.0, statements=2):
    """A function that makes one story in a `World`, from a method for its statements and one for its questions."""

    def make_story(dice):
        world = World(dice, people, places, things, there_rate)
        return world.tell_and_ask(lambda: tell(world), lambda event: question(world, event), statements)

    return make_story


# --- maps -------------------------------------------------------------------------------------------------

# A map is {place or shape: {step: its neighbour there}}. Only joined places are neighbours, even if two others happen
# to share a point of the grid.


def back(step):
    """The opposite of a step."""
    return -step[0], -step[1]


def join(sides, place, step, neighbour):
    """Puts a neighbour one step away from a place of a map."""
    sides[place][step] = neighbour
    sides[neighbour][back(step)] = place


def links(sides, dice):
    """Yields every link of a map once as (place, step, neighbour), in random order and direction.

    A place is drawn, then one of its links, until every link was drawn; so links of places with few neighbours tend to
    come first, seen from those places.
    """
    places = tuple(sides)
    directed_links = sum(map(len, sides.values()))
    yielded = set()
    while len(yielded) < directed_links:
        place = dice.pick(places)
        step, neighbour = dice.pick(tuple(sides[place].items()))
        if (place, neighbour) not in yielded:
            yielded |= {(place, neighbour), (neighbour, place)}
            yield place, step, neighbour


# --- the twenty tasks -------------------------------------------------------------------------------------


def two_arg_relations(dice):
    """Task 4: three places in a row; which place is next to another?"""
    story = Story(dice)
    first, middle, last = dice.deal(PLACES, 3)
    step = dice.pick(STEPS)
    sides = {first: {}, middle: {}, last: {}}
    join(sides, middle, step, last)
    join(sides, middle, back(step), first)
    facts = []
    for place, step, neighbour in links(sides, dice):
        line = story.tell(f"The {place} is {COMPASS[back(step)]} of the {neighbour}.")
        facts.append((line, place, step, neighbour))
    line, place, step, neighbour = dice.pick(facts)
    if dice.chance(0.5):
        question = f"What is {COMPASS[back(step)]} of the {neighbour}?"
    else:
        question = f"What is the {neighbour} {COMPASS[step]} of?"
    story.ask(question, place, [line])
    return story


def time_reasoning(dice):
    """Task 14: where was somebody before a place, by the time of day rather than the order of statements?"""
    story = Story(dice)
    moves = {name: [] for name in OTHER_PEOPLE}  # of each person, by time of day

    def happen():
        name = dice.pick([name for name in moves if len(moves[name]) < len(TIMES)])
        place = dice.pick_except(OTHER_PLACES, moves[name][-1].place if moves[name] else None)
        moves[name].append(Event(0, name, place))  # its line follows
        story.events.append(moves[name][-1])

    for _ in range(QUESTIONS):
        told = len(story.events)
        while len(story.events) == told or max(map(len, moves.values())) < 2:  # nobody has been to two places yet
            happen()
            happen()
        block = story.events[told:]
        # A random cycle (Sattolo's algorithm): no event keeps its place, so two are always swapped.
        for last in range(len(block) - 1, 0, -1):
            other = int(dice.random() * last)
            block[last], block[other] = block[other], block[last]
        for event in block:
            time = TIMES[moves[event.person].index(event)]
            went = f"{event.person} {dice.pick(WENT)} the {event.place}"
            event.line = story.tell(f"{went} {time}." if dice.chance(0.5) else f"{time.capitalize()} {went}.")
        while not story.ask_recent(lambda event: where_before(event.person, moves[event.person], event.place)):
            pass
    return story


def basic_deduction(dice):
    """Task 15: what is somebody afraid of, who is an animal of a kind?"""
    story = Story(dice)
    fears = {animal: dice.pick_except(tuple(PLURAL), animal) for animal in PLURAL}
    fear_line, animal_of, person_line = {}, {}, {}
    subjects = [*PLURAL, *FEARFUL_PEOPLE]
    while subjects:
        subject = dice.pick(subjects)
        if subject in PLURAL:
            fear = f"{PLURAL[subject].capitalize()} are afraid of {PLURAL[fears[subject]]}."
            fear_line[subject] = story.tell(fear)
        else:
            animal = dice.pick(tuple(PLURAL))
            if animal not in fear_line:
                continue
            animal_of[subject] = animal
            person_line[subject] = story.tell(f"{subject} is a {animal}.")
        subjects.remove(subject)
    for _ in range(4):
        person = dice.pick(FEARFUL_PEOPLE)
        animal = animal_of[person]
        support = [person_line[person], fear_line[animal]]
        story.ask(f"What is {person.lower()} afraid of?", fears[animal], support)
    return story


def basic_induction(dice):
    """Task 16: what colour is somebody, given the colour of another of the same kind?"""
    others = 0
    while others in (0, 2):  # no published story has exactly two others of the kind in question
        animal_of = {person: dice.pick(ANIMALS) for person in ANIMAL_PEOPLE}
        turns = []
        while len(turns) < 10:
            turns.append(dice.pick([name for name in ANIMAL_PEOPLE if turns.count(name) < 2]))
        subject = turns.pop()  # the person asked about, whose colour is not stated
        kind = animal_of[subject]
        others = list(animal_of.values()).count(kind) - 1

    story = Story(dice)
    animal_line, color_line, color_of, color_now = {}, {}, {}, {}
    for person in turns:
        animal = animal_of[person]
        if person not in animal_line:
            animal_line[person] = story.tell(f"{person} is a {animal}.")
            # Each newcomer gives the kind a new colour, which those without a stated colour take on.
            color_now[animal] = dice.pick(COLORS)
        else:
            color_of[person] = color_now[animal]
            color_line[person] = story.tell(f"{person} is {color_of[person]}.")
    model = [person for person in animal_line if animal_of[person] == kind and person != subject][-1]
    support = [animal_line[subject], animal_line[model], color_line[model]]
    story.ask(f"What color is {subject}?", color_of[model], support)
    return story


def positional_reasoning(dice):
    """Task 17: two shapes are next to a third; where is one relative to the other?"""
    story = Story(dice)
    middle, *ends = dice.deal(SHAPES, 3)
    position = dict(zip(ends, dice.deal(STEPS, 2), strict=True))
    sides = {middle: {}, ends[0]: {}, ends[1]: {}}
    for end in ends:
        join(sides, middle, position[end], end)
    line = {}
    for shape, step, neighbour in links(sides, dice):
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
    """Task 18: is one thing bigger than another, given a third size in between?

    The published stories seem to follow more rules than these: `FROM_MIDDLE` is fitted, and about 1 % of them end a
    round of questions early where this function does not.
    """
    story = Story(dice)
    by_size = dice.deal(BOXES, len(BOXES)) + list(SWEETS)
    pairs = [(big, small) for i, big in enumerate(by_size) for small in by_size[i + 1 :]]
    facts = story.events  # (big, small, line)

    def tell():
        big, small = dice.pick(pairs)
        bigger = f"The {big} is bigger than the {small}."
        facts.append((big, small, story.tell(bigger if dice.chance(0.5) else f"The {small} fits inside the {big}.")))

    def question(fact):
        # A chain of two facts, from larger to smaller (yes) or from smaller to larger (no). The link is the first other
        # fact that mentions the middle box; if it points the other way, nothing is asked.
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
        text = f"Is the {one} bigger than the {two}?" if dice.chance(0.5) else f"Does the {two} fit in the {one}?"
        return text, "yes" if yes else "no", [fact[2], link[2]]

    return story.tell_and_ask(tell, question, statements=5, questions=QUESTIONS)


def path_finding(dice):
    """Task 19: which two steps lead from one place to another?"""
    story = Story(dice)
    start, middle, goal, *others = dice.deal(PLACES, len(PLACES))
    sides = {place: {} for place in (start, middle, goal, *others)}
    first = dice.pick(STEPS)
    second = dice.pick_except(STEPS, back(first))
    join(sides, start, first, middle)
    join(sides, middle, second, goal)
    for place in others:
        neighbour, step = start, first
        while step in sides[neighbour]:
            neighbour, step = dice.pick((start, middle, goal)), dice.pick(STEPS)
        join(sides, neighbour, step, place)
    line = {}
    for place, step, neighbour in links(sides, dice):
        statement = f"The {place} is {COMPASS[back(step)]} of the {neighbour}."
        line[place, neighbour] = line[neighbour, place] = story.tell(statement)
    route = ",".join(COMPASS[step][0] for step in (first, second))
    support = [line[start, middle], line[middle, goal]]
    story.ask(f"How do you go from the {start} to the {goal}?", route, support)
    return story


def agents_motivations(dice):
    """Task 20: where will somebody go, and why did somebody do something?"""
    story = Story(dice)
    motive = {person: dice.pick(tuple(MOTIVES)) for person in MOTIVATED_PEOPLE}
    steps = dict.fromkeys(MOTIVATED_PEOPLE, 0)  # statements about each person so far
    line, served = {}, set()
    while True:
        able = [p for p in steps if steps[p] < 2 or (steps[p] == 2 and motive[p] not in served)]
        if not able:
            return story
        person = dice.pick(able)
        place, thing = MOTIVES[motive[person]]
        if steps[person] == 0:
            line[person] = story.tell(f"{person} is {motive[person]}.")
            question, answer = f"Where will {person.lower()} go?", place
        elif steps[person] == 1:
            story.tell(f"{person} {dice.pick(WENT)} the {place}.")
            question, answer = f"Why did {person.lower()} go to the {place}?", motive[person]
        else:
            served.add(motive[person])
            story.tell(f"{person} {dice.pick(GOT)} the {thing} there.")
            question, answer = f"Why did {person.lower()} get the {thing}?", motive[person]
        steps[person] += 1
        story.ask(question, answer, [line[person]])


STORY_MAKERS = {  # by task: a function that makes one story
    1: in_world(World.walk, World.where_is),
    2: in_world(World.act, World.where_is_thing, things=THINGS),
    3: in_world(World.act, World.where_was_thing, things=THINGS, there_rate=THERE_RATE),
    4: two_arg_relations,
    5: in_world(lambda world: world.act(world.give), World.who_gave_what, GIVING_PEOPLE, things=THINGS),
    6: in_world(World.act, World.is_in_or_not, things=THINGS),
    7: in_world(lambda world: world.act(world.give), World.how_many_are_held, things=THINGS),
    8: in_world(World.act, World.what_is_held, things=THINGS),
    9: in_world(lambda world: world.walk(world.leave), World.is_in_or_left),
    10: in_world(lambda world: world.walk(world.be_either), World.is_maybe_in, OTHER_PEOPLE, OTHER_PLACES),
    11: in_world(World.walk_on, World.where_is_after_pair, statements=1),
    12: in_world(World.go_together, World.where_is),
    13: in_world(World.go_on_together, World.where_is_after_pair, statements=1),
    14: time_reasoning,
    15: basic_deduction,
    16: basic_induction,
    17: positional_reasoning,
    18: size_reasoning,
    19: path_finding,
    20: agents_motivations,
}
REPEATING_TASKS = (4,)  # too few stories to keep the splits apart; they overlap in the published files too


# --- streams and files of stories -------------------------------------------------------------------------

MARKER = "SIMULATED.txt"  # in every folder of simulated files, whose scores are not bAbI scores


def stories(task_id, questions, seed=0, split="train"):
    """Yields the stories of one task, one after another, in constant memory.

    The stories depend on the arguments alone, and a longer stream begins like a shorter one.

    No story of one split ever occurs in the other, whatever the seeds and numbers of questions: a digest of its text,
    which is unrelated to what it says, decides in which split a story may stand; the others are skipped.

    Args:
        task_id: 1 to 20.
        questions: the stream stops after exactly this many; its last story may be cut.
        seed: an integer.
        split: "train" or "test".

    Yields:
        The lines of a story, without line ends, as in the published files.

    Raises:
        ValueError: the task or the split is unknown.
    """
    if task_id not in TASKS or split not in SPLITS:
        raise ValueError(f"unknown task or split: {task_id}, {split!r}; expected 1 to 20, and train or test")
    # An integer, as Python does not promise that a seed of another type always gives the same sequence.
    key = hashlib.sha256(f"babi {seed} {task_id} {split}".encode()).digest()
    dice = Dice(int.from_bytes(key, "big"))
    while questions > 0:
        lines = STORY_MAKERS[task_id](dice).lines
        question_lines = [number for number, line in enumerate(lines, start=1) if "\t" in line][:questions]
        lines = lines[: question_lines[-1]]  # the last line of every story is a question
        digest = hashlib.blake2b("\n".join(lines).encode(), digest_size=1).digest()[0]
        if task_id in REPEATING_TASKS or SPLITS[digest % len(SPLITS)] == split:
            yield lines
            questions -= len(question_lines)


def file_name(task_id, split):
    """The name of a task's file in the published corpus."""
    return f"qa{task_id}_{TASK_NAMES[task_id].replace(' ', '-')}_{split}.txt"


def write_files(output_dir, task_ids, train, test, seed):
    """Writes `train` training and `test` test questions of each task into files of a folder marked as simulated.

    The marker is written first, so no file is ever unmarked; a file appears when it is complete.

    Raises:
        InputError: one of the files exists already, and none is written; or a file cannot be written.
    """
    plan = {
        os.path.join(output_dir, file_name(task_id, split)): (task_id, questions, seed, split)
        for task_id in task_ids
        for split, questions in zip(SPLITS, (train, test), strict=True)
    }
    existing = [path for path in plan if os.path.lexists(path)]
    if existing:
        raise InputError(f"{existing[0]} exists already and is not overwritten; remove it or name another folder.")
    with files.saving(output_dir):
        os.makedirs(output_dir, exist_ok=True)
    tasks = f"task{'s' if len(task_ids) > 1 else ''} {', '.join(map(str, task_ids))}"
    note = f"Not the published stories: babi_simulator.py made {tasks} with seed {seed}.\n"
    files.append(os.path.join(output_dir, MARKER), note.encode())
    for path, content in plan.items():
        files.write(path, "".join(f"{line}\n" for lines in stories(*content) for line in lines).encode())


def main(argv=None):
    parser = Parser(
        "Writes simulated stories of the bAbI tasks, in the format of the corpus.", formatter_class=HelpFormatter
    )
    add = parser.add_argument
    add("--task_id", type=task_numbers, default="all", help="tasks: 3, 1,4, 1-5,19 or all")
    add("--train", type=count, default=1000, help="training questions of each task")
    add("--test", type=count, default=1000, help="test questions of each task")
    add("--seed", type=int, default=0, help="the same seed writes the same bytes")
    add("--output_dir", default="data/simulated/en", help="folder of the files")
    flags = parser.parse_args(argv)
    write_files(flags.output_dir, flags.task_id, flags.train, flags.test, flags.seed)
    print(f"Wrote {len(SPLITS) * len(flags.task_id)} files to {flags.output_dir}.")


if __name__ == "__main__":
    run_command(main)

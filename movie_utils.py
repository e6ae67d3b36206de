"""Questions about films: the files of MetaQA and WikiMovies -> memories, queries and answers.

Two layouts of the same data are read, and told apart by their files:

- MetaQA (Zhang et al., 2018, arXiv:1709.04071): `kb.txt` with lines `subject|relation|object`, and
  `<N>-hop/vanilla/qa_<split>.txt` with lines `question with [entity]<TAB>answer|answer`;
- WikiMovies (Miller et al., 2016, arXiv:1606.03126): `knowledge_source/wiki_entities/wiki_entities_kb.txt` with
  lines `n subject relation object, object`, and `questions/wiki_entities/wiki-entities_qa_<split>.txt` with lines
  `1 question?<TAB>answer, answer`, where a comma may be part of a name.

A memory slot is a key and a value, both bags of tokens. Slots come from the knowledge base, where a key is a subject
with a relation and the value is the object, or from documents about the films. The token ids are 0 for nil, then one
id for each entity, then one for each word. Nothing here imports TensorFlow.
"""

import os
import random
import re
from array import array
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from data_utils import NEVER_SEEN, UNKNOWN, Corpus, EncodedExamples, read_lines
from flags import KINDS, SOURCES, InputError

RELATIONS = {  # relation: what MetaQA's question types call its object
    "directed_by": "director",
    "written_by": "writer",
    "starred_actors": "actor",
    "release_year": "year",
    "in_language": "language",
    "has_genre": "genre",
    "has_tags": "tags",
    "has_imdb_rating": "imdbrating",
    "has_imdb_votes": "imdbvotes",
}
PLOT = "has_plot"  # in the published WikiMovies file; its object is a text, not an entity
INVERSE = "!"  # before a relation that is followed from object to subject
SPLITS = ("train", "dev", "test")
VALUE_IS_CENTRE, VALUE_IS_TITLE = "<window>", "<title>"  # words in keys; no word of a text is spelled so
NEAR = "1:"  # begins the words of the second dictionary
COMMON_NAME = 1 / 500  # a name in more than this share of the training questions is also a word of English

METAQA_KB = "kb.txt"
METAQA_QUESTIONS = "{}-hop/vanilla/qa_{}.txt"
METAQA_KINDS = "{}-hop/qa_{}_qtype.txt"
WIKIMOVIES_KB = "knowledge_source/wiki_entities/wiki_entities_kb.txt"
WIKIMOVIES_NAMES = "knowledge_source/entities.txt"
WIKIMOVIES_TEXT = "knowledge_source/wiki.txt"
WIKIMOVIES_QUESTIONS = "questions/wiki_entities/wiki-entities_qa_{}.txt"


# --- files -> lines -------------------------------------------------------------------------------------


def numbered_lines(path):
    """The lines of a text file as (line number from 1, text) pairs, without empty lines at the end.

    Raises:
        InputError: the file cannot be read or is not UTF-8.
    """
    lines = read_lines(path)
    while lines and not lines[-1].strip():
        lines.pop()
    return enumerate(lines, start=1)


def line_error(path, number, expected, text):
    """An `InputError` that names the file, the line, what was expected and what stands there."""
    text = text.strip()
    return InputError(f"{path}, line {number}: expected {expected}, found {text[:60] + '...' * (len(text) > 60)!r}.")


# --- the knowledge base ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class KnowledgeBase:
    """Facts about named entities.

    Attributes:
        names: list of the N entities, sorted; the entity `names[i]` has token id i + 1.
        relations: list of the R relations.
        triples: (T, 3) int32, distinct: token id of the subject, number of the relation, token id of the object.
    """

    names: list
    relations: list
    triples: np.ndarray

    @classmethod
    def of(cls, facts):
        """The knowledge base of an iterable of (subject, relation, object) strings."""
        facts = dict.fromkeys(facts)  # distinct, in order
        names = sorted({name for subject, _, obj in facts for name in (subject, obj)})
        relations = list(dict.fromkeys(relation for _, relation, _ in facts))
        id_of = {name: number for number, name in enumerate(names, start=1)}
        relation_of = {relation: number for number, relation in enumerate(relations)}
        numbers = [(id_of[subject], relation_of[relation], id_of[obj]) for subject, relation, obj in facts]
        return cls(names, relations, np.array(numbers, np.int32).reshape(-1, 3))

    def both_ways(self):
        """Every triple also from its object to its subject.

        Returns:
            Three (2 T,) int32 arrays: the entity that is asked about, the relation and the entity that answers;
            relation R + r is relation r followed from object to subject. Sorted by the first.
        """
        subjects, relations, objects = self.triples.T
        entities = np.concatenate([subjects, objects])
        order = np.argsort(entities, kind="stable")
        directed = np.concatenate([relations, relations + len(self.relations)])
        return entities[order], directed[order], np.concatenate([objects, subjects])[order]

    def directed_relations(self):
        """The 2 R names of the relations that `both_ways` numbers."""
        return self.relations + [INVERSE + relation for relation in self.relations]


def read_metaqa_kb(path):
    """Reads a `KnowledgeBase` from lines `subject|relation|object`.

    Raises:
        InputError: the file cannot be read, a line is malformed, or the file has no facts.
    """
    facts = []
    for number, line in numbered_lines(path):
        fields = tuple(line.split("|"))
        if len(fields) != 3 or not all(map(str.strip, fields)):
            raise line_error(path, number, "subject|relation|object", line)
        facts.append(fields)
    return _with_facts(path, facts)


def read_wikimovies_kb(path, known_names):
    """Reads a `KnowledgeBase` from lines `n subject relation object, object`, a blank line between films.

    Args:
        path: the file.
        known_names: set of names; a comma followed by a space parts objects except inside one of these.

    Raises:
        InputError: the file cannot be read, a line is malformed, or the file has no facts.
    """
    pattern = re.compile(rf"\d+ (.+?) ({'|'.join([*RELATIONS, PLOT])}) (.+)")
    facts = []
    for number, line in numbered_lines(path):
        if not line.strip():
            continue
        match = pattern.fullmatch(line)
        if match is None:
            raise line_error(path, number, "a number, a film, a relation such as directed_by and its objects", line)
        subject, relation, objects = match.groups()
        if relation != PLOT:
            facts += [(subject, relation, name) for name in split_names(objects, known_names)]
    return _with_facts(path, facts)


def _with_facts(path, facts):
    if not facts:
        raise InputError(f"{path}: expected at least one fact, found none.")
    return KnowledgeBase.of(facts)


def split_names(text, known_names):
    """Splits `A, B` into names, of which the longest that are known may have commas of their own.

    >>> split_names("Farewell, My Lovely, Laura", {"Farewell, My Lovely", "Laura"})
    ['Farewell, My Lovely', 'Laura']
    """
    parts = text.split(", ")
    names, start = [], 0
    while start < len(parts):
        ends = range(len(parts), start, -1)
        end = next((end for end in ends if ", ".join(parts[start:end]) in known_names), start + 1)
        names.append(", ".join(parts[start:end]).strip())
        start = end
    return names


# --- names in text --------------------------------------------------------------------------------------


def words_of(text):
    """Splits text into words and marks of punctuation, case kept.

    >>> words_of("Where's my car?")
    ['Where', "'", 's', 'my', 'car', '?']
    """
    return re.findall(r"\w+|[^\w\s]", text)


class NameFinder:
    """Finds entities in text as the longest known names.

    Args:
        names: iterable of names; the first has token id 1.
        ignore_case: whether `kismet` is Kismet.
    """

    def __init__(self, names, ignore_case=False):
        self.ignore_case = ignore_case
        self.id_of = {}  # words of a name, joined by blanks: its token id
        lengths = defaultdict(set)
        for number, name in enumerate(names, start=1):
            words = words_of(self.fold(name))
            if words:
                self.id_of.setdefault(" ".join(words), number)
                lengths[words[0]].add(len(words))
        self.lengths = dict(lengths)  # first word of a name: how many words such names have

    def fold(self, text):
        return text.lower() if self.ignore_case else text

    def find(self, words):
        """The names in a text.

        Args:
            words: list of str, from `words_of`.

        Returns:
            A list of (start, end, token id), in the order of the text. Where names overlap, the one with more
            words counts, and of two as long the earlier one.
        """
        folded = [self.fold(word) for word in words]
        candidates = []
        for start, word in enumerate(folded):
            for length in self.lengths.get(word, ()):
                number = self.id_of.get(" ".join(folded[start : start + length]))
                if number is not None and start + length <= len(folded):
                    candidates.append((-length, start, number))
        free, names = [True] * len(words), []
        for length, start, number in sorted(candidates):
            if all(free[start : start - length]):
                free[start : start - length] = [False] * -length
                names.append((start, start - length, number))
        return sorted(names)


# --- questions ------------------------------------------------------------------------------------------


class Question(NamedTuple):
    """A question about entities.

    Attributes:
        words: tuple of lower-case words, without the entities and the question mark.
        entities: tuple of token ids.
        answers: tuple of token ids, all of them right; empty where no answer is an entity.
        kind: its type, such as `movie_to_director`, or "".
        text: as written.
    """

    words: tuple
    entities: tuple
    answers: tuple
    kind: str = ""
    text: str = ""


def read_metaqa_questions(path, names, kinds_path=None):
    """Reads questions from lines `question with [entity]<TAB>answer|answer`.

    Args:
        path: the file.
        names: list of the entities' names, as in `KnowledgeBase`.
        kinds_path: a file with the type of each line, or None.

    Returns:
        A list of `Question`.

    Raises:
        InputError: a file cannot be read, a line is malformed, or the files differ in their number of lines.
    """
    id_of = {name: number for number, name in enumerate(names, start=1)}
    questions = []
    for number, line in numbered_lines(path):
        match = re.fullmatch(r"([^\t]*?)\[([^\t]+)\]([^\t]*)\t([^\t]+)", line)
        if match is None:
            raise line_error(path, number, "a question with one [entity], a tab and answers parted by |", line)
        before, entity, after, answers = match.groups()
        known = tuple(id_of[name] for name in (entity,) if name in id_of)
        right = tuple(id_of[name] for name in answers.split("|") if name in id_of)
        words = _question_words(words_of(before) + words_of(after))
        questions.append(Question(words, known, right, text=line.partition("\t")[0] + "?"))
    if kinds_path is None:
        return questions
    kinds = [kind.strip() for _, kind in numbered_lines(kinds_path)]
    if len(kinds) != len(questions):
        raise InputError(
            f"{kinds_path}: expected one question type for each of the {len(questions)} lines of {path}, "
            f"found {len(kinds)} lines."
        )
    return [question._replace(kind=kind) for question, kind in zip(questions, kinds, strict=True)]


def read_wikimovies_questions(path, names):
    """Reads questions from lines `1 question?<TAB>answer, answer`, without looking for entities in them.

    Args:
        path: the file.
        names: list of the entities' names, as in `KnowledgeBase`.

    Returns:
        A list of (question, token ids of the answers that are entities).

    Raises:
        InputError: the file cannot be read or a line is malformed.
    """
    id_of = {name: number for number, name in enumerate(names, start=1)}
    questions = []
    for number, line in numbered_lines(path):
        match = re.fullmatch(r"1 ([^\t]+)\t([^\t]+)", line)
        if match is None:
            raise line_error(path, number, "1, a question, a tab and answers parted by commas", line)
        question, answers = match.groups()
        right = tuple(id_of[name] for name in split_names(answers, id_of) if name in id_of)
        questions.append((question, right))
    return questions


def common_names(texts, finder):
    """The names that are words of English too, such as `film`: those in many training questions.

    Args:
        texts: lists of words, the training questions.
        finder: `NameFinder`.

    Returns:
        A set of token ids.
    """
    counts = Counter(number for words in texts for number in {name for *_, name in finder.find(words)})
    return {number for number, count in counts.items() if count > max(2, COMMON_NAME * len(texts))}


def link(words, finder, common=frozenset()):
    """The entities of a question without brackets.

    Args:
        words: from `words_of`.
        finder: `NameFinder`.
        common: token ids of names that are taken for words where the question has another name.

    Returns:
        (lower-case words of the question without its entities, token ids of its entities).
    """
    names = finder.find(words)
    if any(number not in common for *_, number in names):
        names = [name for name in names if name[2] not in common]
    inside = {place for start, end, _ in names for place in range(start, end)}
    outside = [word for place, word in enumerate(words) if place not in inside]
    return _question_words(outside), tuple(dict.fromkeys(number for *_, number in names))


def _question_words(words):
    words = [word.lower() for word in words]
    return tuple(words[:-1] if words[-1:] == ["?"] else words)


def with_kinds(questions, kb):
    """Gives each question without a type the type of the relation that leads from its entities to its answers.

    The relation is the one whose objects agree best with the answers (largest intersection over union), so that a
    film's director who also wrote it may be taken for its writer.
    """
    entities, relations, objects = kb.both_ways()
    starts = np.searchsorted(entities, np.arange(len(kb.names) + 2))
    asked = [(i, e) for i, question in enumerate(questions) if not question.kind for e in question.entities]
    if not asked:
        return questions
    number, entity = np.array(asked).T
    fact, place = _ranges(starts[entity], starts[entity + 1])
    number = number[place]
    right = np.array([(i, a) for i, question in enumerate(questions) for a in question.answers]).reshape(-1, 2)
    width, kinds = len(kb.names) + 1, 2 * len(kb.relations)
    agrees = np.isin(number * width + objects[fact], right[:, 0] * width + right[:, 1])
    cell = number * kinds + relations[fact]
    size = len(questions) * kinds
    hits = np.bincount(cell, agrees, size).reshape(-1, kinds)
    facts = np.bincount(cell, minlength=size).reshape(-1, kinds)
    answers = np.array([len(question.answers) for question in questions])[:, np.newaxis]
    best = np.argmax(hits / np.maximum(facts + answers - hits, 1), axis=1)
    kind_of = [f"movie_to_{_object_kind(relation)}" for relation in kb.relations]
    kind_of += [f"{_object_kind(relation)}_to_movie".replace("tags", "tag") for relation in kb.relations]
    return [
        question if question.kind or not hits[i].any() else question._replace(kind=kind_of[best[i]])
        for i, question in enumerate(questions)
    ]


def _object_kind(relation):
    return RELATIONS.get(relation, relation)


def _ranges(starts, ends):
    """The numbers of all ranges one after another, and which range each is of."""
    lengths = ends - starts
    place = np.repeat(np.arange(len(lengths)), lengths)
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return starts[place] + within, place


class Films(NamedTuple):
    """What one folder holds: facts, and the questions about them."""

    kb: KnowledgeBase
    finder: NameFinder
    common: set  # token ids of names that are words of English too
    training: list  # of Question
    validation: list
    testing: list


def layout(folder):
    """The layout of the files in a folder: "metaqa" or "wikimovies".

    Raises:
        InputError: it has the knowledge base of neither.
    """
    for name, path in (("metaqa", METAQA_KB), ("wikimovies", WIKIMOVIES_KB)):
        if os.path.exists(os.path.join(folder, path)):
            return name
    raise InputError(f"{folder}: expected MetaQA ({METAQA_KB}) or WikiMovies ({WIKIMOVIES_KB}), found neither.")


def load_kb(folder):
    """Reads the `KnowledgeBase` of a folder of either layout."""
    if layout(folder) == "metaqa":
        return read_metaqa_kb(os.path.join(folder, METAQA_KB))
    known_names = {name for _, name in numbered_lines(os.path.join(folder, WIKIMOVIES_NAMES))}
    return read_wikimovies_kb(os.path.join(folder, WIKIMOVIES_KB), known_names)


def load(folder, question_hops=1, validation_seed=0):
    """Reads the facts and questions of either layout.

    Args:
        folder: the data set's.
        question_hops: facts that a question needs, 1 or, in MetaQA, 2.
        validation_seed: if the file of 2-hop training questions is missing, a tenth of the dev questions, drawn with
            this seed, validates, and the others are trained on.

    Returns:
        `Films`. Training questions without a known entity or answer are left out.

    Raises:
        InputError: a file is missing, is malformed or has no questions.
    """
    if layout(folder) == "metaqa":
        kb, splits = _load_metaqa(folder, question_hops, validation_seed)
        finder = NameFinder(kb.names)
        common = common_names([question.words for question in splits["train"]], finder)
    elif question_hops == 1:
        kb, texts = _load_wikimovies(folder)
        finder = NameFinder(kb.names)
        common = common_names([words_of(text) for text, _ in texts["train"]], finder)
        splits = {
            split: [Question(*link(words_of(text), finder, common), answers, text=text) for text, answers in questions]
            for split, questions in texts.items()
        }
    else:
        raise InputError(f"{folder}: WikiMovies has no questions of {question_hops} hops; MetaQA has.")
    if question_hops == 1:
        splits = {split: with_kinds(questions, kb) for split, questions in splits.items()}
    training = [question for question in splits["train"] if question.entities and question.answers]
    for split, questions in (("training", training), ("dev", splits["dev"]), ("test", splits["test"])):
        if not questions:
            raise InputError(f"{folder}: expected {split} questions about entities of its knowledge base, found none.")
    return Films(kb, finder, common, training, splits["dev"], splits["test"])


def _load_metaqa(folder, question_hops, validation_seed):
    """A `KnowledgeBase`, and a dict from split to a list of `Question`."""
    kb = load_kb(folder)
    paths = {split: os.path.join(folder, METAQA_QUESTIONS.format(question_hops, split)) for split in SPLITS}
    splits = {}
    for split, path in paths.items():
        if split == "train" and question_hops > 1 and not os.path.exists(path):
            continue
        kinds = os.path.join(folder, METAQA_KINDS.format(question_hops, split))
        splits[split] = read_metaqa_questions(path, kb.names, kinds if os.path.exists(kinds) else None)
    if "train" not in splits:
        dev = splits["dev"]
        order, tenth = np.random.RandomState(validation_seed).permutation(len(dev)), len(dev) // 10
        splits["dev"], splits["train"] = [dev[i] for i in order[:tenth]], [dev[i] for i in order[tenth:]]
    return kb, splits


def _load_wikimovies(folder):
    """A `KnowledgeBase`, and a dict from split to a list of (question, answers)."""
    kb = load_kb(folder)
    paths = {split: os.path.join(folder, WIKIMOVIES_QUESTIONS.format(split)) for split in SPLITS}
    return kb, {split: read_wikimovies_questions(path, kb.names) for split, path in paths.items()}


# --- memories -------------------------------------------------------------------------------------------


class Vocabulary(dict):
    """Word -> token id. Ids from `first` on, after nil and the entities; the first is `UNKNOWN`'s."""

    def __init__(self, first):
        super().__init__({UNKNOWN: first})
        self.first = first

    def add(self, words):
        """The ids of words, which get ids where they have none."""
        return [self.setdefault(word, self.first + len(self)) for word in words]

    def ids(self, words):
        """The ids of words, that of `UNKNOWN` for words that have none."""
        return [self.get(word, self.first) for word in words]


@dataclass(frozen=True)
class Memory:
    """All memory slots there are, and an inverted index from entities to slots (key hashing, KV-MemNN, section 3.1).

    Attributes:
        statements: (U, J) int32, distinct bags of token ids, 0 = nil; row 0 is empty.
        keys, values: (S,) int32, the rows of each slot's key and value; slot 0 is empty.
        starts: (N + 2,) int64; the slots of the entity with token id e are `slots[starts[e] : starts[e + 1]]`.
        slots: int32.
    """

    statements: np.ndarray
    keys: np.ndarray
    values: np.ndarray
    starts: np.ndarray
    slots: np.ndarray

    @classmethod
    def indexed(cls, statements, keys, values, entities, slots, entity_count):
        """The memory whose index files slot `slots[i]` under the entity with token id `entities[i]`."""
        order = np.argsort(entities, kind="stable")
        starts = np.searchsorted(entities[order], np.arange(entity_count + 2))
        return cls(statements, keys, values, starts, slots[order].astype(np.int32))

    def of(self, entity):
        """The slots of the entity with this token id, int32."""
        return self.slots[self.starts[entity] : self.starts[entity + 1]]

    def of_question(self, entities, memory_size, neighbours=False):
        """The slots that share an entity with a question, but for those whose value is that entity: no answer.

        Args:
            entities: token ids.
            memory_size: the most slots; those that are filed last are dropped.
            neighbours: also the slots of the entities that these slots have as values; entities with fewer slots
                come first.

        Returns:
            Slot numbers, int32, each once.
        """
        near = self._without_values(np.unique(np.concatenate([self.slots[:0], *map(self.of, entities)])), entities)
        if not neighbours or not len(near):
            return near[:memory_size]
        beside = np.unique(self.statements[self.values[near], 0])
        counts = self.starts[beside + 1] - self.starts[beside]
        order = np.argsort(counts, kind="stable")
        enough = np.searchsorted(np.cumsum(counts[order]), 2 * memory_size) + 1  # half of them may lead back
        beside = beside[order[:enough]]
        place, _ = _ranges(self.starts[beside], self.starts[beside + 1])
        return np.concatenate([near, self._without_values(self.slots[place], entities)])[:memory_size]

    def _without_values(self, slots, entities):
        """The slots whose value is not just one of these entities."""
        values = self.statements[self.values[slots]]
        return slots[~(np.isin(values[:, 0], entities) & (values[:, 1] == 0))]


def knowledge_base_memory(kb, vocabulary):
    """One slot for each triple in each direction: key = entity and relation, value = entity.

    Args:
        kb: `KnowledgeBase`.
        vocabulary: `Vocabulary`, which gets the relations as words.

    Returns:
        `Memory` with J = 2.
    """
    entities, relations, objects = kb.both_ways()
    words = np.array(vocabulary.add(kb.directed_relations()))
    codes, key_rows = np.unique(entities.astype(np.int64) * len(words) + relations, return_inverse=True)
    keys = np.stack([codes // len(words), words[codes % len(words)]], axis=1)
    values = np.stack([np.arange(1, len(kb.names) + 1), np.zeros(len(kb.names), int)], axis=1)
    return Memory.indexed(
        statements=np.concatenate([np.zeros((1, 2), int), keys, values]).astype(np.int32),
        keys=np.append(0, 1 + key_rows.reshape(-1)).astype(np.int32),
        values=np.append(0, len(keys) + objects).astype(np.int32),
        entities=entities,
        slots=np.arange(1, len(entities) + 1),
        entity_count=len(kb.names),
    )


def triple_memory(kb, vocabulary):
    """One slot for each triple, key = value = subject, relation and object: no key differs from its value.

    Args and Returns: see `knowledge_base_memory`; J = 3.
    """
    subjects, relations, objects = kb.triples.T
    words = np.array(vocabulary.add(kb.relations))
    rows = np.arange(len(subjects) + 1, dtype=np.int32)
    bags = np.stack([subjects, words[relations], objects], axis=1)
    return Memory.indexed(
        statements=np.concatenate([np.zeros((1, 3), int), bags]).astype(np.int32),
        keys=rows,
        values=rows,
        entities=np.concatenate([subjects, objects]),
        slots=np.concatenate([rows[1:], rows[1:]]),
        entity_count=len(kb.names),
    )


# --- documents ------------------------------------------------------------------------------------------


class Document(NamedTuple):
    """A text about a film: its title, and its sentences as strings."""

    title: str
    sentences: list


def read_documents(path):
    """Reads documents in the layout of WikiMovies' `wiki.txt`.

    The first line of a document is `1 title`, the others are `n sentence`; a blank line follows. A title may end with
    a remark in brackets, such as `(film)`, which is dropped.

    Returns:
        A list of `Document`.

    Raises:
        InputError: the file cannot be read, a line is malformed, or the file has no documents.
    """
    documents = []
    for number, line in numbered_lines(path):
        match = re.fullmatch(r"(\d+) (.*\S)\s*", line)
        if match is None:
            if line.strip():
                raise line_error(path, number, "a line number and a title or sentence", line)
        elif match[1] == "1":
            documents.append(Document(re.sub(r" \([^()]*\)$", "", match[2]), []))
        elif not documents:
            raise line_error(path, number, "the line `1 title` that begins a document", line)
        else:
            documents[-1].sentences.append(match[2])
    if not documents:
        raise InputError(f"{path}: expected at least one document, found none.")
    return documents


def document_memory(documents, finder, vocabulary, key="title", window=7, common=frozenset()):
    """Slots from text, in one of the paper's representations (KV-MemNN, section 3.2).

    Args:
        documents: iterable of `Document`.
        finder: `NameFinder`.
        vocabulary: `Vocabulary`, which gets the words of the texts.
        key: "sentence": key = value = the bag of a sentence. "window": around each entity of a sentence, key = the
            bag of `window` tokens with the entity at the centre, value = that entity. "centre": the same without
            the entity at the centre in the bag, and with the words next to it in a second dictionary. "title": the
            slots of "centre", and each once more with the title of its document as the value, and with the centre
            and the title in the key.
        window: tokens of a window, the centre included. An entity is one token. Windows end where a sentence ends.
        common: token ids of names that are words of English too, which are never a centre.

    Returns:
        `Memory`. A slot is filed under the entities in its key and under the title of its document.
    """
    around = (window - 1) // 2
    row_of, keys, values = {(): 0}, [0], [0]
    filed_entities, filed_slots = array("i"), array("i")  # millions of numbers, which a list would take 1 GB for

    def add(tokens, value=None, under=()):
        """Adds a slot whose key is the bag of tokens, each once; without a value, the key is the value."""
        words = iter(vocabulary.add(token for token in tokens if isinstance(token, str)))
        bag = dict.fromkeys(next(words) if isinstance(token, str) else token for token in tokens)
        entities = {*under, *(token for token in bag if token < vocabulary.first)}
        filed_entities.extend(entities)
        filed_slots.extend([len(keys)] * len(entities))
        row = row_of.setdefault(tuple(bag), len(row_of))
        keys.append(row)
        values.append(row if value is None else row_of.setdefault((value,), len(row_of)))

    for title, sentences in documents:
        title_id = finder.id_of.get(" ".join(words_of(finder.fold(title))))
        titles = [] if title_id is None else [title_id]
        for sentence in sentences:
            tokens = document_tokens(sentence, finder, common)
            if key == "sentence":
                add(tokens, under=titles)
                continue
            for place, centre in enumerate(tokens):
                if isinstance(centre, str):
                    continue
                left, right = tokens[max(place - around, 0) : place], tokens[place + 1 : place + 1 + around]
                if key == "window":
                    add([*left, centre, *right], centre, titles)
                    continue
                near = [NEAR + token if isinstance(token, str) else token for token in left[-1:] + right[:1]]
                bag = [*left[:-1], *near, *right[1:]]
                add(bag if key == "centre" else [*bag, VALUE_IS_CENTRE], centre, titles)
                if key == "title" and titles:
                    add([*bag, centre, title_id, VALUE_IS_TITLE], title_id)
    statements = np.zeros((len(row_of), max(map(len, row_of))), np.int32)
    for row, bag in enumerate(row_of):
        statements[row, : len(bag)] = bag
    return Memory.indexed(
        statements=statements,
        keys=np.array(keys, np.int32),
        values=np.array(values, np.int32),
        entities=np.array(filed_entities),
        slots=np.array(filed_slots),
        entity_count=vocabulary.first - 1,
    )


def document_tokens(sentence, finder, common=frozenset()):
    """A sentence as a list of tokens: the token ids of its entities and its other words, in lower case; punctuation is
    left out. Names in `common` are words."""
    words = words_of(sentence)
    names = [name for name in finder.find(words) if name[2] not in common]
    tokens, place = [], 0
    for start, end, number in [*names, (len(words), len(words), None)]:
        tokens += [word.lower() for word in words[place:start] if word[0].isalnum()]
        tokens += [] if number is None else [number]
        place = end
    return tokens


# --- the corpus of one model ----------------------------------------------------------------------------


def load_corpus(
    folder,
    memory_size,
    question_hops=1,
    source="kb",
    representation=None,
    text=None,
    window=15,
    templates="one",
    conjunction=0.0,
    coreference=0.0,
):
    """Reads the questions of a data set, and the slots of the memory of each.

    The words are those of the training questions and of the memory.

    Args:
        folder: the data set's; see `load`.
        memory_size: M, slots per question at most.
        question_hops: see `load`; for 2, memories have the facts of an entity and of its neighbours.
        source, representation: see `SOURCES` in flags.py; None for the source's first representation.
        text: for "doc", a file of documents; None for the data set's own, or else `synthetic_documents`.
        window: see `document_memory`.
        templates, conjunction, coreference: see `synthetic_documents`.

    Returns:
        `data_utils.Corpus`, whose tasks are the question types that all splits have, and "all".

    Raises:
        InputError: a file is missing or malformed, or the flags do not fit each other.
    """
    representation = representation or SOURCES[source][0]
    if representation not in SOURCES[source]:
        expected = ", ".join(SOURCES[source])
        raise InputError(f"--representation {representation}: --source {source} has {expected}.")
    if question_hops > 1 and representation != "facts":
        raise InputError(f"--question_hops {question_hops}: needs --source kb and --representation facts.")
    films = load(folder, question_hops)
    vocabulary = Vocabulary(len(films.kb.names) + 1)
    for question in films.training:
        vocabulary.add(question.words)
    if source == "kb":
        make = knowledge_base_memory if representation == "facts" else triple_memory
        memory = make(films.kb, vocabulary)
    else:
        own_text = os.path.join(folder, WIKIMOVIES_TEXT)
        text = text or (own_text if os.path.exists(own_text) else None)
        if text:
            documents = read_documents(text)
        else:
            documents = synthetic_documents(films.kb, templates, conjunction, coreference)
        memory = document_memory(documents, films.finder, vocabulary, representation, window, films.common)
    splits = films.training, films.validation, films.testing
    encoded = [encode(split, memory, vocabulary, memory_size, question_hops > 1) for split in splits]
    kinds = set.intersection(*({question.kind for question in split} for split in splits))
    return Corpus(
        tasks=[kind for kind in KINDS if kind in kinds] + [KINDS[-1]],
        vocabulary=vocabulary,
        sentence_size=memory.statements.shape[1],
        memory_size=memory_size,
        training=encoded[0],
        validation=encoded[1],
        testing=encoded[2],
        entities=films.kb.names,
    )


def encode(questions, memory, vocabulary, memory_size, neighbours=False):
    """Turns questions into bags of ids and the rows of their memories.

    Args:
        questions: list of `Question`.
        memory: `Memory`.
        vocabulary: `Vocabulary`.
        memory_size, neighbours: see `Memory.of_question`.

    Returns:
        `data_utils.EncodedExamples`.
    """
    slots = np.zeros((len(questions), memory_size), np.int32)
    for row, question in zip(slots, questions, strict=True):
        near = memory.of_question(question.entities, memory_size, neighbours)
        row[: len(near)] = near
    answers = _padded([question.answers for question in questions], NEVER_SEEN)
    return EncodedExamples(
        statements=memory.statements,
        slots=memory.keys[slots],
        query=_padded([(*question.entities, *vocabulary.ids(question.words)) for question in questions], 0),
        answer=answers[:, 0],
        task=np.array([question.kind for question in questions]),
        value_statements=memory.statements,
        value_slots=memory.values[slots],
        answers=answers,
        entities=vocabulary.first - 1,
    )


def _padded(bags, padding):
    """Sequences of numbers as one int32 array, with at least one column."""
    array = np.full((len(bags), max(1, *map(len, bags))), padding, np.int32)
    for row, bag in zip(array, bags, strict=True):
        row[: len(bag)] = bag
    return array


# --- synthetic documents --------------------------------------------------------------------------------

TEMPLATES = {  # relation: sentences without the full stop, the first of which is that of "one"
    "directed_by": (
        "{object} directed {title}",
        "{title} was directed by {object}",
        "{title} is a film by {object}",
        "the director of {title} is {object}",
    ),
    "written_by": (
        "{object} wrote {title}",
        "{title} was written by {object}",
        "the screenplay of {title} is by {object}",
        "the writer of {title} is {object}",
    ),
    "starred_actors": (
        "{object} starred in {title}",
        "{title} stars {object}",
        "the cast of {title} includes {object}",
        "{title} features performances by {object}",
    ),
    "release_year": (
        "{title} was released in {object}",
        "{title} came out in {object}",
        "{object} was the year in which {title} appeared",
        "the release of {title} was in {object}",
    ),
    "in_language": (
        "{title} is in {object}",
        "the language of {title} is {object}",
        "{object} is spoken in {title}",
        "{title} was filmed in {object}",
    ),
    "has_genre": (
        "the genre of {title} is {object}",
        "{title} is a {object} movie",
        "{object} is the genre of {title}",
        "{title} belongs to the genre {object}",
    ),
    "has_tags": (
        "{title} is about {object}",
        "{title} is described by {object}",
        "{title} is known for {object}",
        "{object} are words that describe {title}",
    ),
    "has_imdb_rating": (
        "the rating of {title} is {object}",
        "{title} is rated {object}",
        "people think {title} is {object}",
        "critics call {title} {object}",
    ),
    "has_imdb_votes": (
        "the popularity of {title} is {object}",
        "{title} is {object} among viewers",
        "{title} has become {object}",
        "viewers consider {title} {object}",
    ),
}
NEVER_CONJOINED = "has_tags"
MOST_CONJUNCTIONS = 7


def synthetic_documents(kb, templates="all", conjunction=0.0, coreference=0.0, seed=0):
    """Writes documents from a knowledge base, the way in which those of WikiMovies were made (its README.txt).

    A film's document has one sentence for each relation of which it is a subject. Of c sentences that may be
    conjoined, K ~ Binomial(c - 1, conjunction), but 7 at most, pairs are joined with `and`. Each appearance of the
    title after the first becomes `it` with probability `coreference`. The sentences are this project's own.

    Args:
        kb: `KnowledgeBase`.
        templates: "one" or "all": which of the `TEMPLATES` of a relation are drawn from.
        conjunction, coreference: probabilities.
        seed: the same seed gives the same documents.

    Returns:
        A list of `Document`, in the order of the token ids of their titles.
    """
    dice = random.Random(seed)
    objects_of = defaultdict(lambda: defaultdict(list))
    for subject, relation, obj in kb.triples[np.argsort(kb.triples[:, 0], kind="stable")].tolist():
        objects_of[subject][kb.relations[relation]].append(kb.names[obj - 1])
    documents = []
    for subject, facts in objects_of.items():
        title = kb.names[subject - 1]
        conjoinable, alone = [], []
        for relation, objects in facts.items():
            choices = TEMPLATES[relation][: 1 if templates == "one" else None]
            template = choices[int(dice.random() * len(choices))]
            sentence = template.replace("{object}", _listed(objects))
            (alone if relation == NEVER_CONJOINED else conjoinable).append(sentence)
        joins = sum(dice.random() < conjunction for _ in conjoinable[1:])
        for _ in range(min(joins, MOST_CONJUNCTIONS)):
            first = conjoinable.pop(int(dice.random() * len(conjoinable)))
            place = int(dice.random() * len(conjoinable))
            conjoinable[place] = f"{first} and {conjoinable[place]}"
        sentences, titles = [], 0
        for sentence in conjoinable + alone:
            pieces = sentence.split("{title}")
            text = pieces[0]
            for piece in pieces[1:]:
                text += ("it" if titles and dice.random() < coreference else title) + piece
                titles += 1
            sentences.append(text + ".")
        documents.append(Document(title, sentences))
    return documents


def _listed(names):
    """`A`, `A and B` or `A, B and C`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


# --- a simulated world of films -------------------------------------------------------------------------

MARKER = "SIMULATED.txt"
SIMULATED_FILMS = 1500
SIMULATED_QUESTIONS = {"train": 4000, "dev": 1000, "test": 1000}
_ADJECTIVES = "Silent Golden Broken Hidden Crimson Endless Frozen Distant Velvet Burning Lonely Electric".split()
_NOUNS = "Harbor Garden Mirror Winter Empire Letter River Shadow Voyage Orchard Signal Promise Lantern Desert".split()
_SCENES = "Paris Midnight Autumn Arcadia Lisbon Thunder Monday Glass Kyoto Salt".split()
_FIRST_NAMES = (
    "Ada Bruno Clara Dmitri Elena Felix Greta Hugo Irène José Karin Luis Mina Noah Olga Pablo Renée Søren".split()
)
_LAST_NAMES = (
    "Abbott Bergström Castillo Dupont Eriksen Fontaine Garcia Hoffmann Ivanov Jensen Kowalski Lindqvist Moreau "
    "Nakamura Okafor Petrov Quinn Rossi Sato Tanaka Ueda Valdez Weber Xu Yilmaz Zimmer"
).split()
_GENRES = "Drama Comedy Thriller Western Horror Musical Documentary Adventure".split()
_LANGUAGES = "English French Spanish Japanese Italian German".split()
_TAGS = "friendship,revenge,road trip,time travel,heist,family,courtroom,space,boxing,ghosts,jazz,chess".split(",")
QUESTION_TEMPLATES = {  # relation, "!" where the film is asked for: questions about {}
    "directed_by": ("who directed {}", "who is the director of {}", "{} was directed by who"),
    "written_by": ("who wrote {}", "who is the writer of {}", "which person wrote the film {}"),
    "starred_actors": ("who starred in {}", "which actors are in {}", "who acted in the movie {}"),
    "release_year": ("when was {} released", "what was the release year of {}", "{}, when did it come out"),
    "in_language": ("what language is {} in", "which language is spoken in the film {}"),
    "has_genre": ("what genre is {}", "what kind of film is {}", "what type of movie is {}"),
    "has_tags": ("what is {} about", "which words describe the movie {}"),
    "!directed_by": ("which films did {} direct", "what movies was {} the director of"),
    "!written_by": ("which films did {} write", "what movies was {} the writer of"),
    "!starred_actors": ("which films did {} star in", "what movies did {} act in", "what does {} appear in"),
    "!has_tags": ("which films are about {}", "what movies can be described by {}"),
}


def simulated_facts(films, dice):
    """Makes up the facts about a number of films, as (film, relation, object) triples."""

    def pick(items, count=1):
        pool = list(items)
        return [pool.pop(int(dice.random() * len(pool))) for _ in range(count)]

    persons = [f"{first} {last}" for first in _FIRST_NAMES for last in _LAST_NAMES]
    titles = [f"Farewell, {scene}" for scene in _SCENES]
    titles += [f"{noun} of {scene}" for noun in _NOUNS for scene in _SCENES]
    for subject in (f"The {adjective} {noun}" for adjective in _ADJECTIVES for noun in _NOUNS):
        titles += [subject, *(f"{subject} of {scene}" for scene in _SCENES)]
    facts = []
    for title in pick(titles, films):
        director = pick(persons)
        writers = director if dice.random() < 0.3 else pick(persons, 1 + int(dice.random() * 2))
        for relation, objects in (
            ("directed_by", director),
            ("written_by", writers),
            ("starred_actors", pick(persons, 1 + int(dice.random() * 4))),
            ("release_year", [str(1930 + int(dice.random() * 90))]),
            ("in_language", pick(_LANGUAGES)),
            ("has_genre", pick(_GENRES)),
            ("has_tags", pick(_TAGS, 1 + int(dice.random() * 2))),
        ):
            facts += [(title, relation, name) for name in objects]
    return facts


def simulated_questions(facts, count, dice):
    """Makes up questions about facts, each once, as (question, answers) pairs."""
    answers = defaultdict(list)
    for film, relation, name in facts:
        answers[relation, film].append(name)
        answers[INVERSE + relation, name].append(film)
    asked = [key for key, right in answers.items() if key[0] in QUESTION_TEMPLATES and len(right) <= 50]
    questions = []
    for _ in range(min(count, len(asked))):
        relation, entity = asked.pop(int(dice.random() * len(asked)))
        templates = QUESTION_TEMPLATES[relation]
        template = templates[int(dice.random() * len(templates))]
        questions.append((template.format(entity), answers[relation, entity]))
    return questions


def write_simulated_world(folder, seed=0):
    """Writes a small made-up world of films in the WikiMovies layout, with a marker that says so.

    Args:
        folder: where; made where it is missing.
        seed: the same seed gives the same bytes on every Python version.
    """
    dice = random.Random(seed)  # only `random()` is used, whose sequence Python promises not to change
    facts = simulated_facts(SIMULATED_FILMS, dice)
    questions = simulated_questions(facts, sum(SIMULATED_QUESTIONS.values()), dice)
    grouped = defaultdict(lambda: defaultdict(list))
    for film, relation, name in facts:
        grouped[film][relation].append(name)
    blocks = [
        "".join(f"{n} {film} {relation} {', '.join(names)}\n" for n, (relation, names) in enumerate(of.items(), 1))
        for film, of in grouped.items()
    ]
    texts = {
        MARKER: f"A made-up world of {len(grouped)} films, seed {seed}: scores on it are not WikiMovies scores.\n",
        WIKIMOVIES_KB: "\n".join(blocks),
        WIKIMOVIES_NAMES: "".join(f"{name}\n" for name in dict.fromkeys(n for f, _, o in facts for n in (f, o))),
    }
    start = 0
    for split, count in SIMULATED_QUESTIONS.items():
        lines = [f"1 {question}?\t{', '.join(right)}\n" for question, right in questions[start : start + count]]
        texts[WIKIMOVIES_QUESTIONS.format(split)] = "".join(lines)
        start += count
    for name, text in texts.items():
        path = os.path.join(folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)

"""Answers questions about films with a trained model and a knowledge base: what `ask.py` uses for such models."""

import re

import numpy as np

import corpus
import movie_utils
from ask import TOP, Answer, probabilities_of
from data_utils import EncodedExamples
from flags import KINDS, InputError

EXAMPLES = 5  # questions of each type to pick from on the page


class FilmAnswer(Answer):
    """An `Answer` whose statements are facts of the knowledge base, those with the most attention first."""

    def remarks(self):
        """Sentences about what was not understood; most answers have none."""
        remarks = []
        if not self.statements:
            remarks.append("The knowledge base knows no film, person or other name in this question.")
        if self.unknown:
            remarks.append(f"Words that the model does not know: {', '.join(self.unknown)}.")
        if self.dropped:
            remarks.append(f"The memory holds {len(self.statements)} facts; {len(self.dropped)} more are not read.")
        return remarks


class FilmAnswerer:
    """A trained model that answers questions from a knowledge base; it has the methods of `ask.Answerer`.

    Args:
        network: `MemN2N_KV` of a model that `wikimovies.py` made with `--source kb`.
        data_dir: the folder of MetaQA or WikiMovies whose facts are read; None to find one. It need not be the one of
            the training: vectors depend on names alone.

    Raises:
        InputError: the folder cannot be used, or the model was trained on documents.
    """

    reads_statements = False  # the facts come from the knowledge base

    def __init__(self, network, data_dir=None):
        self.network, self.config = network, network.config
        if movie_utils.INVERSE + "directed_by" not in self.config["vocabulary"]:
            raise InputError("the model reads documents; ask.py answers from a knowledge base (--source kb).")
        self.folder, _ = corpus.find_films(data_dir)
        self.kb = movie_utils.load_kb(self.folder)
        network.set_entities(self.kb.names)
        self.vocabulary = movie_utils.Vocabulary(len(self.kb.names) + 1)
        self.vocabulary.add(self.config["vocabulary"])
        self.memory = movie_utils.knowledge_base_memory(self.kb, self.vocabulary)
        self.finders = [movie_utils.NameFinder(self.kb.names, ignore_case) for ignore_case in (False, True)]
        names = enumerate(self.kb.names, start=1)
        self.common = {number for number, name in names if self._is_text(movie_utils.words_of(name.lower()))}

    def _is_text(self, words):
        return all(word in self.vocabulary for word in words)

    def answer(self, questions, top=TOP):
        """Answers questions; see `ask.Answerer.answer`. Statements that come with a question are not read."""
        if top < 1:
            raise InputError(f"top: expected at least 1, found {top}.")
        return [self._answer(question, top) for _, question in questions]

    def introduction(self):
        """Lines that begin a dialogue."""
        facts = f"{len(self.kb.triples):,} facts about {len(self.kb.names):,} films, people and other names"
        return f"A model that answers from {facts} in {self.folder}.\nType a question that ends in ?"

    def entities(self, question):
        """(words, token ids of the entities) of a question: names in [brackets], as written, or in any case."""
        bracketed = re.fullmatch(r"(.*)\[(.+)\](.*)", question)
        if bracketed:
            before, name, after = bracketed.groups()
            words, _ = movie_utils.link(movie_utils.words_of(before + after), movie_utils.NameFinder([]))
            return words, tuple(number for _, _, number in self.finders[0].find(movie_utils.words_of(name)))
        for finder in self.finders:
            words, entities = movie_utils.link(movie_utils.words_of(question), finder, self.common)
            if set(entities) - self.common:
                break
        return words, entities

    def _answer(self, question, top):
        words, entities = self.entities(question)
        slots = self.memory.of_question(entities, len(self.memory.keys), self.config["hops"] > 1)
        size = self.config["memory_size"]
        unknown = [word for word in dict.fromkeys(words) if word not in self.vocabulary and word[0].isalnum()]
        if not len(slots):
            nothing = np.zeros((0, self.config["hops"]))
            return FilmAnswer(
                question, "unknown", [("unknown", 1.0)], [], nothing, nothing.sum(axis=0), unknown, [], []
            )
        encoded = self._encode(words, entities, slots[:size])
        logits, attention = map(np.asarray, self.network(encoded.compact(slice(0, 1)), return_attention=True))
        (probabilities,) = probabilities_of(logits)
        likeliest = np.argsort(-probabilities, kind="stable")[:top]
        top_names = [(["(nothing)", *self.kb.names][name], float(probabilities[name])) for name in likeliest]
        weights = attention[0, :, : len(slots)].T  # (slots, hops)
        order = np.argsort(-weights.max(axis=1), kind="stable")
        return FilmAnswer(
            question=question,
            answer=top_names[0][0],
            top=top_names,
            statements=[self.fact(slots[i]) for i in order],
            attention=weights[order],
            empty=attention[0, :, len(slots) :].sum(axis=-1),
            unknown=unknown,
            dropped=[self.fact(slot) for slot in slots[size:]],
            cut=[],
        )

    def _encode(self, words, entities, slots):
        row = np.zeros((1, self.config["memory_size"]), np.int32)
        row[0, : len(slots)] = slots
        return EncodedExamples(
            statements=self.memory.statements,
            slots=self.memory.keys[row],
            query=np.array([[*entities, *self.vocabulary.ids(words)]], np.int32),
            answer=np.zeros(1, np.int32),
            task=np.zeros(1, np.int32),
            value_statements=self.memory.statements,
            value_slots=self.memory.values[row],
        )

    def fact(self, slot):
        """A slot as text, subject first: `Kismet directed_by William Dieterle`."""
        relation_of = {self.vocabulary[relation]: relation for relation in self.kb.directed_relations()}
        entity, relation = self.memory.statements[self.memory.keys[slot]]
        names = [self.kb.names[entity - 1], self.kb.names[self.memory.statements[self.memory.values[slot], 0] - 1]]
        relation = relation_of[relation]
        if relation.startswith(movie_utils.INVERSE):
            return f"{names[1]} {relation.removeprefix(movie_utils.INVERSE)} {names[0]}"
        return f"{names[0]} {relation} {names[1]}"

    def examples(self):
        """Test questions of each type, with one right answer, to pick from; see `ask_web.examples`."""
        questions = [q for q in movie_utils.load(self.folder).testing if len(q.answers) == 1]
        examples = []
        for number, kind in enumerate(KINDS[:-1], 1):
            chosen = [q for q in questions if q.kind == kind][:EXAMPLES]
            entries = [{"story": [], "question": q.text, "truth": self.kb.names[q.answers[0] - 1]} for q in chosen]
            if entries:
                examples.append({"number": number, "name": kind.replace("_", " "), "examples": entries})
        return examples

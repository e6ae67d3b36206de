"""Films: both layouts, names in text, questions, hashing, windows, synthetic text, damaged files."""

import numpy as np
import pytest

import movie_utils
from data_utils import UNKNOWN, InputError
from movie_utils import Document, KnowledgeBase, NameFinder, Question, Vocabulary, split_names, words_of

FACTS = [
    ("Kismet", "directed_by", "William Dieterle"),
    ("Kismet", "starred_actors", "Marlene Dietrich"),
    ("Kismet", "starred_actors", "Ronald Colman"),
    ("Kismet", "release_year", "1944"),
    ("Laura", "directed_by", "Otto Preminger"),
    ("Laura", "release_year", "1944"),
    ("Farewell, My Lovely", "written_by", "Raymond Chandler"),
    ("Amélie (2001)", "directed_by", "Jean-Pierre Jeunet"),
]
METAQA_KB = "".join("|".join(fact) + "\n" for fact in FACTS)
WIKIMOVIES_KB = """\
1 Kismet directed_by William Dieterle
2 Kismet starred_actors Marlene Dietrich, Ronald Colman
3 Kismet release_year 1944
4 Kismet has_plot Hafiz, a beggar, schemes

1 Laura directed_by Otto Preminger
2 Laura release_year 1944

1 Farewell, My Lovely written_by Raymond Chandler

1 Amélie (2001) directed_by Jean-Pierre Jeunet
"""


@pytest.fixture
def kb():
    return KnowledgeBase.of(FACTS)


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


def ids(kb, *names):
    return tuple(kb.names.index(name) + 1 for name in names)


def slots_of(kb, memory, vocabulary, *names, **options):
    """The slots of a question about entities as a set of (key, value), each a string of its tokens."""
    spelled = dict(enumerate(kb.names, start=1)) | {number: word for word, number in vocabulary.items()}

    def spell(row):
        return " + ".join(spelled[token] for token in memory.statements[row] if token)

    slots = memory.of_question(ids(kb, *names), **{"memory_size": 100, **options})
    return {(spell(memory.keys[slot]), spell(memory.values[slot])) for slot in slots}


# --- the knowledge base ---------------------------------------------------------------------------------


def test_both_layouts_give_the_same_facts(write, kb):
    metaqa = movie_utils.read_metaqa_kb(write("kb.txt", METAQA_KB))
    wikimovies = movie_utils.read_wikimovies_kb(write("w.txt", WIKIMOVIES_KB), {"Farewell, My Lovely"})
    for read in (metaqa, wikimovies):
        assert read.names == kb.names
        assert read.relations == kb.relations
        np.testing.assert_array_equal(read.triples, kb.triples)


def test_repeated_facts_count_once():
    assert len(KnowledgeBase.of(FACTS + FACTS).triples) == len(FACTS)


def test_windows_line_ends_and_a_byte_order_mark_are_no_part_of_a_name(write, kb):
    content = b"\xef\xbb\xbf" + METAQA_KB.replace("\n", "\r\n").encode()
    assert movie_utils.read_metaqa_kb(write("kb.txt", content)).names == kb.names


@pytest.mark.parametrize(
    "text, names",
    [
        ("Laura", ["Laura"]),
        ("Laura, Farewell, My Lovely, Kismet", ["Laura", "Farewell, My Lovely", "Kismet"]),
        ("Farewell, My Lovely", ["Farewell, My Lovely"]),
        ("Nobody, Laura", ["Nobody", "Laura"]),
    ],
)
def test_a_comma_may_be_part_of_a_name(text, names):
    assert split_names(text, {"Laura", "Kismet", "Farewell, My Lovely"}) == names


# --- names in text --------------------------------------------------------------------------------------


def named(finder, names, text):
    words = words_of(text)
    return [(names[number - 1], " ".join(words[start:end])) for start, end, number in finder.find(words)]


def test_the_longest_name_counts():
    names = ["The End", "The End of Love", "Love", "Amélie (2001)", "Where's My Car?", "M"]
    finder = NameFinder(names)
    assert named(finder, names, "the movie The End of Love, when was it released?")[0][0] == "The End of Love"
    assert [name for name, _ in named(finder, names, "The End of Love or The End, Love")] == [
        "The End of Love",
        "The End",
        "Love",
    ]
    assert [name for name, _ in named(finder, names, "who directed Amélie (2001)?")] == ["Amélie (2001)"]
    assert [name for name, _ in named(finder, names, "who is in Where's My Car??")] == ["Where's My Car?"]
    assert named(finder, names, "Mother") == []  # the film "M" is not found inside a word


def test_of_overlapping_names_of_one_length_the_first_counts():
    names = ["Red River", "River Queen"]
    assert [name for name, _ in named(NameFinder(names), names, "Red River Queen")] == ["Red River"]


def test_case_counts_unless_it_is_ignored():
    names = ["Kismet"]
    assert named(NameFinder(names), names, "who directed kismet?") == []
    assert named(NameFinder(names, ignore_case=True), names, "who directed kismet?") == [("Kismet", "kismet")]


# --- questions ------------------------------------------------------------------------------------------


def test_metaqa_questions(write, kb):
    path = write("qa.txt", "who starred in [Kismet]\tRonald Colman|Marlene Dietrich\n[1944] films\tNo such film\n")
    kinds = write("kinds.txt", "movie_to_actor\nyear_to_movie\n")
    first, second = movie_utils.read_metaqa_questions(path, kb.names, kinds)
    answers = ids(kb, "Ronald Colman", "Marlene Dietrich")
    text = "who starred in [Kismet]?"
    assert first == Question(("who", "starred", "in"), ids(kb, "Kismet"), answers, "movie_to_actor", text)
    assert second[:4] == (("films",), ids(kb, "1944"), (), "year_to_movie")  # an answer that is not an entity


def test_wikimovies_questions(write, kb):
    path = write("qa.txt", "1 what did Raymond Chandler write?\tFarewell, My Lovely, Laura\n")
    ((text, answers),) = movie_utils.read_wikimovies_questions(path, kb.names)
    assert answers == ids(kb, "Farewell, My Lovely", "Laura")
    assert movie_utils.link(words_of(text), NameFinder(kb.names)) == (
        ("what", "did", "write"),
        ids(kb, "Raymond Chandler"),
    )


def test_a_name_in_many_questions_is_a_word():
    names = ["film", *(f"Title {letter}" for letter in "ABCDEFGH")]
    finder = NameFinder(names)
    texts = [words_of(f"who directed the film {name}?") for name in names[1:]]
    common = movie_utils.common_names(texts, finder)
    assert common == {1}
    assert movie_utils.link(texts[0], finder, common) == (("who", "directed", "the", "film"), (2,))
    assert movie_utils.link(words_of("who directed film?"), finder, common) == (("who", "directed"), (1,))


def test_types_come_from_the_relation_that_leads_to_the_answers(kb):
    def question(entity, *answers):
        return Question(("a",), ids(kb, entity), ids(kb, *answers))

    asked = [
        question("Kismet", "Marlene Dietrich", "Ronald Colman"),
        question("Otto Preminger", "Laura"),
        question("Kismet", "Laura"),  # no relation leads there
        question("1944", "Laura")._replace(kind="given"),
    ]
    kinds = [q.kind for q in movie_utils.with_kinds(asked, kb)]
    assert kinds == ["movie_to_actor", "director_to_movie", "", "given"]


# --- memories -------------------------------------------------------------------------------------------


def test_hashing_finds_the_facts_of_an_entity_in_both_directions(kb):
    vocabulary = Vocabulary(len(kb.names) + 1)
    memory = movie_utils.knowledge_base_memory(kb, vocabulary)
    assert len(memory.keys) == 1 + 2 * len(FACTS)
    assert slots_of(kb, memory, vocabulary, "Kismet") == {
        ("Kismet + directed_by", "William Dieterle"),
        ("Kismet + starred_actors", "Marlene Dietrich"),
        ("Kismet + starred_actors", "Ronald Colman"),
        ("Kismet + release_year", "1944"),
    }
    assert slots_of(kb, memory, vocabulary, "1944") == {
        ("1944 + !release_year", "Kismet"),
        ("1944 + !release_year", "Laura"),
    }
    assert len(memory.of_question(ids(kb, "Kismet"), memory_size=2)) == 2
    assert len(memory.of_question((), memory_size=2)) == 0


def test_neighbours_of_an_entity_without_the_way_back(kb):
    vocabulary = Vocabulary(len(kb.names) + 1)
    memory = movie_utils.knowledge_base_memory(kb, vocabulary)
    assert slots_of(kb, memory, vocabulary, "Laura", neighbours=True) == {
        ("Laura + directed_by", "Otto Preminger"),
        ("Laura + release_year", "1944"),
        ("1944 + !release_year", "Kismet"),
    }


def test_triples_whose_keys_are_their_values(kb):
    vocabulary = Vocabulary(len(kb.names) + 1)
    memory = movie_utils.triple_memory(kb, vocabulary)
    fact = "Laura + directed_by + Otto Preminger"
    assert slots_of(kb, memory, vocabulary, "Otto Preminger") == {(fact, fact)}
    assert (fact, fact) in slots_of(kb, memory, vocabulary, "Laura")


def test_words_without_an_id_are_unknown():
    vocabulary = Vocabulary(5)
    assert vocabulary.add(["who", "is", "who"]) == [6, 7, 6]
    assert vocabulary.ids(["is", "never"]) == [7, vocabulary[UNKNOWN]] == [7, 5]


# --- documents ------------------------------------------------------------------------------------------

TEXT = [
    Document("Kismet", ["Kismet was directed by William Dieterle.", "it stars Marlene Dietrich and Ronald Colman."]),
]


def document_slots(kb, key, *names, window=3, **options):
    vocabulary = Vocabulary(len(kb.names) + 1)
    finder = NameFinder(kb.names)
    memory = movie_utils.document_memory(TEXT, finder, vocabulary, key, window, **options)
    return slots_of(kb, memory, vocabulary, *names)


def test_sentences(kb):
    bag = "Kismet + was + directed + by + William Dieterle"
    assert document_slots(kb, "sentence", "William Dieterle") == {(bag, bag)}
    assert len(document_slots(kb, "sentence", "Kismet")) == 2  # the second one by the title of the document


def test_windows_end_where_the_sentence_ends(kb):
    assert document_slots(kb, "window", "Kismet") == {
        ("by + William Dieterle", "William Dieterle"),
        ("stars + Marlene Dietrich + and", "Marlene Dietrich"),
        ("and + Ronald Colman", "Ronald Colman"),
    }
    assert document_slots(kb, "window", "Ronald Colman", window=5) == {
        ("it + stars + Marlene Dietrich + and + Ronald Colman", "Marlene Dietrich"),
    }


def test_words_next_to_the_centre_are_in_a_second_dictionary(kb):
    slots = document_slots(kb, "centre", "Kismet", window=5)
    assert ("it + 1:stars + 1:and + Ronald Colman", "Marlene Dietrich") in slots
    assert document_slots(kb, "centre", "Ronald Colman") == set()  # the centre itself is not in the bag


def test_the_title_is_a_second_value(kb):
    assert document_slots(kb, "title", "Ronald Colman") == {("1:and + Ronald Colman + Kismet + <title>", "Kismet")}
    assert document_slots(kb, "title", "Kismet") == {
        ("1:by + <window>", "William Dieterle"),
        ("1:stars + 1:and + <window>", "Marlene Dietrich"),
        ("1:and + <window>", "Ronald Colman"),
    }


def test_common_names_are_words_in_a_text_too(kb):
    finder, (kismet, laura) = NameFinder(kb.names), ids(kb, "Kismet", "Laura")
    assert movie_utils.document_tokens("Laura, in Kismet.", finder) == [laura, "in", kismet]
    assert movie_utils.document_tokens("Laura, in Kismet.", finder, {laura}) == ["laura", "in", kismet]


def test_documents_in_the_layout_of_wiki_txt(write):
    path = write("wiki.txt", "1 Kismet (film)\n2 Kismet is a film.\n3 It is old.\n\n1 Laura\n2 Laura is one too.\n")
    assert movie_utils.read_documents(path) == [
        Document("Kismet", ["Kismet is a film.", "It is old."]),
        Document("Laura", ["Laura is one too."]),
    ]


def test_synthetic_documents_with_one_template(kb):
    kismet = next(d for d in movie_utils.synthetic_documents(kb, "one") if d.title == "Kismet")
    assert kismet.sentences == [
        "William Dieterle directed Kismet.",
        "Marlene Dietrich and Ronald Colman starred in Kismet.",
        "Kismet was released in 1944.",
    ]


def test_conjunction_and_coreference(kb):
    documents = movie_utils.synthetic_documents(kb, "all", conjunction=1, coreference=1, seed=3)
    kismet = next(document for document in documents if document.title == "Kismet")
    (sentence,) = kismet.sentences
    assert sentence.count("Kismet") == 1 and sentence.count(" it") + sentence.startswith("it") == 2
    assert documents == movie_utils.synthetic_documents(kb, "all", conjunction=1, coreference=1, seed=3)
    assert documents != movie_utils.synthetic_documents(kb, "all", conjunction=1, coreference=1, seed=4)


def test_every_relation_has_templates():
    assert set(movie_utils.TEMPLATES) == set(movie_utils.RELATIONS)


# --- whole folders --------------------------------------------------------------------------------------


def metaqa_folder(write):
    write("metaqa/kb.txt", METAQA_KB)
    write("metaqa/1-hop/vanilla/qa_train.txt", "who directed [Kismet]\tWilliam Dieterle\nwho [Nobody]\tLaura\n")
    write("metaqa/1-hop/vanilla/qa_dev.txt", "who directed [Laura]\tOtto Preminger\n")
    path = write("metaqa/1-hop/vanilla/qa_test.txt", "when was [Laura] released\t1944\n")
    return path.partition("1-hop")[0]


def test_metaqa_folder(write):
    films = movie_utils.load(metaqa_folder(write))
    assert [len(split) for split in (films.training, films.validation, films.testing)] == [1, 1, 1]
    assert films.testing[0].kind == "movie_to_year"


def test_two_hops_without_training_questions(write):
    folder = metaqa_folder(write)
    lines = "".join(f"who directed films of [1944], {i}\tOtto Preminger\n" for i in range(20))
    write("metaqa/2-hop/vanilla/qa_dev.txt", lines)
    write("metaqa/2-hop/vanilla/qa_test.txt", lines)
    films = movie_utils.load(folder, question_hops=2)
    assert [len(split) for split in (films.training, films.validation, films.testing)] == [18, 2, 20]
    assert not {q.words for q in films.training} & {q.words for q in films.validation}


def test_simulated_world(tmp_path):
    movie_utils.write_simulated_world(tmp_path / "a")
    movie_utils.write_simulated_world(tmp_path / "b")
    films = movie_utils.load(str(tmp_path / "a"))
    assert [len(split) for split in (films.training, films.validation, films.testing)] == [4000, 1000, 1000]
    assert all(len(q.entities) == 1 and q.answers for q in films.training)
    assert (tmp_path / "a" / movie_utils.MARKER).exists()
    for path in (tmp_path / "a").rglob("*.txt"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


# --- damaged files --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "read, content, message",
    [
        ("kb", "Kismet|directed_by\n", r"line 1: expected subject\|relation\|object, found 'Kismet\|directed_by'"),
        ("kb", METAQA_KB + "Laura||1944\n", r"line 9: expected subject\|relation\|object"),
        ("kb", "", "expected at least one fact, found none"),
        ("kb", b"Kismet|directed_by|Ren\xe9\n", "line 1: expected UTF-8"),
        ("wikimovies_kb", "Kismet directed_by Laura\n", "line 1: expected a number, a film, a relation"),
        ("wikimovies_kb", "1 Kismet painted_by Laura\n", "line 1: expected a number, a film, a relation"),
        ("questions", "who directed Kismet\tLaura\n", r"line 1: expected a question with one \[entity\]"),
        ("questions", "who directed [Kismet]\n", r"line 1: expected a question with one \[entity\]"),
        ("wikimovies_questions", "who directed Kismet?\tLaura\n", "line 1: expected 1, a question, a tab"),
        ("wikimovies_questions", "1 who directed Kismet?\n", "line 1: expected 1, a question, a tab"),
        ("documents", "2 Kismet is a film.\n", "line 1: expected the line `1 title`"),
        ("documents", "1 Kismet\nKismet is a film.\n", "line 2: expected a line number and a title or sentence"),
        ("documents", "\n\n", "expected at least one document"),
    ],
)
def test_damaged_file(write, read, content, message):
    path = write("damaged.txt", content)
    readers = {
        "kb": lambda: movie_utils.read_metaqa_kb(path),
        "wikimovies_kb": lambda: movie_utils.read_wikimovies_kb(path, set()),
        "questions": lambda: movie_utils.read_metaqa_questions(path, ["Kismet"]),
        "wikimovies_questions": lambda: movie_utils.read_wikimovies_questions(path, ["Kismet"]),
        "documents": lambda: movie_utils.read_documents(path),
    }
    with pytest.raises(InputError, match=message) as error:
        readers[read]()
    assert str(error.value).startswith(path)


def test_question_types_for_another_file(write):
    path, kinds = write("qa.txt", "who [Kismet]\tLaura\n"), write("kinds.txt", "a\nb\n")
    with pytest.raises(InputError, match="one question type for each of the 1 lines"):
        movie_utils.read_metaqa_questions(path, ["Kismet"], kinds)


def test_folder_of_neither_layout(tmp_path):
    with pytest.raises(InputError, match="expected MetaQA .* or WikiMovies .*, found neither"):
        movie_utils.load(str(tmp_path))


def test_questions_about_other_entities_than_those_of_the_knowledge_base(write):
    folder = metaqa_folder(write)
    write("metaqa/1-hop/vanilla/qa_train.txt", "who directed [Nobody]\tLaura\n")
    with pytest.raises(InputError, match="expected training questions about entities of its knowledge base"):
        movie_utils.load(folder)


def test_missing_file(write):
    write("kb.txt", METAQA_KB)
    with pytest.raises(InputError, match="qa_train.txt: cannot be read: No such file"):
        movie_utils.load(write("x", "").removesuffix("x"))

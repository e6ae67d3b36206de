"""wikimovies.py from end to end on a simulated world of films, the batches of such questions, and asking the model."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from helpers import ROOT, read_csv, refusal, run, run_folder

import ask
import corpus
import evaluate
import experiment
import movie_utils
import scores
import training
import wikimovies
from data_utils import NEVER_SEEN
from flags import InputError
from input_pipeline import batches

SMALL = "--embedding_size 128 --memory_size 32 --pictures False --random_state 1"


def take(examples, indexes):
    """The examples with some indexes."""
    arrays = {name: array[indexes] for name, array in examples.arrays().items() if "statements" not in name}
    return dataclasses.replace(examples, **arrays)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The folder of a simulated world of films."""
    folder = tmp_path_factory.mktemp("films")
    movie_utils.write_simulated_world(folder)
    return folder


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory):
    """The folder of a run on it."""
    logs = tmp_path_factory.mktemp("logs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(logs)
        run(wikimovies, f"--data_dir {world} {SMALL} --epochs 2 --log_dir {logs} --pictures True")
    return run_folder(logs)


@pytest.fixture(scope="module")
def answerer(world, trained):
    return ask.load_answerer(str(trained / "model.keras"), str(world))


@pytest.fixture(scope="module")
def films(world):
    """A `data_utils.Corpus` of it."""
    return movie_utils.load_corpus(str(world), memory_size=32)


# --- training -------------------------------------------------------------------------------------------


def test_a_tiny_run_learns_and_scores_by_type_of_question(trained):
    rows = {row.task: row for row in scores.read_rows(trained / "scores.csv")}
    assert {"movie_to_director", "actor_to_movie", "all"} <= set(rows)
    assert rows["all"].test > 0.95 and rows["all"].validation > 0.95
    assert all(row.simulated for row in rows.values())
    assert (trained / "tasks.png").exists() and (trained / "curves.png").exists()


def test_a_run_that_stopped_after_its_first_epoch_goes_on(world, tmp_path, monkeypatch, trained):
    """It ends with the scores of the run that was not stopped."""

    def stop(*arguments):
        raise KeyboardInterrupt

    line = f"--data_dir {world} {SMALL} --epochs 2 --evaluation_interval 1"
    monkeypatch.setattr(experiment.scores, "csv_bytes", stop)  # called after the state is saved
    with pytest.raises(KeyboardInterrupt):
        run(wikimovies, f"{line} --log_dir {tmp_path}")
    monkeypatch.undo()
    folder = run_folder(tmp_path)
    assert list(folder.glob("state*.npz"))
    run(wikimovies, f"--resume {folder}")
    assert scores.read_rows(folder / "scores.csv") == scores.read_rows(trained / "scores.csv")


def test_a_run_can_be_repeated(films, world):
    flags = wikimovies.flag_parser().parse_args(f"--data_dir {world} {SMALL} --epochs 1".split())
    one, other = (training.train(flags, films, seed=3) for _ in range(2))
    np.testing.assert_array_equal(one.vector.numpy(), other.vector.numpy())


@pytest.mark.parametrize(("flags", "sentence"), [
    ("--source doc --representation triples", "--source doc has title, centre, window, sentence"),
    ("--question_hops 2", "WikiMovies has no questions of 2 hops"),
])  # fmt: skip
def test_flags_that_do_not_fit(world, tmp_path, flags, sentence):
    assert sentence in refusal(wikimovies, f"--data_dir {world} --log_dir {tmp_path} {flags}")


@pytest.mark.parametrize("representation", ["triples", "sentence", "window", "centre", "title"])
def test_every_representation_trains(world, representation):
    source = "kb" if representation == "triples" else "doc"
    line = f"--data_dir {world} {SMALL} --source {source} --representation {representation} --epochs 1"
    flags = wikimovies.flag_parser().parse_args(line.split())
    films = experiment.load_films(flags)
    films = films._replace(training=take(films.training, np.arange(256)), testing=take(films.testing, np.arange(50)))
    trainer = training.train(flags, films, seed=0)
    assert np.isfinite(trainer.vector.numpy()).all()
    assert trainer.answers(films.testing).max() <= len(films.entities)


# --- batches --------------------------------------------------------------------------------------------


def test_one_right_answer_is_drawn_among_candidates_that_can_be_read(films):
    examples = films.training
    several = np.flatnonzero((examples.answers != NEVER_SEEN).sum(axis=1) == 2)[:20]
    examples = take(examples, several)
    right = [set(row[row != NEVER_SEEN].tolist()) for row in examples.answers]
    stream = iter(batches(examples, 20, seed=1))
    drawn = []
    for _ in range(20):
        inputs, answer, _ = next(stream)
        candidates = np.asarray(inputs["candidates"])
        assert len(set(candidates.tolist())) == len(candidates)
        drawn += candidates[np.asarray(answer)].tolist()
    assert set(drawn) == set.union(*right)


def test_logits_of_candidates_are_columns_of_all_logits(films):
    network = training.build(wikimovies.flag_parser().parse_args(SMALL.split()), films)
    inputs, answer, _ = next(iter(batches(films.training, 8, seed=1)))
    some = np.asarray(network(inputs))
    inputs = {name: value for name, value in inputs.items() if name != "candidates"}
    candidates = np.asarray(next(iter(batches(films.training, 8, seed=1)))[0]["candidates"])
    np.testing.assert_allclose(some, np.asarray(network(inputs))[:, candidates], rtol=1e-4, atol=1e-4)


def test_any_right_answer_counts(films):
    examples = films.testing
    last = np.array([row[row != NEVER_SEEN][-1] for row in examples.answers])
    assert training.exact_match(last, examples)["all"] == 1
    assert training.exact_match(np.zeros_like(last), examples)["all"] == 0


# --- where the questions come from ----------------------------------------------------------------------


def test_without_data_or_network_a_world_is_simulated(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "DATA", str(tmp_path))
    monkeypatch.setattr(corpus, "FILMS", str(tmp_path / "movieqa"))
    monkeypatch.setattr(corpus, "SIMULATED_FILMS", str(tmp_path / "simulated" / "movieqa"))
    monkeypatch.setattr(corpus, "_download", lambda *arguments: None)
    folder, simulated = corpus.find_films()
    assert simulated and movie_utils.layout(folder) == "wikimovies"
    assert corpus.find_films(folder) == (folder, True)


# --- asking ---------------------------------------------------------------------------------------------


def test_a_question_is_answered_with_the_facts_that_were_read(answerer):
    kb = answerer.kb
    subject, _, director = next(row for row in kb.triples.tolist() if kb.relations[row[1]] == "directed_by")
    film, director = kb.names[subject - 1], kb.names[director - 1]
    for question in (f"who directed {film}?", f"who directed {film.lower()}?", f"who directed [{film}]?"):
        (answer,) = answerer.answer([([], question)])
        assert answer.answer == director
        assert answer.statements[0] == f"{film} directed_by {director}"
        assert answer.attention[0, 0] > 0.5
        assert not answer.remarks()


def test_an_unknown_film_is_said_to_be_unknown(answerer):
    (answer,) = answerer.answer([([], "who directed Zanzibar Nights?")])
    assert answer.answer == "unknown"
    assert "knows no film, person or other name in this question" in answer.remarks()[0]
    json.dumps(answer.as_dict())


def test_the_page_has_examples_of_each_type(answerer):
    examples = answerer.examples()
    assert "movie to director" in {example["name"] for example in examples}
    assert all(example["examples"] for example in examples)


def test_evaluation_gives_the_scores_of_the_run(trained, world, capsys):
    run(evaluate, f"--model {trained / 'model.keras'} --split validation --predictions {trained / 'predictions.csv'}")
    shown = dict(line.split() for line in capsys.readouterr().out.splitlines() if len(line.split()) == 2)
    assert {**shown, "task": None} == {
        **{row.task: f"{row.validation:.4f}" for row in scores.read_rows(trained / "scores.csv")},
        "task": None,
    }
    predictions = read_csv(trained / "predictions.csv")
    right = [row["prediction"] in row["answer"].split("|") for row in predictions]
    assert shown["all"] == f"{np.mean(right):.4f}" and [str(one) for one in right] == [p["right"] for p in predictions]
    shipped = f"--model {ROOT / 'pretrained' / 'wikimovies.keras'} --data_dir {world}"
    assert "the folder that the model was trained on as --data_dir" in refusal(evaluate, shipped)


def test_saved_models_have_no_names(trained):
    network = keras.saving.load_model(trained / "model.keras")
    assert network.config["entities"] == []


def test_models_that_read_documents_cannot_be_asked(world, answerer):
    import ask_films

    network = type(answerer.network).from_config({**answerer.network.get_config(), "vocabulary": ["<UNK>"]})
    with pytest.raises(InputError, match="reads documents"):
        ask_films.FilmAnswerer(network, str(world))

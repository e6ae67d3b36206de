"""Training: steps, clipping, the learning rate, states, reports, accuracy, devices."""

import os

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import make_network, numbered_examples, padded_batch

import data_utils
import joint
import memn2n_kv
import training
from data_utils import NEVER_SEEN, EncodedExamples

both_readers = pytest.mark.parametrize("reader", memn2n_kv.CHOICES["reader"])


@pytest.fixture(scope="module")
def corpus(small_corpus):
    """The two tasks of the hand-written corpus."""
    return data_utils.load_corpus(small_corpus, [1, 2], 20, random_state=1)


def small_flags(text=""):
    """Flags of a training that takes a moment."""
    sizes = "--embedding_size 8 --feature_size 9 --hops 2 --batch_size 4 --epochs 3 --evaluation_interval 2"
    return joint.flag_parser().parse_args(f"{sizes} {text}".split())


# --- a step -----------------------------------------------------------------------------------------------


def test_gradients_are_clipped_per_variable():
    trainer = training.Trainer(make_network(), max_grad_norm=2.0)
    gradient = np.random.default_rng(0).normal(size=trainer.vector.shape).astype(np.float32)
    parts = [np.asarray(part) for part in trainer.parts(gradient)]
    small = 0.5 * gradient / max(np.linalg.norm(part) for part in parts)
    for part, clipped in zip(parts, trainer.parts(trainer.clip(gradient)), strict=True):
        norm = np.linalg.norm(part)
        assert norm > 2
        np.testing.assert_allclose(clipped, part * 2 / norm, rtol=1e-4)
    np.testing.assert_allclose(trainer.clip(small), small, rtol=1e-6)
    np.testing.assert_array_equal(trainer.clip(0 * gradient), 0 * gradient)


def test_gradients_are_clipped_by_global_norm():
    trainer = training.Trainer(make_network(), max_grad_norm=2.0, clip="global")
    gradient = np.random.default_rng(0).normal(size=trainer.vector.shape).astype(np.float32)
    clipped = np.asarray(trainer.clip(gradient))
    np.testing.assert_allclose(clipped, gradient * 2 / np.linalg.norm(gradient), rtol=1e-4)
    small = gradient / 1000
    np.testing.assert_allclose(trainer.clip(small), small, rtol=1e-6)


def test_noise_is_added_after_clipping():
    trainer = training.Trainer(make_network(), l2_lambda=0.1, max_grad_norm=1e-3)
    trainer.compile(keras.optimizers.SGD(1.0))
    batch = padded_batch(numbered_examples(7), range(7))
    before = np.asarray(trainer.vector).copy()
    clipped = np.asarray(trainer.clip(trainer.loss_and_gradient(*batch)[1]))
    noise = np.linspace(-1, 1, len(before), dtype=np.float32)
    trainer.train_step((*batch, noise))
    np.testing.assert_allclose(trainer.vector, before - clipped - noise, atol=1e-5)


def test_rate_is_halved_in_the_linear_start_and_then_a_staircase():
    rate = training.Rate(0.8, decay_steps=10, decay_rate=0.5, linear_steps=5)
    steps = [0, 4, 5, 14, 15, 24, 25]
    np.testing.assert_allclose([float(rate(step)) for step in steps], [0.4, 0.4, 0.8, 0.8, 0.4, 0.4, 0.2], rtol=1e-6)
    assert training.Rate(**rate.get_config()).get_config() == rate.get_config()
    later = training.Rate(0.8, decay_steps=10, decay_rate=0.5, linear_steps=5, linear_end_steps=3)
    np.testing.assert_allclose([float(later(step)) for step in (4, 5, 17, 18)], [0.4, 0.8, 0.8, 0.4], rtol=1e-6)


@pytest.mark.parametrize(("text", "decay_steps"), [("--decay_epochs 2", 8), ("--decay_epochs 2 --decay_steps 3", 3)])
def test_the_rate_decays_by_the_later_of_the_two_flags(text, decay_steps, corpus):
    trainer = training.train(small_flags(f"{text} --epochs 1 --gradient_noise 0"), corpus, seed=0)
    assert len(corpus.training) in range(13, 17)  # four batches
    rates = [float(trainer.optimizer._learning_rate(step)) for step in (decay_steps - 1, decay_steps)]
    np.testing.assert_allclose(rates, [0.001, 0.00096], rtol=1e-6)


# --- a training -------------------------------------------------------------------------------------------


def test_the_network_is_trained_when_callbacks_are_called(corpus, tmp_path):
    """A callback that saves it in mid-training saves what has been learned so far."""
    report = training.Report(small_flags("--evaluation_interval 1"), corpus)
    accuracies, weights = [], []

    def save(epoch, logs):
        network, parts = report.model.network, report.model.parts(report.model.vector.value)
        for variable, part in zip(network.trainable_variables, parts, strict=True):
            np.testing.assert_array_equal(variable, part)
        network.save(tmp_path / f"{epoch}.keras")
        accuracies.append(logs["training"])
        weights.append(np.asarray(network.W_memory).copy())

    callbacks = [report, keras.callbacks.LambdaCallback(on_epoch_end=save)]
    trainer = training.train(small_flags("--learning_rate 0.05"), corpus, seed=0, callbacks=callbacks)
    keras.utils.set_random_seed(0)
    untrained = np.asarray(training.build(small_flags(), corpus).W_memory)
    for before, after in zip([untrained, *weights], weights, strict=False):
        assert abs(after - before).max() > 1e-3
    np.testing.assert_array_equal(trainer.network.W_memory, weights[-1])
    inputs = corpus.training.compact(slice(None))
    for epoch, accuracy in enumerate(accuracies):
        network = keras.saving.load_model(tmp_path / f"{epoch}.keras")
        assert np.mean(np.argmax(network(inputs), axis=-1) == corpus.training.answer) == accuracy


@pytest.mark.parametrize(
    ("text", "jit_compile"),
    [
        ("--reader simple_gru --keep_prob 0.7 --state_dropout 0.1 --word_dropout 0.1 --linear_start 1", False),
        ("--tying adjacent --gates 2 --hops 1 --focus 0.5", True),
    ],
    ids=["plain", "compiled, with focus"],
)
def test_a_training_continues_from_its_state(text, jit_compile, small_corpus):
    flags = small_flags(f"{text} --epochs 3")
    corpus = data_utils.load_corpus(small_corpus, [1], 20, time_noise=flags.time_noise, random_state=1)
    states = []
    callback = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: states.append(callback.model.state()))
    whole = training.train(flags, corpus, 3, jit_compile, callbacks=[callback])
    continued = training.train(flags, corpus, 3, jit_compile, first_epoch=1, state=states[0])
    assert continued.state().keys() == states[-1].keys()
    for name, array in continued.state().items():
        np.testing.assert_array_equal(array, states[-1][name])
    np.testing.assert_array_equal(continued.answers(corpus.testing), whole.answers(corpus.testing))


@pytest.mark.parametrize("reader", ["bow", "both"])
def test_with_focus_it_is_noted_which_questions_are_unsure(reader, small_corpus, monkeypatch):
    """By the mean probability of the right answer over both readers."""
    flags = small_flags(f"--reader {reader} --tying adjacent --focus 0.5 --epochs 1")
    corpus = data_utils.load_corpus(small_corpus, [1], 20, random_state=1)
    network = training.build(flags, corpus)
    trainer = training.Trainer(network, questions=len(corpus.training))
    inputs = corpus.training.compact(slice(None)) | {"questions": np.arange(len(corpus.training), dtype=np.int32)}
    probability = tf.gather(tf.nn.softmax(network(inputs)), corpus.training.answer, batch_dims=1).numpy()
    monkeypatch.setattr(training, "SURE", np.median(probability))
    trainer.loss_and_gradient(inputs, corpus.training.answer, np.ones(len(corpus.training), np.float32))
    np.testing.assert_array_equal(trainer.unsure[:-1], probability < np.median(probability))


def test_the_linear_start_ends_in_equal_steps():
    trainer = training.Trainer(make_network(), linear_steps=4, linear_end_steps=4)
    trainer.compile(keras.optimizers.SGD(1.0))
    shares = []
    for step in range(10):
        trainer.optimizer.iterations.assign(step)
        shares.append(float(trainer.linear(trainer.phase(step))))
    np.testing.assert_allclose(shares, [1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0, 0])


def test_each_phase_computes_only_its_own_attention(corpus):
    """Neither the softmax in the linear start nor key times, which only the linear start needs, after it."""
    flags = small_flags("--tying adjacent --attention walk --linear_start 1 --linear_end 1 --mask_padding True")
    operations = {}

    def look(epoch, logs):
        trainer = callback.model
        trainer.answers(corpus.validation)
        phase = trainer.phase(int(trainer.optimizer.iterations) - 1)
        graph = trainer.logits_programs[phase].get_concrete_function().graph
        operations[phase] = {operation.type for operation in graph.get_operations()}

    callback = keras.callbacks.LambdaCallback(on_epoch_end=look)
    trainer = training.train(flags, corpus, seed=0, callbacks=[callback])
    assert list(operations) == list(training.PHASES)
    assert "Softmax" not in operations["linear start"] and "Softmax" in operations["rest"]
    expected = np.argmax(trainer.network(corpus.testing.compact(slice(None))), axis=-1)
    np.testing.assert_array_equal(trainer.answers(corpus.testing), expected)


def test_a_loss_that_is_not_finite_ends_the_training(corpus):
    flags = small_flags("--learning_rate 1e30 --epsilon 1e-30 --max_grad_norm 1e30")
    with pytest.raises(training.Diverged, match=r"^the loss is .* in epoch \d+, batch \d+, at learning rate 1e\+30; "):
        training.train(flags, corpus, seed=0)


def test_a_state_that_is_not_finite_is_refused(corpus):
    trainer = training.train(small_flags("--epochs 1"), corpus, seed=0)
    trainer.vector.assign(np.full(trainer.vector.shape, np.nan))
    with pytest.raises(training.Diverged, match="^a weight is not finite in epoch 1, batch 4, at learning rate 0.001"):
        trainer.state()


@pytest.mark.parametrize(
    "text",
    [
        "--keep_prob 0.8 --linear_start 1",
        "--reader both --tying adjacent --attention walk --mask_padding True --optimizer sgd --focus 0.5",
    ],
)
def test_a_trainer_that_is_used_again_trains_as_a_new_one(corpus, text, monkeypatch):
    """Nothing of the model before is left, and nothing is traced again."""
    flags = small_flags(text)
    expected = training.train(flags, corpus, seed=1)
    trainer = training.train(flags, corpus, seed=0)
    assert not np.array_equal(trainer.vector, expected.vector)
    monkeypatch.setattr(training.Trainer, "loss_and_gradient", None)  # only tracing calls it
    assert training.train(flags, corpus, seed=1, trainer=trainer) is trainer
    for name, array in expected.state().items():
        np.testing.assert_array_equal(trainer.state()[name], array)
    for own, others in zip(trainer.network.weights, expected.network.weights, strict=True):
        np.testing.assert_array_equal(own, others)


def test_reports_have_the_loss_of_every_epoch_and_accuracies_by_task(corpus, capsys):
    flags = small_flags("--epochs 5 --linear_start 3 --linear_end 1")
    report = training.Report(flags, corpus)
    training.train(flags, corpus, seed=0, callbacks=[report])
    assert report.columns == [
        *("epoch", "loss", "training", "validation"),
        *("training 1", "training 2", "validation 1", "validation 2"),
        *("learning rate", "seconds"),
    ]
    assert [row[0] for row in report.rows] == ["1", "2", "3", "4", "5"]
    assert all(float(row[1]) > 0 and len(row) == 10 for row in report.rows)
    assert [row[-2] for row in report.rows] == ["0.0005"] * 3 + ["0.001"] * 2  # half in the linear start
    assert all(float(row[-1]) > 0 for row in report.rows)
    assert [bool(row[2]) for row in report.rows] == [False, True, False, True, True]
    out = capsys.readouterr().out
    assert [f"epoch {epoch}/5  loss" in out for epoch in range(1, 6)] == [False, True, False, True, True]
    lines = [line for line in out.splitlines() if line.startswith("epoch")]
    assert [line.endswith("  (linear start)") for line in lines] == [True, False, False]
    assert [line.endswith("  (linear end)") for line in lines] == [False, True, False]
    assert out.count("  task            1     2\n") == 3 and all(len(line) <= 80 for line in out.splitlines())
    np.testing.assert_allclose(
        [float(cell) for cell in report.rows[-1][2:4]],
        [training.exact_match(report.model.answers(s), s)["all"] for s in (corpus.training, corpus.validation)],
        atol=1e-4,
    )


def test_the_best_report_after_the_linear_start_is_kept_until_patience_ends(corpus, monkeypatch, capsys):
    """Among equals the first, and no report of the linear start, whose attention the saved network does not have."""
    validation = iter([0.9, 0.3, 0.5, 0.5, 0.4, 0.9])
    accuracies = {id(corpus.training): lambda: 1.0, id(corpus.validation): lambda: next(validation)}

    def exact_match(predicted, examples):
        return dict.fromkeys([1, 2, "all"], accuracies[id(examples)]())

    monkeypatch.setattr(training, "exact_match", exact_match)
    flags = small_flags("--epochs 6 --linear_start 1 --evaluation_interval 1 --keep best --patience 2")
    report, vectors = training.Report(flags, corpus), []
    note = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: vectors.append(report.model.state()))
    trainer = training.train(flags, corpus, seed=0, callbacks=[report, note])
    assert len(report.rows) == len(vectors) == 5 and report.best_report() == (report.rows[2], 2)
    np.testing.assert_array_equal(trainer.vector, vectors[2]["trainer/0"])
    np.testing.assert_array_equal(np.ravel(trainer.network.trainable_variables[0]), trainer.vector[: trainer.sizes[0]])
    *_, ended, kept = capsys.readouterr().out.splitlines()
    assert ended == "training ended: 2 reports without a better validation accuracy"
    assert kept == "kept: epoch 3  validation 0.5000"


# --- accuracy ---------------------------------------------------------------------------------------------


def test_accuracy_of_a_task_is_that_of_its_own_questions():
    examples = EncodedExamples(
        statements=np.zeros((1, 3), np.int32),
        slots=np.zeros((10, 2), np.int32),
        query=np.ones((10, 3), np.int32),
        answer=np.array([5, 1, 1, 1, 2, 2, 2, 2, NEVER_SEEN, NEVER_SEEN], np.int32),
        task=np.array([4, 7, 7, 7, 9, 9, 9, 9, 9, 9], np.int32),
    )
    predicted = np.array([5, 1, 3, 3, 2, 2, 2, 0, 0, 2])
    accuracy = training.exact_match(predicted, examples)
    assert accuracy == pytest.approx({4: 1.0, 7: 1 / 3, 9: 0.5, "all": 0.5})


@both_readers
def test_answers_are_those_of_the_network(reader):
    examples = numbered_examples(23)
    network = make_network(reader)
    inputs, *_ = padded_batch(examples, range(23))
    expected = np.asarray(network(inputs)).argmax(axis=-1)
    for batch_size in (4, 500):
        np.testing.assert_array_equal(training.Trainer(network).answers(examples, batch_size), expected)


def test_cross_entropy_leaves_out_answers_that_training_never_saw():
    examples = numbered_examples(23)
    network = make_network()
    logits = np.asarray(network(padded_batch(examples, range(23))[0]), np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    examples.answer[20:] = NEVER_SEEN
    expected = -np.mean(np.log(probabilities[np.arange(20), examples.answer[:20]]))
    assert training.mean_cross_entropy(training.Trainer(network), examples) == pytest.approx(expected, rel=1e-4)
    examples.answer[:] = NEVER_SEEN
    assert training.mean_cross_entropy(training.Trainer(network), examples) == float("inf")


# --- devices ----------------------------------------------------------------------------------------------


def device_line(monkeypatch, gpus=(), device_files=()):
    exists = os.path.exists
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: list(gpus))
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", lambda gpu, grow: None)
    monkeypatch.setattr(os.path, "exists", lambda path: path in device_files or exists(path))
    return training.set_up_devices()


def test_the_device_is_named(monkeypatch):
    assert device_line(monkeypatch) == "device: CPU"
    gpu = tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU")
    assert "GPU" in device_line(monkeypatch, gpus=[gpu], device_files=["/dev/nvidia0"])


def test_a_gpu_that_tensorflow_cannot_use_is_not_silent(monkeypatch):
    line = device_line(monkeypatch, device_files=["/dev/nvidia0"])
    assert line.startswith("device: CPU; TensorFlow cannot use this machine's NVIDIA GPU") and "\n" not in line

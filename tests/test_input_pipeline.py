"""The input pipeline: batches, their order, noise, dropout, random streams."""

import dataclasses
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import make_network, numbered_examples, padded_batch

import data_utils
import memn2n_kv
import training
from input_pipeline import REPEATS, STREAMS, Focus, Room, batches, focused, insert_empty_slots, stream_key


def epochs_of(examples, batch_size, epochs=1, **arguments):
    """For each epoch, the numbers of the examples in each batch, without those of weight 0."""
    steps = -(-len(examples) // batch_size)
    stream = iter(batches(examples, batch_size, **arguments))
    numbers = []
    for _ in range(epochs):
        weighted = [[np.asarray(tensor) for tensor in next(stream)[1:3]] for _ in range(steps)]
        assert all(set(weight) <= {0.0, 1.0} for _, weight in weighted)
        numbers.append([answer[weight == 1].tolist() for answer, weight in weighted])
    return numbers


# --- order ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "batch_size"), [(23, 5), (20, 5), (3, 5), (1, 1)])
def test_every_example_is_seen_exactly_once_an_epoch(count, batch_size):
    for epoch in epochs_of(numbered_examples(count), batch_size, epochs=3, seed=1):
        assert sorted(itertools.chain(*epoch)) == list(range(count))


def test_every_batch_mixes_tasks():
    examples = numbered_examples(200, tasks=4)
    for epoch in epochs_of(examples, 20, epochs=2, seed=1):
        assert all(len(set(examples.task[batch])) >= 3 for batch in epoch)


def test_order_depends_on_seed_and_epoch_alone():
    examples = numbered_examples(23)
    first, second, third = epochs_of(examples, 5, epochs=3, seed=1)
    assert first != second != third != first
    np.random.seed(5)
    keras.utils.set_random_seed(5)  # global generators have no influence
    assert epochs_of(examples, 5, epochs=3, seed=1) == [first, second, third]
    assert epochs_of(examples, 5, seed=1, first_epoch=2) == [third]
    assert epochs_of(examples, 5, seed=2) != [first]


def test_no_thread_of_its_own_tunes_the_pipeline():
    """The end of an iterator would wait until it wakes up, up to a minute."""
    assert batches(numbered_examples(3), 1, seed=1).options().autotune.enabled is False


@pytest.mark.parametrize(
    ("unsure", "share", "count"),
    [([], 0.5, 0), ([3, 7], 0.5, 2 * REPEATS), (range(10), 0.5, 20), (range(30), 0.5, 20), ([3, 7], 0.0, 0)],
    ids=["none", "few", "some", "many", "no share"],
)
def test_a_focused_epoch_repeats_what_the_model_is_unsure_of(unsure, share, count):
    """`count` of the 40 questions of the epoch are replaced; the others remain as a sample without repeats."""
    mask = np.isin(np.arange(40), list(unsure))
    order = np.random.RandomState(0).permutation(40).astype(np.int32)
    epoch = focused(tf.constant(order), tf.constant(mask), share, seed=(1, 2)).numpy()
    times = np.bincount(epoch, minlength=40)
    sample = np.isin(np.arange(40), order[count:])
    extra = times - sample
    assert len(epoch) == 40 and extra.sum() == count and extra.min() == 0
    assert extra[~mask].max() == 0 and extra.max() <= REPEATS
    assert not count or np.ptp(extra[mask]) <= 1
    np.testing.assert_array_equal(epoch, focused(tf.constant(order), tf.constant(mask), share, seed=(1, 2)))


def test_a_dataset_with_focus_is_the_epoch_that_the_model_is_in():
    """It reads what the model is unsure of when its iterator begins, and numbers the questions."""
    examples = numbered_examples(23)
    focus = Focus(0.5, tf.Variable([False] * 24), tf.Variable(0))
    data = batches(examples, 5, seed=1, focus=focus, dropout_from=1)

    def epoch(step):
        focus.step.assign(step)
        questions = np.concatenate([inputs["questions"] for inputs, *_ in data])
        np.testing.assert_array_equal(questions[23:], [23, 23])
        return questions[:23].tolist()

    assert sorted(epoch(0)) == sorted(epoch(5)) == list(range(23)) and epoch(0) == epoch(0) != epoch(5)
    focus.unsure[4].assign(True)
    assert [epoch(step).count(4) >= REPEATS for step in (0, 5, 10)] == [False, True, True]


# --- the compact form -------------------------------------------------------------------------------------


@pytest.mark.parametrize("reader", memn2n_kv.CHOICES["reader"])
@pytest.mark.parametrize("mask_padding", [True, False], ids=["masked", "every slot"])
@pytest.mark.parametrize(
    "rooms",
    [None, [Room(60, 200, 24)], [Room(1, 1, 1)], [Room(1, 1, 1), Room(60, 200, 24)]],
    ids=["no room", "ample room", "too little room", "a second room"],
)
def test_batches_are_equivalent_to_padded_examples(reader, mask_padding, rooms, monkeypatch):
    """However statements are padded to a number, and however the last batch is filled up."""
    monkeypatch.setattr(data_utils, "ROW_SIZE", 2)  # so that memories have several rows
    examples = numbered_examples(23)
    network = make_network(reader, mask_padding=mask_padding)
    trainer = training.Trainer(network, l2_lambda=0.1)
    stream = iter(batches(examples, 5, seed=1, rooms=rooms, occupied_only=True))
    for step in range(5):
        inputs, answer, weight = next(stream)
        real = np.asarray(weight) == 1
        assert (len(real), real.sum()) == (5, 3 if step == 4 else 5)
        if rooms:
            fits = rooms[-1].statements == 60
            sizes = [len(inputs[name]) for name in ("statements", "word_places", "occupied_rows", "key_slots")]
            assert sizes == ([60, 200, 24, 24] if fits else [31, 31 * 3, 15, 15])
        expected = padded_batch(examples, np.asarray(answer)[real])
        np.testing.assert_allclose(np.asarray(network(inputs))[real], network(expected[0]), rtol=1e-4, atol=1e-6)
        loss, gradient = trainer.loss_and_gradient(inputs, answer, weight)
        expected_loss, expected_gradient = trainer.loss_and_gradient(*expected)
        np.testing.assert_allclose(loss, expected_loss, rtol=1e-4)
        np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("rooms", [None, [Room(60, 200, 24, (20, 20, 20))], [Room(1, 1, 1, (1, 1, 1))]])
def test_a_gru_reads_each_prefix_once(rooms):
    examples = numbered_examples(23, words=4)  # few words, so many statements begin alike
    examples.statements[::3, 2] = examples.statements[::5, 1:] = examples.query[::2, 2] = 0
    network = make_network("simple_gru", tying="adjacent", mask_padding=True)
    trainer = training.Trainer(network)
    arguments = dict(seed=1, rooms=rooms, time_noise=0.2, occupied_only=True)
    for with_prefixes, without, _ in zip(
        batches(examples, 5, prefixes=True, **arguments), batches(examples, 5, **arguments), range(5), strict=False
    ):
        inputs = with_prefixes[0]
        steps = sum(len(words) for words in inputs["prefix_words"])
        words = np.size(inputs["statements"]) + np.size(inputs["query"])
        assert steps < words if rooms is None else steps in (60, 3 * 36)
        loss, gradient = trainer.loss_and_gradient(*with_prefixes)
        expected_loss, expected_gradient = trainer.loss_and_gradient(*without)
        np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
        np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-4, atol=1e-6)


# --- noise and dropout ------------------------------------------------------------------------------------


def test_gradient_noise_has_its_standard_deviation_and_differs_from_step_to_step():
    length = 2000

    def draw(seed):
        stream = iter(batches(numbered_examples(23), 5, seed=seed, gradient_noise=(length, 0.5)))
        return np.stack([np.asarray(next(stream)[3]) for _ in range(30)])  # beyond one epoch

    noise = draw(seed=1)
    assert noise.shape == (30, length)
    assert abs(noise.std() / 0.5 - 1) < 0.02 and abs(noise.mean()) < 0.02
    assert (abs(noise.std(axis=1) / 0.5 - 1) < 0.1).all()
    assert abs(np.corrcoef(noise) - np.eye(30)).max() < 0.15  # six standard errors
    np.testing.assert_array_equal(draw(seed=1), noise)
    assert (draw(seed=2) != noise).mean() > 0.99


def test_empty_slots_are_inserted_and_keep_the_order_of_statements():
    slots = np.tile(np.arange(1, 201, dtype=np.int32), (50, 1))
    moved = np.asarray(insert_empty_slots(slots, 0.1, seed=(1, 2)))
    assert moved.shape == slots.shape
    for row in moved:
        statements = row[row > 0]
        np.testing.assert_array_equal(statements, np.arange(1, len(statements) + 1))  # the oldest are dropped
    assert 0.08 < np.mean(moved == 0) < 0.1  # 0.1 / 1.1 of all slots
    np.testing.assert_array_equal(insert_empty_slots(slots, 0.1, seed=(1, 2)), moved)
    assert (np.asarray(insert_empty_slots(slots, 0.1, seed=(1, 3))) != moved).any()
    np.testing.assert_array_equal(insert_empty_slots(slots, 0.0, seed=(1, 2)), slots)


def test_dropout_drops_its_share_after_the_linear_start():
    examples = numbered_examples(400, sentence_size=8)
    options = dict(word_dropout=0.2, state_dropout=0.3, state_shape=(2, 50), dropout_from=1)
    stream = iter(batches(examples, 400, seed=1, **options))
    for epoch in range(2):
        inputs, answer, _ = next(stream)
        query, mask = np.asarray(inputs["query"]), np.asarray(inputs["state_mask"])
        dropped = query != examples.query[np.asarray(answer)]
        assert mask.shape == (400, 2, 50) and (query[dropped] == 0).all()
        if epoch == 0:
            assert not dropped.any() and (mask == 1).all()
        else:
            assert 0.17 < dropped.mean() < 0.23
            assert 0.28 < np.mean(mask == 0) < 0.32
            np.testing.assert_allclose(mask[mask > 0], 1 / 0.7, rtol=1e-6)  # the expectation stays


# --- random streams ---------------------------------------------------------------------------------------


def test_every_seed_and_stream_has_a_key_of_its_own():
    keys = [stream_key(seed, stream) for seed in range(300) for stream in STREAMS]
    assert len(set(keys)) == 300 * len(STREAMS) and all(0 <= key < 2**63 for key in keys)
    assert np.diff(sorted(keys)).min() > 10**6  # not the next number, as seeds of restarts are
    assert stream_key(5, "order") == stream_key(5, "order")


def test_seeds_share_no_draws(monkeypatch):
    """Neither the restarts of a run nor the streams of one seed draw the same random numbers."""
    keys = set()

    def record(operation):
        def draw(*arguments, seed=None, **options):
            seed = arguments[1] if seed is None else seed
            keys.add(int(seed[0]))
            if len(arguments) > 1:
                return operation(*arguments, **options)
            return operation(*arguments, seed=seed, **options)

        return draw

    for module, name in (
        (tf.random, "stateless_uniform"),
        (tf.random, "stateless_normal"),
        (tf.random.experimental, "stateless_shuffle"),
    ):
        monkeypatch.setattr(module, name, record(getattr(module, name)))
    keys_of_seed = []
    for seed in (0, 1, 2, 3):
        keys.clear()
        options = dict(time_noise=0.1, word_dropout=0.1, state_dropout=0.1, state_shape=(2, 5), gradient_noise=(9, 0.1))
        options["focus"] = Focus(0.5, tf.Variable([False] * 24), tf.Variable(0))
        examples = dataclasses.replace(numbered_examples(23), answers=np.tile(np.int32([1, 2]), (23, 1)))
        next(iter(batches(examples, 5, seed=seed, **options)))
        keys_of_seed.append(set(keys))
    assert [len(keys) for keys in keys_of_seed] == [len(STREAMS)] * 4
    assert len(set.union(*keys_of_seed)) == 4 * len(STREAMS)


def test_draws_of_neighbouring_seeds_are_uncorrelated():
    def state_masks(seed):
        stream = iter(batches(numbered_examples(64), 64, seed=seed, state_dropout=0.5, state_shape=(2, 50)))
        return np.ravel(next(stream)[0]["state_mask"]) > 0

    masks = np.stack([state_masks(seed) for seed in range(4)])
    assert abs(np.corrcoef(masks) - np.eye(4)).max() < 0.07  # five standard errors

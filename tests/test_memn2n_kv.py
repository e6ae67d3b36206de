"""The network: the original's numbers, attention, keys and values, padding, readers, files."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import ask
import joint
import memn2n_kv
import training
import wikimovies
from data_utils import UNKNOWN
from flags import ATTENTIONS, GATES, LINEAR_ATTENTIONS, READERS, TYINGS
from memn2n_kv import MemN2N_KV, TwoReaders

V, J, M, E, F, H = 13, 4, 5, 6, 7, 3  # words, words of a sentence, slots, embedding, features, hops

both_readers = pytest.mark.parametrize("reader", memn2n_kv.CHOICES["reader"])
masked_or_not = pytest.mark.parametrize("mask_padding", [True, False], ids=["masked", "every slot"])


@pytest.fixture(autouse=True)
def seed():
    keras.utils.set_random_seed(1)


def make(reader="bow", **changes):
    """A small network whose weights are large enough for its attention to be far from uniform."""
    keras.utils.set_random_seed(0)
    sizes = dict(vocab_size=V, sentence_size=J, memory_size=M, embedding_size=E, feature_size=F, hops=H)
    network = MemN2N_KV(**{**sizes, "reader": reader, **changes})
    for variable in network.trainable_variables:
        variable.assign(1.5 * np.asarray(variable))
    return network


def questions(count=8, values="keys", empty_slots=2):
    """Padded inputs: sentences of 1 to J words, of which the last slots of each memory may be empty."""
    random = np.random.default_rng(0)

    def sentences(*shape):
        words = random.integers(1, V, (*shape, J))
        return np.where(np.arange(J) < random.integers(1, J + 1, (*shape, 1)), words, 0).astype(np.int32)

    query, keys = sentences(count), sentences(count, M)
    values = sentences(count, M) if values == "others" else keys.copy()
    for i in range(count):
        filled = M - i % (empty_slots + 1)
        keys[i, filled:] = values[i, filled:] = 0
    return {"memory_key": keys, "memory_value": values, "query": query}


def compact(inputs):
    """The same questions as a table of distinct sentences, row 0 empty, and row numbers."""
    keys, values = inputs["memory_key"], inputs["memory_value"]
    both = np.concatenate([np.zeros((1, J), np.int32), keys.reshape(-1, J), values.reshape(-1, J)])
    statements, rows = np.unique(both, axis=0, return_inverse=True)
    assert not statements[0].any()
    key_slots, value_slots = rows.reshape(-1)[1:].reshape(2, *keys.shape[:2]).astype(np.int32)
    slots = {"key_slots": key_slots} if (key_slots == value_slots).all() else {}
    statements = statements.astype(np.int32)
    slots = slots or {"key_slots": key_slots, "value_statements": statements, "value_slots": value_slots}
    return {"statements": statements, **slots, "query": inputs["query"]}


def rows_of(key_slots, size=2, spare=3):
    """The occupied rows of some slots, and spare empty ones, as `MemoryRows` has them."""
    rows = np.pad(key_slots, [(0, 0), (0, -key_slots.shape[1] % size)]).reshape(-1, size)
    occupied = np.flatnonzero(rows.any(axis=1)).astype(np.int32)
    return {
        "key_slots": np.pad(rows[occupied], [(0, spare), (0, 0)]),
        "occupied_rows": np.append(occupied, [len(rows) - 1] * spare).astype(np.int32),
    }


def answer(network, inputs):
    """Logits and attention as arrays."""
    return [np.asarray(tensor) for tensor in network(inputs, return_attention=True)]


def assert_same(one, other):
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


# --- the original's numbers -----------------------------------------------------------------------------


def original_name(variable):
    """W, ..., R0, R1, ...: what the original calls a variable of the network."""
    return "R" + variable.path.split("/")[-2].rpartition("_")[2] if variable.name == "R" else variable.name


def original_network(original):
    h = original.hyperparameters
    sizes = ("vocab_size", "sentence_size", "memory_size", "embedding_size", "feature_size", "hops")
    network = MemN2N_KV(**{name: h[name] for name in sizes}, mask_padding=False)
    weights = original.by_variable("weight")
    assert {original_name(v): v.shape for v in network.trainable_variables} == {n: w.shape for n, w in weights.items()}
    for variable in network.trainable_variables:
        variable.assign(weights[original_name(variable)])
    return network


def original_trainer(original, jit_compile=False):
    h = original.hyperparameters
    schedule = keras.optimizers.schedules.ExponentialDecay(
        h["learning_rate"], h["decay_steps"], h["decay_rate"], staircase=True
    )
    trainer = training.Trainer(original_network(original), h["l2_lambda"], h["max_grad_norm"])
    trainer.compile(keras.optimizers.Adam(schedule, epsilon=h["epsilon"]), jit_compile=jit_compile)
    return trainer


def assert_near(computed, expected, tolerance):
    """Asserts that the largest difference is below `tolerance` times the largest expected number."""
    computed, expected = np.asarray(computed), np.asarray(expected)
    assert computed.shape == expected.shape
    assert np.abs(computed - expected).max() < tolerance * np.abs(expected).max()


def assert_all_near(trainer, vector, original, kind):
    """Asserts the same for each variable by itself; `vector` holds all of them."""
    expected = original.by_variable(kind)
    variables = trainer.network.trainable_variables
    assert len(variables) == len(expected)
    for variable, part in zip(variables, trainer.parts(vector), strict=True):
        assert_near(part, expected[original_name(variable)], original.tolerance)


def test_original_answers(original):
    logits, attention = answer(original_network(original), original.inputs)
    assert_near(logits, original["logits"], original.tolerance)
    assert_near(keras.ops.softmax(logits), original["probabilities"], original.tolerance)
    np.testing.assert_array_equal(logits.argmax(axis=-1), original["prediction"])
    empty = ~original["memory_key"].any(axis=-1)
    assert attention[:, 0][empty].sum() > 0.01  # empty slots are attended too


def test_original_loss_and_gradients(original):
    trainer = original_trainer(original)
    weight = np.ones(len(original.answer), np.float32)
    loss, gradient = trainer.loss_and_gradient(original.inputs, original.answer, weight)
    assert_near(loss, original["loss"], original.tolerance)
    assert_all_near(trainer, gradient, original, "gradient")
    assert_all_near(trainer, trainer.clip(gradient), original, "clipped_gradient")
    trainer.l2_lambda = 0.0
    assert_near(
        trainer.loss_and_gradient(original.inputs, original.answer, weight)[0],
        original["cross_entropy_sum"],
        original.tolerance,
    )


def test_original_steps(original):
    trainer = original_trainer(original)
    weight = np.ones(len(original.answer), np.float32)
    losses = []
    for step in range(1, 13):
        losses.append(trainer.loss_and_gradient(original.inputs, original.answer, weight)[0])
        trainer.train_step((original.inputs, original.answer, weight))
        if step in (1, 12):
            assert_all_near(trainer, trainer.vector, original, f"weight_after_{step}")
    np.testing.assert_allclose(losses, original["loss_trajectory"], rtol=original.tolerance)
    trainer.update_network()
    expected = original.by_variable("weight_after_12")
    for variable in trainer.network.trainable_variables:
        assert_near(variable, expected[original_name(variable)], original.tolerance)


# --- attention ------------------------------------------------------------------------------------------


@both_readers
@masked_or_not
def test_attention_sums_to_one(reader, mask_padding):
    inputs = questions()
    _, attention = answer(make(reader, mask_padding=mask_padding), inputs)
    assert attention.shape == (8, H, M)
    assert (attention >= 0).all()
    assert_same(attention.sum(axis=-1), np.ones((8, H)))
    empty = ~inputs["memory_key"].any(axis=-1)
    on_empty = np.moveaxis(attention, 1, -1)[empty]
    assert empty.any()
    assert (on_empty == 0).all() if mask_padding else (on_empty > 0).all()


def planted_network(**changes):
    """One hop over one-hot word vectors; those of statements are 20 times as long as those of questions."""
    size = V - 1
    network = make(embedding_size=size, feature_size=size, hops=1, **changes)
    identity = np.eye(size, dtype=np.float32)
    weights = {"W": identity, "W_memory": 20 * identity, "A": identity, "B": identity, "R": identity}
    for variable in network.trainable_variables:
        variable.assign(weights.get(variable.name, np.zeros(variable.shape)))  # no slot times
    return network


@masked_or_not
@pytest.mark.parametrize("slot", range(M))
def test_planted_key_is_found_and_its_value_is_the_answer(slot, mask_padding):
    key, value = np.zeros((2, 1, M, J), np.int32)
    key[0, :, 0] = np.arange(1, M + 1)
    value[0, :, 0] = np.arange(M + 1, 2 * M + 1)
    query = np.zeros((1, J), np.int32)
    query[0, 0] = key[0, slot, 0]
    inputs = {"memory_key": key, "memory_value": value, "query": query}
    network = planted_network(mask_padding=mask_padding)
    logits, attention = answer(network, inputs)
    assert attention[0, 0, slot] > 0.99
    assert logits.argmax() == value[0, slot, 0]
    # Other values give another answer, but attention depends on keys alone.
    inputs["memory_value"] = value[:, ::-1]
    other_logits, other_attention = answer(network, inputs)
    assert other_logits.argmax() == value[0, M - 1 - slot, 0]
    np.testing.assert_array_equal(other_attention, attention)


@both_readers
def test_values_change_the_answer_but_not_the_first_attention(reader):
    network = make(reader)
    same, others = questions(), questions(values="others")
    np.testing.assert_array_equal(same["memory_key"], others["memory_key"])
    logits, attention = answer(network, same)
    other_logits, other_attention = answer(network, others)
    assert_same(attention[:, 0], other_attention[:, 0])
    assert np.abs(logits - other_logits).max(axis=-1).min() > 1e-3
    assert np.abs(attention[:, 1:] - other_attention[:, 1:]).max() > 1e-3  # what a hop reads steers the next
    others["memory_key"], others["memory_value"] = others["memory_value"], others["memory_key"]
    assert np.abs(answer(network, others)[1][:, 0] - attention[:, 0]).max() > 1e-3


# --- forms, padding, batches ----------------------------------------------------------------------------


@both_readers
@masked_or_not
@pytest.mark.parametrize("values", ["keys", "others"])
def test_compact_form_is_the_padded_form(reader, mask_padding, values):
    inputs = questions(values=values)
    short = compact(inputs)
    assert ("value_slots" in short) == (values == "others")
    network = make(reader, mask_padding=mask_padding)
    for padded_result, compact_result in zip(answer(network, inputs), answer(network, short), strict=True):
        assert_same(compact_result, padded_result)


@both_readers
@masked_or_not
def test_missing_values_are_the_keys(reader, mask_padding):
    network = make(reader, mask_padding=mask_padding)
    inputs = questions()
    keys_alone = {name: inputs[name] for name in ("memory_key", "query")}
    for one, other in zip(answer(network, keys_alone), answer(network, inputs), strict=True):
        assert_same(one, other)


@both_readers
@masked_or_not
def test_statements_in_no_slot_change_nothing(reader, mask_padding):
    network = make(reader, mask_padding=mask_padding)
    inputs = compact(questions())
    logits, _ = answer(network, inputs)
    for more in (np.zeros((3, J), np.int32), np.full((3, J), 5, np.int32)):
        padded = {**inputs, "statements": np.concatenate([inputs["statements"], more])}
        assert_same(answer(network, padded)[0], logits)


@both_readers
def test_more_empty_slots_change_nothing_when_masked(reader):
    small, large = make(reader, mask_padding=True), make(reader, mask_padding=True, memory_size=M + 3)
    for variable, larger in zip(small.trainable_variables, large.trainable_variables, strict=True):
        weights = np.asarray(larger).copy()
        weights[: variable.shape[0]] = np.asarray(variable)
        larger.assign(weights)
    inputs = questions()
    longer = {
        name: np.pad(tokens, [(0, 0), (0, 3), (0, 0)]) if name.startswith("memory") else tokens
        for name, tokens in inputs.items()
    }
    logits, attention = answer(small, inputs)
    longer_logits, longer_attention = answer(large, longer)
    assert_same(longer_logits, logits)
    assert_same(longer_attention[..., :M], attention)


def test_longer_padded_sentences_change_nothing_for_the_gru():
    inputs = questions(values="others")
    longer = {name: np.pad(tokens, [(0, 0)] * (tokens.ndim - 1) + [(0, 4)]) for name, tokens in inputs.items()}
    short, long = make("simple_gru"), make("simple_gru", sentence_size=J + 4)
    for variable, other in zip(short.trainable_variables, long.trainable_variables, strict=True):
        other.assign(variable)
    assert_same(answer(long, longer)[0], answer(short, inputs)[0])


@both_readers
@masked_or_not
def test_batch_composition_changes_nothing(reader, mask_padding):
    network = make(reader, mask_padding=mask_padding)
    inputs = questions(count=8, values="others")
    logits, attention = answer(network, inputs)
    order = np.random.default_rng(1).permutation(8)
    for rows in (order, order[:3], [5]):
        batch_logits, batch_attention = answer(network, {name: tokens[rows] for name, tokens in inputs.items()})
        assert_same(batch_logits, logits[rows])
        assert_same(batch_attention, attention[rows])


@both_readers
@masked_or_not
def test_empty_memory_gives_finite_numbers(reader, mask_padding):
    network = make(reader, mask_padding=mask_padding)
    inputs = questions()
    for name in ("memory_key", "memory_value"):
        inputs[name][:4] = 0
    logits, attention = answer(network, inputs)
    assert np.isfinite(logits).all() and np.isfinite(attention).all()
    if mask_padding:
        assert not attention[:4].any()
    loss, gradient = training.Trainer(network).loss_and_gradient(
        inputs, np.arange(8, dtype=np.int32), np.ones(8, np.float32)
    )
    assert np.isfinite(loss) and np.isfinite(gradient).all()


# --- readers --------------------------------------------------------------------------------------------


def test_position_encoding():
    # 1 + 4 (i - E/2) (j - J/2) / (E J), by hand.
    np.testing.assert_allclose(memn2n_kv.position_encoding(2, 2), [[1, 1], [1, 2]])
    np.testing.assert_allclose(
        memn2n_kv.position_encoding(3, 4),
        [[7 / 6, 1, 5 / 6, 4 / 6], [5 / 6, 1, 7 / 6, 8 / 6], [3 / 6, 1, 9 / 6, 12 / 6]],
        rtol=1e-6,
    )


def test_bow_reader_weighs_words_by_place():
    table = np.array([[0, 0], [1, 10], [2, 20]], np.float32)
    readings = memn2n_kv.BowReader()(np.array([[1, 2], [2, 1], [1, 0], [0, 0]]), table)
    np.testing.assert_allclose(readings, [[3, 50], [3, 40], [1, 10], [0, 0]])


def test_gru_reader_is_the_documented_recurrence_up_to_the_last_word():
    random = np.random.default_rng(0)
    table = random.normal(size=(V, E)).astype(np.float32)
    words = random.integers(1, V, (6, J)).astype(np.int32)
    lengths = [4, 3, 2, 1, 0, 4]
    for row, length in zip(words, lengths, strict=True):
        row[length:] = 0
    reader = memn2n_kv.GruReader(F)
    reader.build(words.shape, table.shape)
    for variable in reader.trainable_variables:
        variable.assign(random.normal(size=variable.shape))

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    def array(variable):
        return np.asarray(variable, np.float64)

    expected = np.zeros((6, F))
    for state, row, length in zip(expected, words, lengths, strict=True):
        for x in table[row[:length]]:
            gates = x @ array(reader.gate_kernel) + state @ array(reader.gate_recurrent) + array(reader.gate_bias)
            r, z = sigmoid(gates[:F]), sigmoid(gates[F:])
            candidate = np.tanh(
                x @ array(reader.candidate_kernel)
                + (r * state) @ array(reader.candidate_recurrent)
                + array(reader.candidate_bias)
            )
            state[:] = z * state + (1 - z) * candidate
    np.testing.assert_allclose(reader(words, table), expected, rtol=1e-4, atol=1e-5)
    assert not expected[4].any() and expected[3].any()


def test_gru_reader_reads_the_last_word():
    network = make("simple_gru")
    inputs = questions(values="others")
    changed = inputs["query"].copy()
    for row in changed:
        last = np.flatnonzero(row)[-1]
        row[last] = row[last] % (V - 1) + 1
    logits, _ = answer(network, inputs)
    other, _ = answer(network, {**inputs, "query": changed})
    assert np.abs(logits - other).max(axis=-1).min() > 1e-3


@both_readers
def test_order_of_words_matters(reader):
    network = make(reader)
    inputs = questions()
    inputs["query"][:] = [1, 2, 3, 4]
    logits, _ = answer(network, inputs)
    inputs["query"][:] = [4, 3, 2, 1]
    assert np.abs(answer(network, inputs)[0] - logits).max(axis=-1).min() > 1e-3


@both_readers
def test_dropout_acts_in_training_only(reader):
    inputs = questions()
    for keep_prob in (1.0, 0.5):
        network = make(reader, keep_prob=keep_prob)
        logits = np.asarray(network(inputs))
        np.testing.assert_array_equal(network(inputs, training=False), logits)
        assert (np.asarray(network(inputs, training=True)) == logits).all() == (keep_prob == 1.0)


@both_readers
def test_adjacent_tying_reads_a_question_like_the_keys_of_the_first_hop(reader):
    network = make(reader, tying="adjacent")
    sentences = questions()["query"]
    state, readings = network._read(sentences, sentences, training=False)
    first, second = np.split(np.asarray(readings), readings.shape[-1] // state.shape[-1], axis=1)[:2]
    assert_same(first, state)
    assert (second != np.asarray(state)).any()


def test_unknown_readers_are_refused():
    with pytest.raises(ValueError, match="lstm"):
        make("lstm")


# --- parameters and files -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reader", "tying", "parts"),
    [
        # W, W_memory; A; TK, TV; B; R of three hops; two GRUs of three gates
        ("bow", "shared", [2 * 12 * 6, 7 * 6, 2 * 5 * 6, 7 * 6, 3 * 7 * 7]),
        ("simple_gru", "shared", [2 * 12 * 6, 7 * 7, 2 * 5 * 7, 7 * 6, 3 * 7 * 7, 2 * 3 * (6 * 7 + 7 * 7 + 7)]),
        # W of four readings; TK, TV of three hops
        ("bow", "adjacent", [4 * 12 * 6, 2 * 3 * 5 * 6]),
        # W; A of four readings; TK, TV of three hops; B; one GRU of three gates
        ("simple_gru", "adjacent", [12 * 6, 4 * 7 * 7, 2 * 3 * 5 * 7, 7 * 6, 3 * (6 * 7 + 7 * 7 + 7)]),
    ],
)
def test_number_of_parameters(reader, tying, parts):
    network = make(reader, tying=tying)
    assert network.count_params() == sum(parts)
    assert sum(int(np.prod(v.shape)) for v in network.trainable_variables) == sum(parts)


@both_readers
def test_nil_has_no_vector(reader):
    logits, _ = answer(make(reader), questions())
    assert (logits[:, 0] == 0).all() and logits[:, 1:].all()


@both_readers
@masked_or_not
def test_saved_and_loaded_network_is_the_same(reader, mask_padding, tmp_path):
    vocabulary = ["bread,milk", "été", *(f"word{i}" for i in range(3, V))]
    network = make(reader, mask_padding=mask_padding, keep_prob=0.7, vocabulary=vocabulary)
    path = tmp_path / "model.keras"
    network.save(path)
    loaded = keras.saving.load_model(path)
    assert isinstance(loaded, MemN2N_KV)
    assert loaded.get_config() == network.get_config()
    assert loaded.get_config()["vocabulary"] == vocabulary
    for inputs in (questions(values="others"), compact(questions())):
        for one, other in zip(answer(network, inputs), answer(loaded, inputs), strict=True):
            np.testing.assert_array_equal(one, other)


# --- MemN2N's chain of readings, gates, linear start ----------------------------------------------------


def softmax(scores):
    raised = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return raised / raised.sum(axis=-1, keepdims=True)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def expected_answer(network, keys, values, query, gates, linear=None, state_mask=None):
    """Logits and attention of one question by the papers' equations, for the bow reader with adjacent tying."""
    weights = {}
    for variable in network.trainable_variables:
        hop = variable.path.split("/")[-2].rpartition("_")[2]
        name = f"{variable.name}_{hop}" if variable.name in ("G", "gate_bias") else variable.name
        weights[name] = np.asarray(variable, np.float64)

    def read(words, table):
        words = words[words != 0]
        i, n = np.arange(1, E + 1), len(words)
        return sum((1 + 4 * (i / E - 0.5) * (j / n - 0.5)) * table[word - 1] for j, word in enumerate(words, 1))

    state, attentions = read(query, weights["W_0"]), []
    for h in range(H):
        state = state if state_mask is None else state * state_mask[h]
        occupied = [m for m in range(M) if keys[m].any()]
        key = np.array([read(keys[m], weights[f"W_{h}"]) + weights[f"TK_{h}"][m] for m in occupied])
        value = np.array([read(values[m], weights[f"W_{h + 1}"]) + weights[f"TV_{h}"][m] for m in occupied])
        divisor = {None: 1, "sum": 1, "mean": len(occupied), "capped": max(1, len(occupied) / 10)}[linear]
        p = softmax(key @ state) if linear is None else key @ state / divisor
        o = p @ value
        attentions.append(np.bincount(occupied, p, minlength=M))
        if gates == 0:
            state = state + o
        else:
            gate = sigmoid(state @ weights[f"G_{h}"] + weights[f"gate_bias_{h}"])
            state = gate * o + (1 - gate) * state if gates == 1 else gate[:E] * o + gate[E:] * state
    return np.append(0, weights[f"W_{H}"] @ state), np.array(attentions)


@pytest.mark.parametrize("gates", GATES)
@pytest.mark.parametrize("linear", [None, *LINEAR_ATTENTIONS], ids=["softmax", *LINEAR_ATTENTIONS])
@pytest.mark.parametrize("values", ["keys", "others"])
def test_adjacent_tying_gates_and_linear_start_are_the_papers_equations(gates, linear, values):
    options = {} if linear is None else {"linear_attention": linear}
    network = make(tying="adjacent", gates=gates, encoding="length", mask_padding=True, **options)
    inputs = questions(values=values)
    mask = np.random.default_rng(0).integers(0, 2, (8, H, E)).astype(np.float32)
    for state_mask in (None, mask):
        for form in (inputs, compact(inputs)):
            form = form if state_mask is None else form | {"state_mask": mask}
            logits, attention = network(form, return_attention=True, linear=linear is not None)
            for i in range(8):
                texts = (inputs[name][i] for name in ("memory_key", "memory_value", "query"))
                expected = expected_answer(network, *texts, gates, linear, None if state_mask is None else mask[i])
                for computed, correct in zip((logits[i], attention[i]), expected, strict=True):
                    np.testing.assert_allclose(computed, correct, rtol=1e-3, atol=1e-4)


def hop_inputs(memory_size=M):
    """(state, keys, times, attention of the hop before) of random numbers, for two examples."""
    random = np.random.default_rng(0)
    shapes = (2, E), (2, memory_size, E), (memory_size, E)
    state, keys, times = (random.normal(size=shape).astype(np.float32) for shape in shapes)
    return state, keys, times, softmax(random.normal(size=(2, memory_size))).astype(np.float32)


@pytest.mark.parametrize(("linear_attention", "least", "slots"), [("mean", 1, 1), ("capped", 10, 10)])
def test_the_linear_start_counts_the_slots_that_may_be_attended(linear_attention, least, slots):
    occupied = np.arange(25) < [[20], [0]]  # the second memory is empty
    state, keys, times, before = hop_inputs(25)
    hop = memn2n_kv.KeyValueHop(E, projected=False, linear_attention=linear_attention)
    scores = np.einsum("bme,be->bm", keys + times, state)
    inputs = state, keys, keys, before, times, times
    np.testing.assert_allclose(hop(*inputs, linear=True)[1], scores / (25 / slots), rtol=1e-4)
    _, attention = hop(*inputs, occupied=occupied, linear=True)
    np.testing.assert_allclose(attention, np.where(occupied, scores / (20 / slots), 0), rtol=1e-4)


@pytest.mark.parametrize("heads", [memn2n_kv.SOFTMAX, memn2n_kv.FIRST_WALK, memn2n_kv.WALK])
def test_a_share_of_the_linear_attention_mixes_what_is_read(heads):
    state, keys, times, before = hop_inputs()
    hop = memn2n_kv.KeyValueHop(E, projected=False, heads=heads)
    inputs = state, keys, keys, before
    for both_times in ((times, times), (None, None)):  # a hop without times has no linear attention
        read = [hop(*inputs, *both_times, linear=linear)[0] - state for linear in (False, np.float32(0.3))]
        linear = hop(*inputs, times, times, linear=True)[0] - state if both_times[0] is not None else 0
        np.testing.assert_allclose(read[1], 0.7 * read[0] + 0.3 * linear, rtol=1e-3, atol=1e-4)


@both_readers
@pytest.mark.parametrize("gates", GATES)
def test_gates_go_with_every_reader_and_tying(reader, gates, tmp_path):
    for tying in TYINGS:
        network = make(reader, tying=tying, gates=gates, mask_padding=True)
        inputs = questions(values="others")
        logits, attention = answer(network, inputs)
        assert logits.shape == (8, V) and attention.shape == (8, H, M)
        assert_same(answer(network, compact(inputs))[0], logits)
        names = [variable.path for variable in network.trainable_variables]
        assert len(set(names)) == len(names)
        network.save(tmp_path / f"{tying}.keras")
        assert_same(answer(keras.saving.load_model(tmp_path / f"{tying}.keras"), inputs)[0], logits)


def test_every_weight_starts_with_numbers_of_its_own():
    """One initializer object returns the same numbers each time it is called."""
    for network in (MemN2N_KV(V, J, M, E, E, H, tying=tying, gates=2) for tying in TYINGS):
        random = [np.ravel(v)[: M * E] for v in network.trainable_variables if v.name != "gate_bias"]
        assert len({values.tobytes() for values in random}) == len(random)


def test_length_encoding_does_not_depend_on_padding():
    words = np.array([[3, 4, 5], [6, 7, 0]])
    weights = np.asarray(memn2n_kv.length_encoding(words, E))
    padded = np.asarray(memn2n_kv.length_encoding(np.pad(words, [(0, 0), (0, 4)]), E))
    np.testing.assert_allclose(padded[:, :3], weights, rtol=1e-6)
    np.testing.assert_allclose(weights[0, 2], weights[1, 1], rtol=1e-6)  # last words weigh the same
    np.testing.assert_allclose(weights[0, 2], 2 * np.arange(1, E + 1) / E, rtol=1e-6)  # 1 + 4 (i/E - 1/2) / 2


def test_flags_offer_the_choices_of_the_network():
    parsers = joint.flag_parser(), wikimovies.flag_parser()
    actions = {action.dest: action for parser in parsers for action in parser._actions}
    assert READERS == (*memn2n_kv.CHOICES["reader"], "both")
    choices = {**memn2n_kv.CHOICES, "reader": READERS}
    assert {name: tuple(actions[name].choices) for name in choices} == choices


OTHERS = {
    "tying": "layerwise",
    "gates": 3,
    "encoding": "sine",
    "linear_attention": "max",
    "attention": "hard",
    "pairs": 3,
}


@pytest.mark.parametrize(("name", "value"), OTHERS.items())
def test_unknown_variants_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value!r}"):
        make(**{name: value})


# --- walks ----------------------------------------------------------------------------------------------


def walk_by_loop(match, start):
    """Where walkers stop in one memory (M,), and what walks off its end, slot by slot."""
    mass, stops = 0.0, []
    for z, q in zip(match, start, strict=True):
        mass += q
        stops.append(z * mass)
        mass -= stops[-1]
    return np.array(stops), mass


@pytest.mark.parametrize("memory_size", [1, 2, 5, 8, 13])
def test_a_walk_is_the_documented_recurrence_and_conserves_mass(memory_size):
    random = np.random.default_rng(memory_size)
    match, start = random.uniform(size=(2, 4, 3, memory_size)).astype(np.float32)
    stops = np.asarray(memn2n_kv.walk(match, start))
    for index in np.ndindex(4, 3):
        expected, rest = walk_by_loop(match[index], start[index])
        np.testing.assert_allclose(stops[index], expected, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(stops[index].sum() + rest, start[index].sum(), rtol=1e-4)


def test_the_gradient_of_a_walk_is_that_of_the_recurrence():
    random = np.random.default_rng(0)
    match, start, weights = (tf.constant(random.uniform(size=(2, 9)), tf.float32) for _ in range(3))
    first = tf.constant(np.eye(9)[0] + np.eye(9)[4], tf.float32)  # two memories, of 4 and 5 slots
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([match, start])
        mass, stops = 0.0, []
        for m in range(9):
            mass = mass * (1 - match[:, m - 1]) * (1 - first[m]) + start[:, m] if m else start[:, 0]
            stops.append(match[:, m] * mass)
        expected = tf.reduce_sum(weights * tf.stack(stops, axis=1))
        actual = tf.reduce_sum(weights * memn2n_kv.walk(match, start, first, longest=5))
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
    for variable in (match, start):
        np.testing.assert_allclose(
            tape.gradient(actual, variable), tape.gradient(expected, variable), rtol=1e-4, atol=1e-6
        )


def test_empty_slots_change_nothing_in_a_walk():
    random = np.random.default_rng(0)
    match, start = random.uniform(size=(2, 2, 6)).astype(np.float32)
    places = np.array([1, 2, 4, 5, 6, 9])
    wide = np.zeros((2, 2, 11), np.float32)
    wide[0][:, places], wide[1][:, places] = match, start
    expected = np.zeros((2, 11))
    expected[:, places] = memn2n_kv.walk(match, start)
    np.testing.assert_allclose(memn2n_kv.walk(*wide), expected, rtol=1e-4, atol=1e-6)


def attention_of_head(head, matches, before, memory_size=9):
    """The attention (M,) of one head in a memory whose slots `matches` match, after a hop that looked at `before`."""
    heads = memn2n_kv.WALK if head in memn2n_kv.WALK else memn2n_kv.FIRST_WALK
    hop = memn2n_kv.KeyValueHop(E, projected=False, heads=heads)
    hop.build()
    hop.c.assign([40.0 * (name == head) for name in heads])
    hop.b.assign(-20.0)
    state = np.eye(1, E, dtype=np.float32)  # a key of 40 in its direction matches
    keys = np.zeros((1, memory_size, E), np.float32)
    keys[0, matches, 0] = 40
    place = np.eye(memory_size, dtype=np.float32)[[before]]
    return np.asarray(hop(state, keys, keys, place)[1][0])


@pytest.mark.parametrize(
    ("head", "matches", "before", "expected"),
    [
        ("newest", [2, 4, 7], 2, 2),  # the last match in the story
        ("elsewhere", [2, 4, 7], 5, 2),
        ("elsewhere", [2, 4, 7], 2, 4),  # the last match but where the hop before looked
        ("back", [2, 4, 7], 4, 7),  # the nearest older match, never where the hop before looked
        ("back", [0, 5, 6, 8], 3, 5),
        ("forth", [2, 4, 7], 4, 2),  # the nearest newer match
        ("forth", [0, 1, 8], 6, 1),
        ("back", [1, 3], 3, None),  # walks off the end
        ("forth", [3, 8], 3, None),
        ("elsewhere", [3], 3, None),
    ],
)
def test_heads_stop_at_the_nearest_match(head, matches, before, expected):
    attention = attention_of_head(head, matches, before)
    np.testing.assert_allclose(attention, np.eye(9)[expected] if expected is not None else np.zeros(9), atol=1e-4)


def test_a_first_hop_without_a_match_reads_like_the_softmax():
    np.testing.assert_allclose(attention_of_head("newest", [], 3), np.full(9, 1 / 9), atol=1e-4)


variants = pytest.mark.parametrize(
    "options",
    [
        {"attention": "walk", "tying": "adjacent", "gates": 2, "inner_hops": 2},
        {"attention": "walk", "reader": "simple_gru", "tying": "adjacent"},
        {"attention": "walk", "inner_hops": 1, "pairs": 2},
        {"tying": "adjacent", "inner_hops": 2},
        {"tying": "adjacent", "inner_hops": 1, "attention": "walk", "reader": "simple_gru", "pairs": 2},
    ],
    ids=["adjacent", "gru", "shared", "softmax", "pairs"],
)


@variants
@masked_or_not
def test_networks_that_walk_answer_alike_in_every_form_and_after_loading(options, mask_padding, tmp_path):
    vocabulary = [UNKNOWN, *(f"word{i}" for i in range(2, V))]
    network = make(**options, mask_padding=mask_padding, vocabulary=vocabulary)
    inputs = questions()
    logits, attention = answer(network, inputs)
    assert attention.shape == (8, H + options.get("inner_hops", 0), M)
    assert attention.min() >= 0 and attention.sum(axis=-1).max() < 1 + 1e-4
    short = compact(inputs)
    in_rows = short | rows_of(short["key_slots"])
    path = tmp_path / "model.keras"
    network.save(path)
    by_keras, by_ask = keras.saving.load_model(path), ask.load_network(path)
    for loaded, form in (by_keras, inputs), (by_ask, short), (by_ask, in_rows):
        for one, other in zip(answer(loaded, form), (logits, attention), strict=True):
            assert_same(one, other)
    if mask_padding:
        empty = ~inputs["memory_key"].any(axis=-1)
        assert not attention.swapaxes(1, 2)[empty].any()


@variants
def test_gradients_reach_every_weight_of_a_walk(options):
    network = make(**options, mask_padding=True)
    trainer = training.Trainer(network)
    loss, gradient = trainer.loss_and_gradient(questions(), np.arange(8, dtype=np.int32), np.ones(8, np.float32))
    assert np.isfinite(loss) and np.isfinite(gradient).all()
    for variable, part in zip(network.trainable_variables, trainer.parts(gradient), strict=True):
        only_linear = "attention" in options and variable.name in ("TK_1", "TK_2")  # walks know no times
        assert np.any(part) != only_linear, variable.path


def test_the_linear_start_skips_inner_hops():
    options = dict(tying="adjacent", gates=2, mask_padding=True, attention="walk", inner_hops=2)
    network, plain = make(**options), make(tying="adjacent", gates=2, mask_padding=True)
    walks_only = [v for hop in network.hop_layers for v in (hop.Z, hop.b, hop.C, hop.c)]
    walks_only += [v for hop in network.hop_layers[1:3] for v in hop.trainable_variables]
    shared = [v for v in network.trainable_variables if not any(v is other for other in walks_only)]
    for variable, value in zip(plain.trainable_variables, shared, strict=True):
        variable.assign(value)
    inputs = questions()
    assert_same(network(inputs, linear=True), plain(inputs, linear=True))
    assert np.abs(network(inputs) - plain(inputs)).max() > 1e-3


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_inner_hops_have_few_weights(attention):
    networks = [make(tying="adjacent", gates=2, attention=attention, inner_hops=count) for count in (0, 2)]
    gates, heads = 2 * E * E + 2 * E, (E * E + 1 + 3 * E + 3) * (attention == "walk")
    assert networks[1].count_params() - networks[0].count_params() == 2 * (gates + heads)


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("heads", [memn2n_kv.SOFTMAX, memn2n_kv.FIRST_WALK, memn2n_kv.WALK])
def test_the_state_decides_which_of_two_pairs_is_read(heads, linear):
    state, keys, times, before = hop_inputs()
    values = np.random.default_rng(1).normal(size=keys.shape).astype(np.float32)
    hop = memn2n_kv.KeyValueHop(E, projected=False, heads=heads, pairs=2)
    new_state, attention = hop(state, keys, values, before, times, times, linear=linear)
    for b in range(2):
        read = np.zeros(E)
        for m in range(M):
            second = sigmoid(keys[b, m] @ (state[b] @ hop.D) + hop.d)
            read += attention[b, m] * (values[b, m] + second * (values[b, m] @ hop.P) + times[m])
        np.testing.assert_allclose(new_state[b] - state[b], read, rtol=1e-3, atol=1e-4)


# --- two readers ----------------------------------------------------------------------------------------


@pytest.fixture
def pair():
    """Two networks side by side, and their settings."""
    sizes = dict(vocab_size=V, sentence_size=J, memory_size=M, embedding_size=E, hops=H)
    options = dict(tying="adjacent", gates=2, mask_padding=True, attention="walk", inner_hops=1)
    return TwoReaders(**sizes, **options, vocabulary=[UNKNOWN, *(f"word{i}" for i in range(2, V))])


def test_two_readers_give_their_mean_probabilities_and_mean_attention(pair):
    assert [network.config["reader"] for network in pair.networks] == ["bow", "simple_gru"]
    logits, attention = zip(*(answer(network, questions()) for network in pair.networks), strict=True)
    mean_logits, mean_attention = answer(pair, questions())
    assert_same(np.exp(mean_logits), np.mean([keras.ops.softmax(part) for part in logits], axis=0))
    assert_same(mean_attention, np.mean(attention, axis=0))
    assert_same(pair(questions(), training=True), logits)  # without dropout


def test_two_readers_learn_from_their_own_errors(pair):
    answers, weights = np.arange(8, dtype=np.int32), np.ones(8, np.float32)
    losses, gradients = zip(
        *(training.Trainer(network).loss_and_gradient(questions(), answers, weights) for network in pair.networks),
        strict=True,
    )
    loss, gradient = training.Trainer(pair).loss_and_gradient(questions(), answers, weights)
    assert_same(loss, sum(losses))
    assert_same(gradient, np.concatenate(gradients))


def test_two_readers_are_saved_and_loaded(pair, tmp_path):
    pair.save(tmp_path / "model.keras")
    for loaded in keras.saving.load_model(tmp_path / "model.keras"), ask.load_network(tmp_path / "model.keras"):
        for one, other in zip(answer(loaded, questions()), answer(pair, questions()), strict=True):
            assert_same(one, other)


# --- entities -------------------------------------------------------------------------------------------

NAMES = ["Kismet", "William Dieterle", "Laura", "Otto Preminger", "1944"]  # token ids 1 to 5
DIRECTED_BY, WRITTEN_BY, WHO = 6, 7, 8  # words


def make_film_network(**changes):
    """A network that answers with entities; its memory has keys (entity, relation) and values (entity)."""
    options = dict(vocab_size=4, sentence_size=2, memory_size=2, embedding_size=512, hops=1, tying="adjacent")
    options |= dict(encoding="none", mask_padding=True, slot_times=False, entities=NAMES, answer="read")
    return MemN2N_KV(**{**options, **changes})


def film_inputs():
    """`who directed Kismet` and `who directed Laura`, each with the facts about that film."""
    inputs = {
        "statements": [[0, 0], [1, DIRECTED_BY], [1, WRITTEN_BY], [3, DIRECTED_BY]],
        "key_slots": [[1, 2], [3, 0]],
        "value_statements": [[0, 0], [2, 0], [4, 0], [5, 0]],
        "value_slots": [[1, 3], [2, 0]],
        "query": [[1, WHO], [3, WHO]],
    }
    return {name: np.array(values, np.int32) for name, values in inputs.items()}


def test_vectors_of_names_are_fixed_and_nearly_orthogonal():
    vectors = memn2n_kv.name_vectors(NAMES, 512, 12.0)
    assert not vectors[0].any()  # nil
    vectors = vectors[1:]
    np.testing.assert_array_equal(vectors[::-1], memn2n_kv.name_vectors(NAMES[::-1], 512, 12.0)[1:])
    products = vectors @ vectors.T
    np.testing.assert_allclose(np.diag(products), 12, rtol=1e-5)
    assert np.abs(products - np.diag(np.diag(products))).max() < 12 * 5 / np.sqrt(512)


def test_value_of_the_matching_key_is_the_answer():
    network = make_film_network()
    directed = 3 * np.eye(1, 512)
    network.W[0].assign(np.concatenate([directed, -directed, directed]))
    logits, attention = network(film_inputs(), return_attention=True)
    assert logits.shape == (2, 1 + len(NAMES))
    assert np.argmax(logits, axis=1).tolist() == [2, 4]  # William Dieterle, Otto Preminger: never trained
    np.testing.assert_allclose(np.sum(attention, axis=-1), 1, rtol=1e-5)
    assert attention[1, 0, 1] == 0  # of the empty slot


def test_swapped_keys_and_values_give_other_answers():
    network, inputs = make_film_network(), film_inputs()
    pairs = {"statements": "value_statements", "key_slots": "value_slots"}
    swapped = inputs | {a: inputs[b] for a, b in pairs.items()} | {b: inputs[a] for a, b in pairs.items()}
    answers = np.argmax(network(inputs), axis=1)
    assert answers[1] == 4 and np.argmax(network(swapped), axis=1).tolist() == [1, 3]


def test_candidates_are_columns_of_all_logits():
    network, inputs = make_film_network(), film_inputs()
    candidates = np.array([4, 0, 2], np.int32)
    logits = network({**inputs, "candidates": candidates})
    np.testing.assert_allclose(logits, np.asarray(network(inputs))[:, candidates], rtol=1e-5, atol=1e-5)


def test_entities_are_neither_trained_nor_saved(tmp_path):
    network = make_film_network()
    assert [variable.shape for variable in network.variables] == [(3, 512), (3, 512)]
    network.save(tmp_path / "films.keras")
    again = keras.saving.load_model(tmp_path / "films.keras")
    assert again.config["entities"] == []
    again.set_entities(NAMES)
    np.testing.assert_allclose(again(film_inputs()), network(film_inputs()), rtol=1e-6)


def test_entities_may_be_added_after_training():
    """Names, not ids, fix the vectors."""
    network, inputs = make_film_network(), film_inputs()
    logits = np.asarray(network(inputs))
    network.set_entities(["A film that no training question asks for", *NAMES])
    tokens = {name: inputs[name] for name in ("statements", "value_statements", "query")}
    moved = {name: np.where(ids > 0, ids + 1, 0) for name, ids in tokens.items()}
    np.testing.assert_allclose(network({**inputs, **moved})[:, 2:], logits[:, 1:], rtol=1e-5, atol=1e-5)


def test_entities_need_the_bow_reader_with_adjacent_tying():
    with pytest.raises(ValueError, match="adjacent"):
        make_film_network(tying="shared")

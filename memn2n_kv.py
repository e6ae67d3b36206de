"""Key-Value Memory Network (Miller et al., 2016, arXiv:1606.03126) as a Keras 3 model.

Reads from leaf to root: position encoding, the two readers, one hop, the network. Letters in the comments
on shapes: B examples, M memory slots, U distinct statements, J words of a sentence, V words of the
vocabulary, E embedding size, F feature size, H hops.
"""

import keras
import numpy as np
from keras import ops

READERS = ("bow", "simple_gru")
EMPTY = -1e9  # the score of a slot that the softmax must not see


def position_encoding(sentence_size, embedding_size):
    """Weights that let a sum of word vectors keep the order of the words (MemN2N, section 4.1).

    `l[j, i] = 1 + 4 (i - E/2) (j - J/2) / (E J)` for i in 1..E and j in 1..J, J the padded sentence size.

    Returns:
        (sentence_size, embedding_size) float32 array.
    """
    i = np.arange(1, embedding_size + 1) - embedding_size / 2
    j = np.arange(1, sentence_size + 1) - sentence_size / 2
    return (1 + 4 * np.outer(j, i) / (embedding_size * sentence_size)).astype(np.float32)


class BowReader(keras.layers.Layer):
    """A sentence as the position-weighted sum of its word vectors: `sum_j l[j] * W[x_j]`."""

    def call(self, words, table):
        """Reads sentences.

        Args:
            words: (..., J) word ids, 0 = nil.
            table: (V, E) word vectors; row 0 is zero.

        Returns:
            (..., E)
        """
        weights = position_encoding(words.shape[-1], table.shape[-1])
        return ops.sum(ops.take(table, words, axis=0) * weights, axis=-2)


class GruReader(keras.layers.Layer):
    """A sentence as the state of a gated recurrent unit (Cho et al., 2014, arXiv:1406.1078) after its last word.

    For word vector x and state h, with * between vectors element by element:
    `r, z = sigmoid(W x + U h + b)`, `c = tanh(W' x + U' (r * h) + b')`, `h <- z * h + (1 - z) * c`.
    Nil words leave the state as it is. The gates' biases b start at 1.

    Args:
        units: F, the size of the state.
    """

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, words_shape, table_shape):
        F, E = self.units, table_shape[-1]
        self.gate_kernel = self.add_weight(name="gate_kernel", shape=(E, 2 * F))
        self.gate_recurrent = self.add_weight(name="gate_recurrent", shape=(F, 2 * F))
        self.gate_bias = self.add_weight(name="gate_bias", shape=(2 * F,), initializer="ones")
        self.candidate_kernel = self.add_weight(name="candidate_kernel", shape=(E, F))
        self.candidate_recurrent = self.add_weight(name="candidate_recurrent", shape=(F, F))
        self.candidate_bias = self.add_weight(name="candidate_bias", shape=(F,), initializer="zeros")

    def call(self, words, table):
        """Reads sentences.

        Args:
            words: (N, J) word ids, 0 = nil.
            table: (V, E) word vectors.

        Returns:
            (N, F)
        """
        # There are fewer words in the vocabulary than in a batch: multiply first, look up afterwards.
        gate_input = ops.take(table @ self.gate_kernel + self.gate_bias, words, axis=0)  # (N, J, 2F)
        candidate_input = ops.take(table @ self.candidate_kernel + self.candidate_bias, words, axis=0)
        is_word = ops.expand_dims(ops.not_equal(words, 0), -1)  # (N, J, 1)
        # The state before the first word is zero, which spares the first word its two products.
        keep = ops.sigmoid(gate_input[:, 0, self.units :])
        state = ops.where(is_word[:, 0], (1 - keep) * ops.tanh(candidate_input[:, 0]), 0.0)  # (N, F)
        for j in range(1, words.shape[1]):
            gates = ops.sigmoid(gate_input[:, j] + state @ self.gate_recurrent)
            reset, keep = ops.split(gates, 2, axis=-1)
            candidate = ops.tanh(candidate_input[:, j] + (reset * state) @ self.candidate_recurrent)
            state = ops.where(is_word[:, j], keep * state + (1 - keep) * candidate, state)
        return state


class KeyValueHop(keras.layers.Layer):
    """One hop: address the keys, read the values, update the state (KV-MemNN, section 3.1).

    Memory is what was told (`keys`, `values`) plus when it was told (`key_time`, `value_time`). The two
    parts are kept apart, because time is the same for every example of a batch.

    Args:
        feature_size: F.
    """

    def __init__(self, feature_size, **kwargs):
        super().__init__(**kwargs)
        self.feature_size = feature_size

    def build(self, *shapes):
        self.R = self.add_weight(name="R", shape=(self.feature_size, self.feature_size))

    def call(self, state, keys, values, key_time, value_time, occupied=None):
        """`p = softmax_m(k_m . u)`, `o = sum_m p_m v_m`, `u <- R (u + o)`.

        Args:
            state: u, (B, F).
            keys, values: (B, M, F).
            key_time, value_time: (M, F).
            occupied: (B, M) bool, which slots may be attended; None for all.

        Returns:
            The new state (B, F) and the attention p (B, M).
        """
        told = ops.squeeze(keys @ ops.expand_dims(state, -1), -1)  # (B, M)
        scores = told + state @ ops.transpose(key_time)
        if occupied is None:
            attention = ops.softmax(scores)
        else:  # where nothing was told, nothing is read
            attention = ops.softmax(ops.where(occupied, scores, EMPTY)) * ops.cast(occupied, scores.dtype)
        told = ops.squeeze(ops.expand_dims(attention, 1) @ values, 1)  # (B, F)
        read = told + attention @ value_time
        return (state + read) @ ops.transpose(self.R), attention


@keras.saving.register_keras_serializable(package="memn2n_kv")
class MemN2N_KV(keras.Model):
    """Key-Value Memory Network that answers with one word of its vocabulary.

    Args:
        vocab_size: V, nil included.
        sentence_size: J, words of a padded sentence.
        memory_size: M, slots of the memory.
        embedding_size: E.
        feature_size: F.
        hops: H.
        reader: "bow" or "simple_gru".
        keep_prob: in training, the share of the readers' output that dropout keeps; a statement that stands in
            several slots of a batch is read once, and so loses the same features in all of them.
        mask_padding: keep empty slots out of the softmax.
        vocabulary: list of the words with ids 1, 2, ...; not used here, but saved with the model.
    """

    def __init__(
        self,
        vocab_size,
        sentence_size,
        memory_size,
        embedding_size=30,
        feature_size=40,
        hops=3,
        reader="bow",
        keep_prob=1.0,
        mask_padding=False,
        vocabulary=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.config = dict(
            vocab_size=vocab_size,
            sentence_size=sentence_size,
            memory_size=memory_size,
            embedding_size=embedding_size,
            feature_size=feature_size,
            hops=hops,
            reader=reader,
            keep_prob=keep_prob,
            mask_padding=mask_padding,
            vocabulary=vocabulary,
        )
        if reader not in READERS:
            raise ValueError(f"reader is {reader!r}; expected one of {READERS}")
        self.mask_padding = mask_padding
        if reader == "bow":
            self.question_reader = self.statement_reader = BowReader(name="bow")
        else:
            self.question_reader = GruReader(feature_size, name="question_gru")
            self.statement_reader = GruReader(feature_size, name="statement_gru")
        self.dropout = keras.layers.Dropout(1 - keep_prob)
        self.hop_layers = [KeyValueHop(feature_size, name=f"hop_{h}") for h in range(hops)]
        self._build_weights()

    def _build_weights(self):
        c = self.config
        V, E, F, M = c["vocab_size"], c["embedding_size"], c["feature_size"], c["memory_size"]
        reading_size = E if c["reader"] == "bow" else F
        self.W = self.add_weight(name="W", shape=(V - 1, E))  # words of questions; nil has no row
        self.W_memory = self.add_weight(name="W_memory", shape=(V - 1, E))  # words of statements and answers
        self.A = self.add_weight(name="A", shape=(F, reading_size))  # from what a reader gives to features
        self.TK = self.add_weight(name="TK", shape=(M, reading_size))  # slot times, for keys
        self.TV = self.add_weight(name="TV", shape=(M, reading_size))  # and for values
        self.B = self.add_weight(name="B", shape=(F, E))  # from features to answers
        if c["reader"] == "simple_gru":
            self.question_reader.build((None, None), (V, E))
            self.statement_reader.build((None, None), (V, E))
        for hop in self.hop_layers:
            hop.build()
        self.built = True

    def get_config(self):
        return {**super().get_config(), **self.config}

    def call(self, inputs, training=False, return_attention=False):
        """Answers questions.

        Args:
            inputs: a dict of word ids in one of two forms. Padded: `memory_key` (B, M, J), `query` (B, J)
                and, where values are not the keys, `memory_value` (B, M, J). Compact, where each distinct
                statement is read once: `statements` (U, J), `key_slots` (B, M) with the row of each slot's
                key, row 0 being the empty statement, `query` (B, J) and, where values are not the keys,
                `value_slots` (B, M).
            training: apply dropout.
            return_attention: also return where each hop looked.

        Returns:
            Logits (B, V), and with `return_attention` the attention (B, H, M) too.
        """
        statements, key_slots, value_slots, occupied = self._slots(inputs)
        table, memory_table = _with_nil(self.W), _with_nil(self.W_memory)
        to_features = ops.transpose(self.A)

        state = self.dropout(self.question_reader(inputs["query"], table), training=training) @ to_features
        read = self.dropout(self.statement_reader(statements, memory_table), training=training) @ to_features
        keys = ops.take(read, key_slots, axis=0)  # (B, M, F)
        values = keys if value_slots is None else ops.take(read, value_slots, axis=0)
        key_time, value_time = self.TK @ to_features, self.TV @ to_features  # (M, F)

        attentions = []
        for hop in self.hop_layers:
            state, attention = hop(
                state, keys, values, key_time, value_time, occupied if self.mask_padding else None
            )
            attentions.append(attention)
        logits = (state @ self.B) @ ops.transpose(memory_table)
        return (logits, ops.stack(attentions, axis=1)) if return_attention else logits

    def _slots(self, inputs):
        """Statements (U, J), slot rows for keys and, where they differ, values (B, M), and occupancy (B, M)."""
        if "statements" in inputs:
            key_slots = inputs["key_slots"]
            return inputs["statements"], key_slots, inputs.get("value_slots"), ops.not_equal(key_slots, 0)
        keys, values = inputs["memory_key"], inputs.get("memory_value")
        shape, sentence_size = ops.shape(keys)[:2], keys.shape[-1]
        occupied = ops.any(ops.not_equal(keys, 0), axis=-1)
        key_slots = ops.reshape(ops.arange(shape[0] * shape[1]), shape)
        statements = ops.reshape(keys, (-1, sentence_size))
        if values is None:
            return statements, key_slots, None, occupied
        statements = ops.concatenate([statements, ops.reshape(values, (-1, sentence_size))], axis=0)
        return statements, key_slots, key_slots + shape[0] * shape[1], occupied


def _with_nil(weights):
    """Word vectors (V, E) with a zero vector for nil, which is not a variable and so is never trained."""
    return ops.concatenate([ops.zeros((1, weights.shape[-1])), weights], axis=0)

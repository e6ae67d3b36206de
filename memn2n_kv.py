"""Key-Value Memory Network (Miller et al., 2016): position encoding, readers, attention over slots, hops, answer.

The paper is arXiv:1606.03126. The file reads from leaf to root: position encoding, the two readers, the walk, one hop,
the network. Letters in comments on shapes: B examples, M memory slots, N rows of L slots, U distinct statements, J
words of a sentence, V words of the vocabulary, E embedding size, F feature size, H hops, I inner hops.
"""

import hashlib
import itertools

import keras
import numpy as np
from keras import ops

CHOICES = {
    "reader": ("bow", "simple_gru"),  # `TwoReaders` has both
    "tying": ("shared", "adjacent"),
    "gates": (0, 1, 2),
    "encoding": ("padded", "length", "none"),
    "linear_attention": ("sum", "mean", "capped"),
    "attention": ("softmax", "walk"),
    "pairs": (1, 2),
    "answer": ("state", "read"),
}
MASKED_SCORE = -1e9  # score of masked slots, whose softmax is 0
SOFTMAX, FIRST_WALK, WALK = ("softmax",), ("softmax", "newest"), ("elsewhere", "back", "forth")  # heads of a hop


def normal():
    """The initializer of MemN2N, section 4.2: N(0, 0.1). One per weight: one object gives all the same numbers."""
    return keras.initializers.RandomNormal(stddev=0.1)


def constant(values):
    """The initializer that returns these values."""
    return lambda shape, dtype=None: ops.reshape(ops.convert_to_tensor(values, dtype), shape)


def position_encoding(sentence_size, embedding_size):
    """Weights that keep the order of words in a sum of word vectors (MemN2N, section 4.1).

    `l[j, i] = 1 + 4 (i - E/2) (j - J/2) / (E J)` for i in 1..E and j in 1..J, J the padded sentence size.

    Returns:
        (sentence_size, embedding_size) float32 array.
    """
    i = np.arange(1, embedding_size + 1) - embedding_size / 2
    j = np.arange(1, sentence_size + 1) - sentence_size / 2
    return (1 + 4 * np.outer(j, i) / (embedding_size * sentence_size)).astype(np.float32)


def length_encoding(words, embedding_size, places=None, tables=1):
    """Position encoding over the true length n of each sentence instead of the padded size.

    `l[j, i] = 1 + 4 (i/E - 1/2) (j/n - 1/2)` for i in 1..E and j in 1..n. The last word of a question has the same
    weights however long the question is. Nil words before the last word, which word dropout makes, do not change the
    weights of the others.

    Args:
        words: (..., J) word ids, 0 = nil.
        places: see `BowReader.call`.
        tables: T, how often the weights are repeated.

    Returns:
        (..., J, T E), or (P, T E) with `places`.
    """
    i = np.tile(np.arange(1, embedding_size + 1, dtype=np.float32) / embedding_size - 0.5, tables)
    j = np.arange(1, words.shape[-1] + 1, dtype=np.float32)
    length = ops.max(ops.where(ops.not_equal(words, 0), j, 0.0), axis=-1, keepdims=True)  # n
    relative = j / ops.maximum(length, 1.0) - 0.5  # (..., J)
    relative = relative if places is None else ops.take(ops.reshape(relative, (-1,)), places)
    return 1 + 4 * ops.expand_dims(relative, -1) * i


def name_vectors(names, size, squared_norm):
    """A random vector for each name, fixed by the name alone: its signs are bits of the name's hash (SHAKE-256).

    The cosine of the vectors of two names has mean 0 and standard deviation 1 / sqrt(size).

    Args:
        names: list of N str.
        size: E.
        squared_norm: of each vector.

    Returns:
        (1 + N, E) float32 array; row 0, for nil, is zero.
    """
    vectors = np.zeros((1 + len(names), size), np.float32)
    length = np.float32(np.sqrt(squared_norm / size))
    for vector, name in zip(vectors[1:], names, strict=True):
        digest = hashlib.shake_256(name.encode()).digest(-(-size // 8))
        bits = np.unpackbits(np.frombuffer(digest, np.uint8), count=size)
        vector[:] = np.where(bits, length, -length)
    return vectors


class BowReader(keras.layers.Layer):
    """A sentence as the position-weighted sum of its word vectors: `sum_j l[j] * W[x_j]`.

    Args:
        encoding: "padded" for `position_encoding`, "length" for `length_encoding`, "none" for weights of 1.
    """

    def __init__(self, encoding="padded", **kwargs):
        super().__init__(**kwargs)
        self.encoding = encoding

    def call(self, words, *tables, places=None):
        """Reads sentences.

        Args:
            words: (..., J) word ids, 0 = nil.
            *tables: T tables of (V, E) word vectors; row 0 is zero.
            places: (P,) the places u J + j of those words of (U, J) sentences that are not nil, perhaps followed by
                places of nil words. Only these words are looked up. None for all.

        Returns:
            (..., T E), the readings of all tables side by side.
        """
        size, count, J = tables[0].shape[-1], len(tables), words.shape[-1]
        looked_up = words if places is None else ops.take(ops.reshape(words, (-1,)), places)
        vectors = ops.take(_dense(ops.concatenate(tables, axis=1)), looked_up, axis=0)  # (..., J or P, T E)
        if self.encoding == "length":
            vectors = vectors * length_encoding(words, size, places, count)
        elif self.encoding == "padded":
            weights = np.tile(position_encoding(J, size), count)  # (J, T E)
            vectors = vectors * (weights if places is None else ops.take(weights, places % J, axis=0))
        if places is None:
            return ops.sum(vectors, axis=-2)
        return ops.segment_sum(vectors, places // J, num_segments=ops.shape(words)[0])


class GruReader(keras.layers.Layer):
    """A sentence as the state of a gated recurrent unit (Cho et al., 2014, arXiv:1406.1078) after its last word.

    For word vector x and state h, with * the element-wise product:
    `r, z = sigmoid(W x + U h + b)`, `c = tanh(W' x + U' (r * h) + b')`, `h <- z * h + (1 - z) * c`.
    Nil words leave the state as it is. The gates' biases b start at 1.

    Args:
        units: F, the size of the state.
        recurrent_initializer: of U and U'.
    """

    def __init__(self, units, recurrent_initializer="glorot_uniform", **kwargs):
        super().__init__(**kwargs)
        self.units, self.recurrent_initializer = units, recurrent_initializer

    def build(self, words_shape, table_shape):
        F, E = self.units, table_shape[-1]
        self.gate_kernel = self.add_weight(name="gate_kernel", shape=(E, 2 * F))
        recurrent = {"initializer": self.recurrent_initializer}
        self.gate_recurrent = self.add_weight(name="gate_recurrent", shape=(F, 2 * F), **recurrent)
        self.gate_bias = self.add_weight(name="gate_bias", shape=(2 * F,), initializer="ones")
        self.candidate_kernel = self.add_weight(name="candidate_kernel", shape=(E, F))
        self.candidate_recurrent = self.add_weight(name="candidate_recurrent", shape=(F, F), **recurrent)
        self.candidate_bias = self.add_weight(name="candidate_bias", shape=(F,), initializer="zeros")

    def call(self, words, table):
        """Reads sentences.

        Args:
            words: (N, J) word ids, 0 = nil.
            table: (V, E) word vectors.

        Returns:
            The readings (N, F).
        """
        inputs = ops.take(self._inputs(table), words, axis=0)  # (N, J, 3F)
        is_word = ops.expand_dims(ops.not_equal(words, 0), -1)  # (N, J, 1)
        state = ops.where(is_word[:, 0], self._step(inputs[:, 0]), 0.0)  # (N, F)
        for j in range(1, words.shape[1]):
            state = ops.where(is_word[:, j], self._step(inputs[:, j], state), state)
        return state

    def read_prefixes(self, words, parents, ends, table):
        """Reads each distinct beginning (prefix) of the sentences once, as one step.

        Args:
            words: a tuple of J, for each length from 1 to J the last word (P_j,) of each distinct prefix.
            parents: a tuple of J, the place (P_j,) of each of these prefixes, without its last word, among those that
                are one word shorter; the first is not used.
            ends: (N,) the place of each sentence among the prefixes of all lengths, after 0 for the empty sentence.
            table: (V, E) word vectors.

        Returns:
            As `call`.
        """
        inputs = ops.take(self._inputs(table), ops.concatenate(words), axis=0)  # (P, 3F)
        weights = ops.convert_to_tensor(self.gate_recurrent), ops.convert_to_tensor(self.candidate_recurrent)
        states = recurrence(parents)(inputs, *weights)
        return ops.take(_dense(ops.concatenate([ops.zeros((1, self.units)), states])), ends, axis=0)

    def _inputs(self, table):
        """What each word of a table adds to the gates and to the candidate, (V, 3F).

        The vocabulary has fewer words than a batch: multiply first, look up afterwards.
        """
        kernel = ops.concatenate([self.gate_kernel, self.candidate_kernel], axis=1)
        return table @ kernel + ops.concatenate([self.gate_bias, self.candidate_bias])

    def _step(self, inputs, state=None):
        """The next state (N, F), from the `_inputs` (N, 3F) of a word and the state (N, F), None before the first."""
        return gru_step(inputs, state, self.gate_recurrent, self.candidate_recurrent)[0]


def gru_step(inputs, state, gate_recurrent, candidate_recurrent):
    """The next state (N, F) of a GRU, and the gates r and z and the candidate c that led to it; see `GruReader`."""
    F = inputs.shape[-1] // 3
    if state is None:  # zero: no recurrent products
        keep, candidate = ops.sigmoid(inputs[:, F : 2 * F]), ops.tanh(inputs[:, 2 * F :])
        return (1 - keep) * candidate, None, keep, candidate
    gates = ops.sigmoid(inputs[:, : 2 * F] + state @ gate_recurrent)
    reset, keep = ops.split(gates, 2, axis=-1)
    candidate = ops.tanh(inputs[:, 2 * F :] + (reset * state) @ candidate_recurrent)
    return keep * state + (1 - keep) * candidate, reset, keep, candidate


def recurrence(parents):
    """The states of a GRU after each prefix, with the gradient written out.

    The automatic gradient takes twice as long: for each weight it sums a product per length, where one product over
    all lengths will do, and it pads the gradient of each length to the size of `inputs`.

    Args:
        parents: see `GruReader.read_prefixes`.

    Returns:
        A function from `inputs` (P, 3F), in the order of lengths, and U and U' to the states (P, F).
    """

    @ops.custom_gradient
    def states_of(inputs, gate_recurrent, candidate_recurrent):
        sizes = [ops.shape(places)[0] for places in parents]
        ends = list(itertools.accumulate(sizes))
        slices = [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]  # of each length
        before, steps = [None], []  # for each length the states before, and what `gru_step` returns
        for part, places in zip(slices, [*parents[1:], None], strict=True):
            steps.append(gru_step(inputs[part], before[-1], gate_recurrent, candidate_recurrent))
            if places is not None:
                before.append(ops.take(steps[-1][0], places, axis=0))

        def gradient(upstream):
            d_inputs, d_state = [], 0.0  # by length, and d_state from prefixes that are one word longer
            for j in reversed(range(len(slices))):
                state, (_, reset, keep, candidate) = before[j], steps[j]
                d_state = d_state + upstream[slices[j]]
                d_candidate = d_state * (1 - keep) * (1 - ops.square(candidate))
                if j == 0:
                    d_keep = -d_state * candidate * keep * (1 - keep)
                    d_inputs.append(ops.concatenate([ops.zeros_like(d_keep), d_keep, d_candidate], axis=1))
                    break
                d_keep = d_state * (state - candidate) * keep * (1 - keep)
                d_product = d_candidate @ ops.transpose(candidate_recurrent)  # of r * h
                d_gates = ops.concatenate([d_product * state * reset * (1 - reset), d_keep], axis=1)
                d_inputs.append(ops.concatenate([d_gates, d_candidate], axis=1))
                d_state = d_state * keep + d_product * reset + d_gates @ ops.transpose(gate_recurrent)
                d_state = ops.segment_sum(d_state, parents[j], num_segments=sizes[j - 1])
            d_inputs = ops.concatenate(d_inputs[::-1])
            states = ops.transpose(ops.concatenate(before[1:]))  # (F, P without the first length)
            resets = [reset for _, reset, *_ in steps[1:]]
            products = ops.transpose(ops.concatenate(resets)) * states
            F, later = states.shape[0], d_inputs[sizes[0] :]
            return d_inputs, states @ later[:, : 2 * F], products @ later[:, 2 * F :]

        return ops.concatenate([step[0] for step in steps]), gradient

    return states_of


class MemoryRows:
    """The slots of a batch in rows of L, so that rows without a statement can be left out.

    Row b C + c has the slots c L to c L + L - 1 of memory b, C = M / L rounded up. Most memories are nearly empty, and
    what a hop computes for empty slots is known without computing it. Rows keep shapes fixed, as XLA needs, while
    stories differ in length.

    Args:
        numbers: (N,) numbers of the rows in ascending order; the last may be repeated, as empty rows. None if each
            memory is one row.
        batch_size: B.
        memory_size: M.
        row_size: L.
    """

    def __init__(self, numbers, batch_size, memory_size, row_size):
        self.numbers, self.batch_size, self.memory_size, self.row_size = numbers, batch_size, memory_size, row_size
        self.rows_of_memory = -(-memory_size // row_size)  # C
        self.memory = None if numbers is None else numbers // self.rows_of_memory  # b of each row

    def all(self):
        """The same memories with one row each."""
        return MemoryRows(None, self.batch_size, self.memory_size, self.memory_size)

    def spread(self, x):
        """Repeats the values of each memory for each of its rows: (B, ...) -> (N, ...)."""
        return x if self.numbers is None else ops.take(x, self.memory, axis=0)

    def sum(self, x):
        """The sum over the rows of each memory: (N, ...) -> (B, ...)."""
        return x if self.numbers is None else ops.segment_sum(x, self.memory, num_segments=self.batch_size)

    def select(self, x):
        """The slots in these rows: (B, M) -> (N, L)."""
        if self.numbers is None:
            return x
        x = ops.pad(x, [[0, 0], [0, -self.memory_size % self.row_size]])
        return ops.take(ops.reshape(x, (-1, self.row_size)), self.numbers, axis=0)

    def scatter(self, x):
        """The slots of whole memories, 0 where rows are left out: (N, L) -> (B, M)."""
        if self.numbers is None:
            return x
        x = ops.segment_sum(x, self.numbers, num_segments=self.batch_size * self.rows_of_memory)
        return ops.reshape(x, (self.batch_size, -1))[:, : self.memory_size]

    def softmax(self, scores):
        """The softmax (N, L) of scores (N, L) over the slots of each memory."""
        if self.numbers is None:
            return ops.softmax(scores)
        top = ops.segment_max(ops.max(scores, axis=1), self.memory, num_segments=self.batch_size)
        raised = ops.exp(scores - ops.expand_dims(self.spread(ops.stop_gradient(top)), 1))
        return raised / ops.expand_dims(self.spread(self.sum(ops.sum(raised, axis=1))), 1)

    def first_slots(self):
        """(N, L), 1 at the first slot of each memory."""
        if self.numbers is None:
            first = ops.ones((self.batch_size, 1))
        else:
            before = ops.pad(self.memory[:-1], [[1, 0]], constant_values=-1)
            first = ops.expand_dims(ops.cast(ops.not_equal(self.memory, before), "float32"), 1)
        return ops.pad(first, [[0, 0], [0, self.row_size - 1]])


def shifted(x, slots=1):
    """x (..., S) shifted along its last axis, to lower indices if `slots` < 0, and filled up with zeros."""
    width = [[0, 0]] * (len(x.shape) - 1)
    if slots < 0:
        return ops.pad(x, [*width, [0, -slots]])[..., -slots:]
    return ops.pad(x, [*width, [slots, 0]])[..., :-slots]


def walk(match, start, first=0.0, longest=None):
    """Where walkers stop that go from slot to slot until one matches or the memory ends.

    With z the match and q the start, the mass that reaches slot m is `mass_m = (1 - z_{m-1}) mass_{m-1} + q_m`, and
    `p_m = z_m mass_m` of it stops there. The recurrence is solved by doubling (Hillis & Steele, 1986): after round r,
    the mass at each slot includes what comes from the 2^r - 1 slots before it. The gradient is the same recurrence in
    the opposite direction; derived automatically, it takes three times as many operations.

    Args:
        match: (..., S), the probability in 0..1 of stopping at each slot.
        start: (..., S), the mass that begins at each slot.
        first: (..., S), 1 at the first slot of each memory, which nothing reaches from the slot before.
        longest: slots of the longest memory; None for S.

    Returns:
        The mass that stops at each slot, (..., S); the rest of what begins walks off the end.
    """

    @ops.custom_gradient
    def stops(match, start):
        mass, passing, rounds, distance = start, shifted(1 - match) * (1 - first), [], 1
        while distance < (longest or match.shape[-1]):
            mass = mass + passing * shifted(mass, distance)
            rounds.append((distance, passing))
            passing = passing * shifted(passing, distance)
            distance *= 2

        def gradient(upstream):
            d_mass = upstream * match
            for distance, passing in rounds:
                d_mass = d_mass + shifted(passing * d_mass, -distance)
            return mass * (upstream - shifted((1 - first) * d_mass, -1)), d_mass

        return match * mass, gradient

    return stops(match, start)


class KeyValueHop(keras.layers.Layer):
    """One hop: address the keys, read the values, update the state (KV-MemNN, section 3.1).

    A key or value is the reading of a statement (`keys`, `values`) plus the time of its slot (`key_time`,
    `value_time`). The two parts stay apart because times are the same for every example of a batch, and because the
    readings of empty slots are zero, so only rows with statements are addressed and read by content.

    With p the attention, o the vector read, u the state and * the element-wise product, the new state is u' or, if
    `projected`, R u':

    - no gates: `u' = u + o`;
    - one gate (Gated MemN2N, Liu & Perez, 2016, arXiv:1610.04211):
      `g = sigmoid(G u + b)`, `u' = g * o + (1 - g) * u`;
    - two gates: `g, f = sigmoid(G u + b)`, `u' = g * o + f * u`. Their biases start at 1, which is near the plain
      sum: the hop learns what to forget.

    The attention is that of one head, or mixes several: `p = sum_i softmax(C u + c)_i p_i`. The head "softmax" is the
    softmax of the scores. The others walk over the slots (see `walk`) and stop at the first that matches,
    `z_m = sigmoid(k_m . Z u + b)` without times, which works at any distance, as in QRN (Seo et al., 2017,
    arXiv:1606.04582) and stick-breaking attention. They differ in where they start:

    - "newest": at slot 0, the newest, which finds the last match in the story; without a match, it is the softmax;
    - "elsewhere": at slot 0 too, but not stopping where the previous hop looked. The values of a hop are the keys of
      the next, so a statement that was just read matches itself best, and hops would stay on it;
    - "back": behind where the previous hop looked, towards older slots, which finds the nearest match before it;
    - "forth": in front of where the previous hop looked, towards newer slots, which finds the nearest match after it.

    With 2 `pairs`, each statement becomes two key-value pairs, as KV-MemNN (section 3.2) stores each fact twice, once
    per entity: "the kitchen is north of the hallway" means "go south" to a path that starts in the kitchen, and "go
    north" to one that ends there. With `s_m = sigmoid(k_m . D u + d)`, without times, the state chooses between the
    value v_m of the first pair and (1 + P) v_m of the second: `o = sum_m p_m (v_m + s_m P v_m)`.

    Args:
        feature_size: F.
        gates: 0, 1 or 2.
        projected: multiply the new state by R, as KV-MemNN does.
        linear_attention: the attention of the linear start: "sum" for the scores s (MemN2N), "mean" for s / n with n
            the number of slots that may be attended, so that the norm of what is read does not grow with the story,
            "capped" for s / max(1, n / 10), the sum in stories of up to ten slots and ten times the mean beyond.
        heads: `SOFTMAX`, `FIRST_WALK` or `WALK`.
        pairs: key-value pairs of each statement, 1 or 2.
        entity_scale: if not None, the state is updated with `c o / |o|^2` instead of o, where c is the squared norm of
            values. If k nearly orthogonal values are read as their mean, the next hop then scores each of them with
            c, as if it alone had been read, and not with c / k.
        keeps_state: False for a last hop whose new state is o alone, from which the network answers.
    """

    def __init__(
        self,
        feature_size,
        gates=0,
        projected=True,
        linear_attention="sum",
        heads=SOFTMAX,
        pairs=1,
        entity_scale=None,
        keeps_state=True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.feature_size, self.gates, self.projected = feature_size, gates, projected
        self.linear_attention, self.heads, self.pairs = linear_attention, heads, pairs
        self.entity_scale, self.keeps_state = entity_scale, keeps_state

    def build(self, *shapes):
        F = self.feature_size
        if self.projected:
            self.R = self.add_weight(name="R", shape=(F, F))
        if self.gates:
            self.G = self.add_weight(name="G", shape=(F, self.gates * F), initializer=normal())
            bias = "ones" if self.gates == 2 else "zeros"
            self.gate_bias = self.add_weight(name="gate_bias", shape=(self.gates * F,), initializer=bias)
        if len(self.heads) > 1:
            self.Z = self.add_weight(name="Z", shape=(F, F), initializer="identity")
            self.b = self.add_weight(name="b", shape=(), initializer=constant(-2.0))
            self.C = self.add_weight(name="C", shape=(F, len(self.heads)), initializer=normal())
            self.c = self.add_weight(name="c", shape=(len(self.heads),), initializer="zeros")
        if self.pairs == 2:
            self.D = self.add_weight(name="D", shape=(F, F), initializer=normal())
            self.d = self.add_weight(name="d", shape=(), initializer="zeros")
            self.P = self.add_weight(name="P", shape=(F, F), initializer=normal())

    def call(self, state, keys, values, before, key_time=None, value_time=None, occupied=None, rows=None, linear=False):
        """`p_m` from the scores `k_m . u`, `o = sum_m p_m v_m` (with one pair), `u <- update(u, o)`.

        Args:
            state: u, (B, F).
            keys, values: (N, L, F), readings of statements.
            before: the attention of the previous hop; zeros for the first.
            key_time, value_time: (M, F); None for an inner hop, which has no times.
            occupied: (N, L) bool, which slots may be attended; None for all slots of the memories.
            rows: `MemoryRows`, where these statements are; None if each memory is one row.
            linear: the share of `linear_attention` in the attention: False for none, True for all, or a scalar tensor
                in 0..1. Inner hops have no linear attention.

        Returns:
            The new state (B, F) and the attention, without its linear part unless `linear` is True: (N, L) with
            `occupied`, (B, M) without.
        """
        rows = rows or MemoryRows(None, ops.shape(state)[0], keys.shape[1], keys.shape[1])
        attended = rows.all() if occupied is None else rows

        def row_scores(state):
            return ops.squeeze(keys @ ops.expand_dims(rows.spread(state), -1), -1)  # (N, L)

        def content_scores(state):
            return rows.scatter(row_scores(state)) if occupied is None else row_scores(state)

        def visible(attention):  # nothing is read from an empty memory
            return attention if occupied is None else attention * ops.cast(occupied, attention.dtype)

        if linear is True or "softmax" in self.heads or (linear is not False and key_time is not None):
            scores = content_scores(state)
            if key_time is not None:
                scores = scores + attended.select(state @ ops.transpose(key_time))
        if linear is not False and key_time is not None:
            linear_attention = visible(self.without_softmax(scores, occupied, attended))
        if linear is True:
            attention = read_attention = linear_attention
        else:
            softmax = match = None
            if "softmax" in self.heads:
                scores = scores if occupied is None else ops.where(occupied, scores, MASKED_SCORE)
                attention = softmax = visible(attended.softmax(scores))
            if self.heads != SOFTMAX:
                match = visible(ops.sigmoid(content_scores(state @ self.Z) + self.b))
                attention = self.mix(state, softmax, match, before, attended)
            read_attention = attention if linear is False else (1 - linear) * attention
            if linear is not False and key_time is not None:
                read_attention += linear * linear_attention
        content_attention = rows.select(read_attention) if occupied is None else read_attention
        attentions = [content_attention]
        if self.pairs == 2:
            attentions.append(content_attention * ops.sigmoid(row_scores(state @ self.D) + self.d))
        read = rows.sum(ops.stack(attentions, axis=1) @ values)  # (B, 1 or 2, F)
        output = read[:, 0] if self.pairs == 1 else read[:, 0] + read[:, 1] @ self.P
        if value_time is not None:
            output = output + attended.scatter(read_attention) @ value_time
        state = self.update(state, output)
        return (state @ ops.transpose(self.R) if self.projected else state), attention

    def mix(self, state, softmax, match, before, rows):
        """The attention (N, L) of all heads together.

        Args:
            state: u, (B, F).
            softmax: (N, L), the attention of the head "softmax", if there is one.
            match: z, (N, L).
            before: (N, L), the attention of the previous hop.
            rows: the `MemoryRows` of these slots.
        """
        shape = ops.shape(match)
        first, match, before = (ops.reshape(x, (-1,)) for x in (rows.first_slots(), match, before))  # (S,)
        if "softmax" in self.heads:
            found = ops.reshape(walk(match, first, first, rows.memory_size), shape)
            rest = 1 - ops.expand_dims(rows.spread(rows.sum(ops.sum(found, axis=1))), 1)  # what finds no match
            attentions = [softmax, found + rest * softmax]  # reads what the softmax reads, so that the hop can learn
        else:  # forth is back on reversed slots
            mirrored_first = shifted(ops.flip(first))
            firsts = ops.stack([first, first, mirrored_first])
            matches = ops.stack([match * (1 - before), match, ops.flip(match)])  # (3, S)
            starts = ops.stack([first, shifted(before) * (1 - first), shifted(ops.flip(before)) * (1 - mirrored_first)])
            elsewhere, back, forth = ops.unstack(walk(matches, starts, firsts, rows.memory_size))
            attentions = [elsewhere, back, ops.flip(forth)]
        shares = rows.spread(ops.softmax(state @ self.C + self.c))  # (N, heads)
        return sum(shares[:, i : i + 1] * ops.reshape(attention, shape) for i, attention in enumerate(attentions))

    def without_softmax(self, scores, occupied, rows):
        """The attention p (N, L) of the linear start, from scores (N, L) and `occupied` (N, L) or None."""
        if self.linear_attention == "sum":
            return scores
        slots = ops.ones_like(scores) if occupied is None else ops.cast(occupied, scores.dtype)
        count = ops.expand_dims(rows.spread(rows.sum(ops.sum(slots, axis=1))), 1)  # of each row's memory
        return scores / ops.maximum(count / 10 if self.linear_attention == "capped" else count, 1)

    def update(self, state, read):
        """The state u' (B, F) after reading o (B, F) in state u (B, F)."""
        if not self.keeps_state:
            return read
        if self.entity_scale is not None:
            squared_norm = ops.sum(ops.square(read), axis=-1, keepdims=True)
            read = read * (self.entity_scale / ops.maximum(squared_norm, 1e-3))
        if self.gates == 0:
            return state + read
        gate = ops.sigmoid(state @ self.G + self.gate_bias)
        if self.gates == 1:
            return gate * read + (1 - gate) * state
        take, keep = ops.split(gate, 2, axis=-1)
        return take * read + keep * state


@keras.saving.register_keras_serializable(package="memn2n_kv")
class MemN2N_KV(keras.Model):
    """Key-Value Memory Network that answers with one word of its vocabulary.

    Args:
        vocab_size: V, words and nil, without entities.
        sentence_size: J, words of a padded sentence.
        memory_size: M, slots of the memory.
        embedding_size: E.
        feature_size: F; ignored with the bow reader and adjacent tying, where F = E.
        hops: H.
        reader: "bow" or "simple_gru".
        tying: what hops share. "shared": one reading of the memory serves all hops as keys and values, and a matrix
            R_h per hop transforms the state (KV-MemNN). "adjacent": the values of a hop are the keys of the next, a
            question is read like the keys of the first hop, and with the bow reader the last values are the answers
            (MemN2N, section 2.2).
        gates: gates of each hop's update, 0, 1 or 2; see `KeyValueHop`.
        encoding: position encoding of the bow reader; see `BowReader`.
        keep_prob: share of the readers' output that dropout keeps in training. A statement that stands in several
            slots of a batch is read once and loses the same features in all of them.
        mask_padding: keep empty slots out of the softmax.
        linear_attention: "sum", "mean" or "capped", the attention of the linear start; see `KeyValueHop`.
        attention: "softmax", or "walk": the first hop mixes the softmax with a walk from the newest slot, the others
            mix walks elsewhere, from the newest slot, and back and forth, from where the previous hop looked; see
            `KeyValueHop`.
        pairs: key-value pairs of each statement, 1 or 2; see `KeyValueHop`.
        inner_hops: I, hops between the first and the second. Their keys and values are the values of the first hop,
            they have no times, and the linear start skips them.
        slot_times: whether slots have time vectors; without them, slots have no order.
        entities: None, or a list of N names with token ids 1 to N; the ids of words then follow, and the answers are
            entities. An entity's vector is fixed by its name (`name_vectors`), the same for all hops, and not trained,
            so what training learns holds for entities that it never saw. Needs the bow reader and adjacent tying.
        entity_scale: squared norm of the vectors of entities.
        answer: what the answer is taken from: "state", the state after the last hop, or "read", what the last hop read.
        vocabulary: list of the words with ids 1, 2, ..., or N + 1, N + 2, ...; saved with the model, not used here.
        tasks: list of the task numbers in training; saved with the model, not used here.
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
        tying="shared",
        gates=0,
        encoding="padded",
        keep_prob=1.0,
        mask_padding=False,
        linear_attention="sum",
        attention="softmax",
        pairs=1,
        inner_hops=0,
        slot_times=True,
        entities=None,
        entity_scale=12.0,
        answer="state",
        vocabulary=None,
        tasks=None,
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
            tying=tying,
            gates=gates,
            encoding=encoding,
            keep_prob=keep_prob,
            mask_padding=mask_padding,
            linear_attention=linear_attention,
            attention=attention,
            pairs=pairs,
            inner_hops=inner_hops,
            slot_times=slot_times,
            entities=entities,
            entity_scale=entity_scale,
            answer=answer,
            vocabulary=vocabulary,
            tasks=tasks,
        )
        for name, choices in CHOICES.items():
            if self.config[name] not in choices:
                raise ValueError(f"{name} is {self.config[name]!r}; expected one of {choices}")
        if entities is not None and not (reader == "bow" and tying == "adjacent"):
            raise ValueError("entities need the bow reader and adjacent tying, where readings are sums of vectors")
        self.bow, self.shared, self.mask_padding = reader == "bow", tying == "shared", mask_padding
        if self.bow:
            self.question_reader = self.statement_reader = BowReader(encoding, name="bow")
        elif self.shared:
            self.question_reader = GruReader(feature_size, name="question_gru")
            self.statement_reader = GruReader(feature_size, name="statement_gru")
        else:
            self.question_reader = self.statement_reader = GruReader(feature_size, "orthogonal", name="gru")
        self.dropout = keras.layers.Dropout(1 - keep_prob)
        self.state_size = embedding_size if self.bow and not self.shared else feature_size
        # For each hop, which of the readings are its keys and its values, and which times it has.
        self.plan = [(0, 0, h) if self.shared else (h, h + 1, h) for h in range(hops)]
        self.plan[1:1] = [(0, 0, None) if self.shared else (1, 1, None)] * inner_hops
        self.hop_layers = []
        for h in range(len(self.plan)):
            heads = SOFTMAX if attention == "softmax" else WALK if h else FIRST_WALK
            scale = None if entities is None else entity_scale
            keeps_state = answer == "state" or h < len(self.plan) - 1
            arguments = self.state_size, gates, self.shared, linear_attention, heads, pairs, scale, keeps_state
            self.hop_layers.append(KeyValueHop(*arguments, name=f"hop_{h}"))
        self.entity_vectors = None
        if entities is not None:
            self.set_entities(entities)
        self._build_weights()

    def set_entities(self, names):
        """Replaces the entities, a list of names with token ids 1 to N; the ids of words follow."""
        self.config["entities"] = list(names)
        vectors = name_vectors(names, self.config["embedding_size"], self.config["entity_scale"])
        self.entity_vectors = ops.convert_to_tensor(vectors)  # (1 + N, E)

    def _build_weights(self):
        c = self.config
        V, E, M, H = c["vocab_size"], c["embedding_size"], c["memory_size"], c["hops"]
        F = self.state_size
        reading_size = E if self.bow else F

        def add(name, *shape, initializer=None):
            initializer = initializer or ("glorot_uniform" if self.shared else normal())
            return self.add_weight(name=name, shape=shape, initializer=initializer)

        if self.bow and not self.shared:
            self.W = [add(f"W_{h}", V - 1, E) for h in range(H + 1)]  # words as each hop reads them; nil has no row
        elif self.shared:
            self.W = add("W", V - 1, E)  # words of questions; nil has no row
            self.W_memory = add("W_memory", V - 1, E)  # words of statements and answers
        else:  # one table for all; smaller word vectors or matrices make the first attention too uniform to learn from
            self.W = self.W_memory = add("W", V - 1, E, initializer=keras.initializers.RandomNormal(stddev=1.0))
        if self.shared:
            self.A = add("A", F, reading_size)  # from readings to features
        elif not self.bow:
            self.A = [add(f"A_{h}", F, F, initializer="orthogonal") for h in range(H + 1)]
        if c["slot_times"] and self.shared:
            self.TK = add("TK", M, reading_size)  # for keys
            self.TV = add("TV", M, reading_size)  # and for values
        elif c["slot_times"]:
            self.TK = [add(f"TK_{h}", M, F) for h in range(H)]
            self.TV = [add(f"TV_{h}", M, F) for h in range(H)]
        if self.shared or not self.bow:
            self.B = add("B", F, E, initializer=None if self.shared else "orthogonal")  # from features to answers
        for reader in () if self.bow else (self.question_reader, self.statement_reader):
            if not reader.built:
                reader.build((None, None), (V, E))
        for hop in self.hop_layers:
            hop.build()
        self.built = True

    @property
    def state_shape(self):
        """(H + I, F), the states of one question, each of which a `state_mask` can multiply."""
        return len(self.hop_layers), self.state_size

    def get_config(self):
        """The arguments of the constructor; a saved model has no names of entities, see `set_entities`."""
        entities = None if self.config["entities"] is None else []
        return {**super().get_config(), **self.config, "entities": entities}

    def call(self, inputs, training=False, return_attention=False, linear=False):
        """Answers questions.

        Args:
            inputs: a dict of word ids in one of two forms. Padded: `memory_key` (B, M, J), `query` (B, J) and, if
                values differ from keys, `memory_value` (B, M, J). Compact, in which each distinct statement is read
                once: `statements` (U, J), row 0 being the empty statement, `key_slots` (B, M) with the row of each
                slot's key, `query` (B, J) and, if values differ from keys, `value_statements` (U', J') and
                `value_slots` (B, M) with the row of each slot's value. With `occupied_rows` (N,), the numbers of the
                rows of L slots that have statements (see `MemoryRows`), `key_slots` and `value_slots` are (N, L), and
                other slots cost next to nothing. With `word_places` (P,), see `BowReader.call`, nil words cost nothing.
                If one GRU reads statements and questions, the compact form may have the distinct prefixes of both,
                questions first: `prefix_words`, `prefix_parents` and `prefix_ends`, see `GruReader.read_prefixes`. In
                either form an optional `state_mask` (B, H + I, F) multiplies the state before each hop (dropout), and
                the optional `candidates` (C,), ids of entities, are the only ones that get logits.
            training: apply dropout to readings.
            return_attention: also return the attention of each hop.
            linear: the linear start (MemN2N, section 4.2), the share of `linear_attention` in the attention: True for
                all, False for none, or a scalar tensor in 0..1.

        Returns:
            Logits (B, V), or (B, 1 + N) if answers are entities, or (B, C) if there are candidates; with
            `return_attention`, logits and the attention (B, H + I, M). The attention of a skipped
            hop is that of the previous hop.
        """
        statements, value_statements, key_slots, value_slots, occupied = self._slots(inputs)
        prefixes = None
        if "prefix_words" in inputs:
            prefixes = inputs["prefix_words"], inputs["prefix_parents"], inputs["prefix_ends"]
        state, readings = self._read(inputs["query"], statements, training, prefixes, inputs.get("word_places"))
        memory_size = self.config["memory_size"] if "occupied_rows" in inputs else key_slots.shape[1]
        rows = MemoryRows(inputs.get("occupied_rows"), ops.shape(state)[0], memory_size, key_slots.shape[1])
        attended = rows if self.mask_padding else rows.all()

        def look_up(readings, slots):  # a list of (N, L, F), at once
            vectors = ops.take(_dense(readings), slots, axis=0)
            return ops.split(vectors, readings.shape[-1] // self.state_size, axis=-1)

        keys = values = look_up(readings, key_slots)
        if value_statements is not None:
            values = look_up(self._read_statements(value_statements, training), value_slots)

        shape = ops.shape(occupied) if self.mask_padding else (rows.batch_size, memory_size)
        attention, attentions = ops.zeros(shape, state.dtype), []
        key_times, value_times = self._times()
        for h, (hop, (key, value, times)) in enumerate(zip(self.hop_layers, self.plan, strict=True)):
            if times is not None or linear is not True:
                state, attention = hop(
                    state * inputs["state_mask"][:, h] if "state_mask" in inputs else state,
                    keys[key],
                    values[value],
                    attention,
                    None if times is None else key_times[times],
                    None if times is None else value_times[times],
                    occupied if self.mask_padding else None,
                    rows=rows,
                    linear=linear,
                )
            attentions.append(attended.scatter(attention) if return_attention else None)
        logits = self._answer(state, inputs.get("candidates"))
        return (logits, ops.stack(attentions, axis=1)) if return_attention else logits

    def _read(self, query, statements, training, prefixes=None, places=None):
        """The first state (B, F), and readings of the statements (U, F) or, if adjacent, H + 1 side by side."""
        if self.bow and not self.shared:
            state = self._bag(query, _with_nil(self.W[0]))
            return self.dropout(state, training=training), self._read_statements(statements, training, places)
        if prefixes is None:
            question = self.question_reader(query, _with_nil(self.W))
            features = self._read_statements(statements, training, places)
        else:
            readings = self.statement_reader.read_prefixes(*prefixes, _with_nil(self.W))
            question = readings[: ops.shape(query)[0]]
            features = self._features(readings[ops.shape(query)[0] :], training)
        question = self.dropout(question, training=training)
        return question @ ops.transpose(self.A if self.shared else self.A[0]), features

    def _read_statements(self, statements, training, places=None):
        """Readings (U, F) of statements (U, J) or, if adjacent, H + 1 readings side by side."""
        if self.bow and not self.shared:
            readings = self._bag(statements, *map(_with_nil, self.W), places=places)
            return self.dropout(readings, training=training)
        places = {"places": places} if self.bow else {}
        reading = self.statement_reader(statements, _with_nil(self.W_memory), **places)
        return self._features(reading, training)

    def _features(self, reading, training):
        """The features (U, F) of a reading (U, E or F) or, if adjacent, H + 1 features side by side."""
        to_features = self.A if self.shared else ops.concatenate(self.A)  # one product is faster than H + 1
        return self.dropout(reading, training=training) @ ops.transpose(to_features)

    def _bag(self, tokens, *tables, places=None):
        """Bags of words and entities (..., J), read with each of T tables of word vectors: (..., T E)."""
        if self.entity_vectors is None:
            return self.statement_reader(tokens, *tables, places=places)
        last = len(self.config["entities"])
        entities = BowReader("none")(ops.where(tokens <= last, tokens, 0), self.entity_vectors)
        words = self.statement_reader(ops.maximum(tokens - last, 0), *tables)
        return words + ops.concatenate([entities] * len(tables), axis=-1)

    def _times(self):
        """The time vectors (M, F) of each hop that has times, for keys and for values; zero without slot times."""
        hops = self.config["hops"]
        if not self.config["slot_times"]:
            zeros = [ops.zeros((self.config["memory_size"], self.state_size))] * hops
            return zeros, zeros
        if not self.shared:
            return self.TK, self.TV
        to_features = ops.transpose(self.A)
        return [self.TK @ to_features] * hops, [self.TV @ to_features] * hops

    def _answer(self, state, candidates=None):
        """Logits (B, V) of a state (B, F); (B, 1 + N) if the answers are entities, (B, C) if there are candidates."""
        if self.entity_vectors is not None:
            vectors = self.entity_vectors
            return state @ ops.transpose(vectors if candidates is None else ops.take(vectors, candidates, axis=0))
        if self.bow and not self.shared:
            return state @ ops.transpose(_with_nil(self.W[-1]))
        return (state @ self.B) @ ops.transpose(_with_nil(self.W_memory))

    def _slots(self, inputs):
        """Statements (U, J), those of values (None if values are the keys), their rows (N, L), and occupancy (N, L)."""
        if "statements" in inputs:
            key_slots = inputs["key_slots"]
            values, value_slots = inputs.get("value_statements"), inputs.get("value_slots")
            return inputs["statements"], values, key_slots, value_slots, ops.not_equal(key_slots, 0)
        keys, values = inputs["memory_key"], inputs.get("memory_value")
        shape, sentence_size = ops.shape(keys)[:2], keys.shape[-1]
        occupied = ops.any(ops.not_equal(keys, 0), axis=-1)
        slots = ops.reshape(ops.arange(shape[0] * shape[1]), shape)
        values = None if values is None else ops.reshape(values, (-1, sentence_size))
        return ops.reshape(keys, (-1, sentence_size)), values, slots, slots, occupied


@keras.saving.register_keras_serializable(package="memn2n_kv")
class TwoReaders(keras.Model):
    """Two networks side by side, whose answers are averaged: one reads bags of words, the other reads with a GRU.

    Each learns by itself, from its own errors: when only the sum of their logits was trained, one relied on the other.
    A bag of words learns similarity (task 16), a GRU relative positions and sizes (17 and 18).

    Args:
        **config: of `MemN2N_KV`. With adjacent tying, features of the GRU have the size of the word vectors, too.
    """

    def __init__(self, **config):
        super().__init__()
        if config.get("tying") == "adjacent":
            config["feature_size"] = config["embedding_size"]
        readers = CHOICES["reader"]
        self.networks = [MemN2N_KV(**{**config, "reader": reader, "name": reader}) for reader in readers]
        self.config = {**self.networks[0].config, "reader": "both"}
        self.built = True

    @property
    def state_shape(self):
        """As of `MemN2N_KV`."""
        return self.networks[0].state_shape

    def get_config(self):
        """The arguments of the constructor."""
        return self.config

    def call(self, inputs, training=False, return_attention=False, linear=False):
        """As `MemN2N_KV.call`, but in training it returns the logits of each network, (2, B, V).

        Otherwise, logits are the logarithms of the mean probabilities, and the attention is the mean of both.
        """
        options = {"training": training, "linear": linear}
        if training:
            return ops.stack([network(inputs, **options) for network in self.networks])
        answers = [network(inputs, return_attention=True, **options) for network in self.networks]
        logits, attention = (ops.stack(parts) for parts in zip(*answers, strict=True))
        logits = ops.logsumexp(ops.log_softmax(logits), axis=0) - np.log(len(self.networks))
        return (logits, ops.mean(attention, axis=0)) if return_attention else logits


def _dense(table):
    """The table, with a dense gradient: a sparse one passes through a concatenation in as many pieces."""
    return ops.reshape(table, (-1, table.shape[-1]))


def _with_nil(weights):
    """Word vectors (V, E) with a constant zero vector for nil."""
    return ops.concatenate([ops.zeros((1, weights.shape[-1])), weights], axis=0)

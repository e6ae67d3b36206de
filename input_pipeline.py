"""The input pipeline: examples -> shuffled batches that hold each distinct statement once; time noise, dropout.

Letters in comments on shapes: B examples of a batch, M memory slots, N rows of L slots, U distinct statements, J words
of a sentence.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

import data_utils

NOISE_TABLE = 2**20  # normal numbers in the table of gradient noise
STREAMS = (
    "order", "time noise", "statement dropout", "question dropout", "state dropout", "gradient noise", "answer",
    "focus",
)  # fmt: skip


def stream_key(seed, stream):
    """The key of one random stream of a seed.

    Keys are hashes, so the streams of a seed are independent of each other and of those of the next seed.

    Args:
        seed: a non-negative int.
        stream: a name in `STREAMS`.

    Returns:
        An int of 63 bits, to be followed by the number of the step or epoch in the seed of a stateless operation.
    """
    sequence = np.random.SeedSequence([seed, STREAMS.index(stream)])
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


REPEATS = 4  # how often `focused` repeats a question that the model is unsure of, at most
ROOMS = (2.5, 8)  # standard deviations above the mean; each room costs a compilation, 15 s for two readers


class Room(NamedTuple):
    """Sizes to which batches are padded, as XLA compiles once per shape."""

    statements: int
    words: int
    rows: int
    prefixes: tuple = ()  # by length


def rooms_of_batches(examples, batch_size, time_noise=0.0, prefixes=False):
    """A small room, into which nine of ten shuffled batches fit, and a large one for the rest.

    One room for all would be nearly twice as large as the mean batch, and a step takes its time in proportion.

    Args:
        examples: `data_utils.EncodedExamples`.
        batch_size: B.
        time_noise: see `batches`.
        prefixes: also find room for distinct prefixes.

    Returns:
        A list of `Room` for distinct statements, their words, rows of slots and prefixes, the smallest first.
    """
    random = np.random.RandomState(0)
    tree = PrefixTree.of(examples) if prefixes else None
    sizes = []
    for sample in range(200):
        chosen = random.randint(len(examples), size=batch_size)
        slots = examples.slots[chosen]
        distinct = np.unique(slots)
        words = np.count_nonzero(examples.statements[distinct])
        if time_noise:
            slots = insert_empty_slots(slots, time_noise, seed=(0, sample)).numpy()
        sizes.append([len(distinct) + 1, words, np.count_nonzero(data_utils.memory_rows(slots).any(axis=1))])
        if tree:
            numbers = np.concatenate([tree.statements[distinct], tree.questions[chosen]])
            sizes[-1] += [np.count_nonzero(np.unique(column)) for column in numbers.T]
    mean, deviation = np.mean(sizes, axis=0), np.std(sizes, axis=0)
    rooms = []
    for deviations in ROOMS:
        padded = -(-(mean + deviations * deviation) // 8) * 8  # to multiples of 8
        statements, words, rows, *by_length = padded.astype(int).tolist()
        rooms.append(Room(statements, words, rows, tuple(by_length)))
    return rooms


class PrefixTree(NamedTuple):
    """The distinct prefixes, or beginnings, of N statements and of Q questions, numbered from 1 by ascending length.

    Attributes:
        statements, questions: (N, J) and (Q, J), the prefix that ends at each word; 0 for nil words.
        words: (P,), the last word of each prefix, after nil for number 0.
        lengths: (P,), the words of each prefix, 0 for number 0.
    """

    statements: np.ndarray
    questions: np.ndarray
    words: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, examples):
        """The tree of `data_utils.EncodedExamples`."""
        sentences = np.concatenate([examples.statements, examples.query])
        numbers, before = np.zeros(sentences.shape, np.int32), np.zeros(len(sentences), np.int64)
        words, lengths = [0], [0]
        for j, column in enumerate(sentences.T):
            rows = np.flatnonzero(column)
            distinct, first, place = np.unique(
                before[rows] * (1 + sentences.max()) + column[rows], return_index=True, return_inverse=True
            )
            numbers[rows, j] = before[rows] = len(words) + place
            words += column[rows][first].tolist()
            lengths += [j + 1] * len(distinct)
        statements, questions = np.split(numbers, [len(examples.statements)])
        return cls(statements, questions, np.array(words, np.int32), np.array(lengths, np.int32))


def batches(
    examples,
    batch_size,
    seed,
    first_epoch=0,
    rooms=None,
    gradient_noise=None,
    time_noise=0.0,
    word_dropout=0.0,
    state_dropout=0.0,
    state_shape=None,
    dropout_from=0,
    occupied_only=False,
    word_places=True,
    prefixes=False,
    focus=None,
):
    """Shuffled batches, epoch after epoch.

    They are made in TensorFlow's own threads, beside the training step, and depend on nothing but the arguments: any
    epoch can be made again from its number.

    Args:
        examples: `data_utils.EncodedExamples`.
        batch_size: B; the last batch of an epoch is filled up with examples of weight 0.
        seed: seed of shuffling, noise and dropout.
        first_epoch: number of the first epoch.
        rooms: list of `Room`; each batch is padded to the first room in which it fits or, if it fits in none, to the
            largest possible sizes. None: no padding.
        gradient_noise: (length, standard deviation) of a vector of Gaussian noise for each batch: a window at a random
            place of one table, as drawing each number would cost more than the rest of the step (the noise table of
            Salimans et al., 2017, arXiv:1703.03864, section 2.1).
        time_noise: probability that an empty slot is inserted before a slot, which makes all older statements one slot
            older (random noise, MemN2N, section 4.1).
        word_dropout: probability that a word of a statement or question becomes nil; a statement that stands in several
            slots of a batch loses the same words in all of them.
        state_dropout: probability that a feature of the state is dropped before a hop.
        state_shape: (H, F), hops and features of the state.
        dropout_from: number of the epoch in which word and state dropout and focus begin.
        occupied_only: leave out rows of empty slots, which is faster unless steps are very small.
        word_places: with `occupied_only`, also list the places of words that are not nil, for a bag of words.
        prefixes: list the distinct prefixes of statements and questions, each of which is then one step of a GRU (1k
            joint: 956 in a batch of 5,280 words, nil words included). Not with word dropout.
        focus: a `Focus`, for epochs that depend on what the model has learned; see `focused`.

    Returns:
        An endless `tf.data.Dataset` of (inputs, answer (B,), weight (B,)) and, if `gradient_noise` is given, a vector;
        inputs have the compact form of `MemN2N_KV.call`. With `focus`, a dataset of one epoch, the one that training
        has reached when iteration begins; inputs then also have `questions` (B,), their numbers, or N for weight 0.
    """
    data = {name: tf.constant(array) for name, array in examples.arrays().items()}
    table, slots, query = data["statements"], data["slots"], data["query"]
    keys = {stream: stream_key(seed, stream) for stream in STREAMS}
    if gradient_noise is not None:
        length, deviation = gradient_noise
        noise_table = tf.random.stateless_normal([length + NOISE_TABLE], (keys["gradient noise"], 0), stddev=deviation)
    steps = -(-len(examples) // batch_size)
    memory_size = slots.shape[1]
    sentence_size = query.shape[1]
    all_rows, all_slots = batch_size * -(-memory_size // data_utils.ROW_SIZE), batch_size * memory_size + 1
    if rooms:
        lengths = sentence_size if prefixes else 0
        padded_sizes = [[room.statements, room.words, room.rows, *room.prefixes[:lengths]] for room in rooms]
        largest = [all_slots, all_slots * sentence_size, all_rows] + [all_slots + batch_size] * lengths
        padded_sizes = tf.constant([*padded_sizes, largest])
    tree = PrefixTree(*map(tf.constant, PrefixTree.of(examples))) if prefixes else None

    def in_rows(memories):
        return tf.reshape(
            tf.pad(memories, [[0, 0], [0, -memory_size % data_utils.ROW_SIZE]]), (-1, data_utils.ROW_SIZE)
        )

    @tf.autograph.experimental.do_not_convert  # converting takes longer than training an epoch
    def order_of_epoch(epoch):
        order = tf.random.experimental.stateless_shuffle(tf.range(len(examples)), seed=(keys["order"], epoch))
        if focus:
            share = tf.where(epoch < dropout_from, 0.0, focus.share)
            order = focused(order, focus.unsure[:-1], share, seed=(keys["focus"], epoch))
        order = tf.pad(order, [[0, steps * batch_size - len(examples)]], constant_values=-1)
        numbers = epoch * steps + tf.range(steps, dtype=tf.int64)
        return tf.data.Dataset.from_tensor_slices((numbers, tf.reshape(order, (steps, batch_size))))

    @tf.autograph.experimental.do_not_convert
    def batch(step, chosen):
        weight = tf.cast(chosen >= 0, tf.float32)
        chosen = tf.maximum(chosen, 0)
        memories = tf.gather(slots, chosen)  # (B, M)
        if time_noise:
            memories = insert_empty_slots(memories, time_noise, seed=(keys["time noise"], step))
        if occupied_only:
            rows = in_rows(memories)  # (B C, L)
            occupied = tf.cast(tf.where(tf.reduce_any(rows > 0, axis=1))[:, 0], tf.int32)  # (N,)
            memories = tf.gather(rows, occupied)
        distinct, key_slots = distinct_rows(memories)
        statements, questions = tf.gather(table, distinct), tf.gather(query, chosen)  # (U, J), (B, J)
        dropout_begun = tf.cast(step >= dropout_from * steps, tf.float32)
        if word_dropout:
            rate = dropout_begun * word_dropout

            def drop_words(words, stream):
                return tf.where(tf.random.stateless_uniform(tf.shape(words), (keys[stream], step)) < rate, 0, words)

            statements = drop_words(statements, "statement dropout")
            questions = drop_words(questions, "question dropout")
        inputs = {"statements": statements, "key_slots": key_slots, "query": questions}
        if focus:
            inputs["questions"] = tf.where(weight > 0, chosen, len(examples))
        if occupied_only:
            inputs["occupied_rows"] = occupied
        if occupied_only and word_places and not examples.entities:
            inputs["word_places"] = tf.cast(tf.where(tf.reshape(statements, [-1]) > 0)[:, 0], tf.int32)  # (P,)
        if prefixes:
            numbers = tf.concat([tf.gather(tree.questions, chosen), tf.gather(tree.statements, distinct)], 0)
            prefix, place = distinct_rows(tf.transpose(numbers))  # (P,), in the order of lengths, and (J, B + U)
            sizes = tf.math.bincount(tf.gather(tree.lengths, prefix), minlength=sentence_size + 1)[1:]
        if rooms:
            names = "statements", "word_places", "occupied_rows"
            needed = tf.stack([tf.shape(inputs[name])[0] if name in inputs else 0 for name in names])
            needed = tf.concat([needed, sizes], 0) if prefixes else needed
            fits = tf.reduce_all(needed <= padded_sizes, axis=1)  # of each room
            room = padded_sizes[tf.argmax(fits)]  # the first that fits
            inputs["statements"] = pad_to(inputs["statements"], room[0], 0)
            if "word_places" in inputs:
                inputs["word_places"] = pad_to(inputs["word_places"], room[1], 0)  # a nil word of the empty statement
            if occupied_only:
                inputs["occupied_rows"] = pad_to(inputs["occupied_rows"], room[2], all_rows - 1)
                inputs["key_slots"] = pad_to(inputs["key_slots"], room[2], 0)
            sizes = room[3:] if prefixes else None
        if prefixes:
            inputs |= prefix_steps(prefix, place, tree, sizes)
            if rooms:
                inputs["prefix_ends"] = pad_to(inputs["prefix_ends"], batch_size + room[0], 0)
        if state_dropout:
            rate = dropout_begun * state_dropout
            kept = tf.random.stateless_uniform((batch_size, *state_shape), (keys["state dropout"], step)) >= rate
            inputs["state_mask"] = tf.cast(kept, tf.float32) / (1 - rate)
        if "value_slots" in data:
            values = tf.gather(data["value_slots"], chosen)
            if occupied_only:
                values = tf.gather(in_rows(values), occupied)
            distinct_values, value_slots = distinct_rows(values)
            inputs["value_statements"] = tf.gather(data["value_statements"], distinct_values)
            inputs["value_slots"] = pad_to(value_slots, room[2], 0) if occupied_only and rooms else value_slots
        answer = tf.gather(data["answer"], chosen)
        if "answers" in data:  # one of the right ones at random
            answers = tf.gather(data["answers"], chosen)  # (B, A)
            right = tf.reduce_sum(tf.cast(answers >= 0, tf.float32), axis=1)
            pick = tf.cast(right * tf.random.stateless_uniform((batch_size,), (keys["answer"], step)), tf.int32)
            answer = tf.gather(answers, pick, batch_dims=1)
        if examples.entities:  # candidates: the entities that can be read in this batch
            values = tf.reshape(inputs["value_statements"], [-1])
            values = tf.boolean_mask(values, values <= examples.entities)
            inputs["candidates"], place = tf.unique(tf.concat([values, answer], 0))
            answer = place[-batch_size:]
        parts = (inputs, answer, weight)
        if gradient_noise is None:
            return parts
        start = tf.random.stateless_uniform([1], (keys["gradient noise"], step + 1), maxval=NOISE_TABLE, dtype=tf.int32)
        return *parts, tf.slice(noise_table, start, [length])

    if focus:
        epochs = tf.data.Dataset.from_tensors(0).map(lambda _: tf.cast(focus.step, tf.int64) // steps)
    else:
        epochs = tf.data.Dataset.range(first_epoch, np.iinfo(np.int64).max)
    data = epochs.flat_map(order_of_epoch).map(batch, num_parallel_calls=1, deterministic=True).prefetch(16)
    options = tf.data.Options()
    options.autotune.enabled = False  # its thread sleeps for up to a minute, and the end of an iterator waits for it
    data = data.with_options(options)
    return data.apply(tf.data.experimental.assert_cardinality(steps)) if focus else data


class Focus(NamedTuple):
    """What the epochs of `focused` depend on besides the order: the model in training."""

    share: float
    unsure: tf.Variable  # (N + 1,) bool, whether the model was unsure of each question when last trained on it
    step: tf.Variable  # number of the next step


def focused(order, unsure, share, seed):
    """The order of an epoch in which questions that the model is unsure of take the place of others.

    Late in training, most questions are answered right with certainty and have nothing left to teach.

    Args:
        order: (N,) the questions, shuffled.
        unsure: (N,) bool.
        share: maximum share of these questions in the epoch, each up to `REPEATS` times; the rest is a random sample.
        seed: of a stateless operation.

    Returns:
        (N,) the questions of the epoch, shuffled.
    """
    first = tf.boolean_mask(order, tf.gather(unsure, order))  # shuffled, too
    count = tf.minimum(REPEATS * tf.size(first), tf.cast(share * order.shape[0], tf.int32))
    chosen = tf.concat([tf.tile(first, [REPEATS])[:count], order[count:]], 0)
    return tf.random.experimental.stateless_shuffle(chosen, seed=seed)


def prefix_steps(prefix, place, tree, sizes):
    """The distinct prefixes of the sentences of a batch, by length.

    Args:
        prefix: (P,) the numbers of the distinct prefixes in ascending order of length, after 0.
        place: (J, N) the place in `prefix` of the prefix that ends at each word of each sentence.
        tree: `PrefixTree`, of tensors.
        sizes: (J,), to how many prefixes to pad each length.

    Returns:
        A dict with `prefix_words`, `prefix_parents` and `prefix_ends`, see `GruReader.read_prefixes`.
    """
    words, lengths, longest = tf.gather(tree.words, prefix), tf.gather(tree.lengths, prefix), place.shape[0]
    first = tf.cumsum(tf.math.bincount(lengths, minlength=longest + 1), exclusive=True)
    # All sentences with a prefix have the same place one word before: any of them will do, such as the last.
    parents = tf.math.unsorted_segment_max(tf.pad(place[:-1], [[1, 0], [0, 0]]), place, tf.size(prefix))
    parents -= tf.gather(first, tf.maximum(lengths - 1, 0))
    moved = tf.concat([[0], 1 + tf.cumsum(sizes, exclusive=True)], 0) - first  # how far padding moves each length
    new_place = tf.range(tf.size(prefix)) + tf.gather(moved, lengths)
    padded = tf.scatter_nd(new_place[:, tf.newaxis], tf.stack([words, parents], 1), [1 + tf.reduce_sum(sizes), 2])
    words, parents = (tuple(tf.split(padded[1:, i], sizes, num=longest)) for i in range(2))
    ends = tf.gather(new_place, tf.reduce_max(place, axis=0))  # the longest prefix of each sentence
    return {"prefix_words": words, "prefix_parents": parents, "prefix_ends": ends}


def distinct_rows(rows):
    """The distinct numbers in `rows` (B, M), after 0, and `rows` as places among them."""
    distinct, place = tf.unique(tf.concat([[0], tf.reshape(rows, [-1])], 0))  # the empty statement first
    return distinct, tf.reshape(place[1:], tf.shape(rows))


def pad_to(array, size, value):
    """Pads an array with a value to `size` rows."""
    return tf.pad(array, [[0, size - tf.shape(array)[0]]] + [[0, 0]] * (len(array.shape) - 1), constant_values=value)


def insert_empty_slots(slots, share, seed):
    """Inserts an empty slot before each slot with probability `share`; slots beyond the memory are dropped.

    Args:
        slots: (B, M) rows of statements, 0 = empty.
        share: the probability.
        seed: of a stateless operation.

    Returns:
        (B, M)
    """
    batch_size, memory_size = slots.shape
    skips = tf.cast(tf.random.stateless_uniform(slots.shape, seed) < share, tf.int32)
    place = tf.range(memory_size) + tf.cumsum(skips, axis=1)
    place = tf.where(place < memory_size, place + memory_size * tf.range(batch_size)[:, tf.newaxis], -1)
    # No two slots have the same place, so the sum only moves them; it is faster than tf.scatter_nd.
    moved = tf.math.unsorted_segment_sum(slots, place, batch_size * memory_size)  # drops place -1
    return tf.reshape(moved, slots.shape)

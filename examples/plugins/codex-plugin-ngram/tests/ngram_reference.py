"""The model again, by its definition: strings of tokens in dictionaries, one token at a time."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np

from codex_kernel import IGNORE_INDEX, Batch

BEGIN = "begin"


def batch_of(*rows):
    """Make a batch of blocks; a row is a list of documents, a document a list of tokens, all of which are trained."""
    width = max(1, *(sum(map(len, row)) for row in rows))
    ids, targets, positions, documents = (np.zeros((len(rows), width), np.int64) for _ in range(4))
    targets[:], documents[:] = IGNORE_INDEX, -1
    for number, row in enumerate(rows):
        at = 0
        for document, tokens in enumerate(row):
            here = slice(at, at + len(tokens))
            ids[number, here], positions[number, here] = tokens, np.arange(len(tokens))
            documents[number, here] = document
            targets[number, at : at + len(tokens) - 1] = tokens[1:]
            at += len(tokens)
    return Batch(ids, targets, positions, documents, np.arange(len(rows)))


def events(order, documents):
    """Return (context, word) of each token but the first, with the longest context that it has."""
    found = []
    for tokens in documents:
        padded = [BEGIN, *tokens]
        found += [(tuple(padded[max(0, at - order + 1) : at]), padded[at]) for at in range(2, len(padded))]
    return found


def counts(order, documents):
    """Return n-gram → adjusted count, over all orders: how often, or after how many different tokens."""
    raw = Counter()
    for context, word in events(order, documents):
        for start in range(len(context) + 1):
            raw[(*context[start:], word)] += 1
    before = {}
    for gram in raw:
        if len(gram) > 1:
            before.setdefault(gram[1:], set()).add(gram[0])
    return {
        gram: times if len(gram) == order or gram[0] == BEGIN else len(before[gram])
        for gram, times in raw.items()
    }


def probability(order, vocabulary, adjusted, context, word):
    """Return the interpolated probability of a word after a context of the longest length."""
    if len(context) >= order:
        context = context[len(context) - order + 1 :]
    lower = probability(order, vocabulary, adjusted, context[1:], word) if context else 1 / vocabulary
    after = {gram[-1]: times for gram, times in adjusted.items() if gram[:-1] == context}
    if not after:
        return lower
    discount = discounts([times for gram, times in adjusted.items() if len(gram) == len(context) + 1])
    total = sum(after.values())
    freed = sum(discount[min(times, 3)] for times in after.values())
    times = after.get(word, 0)
    return (times - discount[min(times, 3)]) / total + freed / total * lower


def discounts(times):
    """Return the discounts of counts 0, 1, 2, and 3 or more, by the counts of counts."""
    n1, n2, n3, n4 = (times.count(k) for k in (1, 2, 3, 4))
    if n1 and n2 and n3:
        y = n1 / (n1 + 2 * n2)
        found = [1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3]
        if all(0 < d < k for k, d in enumerate(found, start=1)):
            return [0.0, *found]
    return [0.0, 0.5, 1.0, 1.5]


def loss(order, vocabulary, adjusted, documents):
    """Return the mean negative log-likelihood of some documents."""
    losses = [
        -math.log(probability(order, vocabulary, adjusted, context, word))
        for context, word in events(order, documents)
    ]
    return sum(losses) / len(losses)

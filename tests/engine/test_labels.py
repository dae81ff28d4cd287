"""Scoring labels by next-token questions."""

from __future__ import annotations

import math

import pytest

from docmill.engine.labels import LabelTrie

END = 99


def scores_under(trie: LabelTrie, probability: dict[tuple[int, ...], float]) -> tuple[float, ...]:
    """Ask the trie's questions of a made-up model: the probability of each token sequence's last token."""
    answers: dict[tuple[int, ...], dict[int, float]] = {}
    for question in trie.questions:
        for token_id in question.next_token_ids:
            logprob = math.log(probability[(*question.prefix, token_id)])
            answers.setdefault(question.prefix, {})[token_id] = logprob
    return trie.scores(answers)


def test_single_token_labels_are_one_question() -> None:
    trie = LabelTrie([(1,), (2,), (3,)], end_token_ids=[END])
    assert [(question.prefix, question.next_token_ids) for question in trie.questions] == [((), (1, 2, 3))]
    scores = scores_under(trie, {(1,): 0.5, (2,): 0.25, (3,): 0.125})
    assert scores == pytest.approx([math.log(0.5), math.log(0.25), math.log(0.125)])


def test_the_score_of_a_longer_label_is_the_product_of_what_tells_it_from_the_others() -> None:
    trie = LabelTrie([(1, 5, 8, 8), (1, 6, 7), (2, 9)], end_token_ids=[END])
    assert [question.prefix for question in trie.questions] == [(), (1,)], "only where labels part"
    probability = {(1,): 0.5, (2,): 0.3, (1, 5): 0.4, (1, 6): 0.6}
    assert scores_under(trie, probability) == pytest.approx(
        [math.log(0.5 * 0.4), math.log(0.5 * 0.6), math.log(0.3)]
    )


def test_a_label_that_begins_another_is_scored_to_its_end() -> None:
    trie = LabelTrie([(1,), (1, 2)], end_token_ids=[END])
    assert [(question.prefix, question.next_token_ids) for question in trie.questions] == [((1,), (2, END))]
    assert scores_under(trie, {(1, END): 0.25, (1, 2): 0.7}) == pytest.approx([math.log(0.25), math.log(0.7)])


def test_any_token_that_ends_a_turn_ends_a_label() -> None:
    trie = LabelTrie([(1,), (1, 2), (3,)], end_token_ids=[END, 98])
    probability = {(1,): 0.8, (3,): 0.2, (1, END): 0.01, (1, 98): 0.59, (1, 2): 0.3}
    assert scores_under(trie, probability) == pytest.approx(
        [math.log(0.8 * 0.6), math.log(0.8 * 0.3), math.log(0.2)]
    )
    with pytest.raises(ValueError, match="no token that ends a turn"):
        LabelTrie([(1,), (1, 2)], end_token_ids=[])
    LabelTrie([(1,), (2,)], end_token_ids=[])  # not needed where no label begins another


@pytest.mark.parametrize("num_labels", [127, 128, 129, 1000])
def test_any_number_of_labels_is_asked_in_questions_that_vllm_takes(num_labels: int) -> None:
    labels = [(token_id,) for token_id in range(num_labels)]
    trie = LabelTrie(labels, end_token_ids=[-1])
    assert all(len(question.next_token_ids) <= 128 for question in trie.questions)
    assert len(trie.questions) == math.ceil(num_labels / 128)
    uniform = dict.fromkeys(labels, 1 / num_labels)
    assert scores_under(trie, uniform) == pytest.approx([math.log(1 / num_labels)] * num_labels)


def test_labels_that_cannot_be_told_apart_are_refused() -> None:
    with pytest.raises(ValueError, match="same tokens"):
        LabelTrie([(1, 2), (1, 2)], end_token_ids=[END])
    with pytest.raises(ValueError, match="no tokens"):
        LabelTrie([(1,), ()], end_token_ids=[END])

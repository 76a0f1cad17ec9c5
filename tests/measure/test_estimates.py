"""Intervals against published values, estimators over N samples against every subset."""

from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minireason.core.config import rng
from minireason.measure.estimates import (
    Pool,
    answer_ids,
    auc,
    best_of_n,
    chance_coverage,
    mean_interval,
    paired_bootstrap,
    pass_at_k,
    share_interval,
    two_way_interval,
    vote_at,
    votes,
    wilson,
)

quick = settings(max_examples=80, deadline=None, derandomize=True)
SUM = 1e-12                               # float64 rounding of some hundred terms of size 1
samples = st.lists(st.tuples(st.booleans(), st.sampled_from([0.1, 0.2, 0.5, 0.9])),
                   min_size=1, max_size=8)


@pytest.mark.parametrize(("successes", "n", "low", "high"), [
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3
    (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611),
    (1, 29, 0.0061, 0.1718)])
def test_wilson_against_published_values(successes, n, low, high):
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)      # four printed digits


@quick
@given(st.integers(1, 500), st.floats(0, 1))
def test_wilson_holds_its_proportion(n, share):
    k = round(share * n)
    low, high = wilson(k, n)
    assert 0 <= low <= k / n + 1e-12 and k / n - 1e-12 <= high <= 1
    mirrored = wilson(n - k, n)
    assert (1 - high, 1 - low) == pytest.approx(mirrored, abs=1e-12)


def test_no_problems_means_no_knowledge():
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("n", range(1, 8))
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(n):
    for right in range(n + 1):
        verdicts = [True] * right + [False] * (n - right)
        for k in range(1, n + 1):
            every = [any(subset) for subset in combinations(verdicts, k)]
            assert pass_at_k(n, right, k) == pytest.approx(np.mean(every), abs=1e-12)


def test_pass_at_k_is_not_the_plug_in_estimate():
    """The trap: 1 - (1 - p)^k from the samples' own share is biased downwards."""
    assert pass_at_k(4, 2, 2) == pytest.approx(5 / 6) and 1 - (1 - 2 / 4) ** 2 == 0.75


def test_pass_at_more_samples_than_drawn_is_refused():
    with pytest.raises(AssertionError, match="beyond the samples"):
        pass_at_k(4, 0, 5)


def test_bootstrap_interval_covers_the_truth_about_19_times_in_20():
    generator, hits, runs = np.random.default_rng(0), 0, 300
    for _ in range(runs):
        a, b = generator.random(60) < 0.7, generator.random(60) < 0.5
        _, low, high = paired_bootstrap(a, b, draws=400)
        hits += low <= 0.2 <= high
    # Percentile intervals of 60 pairs cover 93 to 95%; three deviations at 300 runs are 0.045.
    assert hits / runs == pytest.approx(0.94, abs=0.045)


def test_bootstrap_is_paired():
    """Values that move together differ by exactly their difference, whatever their spread."""
    a = np.random.default_rng(1).random(50)
    assert paired_bootstrap(a + 0.25, a) == pytest.approx((0.25, 0.25, 0.25), abs=1e-12)
    with pytest.raises(AssertionError):
        paired_bootstrap(np.zeros(3), np.zeros(4))


def test_bootstrap_repeats():
    a, b = np.random.default_rng(2).random((2, 40))
    assert paired_bootstrap(a, b) == paired_bootstrap(a, b)


def test_intervals_are_named():
    low, high = wilson(3, 4)
    assert share_interval(3, 4) == {"accuracy": 0.75, "low": low, "high": high}
    a, b = np.random.default_rng(3).random((2, 30))
    for interval, pair in ((mean_interval(a), (a, np.zeros(30))), (mean_interval(a, b), (a, b))):
        assert tuple(interval.values()) == paired_bootstrap(*pair, draws=2000)
        assert list(interval) == ["accuracy", "low", "high"]


def test_two_way_interval_by_hand():
    """Two seeds that differ, problems that do not: deviations of 0.1, widened by 12.706 / z * 2^.5,
    are met by a quarter of the draws on either side."""
    d = np.repeat([[0.1], [0.3]], 7, axis=1)
    reach = 0.1 * 12.706 / 1.959964 * 2 ** 0.5
    expected = {"accuracy": 0.2, "low": 0.2 - reach, "high": 0.2 + reach}
    assert two_way_interval(d) == pytest.approx({"accuracy": 0.2, "low": 0, "high": 1}, abs=SUM)
    assert two_way_interval(d + d, d) == pytest.approx(expected, abs=SUM)
    same = np.random.default_rng(0).random((4, 30))
    assert two_way_interval(same + 0.25, same) == pytest.approx(
        dict.fromkeys(("accuracy", "low", "high"), 0.25), abs=SUM)
    assert two_way_interval(same) == two_way_interval(same)
    with pytest.raises(AssertionError):
        two_way_interval(same, same[:2])


def test_problems_of_one_group_are_drawn_together():
    """As if each group were one problem: three copies of a problem are worth no more than it."""
    once = np.random.default_rng(6).random((3, 40))
    thrice, groups = np.repeat(once, 3, axis=1), np.repeat(np.arange(40), 3)
    assert two_way_interval(thrice, groups=groups) == pytest.approx(two_way_interval(once), abs=SUM)
    assert two_way_interval(thrice, groups=np.arange(120)) == two_way_interval(thrice)
    unequal = np.array([[1.0, 1.0, 1.0, 0.0]])             # of two programs, three and one
    found = two_way_interval(unequal, groups=np.array([0, 0, 0, 1]))
    assert (found["accuracy"], found["low"], found["high"]) == (0.75, 0, 1)


def test_one_seed_gives_the_interval_over_problems():
    a, b = np.random.default_rng(4).random((2, 1, 200))
    _, low, high = paired_bootstrap(a[0], b[0])
    found = two_way_interval(a, b, draws=10_000)
    # Two bootstraps of 10,000 draws: quantiles of a deviation 0.029 differ by some 0.001.
    assert (found["low"], found["high"]) == pytest.approx((low, high), abs=0.003)


@pytest.mark.parametrize(("between_seeds", "between_problems", "least", "most"), [
    (0.1, 0.0, 0.90, 0.99),           # seeds alone: what t with 4 degrees of freedom covers
    (0.0, 0.1, 0.93, 1.0),            # problems alone
    (0.03, 0.1, 0.93, 1.0)])
def test_two_way_interval_covers_the_truth(between_seeds, between_problems, least, most):
    """Five seeds and 80 problems of difference 0.2; crossed draws are conservative (Owen 2007).

    Three deviations of a share of 0.95 at 200 runs are 0.046.
    """
    generator, hits, runs = np.random.default_rng(5), 0, 200
    for _ in range(runs):
        d = 0.2 + generator.normal(0, between_seeds, (5, 1))
        d = d + generator.normal(0, between_problems, (1, 80)) + generator.normal(0, 0.01, (5, 80))
        found = two_way_interval(d, draws=400)
        hits += found["low"] <= 0.2 <= found["high"]
    assert least <= hits / runs <= most


def test_auc_is_the_share_of_ordered_pairs():
    generator = np.random.default_rng(0)
    for _ in range(20):
        scores = generator.integers(0, 4, 12) / 4
        labels = generator.random(12) < 0.5
        pairs = [(a > b) + 0.5 * (a == b) for a in scores[labels] for b in scores[~labels]]
        expected = np.mean(pairs) if pairs else 0.5
        assert auc(scores.tolist(), labels.tolist()) == pytest.approx(expected, abs=1e-12)
    assert auc([0.1, 0.2], [True, True]) == 0.5


def test_auc_by_hand():
    assert auc([0.1, 0.4, 0.35, 0.8], [False, False, True, True]) == 0.75
    assert auc([1, 1], [True, False]) == 0.5 == auc([1, 2], [True, True])


def plain_best(correct, scores) -> float:
    """The top-scored sample's verdict; ties share."""
    top = [c for c, s in zip(correct, scores, strict=True) if s == max(scores)]
    return sum(top) / len(top)


@quick
@given(samples)
def test_best_of_n_is_the_mean_over_all_subsets(pairs):
    correct, scores = (np.array(x) for x in zip(*pairs, strict=True))
    for n in range(1, len(pairs) + 1):
        subsets = list(combinations(range(len(pairs)), n))
        plain = np.mean([plain_best(correct[list(s)], scores[list(s)]) for s in subsets])
        assert best_of_n(correct, scores, n) == pytest.approx(plain, abs=SUM)


@quick
@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_oracle_critic_is_coverage_and_constant_critic_is_the_mean(correct):
    correct = np.array(correct)
    for n in range(1, len(correct) + 1):
        oracle = best_of_n(correct, correct.astype(float), n)
        assert oracle == pytest.approx(pass_at_k(len(correct), int(correct.sum()), n), abs=SUM)
        constant = best_of_n(correct, np.full(len(correct), 0.3), n)
        assert constant == pytest.approx(correct.mean(), abs=SUM)


def test_more_samples_than_drawn_are_refused():
    with pytest.raises(AssertionError, match="beyond the samples"):
        best_of_n(np.array([True]), np.array([1.0]), 2)


def vote(*columns: np.ndarray) -> float:
    """One vote; beside it another one, which changes nothing."""
    answers = columns[0]
    more = (np.roll(answers, 1), np.arange(1.0, 1 + len(answers)), np.ones(len(answers)))
    return float(votes(*(np.stack(pair) for pair in zip(columns, more, strict=True)))[0])


@quick
@given(st.lists(st.tuples(st.integers(-1, 3), st.integers(1, 4)), min_size=1, max_size=8),
       st.integers(0, 3))
def test_vote_is_the_heaviest_answer(pairs, right):
    answers, weights = (np.array(x) for x in zip(*pairs, strict=True))
    mass = {a: sum(w for b, w in pairs if b == a) for a in set(answers.tolist()) - {-1}}
    winners = [a for a, m in mass.items() if m == max(mass.values())]
    plain = (right in winners) / len(winners) if winners else 0.0
    assert vote(answers, weights.astype(float), answers == right) == pytest.approx(plain, abs=SUM)


def test_votes_without_an_answer_do_not_count():
    assert vote(np.array([-1, -1, -1, 0]), np.ones(4), np.array([0, 0, 0, 1])) == 1.0
    assert vote(np.array([-1, -1]), np.ones(2), np.zeros(2)) == 0.0


@pytest.mark.parametrize("answers", list(product([0, 1, -1], repeat=4))[::7])
def test_vote_at_is_unbiased(answers):
    answers, weights = np.array(answers), np.array([0.4, 0.3, 0.2, 0.1])
    right = answers == 0
    for n in (1, 2, 3, 4):
        every = [vote(answers[list(s)], weights[list(s)], right[list(s)])
                 for s in combinations(range(4), n)]
        estimate = vote_at(answers, weights, right, n, rng(0, "vote"), subsets=800)
        # Four standard errors of a mean of 800 values in [0, 1] are at most 0.071.
        assert estimate == pytest.approx(np.mean(every), abs=0.071)
        if n == 4:
            assert estimate == every[0]


def test_one_vote_is_the_mean():
    answers = np.array([0, 1, 2, 0, -1])
    share = vote_at(answers, np.ones(5), answers == 0, 1, rng(0), 4000)
    assert share == pytest.approx(0.4, abs=0.031)


def test_answer_ids_number_different_answers():
    assert answer_ids(["10", "8", None, "10", "x"]).tolist() == [0, 1, -1, 0, 2]
    assert answer_ids([None, "1"]).tolist() == [-1, 0]


@pytest.mark.parametrize(("answers", "expected"), [
    ([0, 1, 1, 2], 1.0),               # 0 and 1 are right, and the vote takes one of them
    ([0, 2, 2, 1], 0.0),               # together they would win: a voter cannot know them
    ([0, 1, 2, -1], 2 / 3), ([0, 1, -1, -1], 1.0)])
def test_a_vote_is_right_if_its_winner_is_one_of_the_right_answers(answers, expected):
    answers = np.array(answers)
    correct = np.isin(answers, (0, 1)).astype(float)
    assert vote(answers, np.ones(4), correct) == pytest.approx(expected, abs=SUM)
    pool = Pool(correct, answers, np.ones(4), np.ones(4))
    assert pool.accuracy("majority", 4, rng(0)) == pytest.approx(expected, abs=SUM)


RECORD = {"answer": "5", "answers": ["7", "5", "5", None], "correct": [0, 1, 1, 0],
          "values": [0.9, 0.2, 0.1, 0.8], "others": [0.1, 0.2, 0.3, 0.0], "tokens": [4, 5, 6, 7]}


@pytest.mark.parametrize(("method", "n", "expected"), [
    ("single", 1, 1 / 2), ("single", 4, 1 / 2), ("coverage", 2, 5 / 6), ("coverage", 4, 1.0),
    ("critic_best_of_n", 4, 0.0), ("critic_best_of_n", 1, 1 / 2), ("best_of_n", 4, 0.0),
    ("majority", 4, 1.0), ("critic_vote", 4, 0.0)])
def test_each_method_on_one_problem(method, n, expected):
    """Two right answers, two different wrong ones; the critic's favourite is wrong."""
    assert Pool.of(RECORD).accuracy(method, n, rng(0)) == pytest.approx(expected, abs=SUM)


def test_a_pool_reads_the_named_critic_and_can_be_cut():
    other = Pool.of(RECORD, "others")
    assert other.accuracy("best_of_n", 4, rng(0)) == other.accuracy("outcome_vote", 4, rng(0)) == 1
    first = other[:2]
    assert (first.answers.tolist(), first.tokens.tolist()) == ([0, 1], [4, 5])
    assert first.accuracy("single", 2, rng(0)) == 0.5


def test_chance_draws_from_what_the_other_problems_got():
    records = [{"answer": "1", "answers": ["1", "1", None, "2"]},
               {"answer": "2", "answers": ["1", "2"]},
               {"answer": "9", "answers": ["2", "2"]}]
    assert chance_coverage(records).tolist() == [1 / 4, 3 / 6, 0.0]
    assert chance_coverage(records[:1]).tolist() == [0.0]      # no other problem
    same = [{"answer": "5", "answers": ["5", "6"]}] * 3                  # a constant guess is luck
    assert chance_coverage(same).tolist() == [0.5] * 3

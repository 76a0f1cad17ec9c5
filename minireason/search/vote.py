"""One answer from N samples, by what a method may know at test time: answers and values."""

from collections import Counter

SEARCHES = ("critic", "majority", "single")


def choose(how: str, answers: list[str | None], values: list[float]) -> int | None:
    """Index of the sample that search settles on, None if no sample has an answer.

    answers are compared as they stand: keys, as answer_keys gives them (measure/evaluate.py).

    critic: the highest value; single: the first; majority: of those with the most frequent answer
    (the earliest of equally frequent ones) the one of highest value.
    """
    valid = [i for i, answer in enumerate(answers) if answer is not None]
    if not valid:
        return None
    if how == "single":
        return valid[0]
    if how == "majority":
        agreeing = agreement(answers)
        valid = [i for i in valid if agreeing[i]]
    return max(valid, key=lambda i: values[i])


def agreement(answers: list[str | None]) -> list[bool]:
    """For each sample: is its answer the majority's? It stands for the truth where there is none.

    Of equally frequent answers the earliest is the majority's.
    """
    votes = Counter(answer for answer in answers if answer is not None).most_common(1)
    return [bool(votes) and answer == votes[0][0] for answer in answers]

"""Four signs that reinforcement learning goes wrong, each with its limit and what to do then.

The last tenth of the steps is judged, beside the first.
"""

import numpy as np

from minireason.measure.evaluate import MANY_CUT

MANY_SILENT = 0.75    # share of groups: with a quarter left, the gradient's noise has doubled
LITTLE_ENTROPY = 0.5  # nats per completion: two samples are the same text with chance exp(-0.5)
MUCH_LONGER = 1.5     # last length / first; levels are drawn alike throughout, which moves it by 5%
SOLVED = 0.95         # share of right samples above which little entropy is no loss


def first_and_last(metrics: list[dict], key: str) -> np.ndarray:
    """(2,) mean over the first and over the last tenth of the steps that have a key; else NaN."""
    values = [line[f"train/{key}"] for line in metrics if f"train/{key}" in line]
    if not values:
        return np.full(2, np.nan)
    tenth = max(1, len(values) // 10)
    return np.array([np.mean(values[:tenth]), np.mean(values[-tenth:])])


def signs_of(metrics: list[dict]) -> list[tuple[str, str]]:
    """(a number at the first and last steps, "" or what to do about it) for each sign, from the
    metrics of an RL stage; a sign that was not measured is left out."""
    right, cut, silent, entropy = (first_and_last(metrics, key) for key in (
        "accuracy", "share_cut", "share_silent", "entropy"))
    lengths = first_and_last(metrics, "length_wrong")
    if np.isfinite(first_and_last(metrics, "length_right")).all():
        lengths += right * (first_and_last(metrics, "length_right") - np.nan_to_num(lengths))
    nats, solved = entropy * lengths, right[1] > SOLVED
    mend = ("equally right: raise --min-level, so that easy levels are left out"
            if right[1] > 0.5 else "equally wrong: lower --max-level")
    signs = [
        ("completions cut at max_new (%)", 100 * cut, cut[1] > MANY_CUT,
         "thoughts that find no end earn nothing: lower --lr, or start from a policy that was "
         "trained for longer"),
        ("groups without signal (%)", 100 * silent, silent[1] > MANY_SILENT,
         f"the samples of most groups are {mend}, raise --group-size, or draw such groups anew "
         "with --redraws 2"),
        ("entropy (nats per completion)", nats, nats[1] < LITTLE_ENTROPY and not solved,
         "samples of a problem are all the same text, so nothing new is found: train for fewer "
         "steps, lower --lr, or raise --clip-high"),
        ("length (tokens)", lengths, lengths[1] > MUCH_LONGER * lengths[0],
         "thoughts grow without need: lower --lr, or weigh all tokens alike (--aggregation token)")]
    return [(f"{name}: {first:.3g} at first, {last:.3g} at the end", advice if alarming else "")
            for name, (first, last), alarming, advice in signs if np.isfinite([first, last]).all()]

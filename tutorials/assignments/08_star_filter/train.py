"""One round of STaR for each rule that keeps samples, by the functions of your solution.

    python train.py my_solution.py [--run DIR] [--seeds 3]
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))
import numpy as np
from experiment import Setting, fine_tuned, right, run, train_problems, validation_problems

from minireason.core.config import rng
from minireason.measure.evaluate import answer_keys, verdicts_of
from minireason.model import checkpoint
from minireason.sampling.complete import complete
from minireason.sampling.sampler import Sampling

RULES = ("none", "majority", "answer", "steps")


def experiment(given: Setting) -> list[dict]:
    """A row for each rule: what it kept, and accuracy against the start, over all seeds."""
    n, n_check, steps = (20, 10, 3) if given.small else (300, 200, 60)
    policy, tokenizer = checkpoint.load(given.start)
    check = validation_problems(given.levels, n_check)
    before = right(policy, tokenizer, check)
    kept, shares, after = {}, {}, {rule: [] for rule in RULES}
    for seed in given.seeds:
        problems = train_problems(given.levels, n, seed, "star")
        texts = complete(policy, tokenizer, problems, "cot", Sampling(n=4, temperature=0.8,
                                                                      seed=seed))
        samples = [[(answer, v.correct, v.steps_valid) for answer, v in
                    zip(answer_keys(p, drawn), judged, strict=True)]
                   for p, drawn, judged in zip(problems, texts, verdicts_of(problems, texts),
                                               strict=True)]
        for rule in RULES:
            chosen = [given.functions.keep(row, rule) for row in samples]
            examples = [(p.prompt, drawn[i]) for p, drawn, i in
                        zip(problems, texts, chosen, strict=True) if i is not None]
            kept[rule] = kept.get(rule, 0) + len(examples)
            shares.setdefault(rule, []).extend(samples)
            after[rule].append(right(*fine_tuned(given.start, examples, steps, seed), check))
            print(f"seed {seed}, {rule}: kept {len(examples)} of {n}, right "
                  f"{after[rule][-1].mean():.3f} (before {before.mean():.3f})", flush=True)
    rows, draws = [], rng(0, "assignment 8").integers(0, len(check), (2000, len(check)))
    for rule in RULES:
        share, low, high = given.functions.unsound(shares[rule], rule)
        reached = np.stack(after[rule])
        more, more_low, more_high = given.functions.gain(
            reached, np.broadcast_to(before, reached.shape), draws)
        rows.append({"rule": rule, "kept": kept[rule], "unsound": share, "unsound_low": low,
                     "unsound_high": high, "accuracy": float(reached.mean()), "gain": more,
                     "gain_low": more_low, "gain_high": more_high})
    more, low, high = given.functions.gain(np.stack(after["steps"]), np.stack(after["answer"]),
                                           draws)
    return [*rows, {"rule": "steps - answer", "gain": more, "gain_low": low, "gain_high": high}]


if __name__ == "__main__":
    run(__doc__, experiment)

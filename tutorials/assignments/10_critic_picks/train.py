"""Train a critic on the policy's own samples, and let it pick, by the functions of your solution.

    python train.py my_solution.py [--run DIR] [--seeds 3]
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))
import numpy as np
import torch
from experiment import Setting, run, train_problems, validation_problems

from minireason.core.config import rng
from minireason.critics.step_labels import outcome_labels
from minireason.critics.value_head import (
    Critic,
    critic_loss,
    final_values,
    labelled_rows,
    value_batches,
)
from minireason.measure.evaluate import answer_keys, verdicts_of
from minireason.model import checkpoint
from minireason.model.tokenizer import STEP_ENDS
from minireason.sampling.complete import complete
from minireason.sampling.sampler import Sampling
from minireason.training.optim import make_optimizer, schedule, train_step

RULES = ("first", "best", "majority", "weighted")


def trained_critic(given: Setting, seed: int, n: int, steps: int) -> Critic:
    """An outcome critic: the verdict on the whole sample labels each of its steps."""
    policy, tokenizer = checkpoint.load(given.start)
    problems = [p for p in train_problems(given.levels, n, seed, "critic") for _ in range(4)]
    texts = [row[0] for row in complete(policy, tokenizer, problems, "cot", Sampling(seed=seed))]
    verdicts = verdicts_of(problems, [[text] for text in texts])
    rows = labelled_rows(tokenizer, problems, texts, [
        outcome_labels(text, row[0].correct) for text, row in zip(texts, verdicts, strict=True)])
    critic = Critic.from_policy(policy)
    optimizer, ends = make_optimizer(critic, 0.1), torch.tensor(tokenizer.ids_of(*STEP_ENDS))
    for step in range(steps):
        chosen = rng(seed, "assignment critic", step).integers(0, len(rows), 48)
        batches, count = value_batches([rows[i] for i in chosen], ends, 4096, tokenizer.pad)
        train_step(critic, optimizer, batches, lambda b, n=count: critic_loss(critic, b, n, 0.15),
                   schedule(step, steps, 1e-3, 10))
    return critic


def experiment(given: Setting) -> list[dict]:
    """A row for each way to pick, over all seeds, and the critic's own quality."""
    n, n_check, n_samples, steps = (10, 5, 4, 3) if given.small else (300, 100, 16, 120)
    policy, tokenizer = checkpoint.load(given.start)
    check = validation_problems(given.levels, n_check)
    texts = complete(policy, tokenizer, check, "cot", Sampling(n=n_samples, seed=99))
    correct = np.array([[v.correct for v in row] for row in verdicts_of(check, texts)], dtype=float)
    keys = [answer_keys(p, row) for p, row in zip(check, texts, strict=True)]
    ask, reached = given.functions, {rule: [] for rule in RULES}
    quality = []
    for seed in given.seeds:
        critic = trained_critic(given, seed, n, steps)
        values = final_values(critic, tokenizer, check, texts)
        flat = np.array(values).ravel()
        quality.append((ask.auc(flat, correct.ravel()),
                        ask.calibration_error(flat, correct.ravel(), 10)))
        for rule in RULES:
            chosen = [ask.pick(row, list(worth), rule)
                      for row, worth in zip(keys, values, strict=True)]
            reached[rule].append([0.0 if i is None else correct[p, i]
                                  for p, i in enumerate(chosen)])
        print(f"seed {seed}: AUC {quality[-1][0]:.3f}, calibration error {quality[-1][1]:.3f}, "
              + ", ".join(f"{rule} {np.mean(reached[rule][-1]):.3f}" for rule in RULES), flush=True)
    draws = rng(0, "assignment 10").integers(0, len(check), (2000, len(check)))
    first, oracle = np.mean(reached["first"], axis=0), correct.max(axis=1)
    rows = []
    for rule in RULES:
        picked = np.mean(reached[rule], axis=0)
        share, low, high = ask.closed(picked, first, oracle, draws)
        rows.append({"rule": rule, "accuracy": float(picked.mean()), "closed": share,
                     "closed_low": low, "closed_high": high})
    rows.append({"rule": "oracle", "accuracy": float(oracle.mean()), "closed": 1.0})
    best, majority = (np.mean(reached[rule], axis=0) for rule in ("best", "majority"))
    low, high = np.quantile((best - majority)[draws].mean(axis=1), (0.025, 0.975))
    rows.append({"rule": "best - majority", "accuracy": float((best - majority).mean()),
                 "low": float(low), "high": float(high)})
    area, error = np.mean(quality, axis=0)
    return [*rows, {"rule": "critic", "auc": float(area), "calibration_error": float(error)}]


if __name__ == "__main__":
    run(__doc__, experiment)

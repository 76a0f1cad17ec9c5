"""Run folders of made-up numbers in the stages' own formats: rows.jsonl, result.json, metrics."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from minireason.core.config import portable
from minireason.core.files import write_checked
from minireason.measure.estimates import wilson
from minireason.problems import chain
from minireason.stages import critic, pretrain, rl, sft, star, testtime

LEVELS = range(1, 9)
TEST_TIME = {"single": 0.5, "majority": 0.6, "critic_vote": 0.7, "critic_best_of_n": 0.72,
             "coverage": 0.9}       # accuracy at the largest N


def write(folder: Path, stage: str, config: object, rows: list[dict], result: dict,
          metrics: Sequence[dict] = ()) -> None:
    """A finished stage's folder, without weights."""
    folder.mkdir(parents=True)
    record = {"stage": stage, "config": portable(config, folder), "parents": {}}
    seed = record["config"].get("seed", 0)
    (folder / "config.json").write_text(json.dumps(record))
    (folder / "result.json").write_text(json.dumps({"stage": stage, **result}))
    lines = {"metrics.jsonl": metrics, "rows.jsonl": [{**row, "seed": seed} for row in rows]}
    for name, members in lines.items():
        (folder / name).write_text("".join(json.dumps(member) + "\n" for member in members))


def level_rows(top: float, slope: float, method: str = "greedy", **extra: object) -> list[dict]:
    """Accuracy on every test set, falling with the level, of 500 problems."""
    rows = []
    for level in LEVELS:
        right = round(500 * min(1.0, max(0.02, top - slope * level)))
        low, high = wilson(right, 500)
        rows.append({"set": f"chain-test-k{level}", "method": method, "n": 1, **extra,
                     "accuracy": right / 500, "low": low, "high": high, "problems": 500})
    return rows


def method_rows(name: str, lift: float = 0.0) -> list[dict]:
    """Greedy, every test-time method at N = 1 to 8, two differences at N = 8, and a calibration."""
    common = {"set": name, "problems": 24, "temperature": 1.0}
    rows = [{"set": name, "method": "greedy", "n": 1, "accuracy": 0.55 + lift, "low": 0.5 + lift,
             "high": 0.6 + lift, "problems": 24}]
    for n in (1, 2, 4, 8):
        for method, top in TEST_TIME.items():
            accuracy = top * (0.5 + n / 16) + lift
            rows.append({**common, "method": method, "n": n, "tokens": 45.0 * n,
                         "flops": 2e7 * n, "accuracy": accuracy, "low": accuracy - 0.05,
                         "high": accuracy + 0.04})
        rows.append({"set": name, "method": "chance", "n": n, "accuracy": 0.02 * n, "low": 0.0,
                     "high": 0.3, "problems": 24})
    for pair, mean in (("majority - single", 0.1), ("critic_best_of_n - majority", 0.0321)):
        rows.append({**common, "method": pair, "n": 8, "accuracy": mean + lift,
                     "low": mean + lift - 0.03, "high": mean + lift + 0.02})
    for tenth in range(10):
        rows.append({"set": name, "method": "calibration", "value": tenth / 10 + 0.05,
                     "accuracy": tenth / 10, "count": 20 + tenth})
    return rows


def records(problems: int = 24) -> list[dict]:
    """The first samples of test problems, each third one with a wrong step and answer."""
    generator, found = np.random.default_rng(0), []
    for i in range(problems):
        problem = chain.sample(generator, 8)
        steps, answer = list(problem.steps), problem.answer
        if i % 3 == 0:
            steps[3] = steps[3].partition("=")[0] + "=11"
            answer = str((int(answer) + 1) % 100)
        found.append({"prompt": problem.prompt, "answer": problem.answer, "values": [0.5, 0.25],
                      "answers": [answer, answer], "correct": [int(i % 3 > 0)] * 2,
                      "example": f"<think>{';'.join(steps)}</think>{answer}<eos>"})
    return found


def made_run(folder: Path, seed: int = 0, stages: int = 5) -> Path:
    """pretrain, sft, star, critic, testtime: the first `stages` of them."""
    generator, at, lift = np.random.default_rng(seed), str(folder), 0.02 * seed
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(
        {"stage": "run", "config": {"size": "quickstart", "out": ".", "seed": seed},
         "made_with": {"torch": "2.13.0", "cores": 2, "python": "3.11.7"}}))
    metrics = [{"step": i, "train/loss": 1.2 + 2.5 * np.exp(-i / 60) + generator.normal(0, 0.05),
                "train/tokens": 5000} for i in range(300)]
    write(folder / "pretrain", "pretrain", pretrain.Config(out=f"{at}/pretrain", seed=seed),
          level_rows(0.2, 0.03, "direct") + level_rows(0.8 + lift, 0.1),
          {"seconds": 200.0, "flops": 1.5e12, "parameters": 451_000}, metrics)
    if stages >= 2:
        write(folder / "sft", "sft", sft.Config(init=f"{at}/pretrain", out=f"{at}/sft", seed=seed),
              level_rows(0.9 + lift, 0.09), {"seconds": 20.0}, metrics[:50])
    if stages >= 3:
        rows = []
        for r in (1, 2, 3):
            rows += level_rows(0.9 + 0.05 * r + lift, 0.08 - 0.02 * r, round=r)
            for method, accuracy in (("share_solved", 0.5 + 0.1 * r), ("share_rationalized", 0.1),
                                     ("share_wrong_steps", 0.3 - 0.05 * r)):
                rows.append({"set": "train", "method": method, "round": r, "accuracy": accuracy})
            rows.append({"set": "train", "method": "kept", "round": r, "count": 1500 + 100 * r})
        cfg = star.Config(init=f"{at}/sft", base=f"{at}/pretrain", out=f"{at}/star", seed=seed)
        write(folder / "star", "star", cfg, rows, {"seconds": 180.0})
    if stages >= 4:
        rows = [{"set": "held-out", "method": "auc", "accuracy": 0.91, "problems": 800}]
        cfg = critic.Config(init=f"{at}/star", out=f"{at}/critic", seed=seed)
        write(folder / "critic", "critic", cfg, rows, {"seconds": 60.0})
    if stages >= 5:
        cfg = testtime.Config(policy=f"{at}/star", critic=f"{at}/critic", seed=seed,
                              out=f"{at}/testtime")
        write(folder / "testtime", "testtime", cfg, method_rows("chain-test-k8", lift),
              {"seconds": 100.0})
        write_checked(folder / "testtime/samples-chain-test-k8-0.json", records())
    return folder


def add_verdicts(folder: Path) -> None:
    """verdicts.json of every policy and round: as many right as its rows say, which ones drawn."""
    for path in folder.glob("*/rows.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        found: dict = {}
        for row in rows:
            if row["method"] in ("greedy", "sampled") and row.get("problems") == 500:
                right = round(500 * row["accuracy"])
                digits = np.random.default_rng(row["seed"]).permutation(["2"] * right
                                                                        + ["0"] * (500 - right))
                of_round = found.setdefault(row.get("round"), {}).setdefault(row["method"], {})
                of_round[row["set"]] = "".join(digits)
        for number, verdicts in found.items():
            out = path.parent / f"round-{number}" if number else path.parent
            out.mkdir(exist_ok=True)
            (out / "verdicts.json").write_text(json.dumps(verdicts))


def add_limits(folder: Path) -> None:
    """The limits of imitation and the entropy of the text, as pretraining writes them."""
    path = folder / "pretrain/result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "entropy_per_token": 0.9}))
    with open(folder / "pretrain/rows.jsonl", "a") as file:
        for method, accuracy in (("single", 0.31), ("greedy", 0.42), ("majority", 0.43)):
            for level in LEVELS:
                file.write(json.dumps({"set": f"chain-test-k{level}", "method": f"limit_{method}",
                                       "accuracy": accuracy, "seed": 0}) + "\n")


def add_rl(folder: Path, seed: int = 0) -> None:
    """The RL stage of a made-up run."""
    metrics, rows = [], level_rows(1.0, 0.01)
    rows += level_rows(0.97, 0.02, "sampled") + level_rows(0.9, 0.07, "sampled_before")
    for step in range(50):
        line = {"reward": 0.3 + 0.01 * step, "entropy": 0.4 - 0.005 * step, "approx_kl": 1e-3,
                "clip_fraction": 0.01, "share_silent": 0.2, "share_cut": 0.01,
                "accuracy": 0.3 + 0.01 * step, "generated_tokens": 20_000,
                "flops": 3e11, "length_wrong": 45.0}
        if step > 5:                                           # early steps may have none
            line["length_right"] = 44.0
        metrics.append({"step": step, **{f"train/{key}": value for key, value in line.items()}})
    for step in range(0, 51, 10):
        for method in ("sampled", "greedy"):
            rows.append({"set": "chain-validation-k8", "method": method, "n": 1, "step": step,
                         "generated_tokens": 20_000 * step, "flops": 1e9 * step,
                         "accuracy": 0.3 + 0.008 * step + 0.01 * seed})
    write(folder / "rl", "rl", rl.Config(init=f"{folder}/star", out=f"{folder}/rl", seed=seed),
          rows, {"seconds": 150.0, "flops": 7.5e11}, metrics)


def search_rows() -> list[dict]:
    """A search stage on level 8: curves, differences by difficulty, one allocation."""
    rows, common = [], {"set": "chain-test-k8", "problems": 200}
    for method in ("single", "best_of_n", "tree", "tree_vote", "sequential"):
        for n in (4, 16):
            rows.append({**common, "method": method, "n": n, "tokens": 45.0 * n, "accuracy": 0.4,
                         "low": 0.35, "high": 0.45, "unit": 45})
    for method, n in (("tree", 4), ("tree", 16), ("sequential", 16)):
        row = {**common, "method": f"{method} - best_of_n", "n": n, "accuracy": 0.0321,
               "low": 0.011, "high": 0.052}
        rows.append(row)
        for number in range(5):
            rows.append({**row, "problems": 40, "bin": number,
                         "best_of_n_accuracy": 0.125 * number})
    rows.append({"set": "chain-test-k8", "method": "allocation: sample until sure",
                 "accuracy": 0.4, "tokens": 700.0, "factor": 3.25, "factor_low": 2.9,
                 "factor_high": 3.6, "difference": 0.004, "difference_low": -0.01,
                 "difference_high": 0.02})
    return rows

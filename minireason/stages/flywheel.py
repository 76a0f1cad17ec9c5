"""The flywheel: search improves the policy's answers, and the policy learns from what it found.

Each turn: draw N solutions of many problems, choose one of each by search (best-of-N by the
critic, or a majority vote), keep what a filter lets through, train the policy on it, refresh the
critic on the new policy (expert iteration: Anthony 2017, arXiv:1705.08439; policy and value in
turn: Zhang 2024, arXiv:2406.03816; after reinforcement learning: DeepSeek-AI 2025,
arXiv:2501.12948, section 2.3.3). What may the filter know?

    verifier   the truth: only right answers are kept
    critic     an opinion: values above a threshold are kept, its mistakes are learned too
    none       whatever search chose is kept
"""

from dataclasses import dataclass, replace
from functools import partial
from itertools import chain

from minireason.core.config import Share, rng
from minireason.core.errors import UserError, check_choice
from minireason.critics import step_labels
from minireason.critics.value_head import Critic, final_values, fit_critic, labelled_rows
from minireason.measure.estimates import auc, wilson
from minireason.measure.evaluate import answer_keys, finish_policy, share_rows, verdicts_of
from minireason.model import checkpoint
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import Transformer
from minireason.problems import Problem, Verdict
from minireason.search.vote import SEARCHES, agreement, choose
from minireason.training.imitate import RoundsConfig, imitate_kept, run_rounds, sample_own

CHOICES = {"search": SEARCHES, "filter": ("verifier", "critic", "none"),
           "refresh": ("exact", "outcome", "majority", "no")}


@dataclass(frozen=True)
class Solution:
    """The sample that search chose for one problem."""

    problem: Problem
    text: str                     # completion, opener included
    value: float                  # the critic's, after the whole completion
    verdict: Verdict              # the exact truth


@dataclass(frozen=True, kw_only=True)
class Config(RoundsConfig):
    """Stage 5: turns of search, filter, training, and a refreshed critic."""

    critic: str                   # folder of the first policy's critic
    out: str = "runs/flywheel"
    turns: int = 2
    problems: int = 1000          # new train problems per turn
    n: int = 8                    # N samples per problem
    search: str = "critic"        # chooses one of N: critic | majority | single (the first)
    filter: str = "verifier"      # lets it through: verifier | critic | none
    threshold: float = 0.5        # least value that the critic as filter lets through
    refresh: str = "exact"        # labels of the new critic: exact | outcome | majority | no
    critic_problems: int = 600    # new train problems that the critic is refreshed on
    held_out: int = 100           # of these: kept from training, to measure the critic
    critic_steps: int = 300
    imitation: float = 0.15       # weight of right thoughts' tokens in the critic's loss
    restart: bool = False         # each turn trains `base` anew; else the last policy
    replay: Share = 0.0           # share of rows from the mixture: it would teach the errors back
    steps: int = 100              # training steps per turn
    lr: float = 5e-4              # peak learning rate

    def __post_init__(self):
        for name, choices in CHOICES.items():
            check_choice(name, getattr(self, name), choices)
        if not 0 < self.held_out < self.critic_problems:
            raise UserError("flywheel: --held-out must be at least 1 and below --critic-problems")


def run(cfg: Config) -> dict:
    """All turns, each its own folder `turn-t` below `out`; returns result.json's content."""
    return run_rounds("flywheel", "turn", cfg, cfg.turns, partial(run_turn, cfg),
                      critic=cfg.critic)


def run_turn(cfg: Config, number: int, policy_folder: str) -> dict:
    """Search, filter, retrain, refresh, evaluate; returns the turn's result.json."""
    refreshed = number > 1 and cfg.refresh != "no"
    critic_folder = f"{policy_folder}/critic" if refreshed else cfg.critic
    log, device = checkpoint.open_stage(
        f"flywheel turn {number}", cfg, f"{cfg.out}/turn-{number}", policy=policy_folder,
        critic=critic_folder)
    if log.done:
        return log.done
    found = log.once("solutions.json", lambda: search_solutions(
        cfg, number, *checkpoint.load(policy_folder, device),
        checkpoint.load(critic_folder, device, Critic,
                        Tokenizer.load(f"{policy_folder}/tokenizer.json"))[0]))
    solutions = found.pop("solutions")
    right = f", {100 * found['precision']:.0f}% of them right" if solutions else ""
    log.say(f"kept {len(solutions)} solutions of {cfg.problems} problems{right}")
    model, tokenizer = imitate_kept(log, cfg, solutions, policy_folder, device, "flywheel", number)
    own, refreshing = log.flops(), 0.0
    if cfg.refresh != "no":
        checkpoint.save(log.out, model, tokenizer)
        result = refresh_critic(cfg, number, f"{log.out}/critic", str(log.out))
        found |= {name: result[name] for name in ("critic_auc", "critic_label_accuracy")}
        refreshing = result["flops"]
    return finish_policy(log, cfg, model, tokenizer, share_rows(found, cfg.problems),
                         flops=own + refreshing, **found)


def search_solutions(cfg: Config, number: int, policy: Transformer, tokenizer: Tokenizer,
                     critic: Critic) -> dict:
    """The solutions that search chose and the filter kept, and the exact truth about them.

    Search and filter know only what they are given; the truth is measured, and decides nothing.
    """
    problems, completions = sample_own(cfg, policy, tokenizer, "flywheel", number)
    values = final_values(critic, tokenizer, problems, completions)
    verdicts = verdicts_of(problems, completions)
    chosen = searched(cfg.search, problems, completions, values, verdicts)
    kept = [solution for solution in chosen if passes(cfg.filter, solution, cfg.threshold)]
    drawn = [verdict.correct for row in verdicts for verdict in row]
    covered = sum(any(verdict.correct for verdict in row) for row in verdicts)
    return {"solutions": [[s.problem.prompt, s.text] for s in kept], **truth(kept),
            "single": sum(drawn) / len(drawn),
            "searched": sum(s.verdict.correct for s in chosen) / len(problems),
            "coverage": covered / len(problems), "auc": auc(list(chain(*values)), drawn)}


def refresh_critic(cfg: Config, number: int, out: str, policy_folder: str) -> dict:
    """A new critic for the turn's policy, from its own samples; its result.json."""
    log, device = checkpoint.open_stage(f"flywheel critic {number}", cfg, out,
                                        policy=policy_folder)
    if log.done:
        return log.done
    policy, tokenizer = checkpoint.load(policy_folder, device)
    cfg = replace(cfg, problems=cfg.critic_problems, steps=cfg.critic_steps)
    problems, completions = sample_own(cfg, policy, tokenizer, "refresh", number)
    rows, right, labels = [], [], []                      # one per completion
    for problem, texts, verdicts in zip(problems, completions,
                                        verdicts_of(problems, completions), strict=True):
        correct = [verdict.correct for verdict in verdicts]
        ends = labels_of(cfg.refresh, problem, texts, correct)
        rows += labelled_rows(tokenizer, [problem] * cfg.n, texts, ends)
        right += correct
        labels += ends
    taught = cfg.problems - cfg.held_out
    critic = Critic.from_policy(policy)
    fit_critic(log, critic, tokenizer, cfg, rows[:taught * cfg.n],
               lambda step: rng(cfg.seed, "flywheel critic", number, step), cfg.imitation)
    sha256 = checkpoint.save(log.out, critic, tokenizer)
    values = final_values(critic, tokenizer, problems[taught:], completions[taught:])
    agree = [(ends[-1] > 0.5) == good for ends, good in zip(labels, right, strict=True) if ends]
    return log.finish([], weights=sha256,
                      critic_auc=auc(list(chain(*values)), right[taught * cfg.n:]),
                      critic_label_accuracy=sum(agree) / max(1, len(agree)))


def labels_of(how: str, problem: Problem, texts: list[str],
              right: list[bool]) -> list[list[float]]:
    """A label for every step end of every sample of a problem; only "majority" knows no truth."""
    if how == "majority":
        right = agreement(answer_keys(problem, texts))
    labels = []
    for text, good in zip(texts, right, strict=True):
        if how == "exact":
            labels.append(list(map(float, step_labels.exact_labels(problem, text))))
        else:
            labels.append(step_labels.outcome_labels(text, good))
    return labels


def searched(how: str, problems: list[Problem], completions: list[list[str]],
             values: list[list[float]], verdicts: list[list[Verdict]]) -> list[Solution]:
    """What search settles on for each problem, those without a well-formed sample left out."""
    found = []
    for problem, texts, row, truths in zip(problems, completions, values, verdicts, strict=True):
        i = choose(how, answer_keys(problem, texts), row)
        if i is not None:
            found.append(Solution(problem, texts[i], row[i], truths[i]))
    return found


def passes(how: str, solution: Solution, threshold: float) -> bool:
    """Does the filter let a solution through? Only "verifier" looks at the truth."""
    if how == "verifier":
        return solution.verdict.correct
    return how == "none" or solution.value >= threshold


def truth(kept: list[Solution]) -> dict[str, float]:
    """How much of what was kept is right, with a 95% interval, and how sure the critic was.

    A share of nothing is left out: where nothing was kept, only `kept` remains.
    """
    n, right = len(kept), sum(s.verdict.correct for s in kept)
    if n == 0:
        return {"kept": 0}
    low, high = wilson(right, n)
    return {"kept": n, "precision": right / n, "precision_low": low, "precision_high": high,
            "steps_valid": sum(s.verdict.steps_valid for s in kept) / n,
            "mean_value": sum(s.value for s in kept) / n}

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
from itertools import chain

from minireason.core.config import TrainingConfig, UserError, check_choice, rng, stream_seed
from minireason.critics.fit import fit_critic, labelled_rows
from minireason.critics.step_labels import exact_labels, outcome_labels
from minireason.critics.value_head import Critic, final_values
from minireason.measure.estimates import auc
from minireason.measure.evaluate import answer_of, finish_policy, share_rows, verdicts_of
from minireason.model import checkpoint
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import Transformer
from minireason.problems import FAMILIES, Problem, sample_levels
from minireason.problems.corpus import Mixture
from minireason.sampling.complete import complete
from minireason.sampling.sampler import Sampling
from minireason.search.vote import FILTERS, SEARCHES, agreement, passes, searched, truth
from minireason.training.imitate import imitate, replayed_rows, run_rounds

CHOICES = {"search": SEARCHES, "filter": FILTERS, "refresh": ("exact", "outcome", "majority", "no")}


@dataclass(frozen=True, kw_only=True)
class Config(TrainingConfig):
    """Stage 5: turns of search, filter, training, and a refreshed critic."""

    init: str                     # folder of the first policy
    base: str                     # pretrained folder whose mixture is replayed; see restart
    critic: str                   # folder of the first policy's critic
    out: str = "runs/flywheel"
    turns: int = 3
    problems: int = 1500          # new train problems per turn
    min_level: int = 1
    max_level: int = 8
    n: int = 8                    # N samples per problem
    temperature: float = 1.0
    search: str = "critic"        # chooses one of N: critic | majority | single (the first)
    filter: str = "verifier"      # lets it through: verifier | critic | none
    threshold: float = 0.5        # least value that the critic as filter lets through
    refresh: str = "exact"        # labels of the new critic: exact | outcome | majority | no
    critic_problems: int = 600    # new train problems that the critic is refreshed on
    held_out: int = 100           # of these: kept from training, to measure the critic
    critic_steps: int = 300
    imitation: float = 0.15       # weight of right thoughts' tokens in the critic's loss
    restart: bool = False         # each turn trains `base` anew; else the last policy
    replay: float = 0.5           # share of rows from the pretraining mixture
    steps: int = 300              # training steps per turn

    def __post_init__(self):
        for name, choices in CHOICES.items():
            check_choice(name, getattr(self, name), choices)
        if not 0 < self.held_out < self.critic_problems:
            raise UserError("flywheel: --held-out must be at least 1 and below --critic-problems")


def run(cfg: Config) -> dict:
    """All turns, each its own folder `turn-t` below `out`; returns result.json's content."""
    log, device = checkpoint.open_stage("flywheel", cfg, cfg.out, init=cfg.init, base=cfg.base,
                                        critic=cfg.critic)
    mixture = Mixture.of(cfg.base)
    return log.done or run_rounds(log, device, "turn", cfg.turns, cfg.init, lambda number, folder:
                                  run_turn(cfg, number, folder, mixture))


def run_turn(cfg: Config, number: int, policy_folder: str, mixture: Mixture) -> dict:
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
        checkpoint.load(critic_folder, device, Critic)[0]))
    solutions = found.pop("solutions")
    right = f", {100 * found['precision']:.0f}% of them right" if solutions else ""
    log.say(f"kept {len(solutions)} solutions of {cfg.problems} problems{right}")
    start = cfg.base if cfg.restart and solutions else policy_folder
    model, tokenizer = checkpoint.load(start, device)
    if solutions:
        imitate(log, model, tokenizer, cfg, lambda step: replayed_rows(
            tokenizer, solutions, cfg.rows_per_step, mixture, FAMILIES[cfg.family], cfg.replay,
            rng(cfg.seed, "flywheel rows", number, step)))
    else:
        log.say("no solution passed the filter, so this turn trains nothing and passes its policy "
                "on; lower --threshold or --min-level, or raise --n")
    if cfg.refresh != "no":
        checkpoint.save(log.out, model, tokenizer)
        found |= refresh_critic(cfg, number, f"{log.out}/critic", str(log.out))
    return finish_policy(log, cfg, model, tokenizer, share_rows(found, cfg.problems), **found)


def sample_train_problems(cfg: Config, n: int, purpose: str, number: int, policy: Transformer,
                          tokenizer: Tokenizer) -> tuple[list[Problem], list[list[str]]]:
    """New train problems of a turn and N completions of each."""
    levels = (cfg.min_level, cfg.max_level)
    problems = sample_levels(FAMILIES[cfg.family], rng(cfg.seed, f"{purpose} problems", number),
                             levels, n)
    how = Sampling(n=cfg.n, temperature=cfg.temperature,
                   seed=stream_seed(cfg.seed, f"{purpose} samples", number))
    return problems, complete(policy, tokenizer, problems, "cot", how)


def search_solutions(cfg: Config, number: int, policy: Transformer, tokenizer: Tokenizer,
                     critic: Critic) -> dict:
    """The solutions that search chose and the filter kept, and the exact truth about them."""
    problems, completions = sample_train_problems(cfg, cfg.problems, "flywheel", number, policy,
                                                  tokenizer)
    values = final_values(critic, tokenizer, problems, completions)
    verdicts = verdicts_of(problems, completions)
    chosen = searched(cfg.search, problems, completions, values, verdicts)
    kept = [solution for solution in chosen if passes(cfg.filter, solution, cfg.threshold)]
    drawn = [verdict.correct for row in verdicts for verdict in row]
    covered = [any(verdict.correct for verdict in row) for row in verdicts]
    return {"solutions": [[s.problem.prompt, s.text] for s in kept], **truth(kept),
            "single": sum(drawn) / len(drawn),
            "searched": sum(s.verdict.correct for s in chosen) / len(problems),
            "coverage": sum(covered) / len(problems),
            "auc": auc(list(chain(*values)), drawn)}


def refresh_critic(cfg: Config, number: int, out: str, policy_folder: str) -> dict:
    """A new critic for the turn's policy, from its own samples; its AUC and label accuracy."""
    log, device = checkpoint.open_stage(f"flywheel critic {number}", cfg, out,
                                        policy=policy_folder)
    if log.done:
        return {name: log.done[name] for name in ("critic_auc", "critic_label_accuracy")}
    policy, tokenizer = checkpoint.load(policy_folder, device)
    problems, completions = sample_train_problems(cfg, cfg.critic_problems, "refresh", number,
                                                  policy, tokenizer)
    right = [[verdict.correct for verdict in row] for row in verdicts_of(problems, completions)]
    labels = [labels_of(cfg.refresh, *each)
              for each in zip(problems, completions, right, strict=True)]
    cut = cfg.critic_problems - cfg.held_out
    rows = labelled_rows(tokenizer, [p for p in problems[:cut] for _ in range(cfg.n)],
                         list(chain(*completions[:cut])), list(chain(*labels[:cut])))
    critic = Critic.from_policy(policy)
    recipe = replace(cfg, steps=cfg.critic_steps)
    fit_critic(log, critic, tokenizer, recipe, rows,
               lambda step: rng(cfg.seed, "flywheel critic", number, step), cfg.imitation)
    sha256 = checkpoint.save(log.out, critic, tokenizer)
    values = final_values(critic, tokenizer, problems[cut:], completions[cut:])
    agree = [(ends[-1] > 0.5) == correct for ends, correct in
             zip(chain(*labels), chain(*right), strict=True) if ends]
    measured = {"critic_auc": auc(list(chain(*values)), list(chain(*right[cut:]))),
                "critic_label_accuracy": sum(agree) / max(1, len(agree))}
    log.finish(seconds=log.seconds(), weights=sha256, **measured)
    return measured


def labels_of(how: str, problem: Problem, texts: list[str],
              right: list[bool]) -> list[list[float]]:
    """A label for every step end of every sample of a problem; only "majority" knows no truth."""
    if how == "exact":
        return [[float(label) for label in exact_labels(problem, text)] for text in texts]
    good = agreement([answer_of(problem, text) for text in texts]) if how == "majority" else right
    return [outcome_labels(text, label) for text, label in zip(texts, good, strict=True)]

"""What `chat` and `serve` share: who answers, and what happens while a typed line is answered.

With several samples the answer is chosen as at test time: by vote, weighted with the critic's
values if one is there. Marks are the exact verifier's, which the model never sees.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minireason import stages
from minireason.core.config import check_numbers, resolve_device, stream_seed
from minireason.core.errors import UserError, check_choice
from minireason.core.files import read_json
from minireason.critics.value_head import Critic, final_values
from minireason.measure.evaluate import answer_keys, answer_of, marked_steps
from minireason.model import checkpoint
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import Transformer
from minireason.problems import FAMILIES, Family, Problem
from minireason.sampling.complete import limits_of
from minireason.sampling.forcing import Forcing, drafts_of, think_on
from minireason.sampling.sampler import Sampling

MODES = {"always": Forcing(), "never": Forcing("direct"), "auto": Forcing("auto")}


@dataclass(frozen=True)
class Config:
    """Who answers, and how."""

    run: str = "runs/quickstart"  # a run folder, or the folder of one checkpoint
    checkpoint: str = ""          # another checkpoint than the run's last policy
    critic: str = ""              # default: the run's critic, if it has one
    show_thoughts: bool = False   # print every step with the verifier's mark
    think: str = ""               # always | never | auto (the policy chooses) | tokens at most;
                                  # default: as the policy was taught to answer
    n: int = 1                    # samples; above 1 they vote
    temperature: float = 0.0      # 0 is greedy; with --n above 1 give for instance 1
    family: str = ""              # default: what the checkpoint was trained on
    seed: int = 0
    device: str = "auto"

    def __post_init__(self):
        if self.n < 1 or (self.n > 1 and self.temperature == 0):
            raise UserError(f"--n {self.n}: several samples need --temperature above 0, such as 1")
        known = self.think in MODES or not self.think
        if not known and (not self.think.isdecimal() or len(self.think) > 9):
            raise UserError(f"--think {self.think[:40]}: must be one of {', '.join(MODES)}, or a "
                            "number of tokens")


@dataclass(frozen=True)
class Answerer:
    """Who answers, and who judges."""

    folder: Path
    policy: Transformer
    tokenizer: Tokenizer
    family: Family
    critic_folder: Path
    critic: Critic | None         # None: all samples weigh the same

    def __str__(self) -> str:
        return f"{self.folder} answers" + (f", {self.critic_folder} judges" if self.critic else "")


def load_answerer(cfg: Config, judged: bool) -> Answerer:
    """The policy, and its critic if --critic names one or, where `judged`, if the run has one.

    UserError if a folder is missing or damaged, or a number of cfg is out of range.
    """
    check_numbers(cfg)
    device = resolve_device(cfg.device)
    folder = find_policy(cfg)
    policy, tokenizer = checkpoint.load(folder, device)
    names = {stage.name: stage.critic for stage in stages.STAGES}
    critic_folder = Path(cfg.critic or Path(cfg.run) / names.get(folder.name, "critic"))
    critic = None
    if cfg.critic or (judged and (critic_folder / "result.json").exists()):
        critic = checkpoint.load(critic_folder, device, Critic, tokenizer)[0]
    family = FAMILIES[find_family(cfg.family, folder)]
    return Answerer(folder, policy, tokenizer, family, critic_folder, critic)


def find_policy(cfg: Config) -> Path:
    """--checkpoint, the run's last finished policy, or --run itself if it is a checkpoint."""
    if cfg.checkpoint:
        return Path(cfg.checkpoint)
    folder = Path(cfg.run)
    for stage in reversed(stages.STAGES):
        if stage.label and stage.in_run and os.path.exists(folder / stage.name / "result.json"):
            return folder / stage.name
    if os.path.exists(folder / "model.safetensors"):
        return folder
    raise UserError(f"{folder}: neither a run folder with a finished stage nor a checkpoint; "
                    "`minireason run` makes one")


def find_family(name: str, folder: Path) -> str:
    """The name itself, else what the checkpoint's config.json says, else the first one."""
    record = folder / "config.json"
    config = read_json(record).get("config") if record.exists() else None
    held = config.get("family") if isinstance(config, dict) else None
    name = name or str(held or next(iter(FAMILIES)))
    check_choice("family", name, FAMILIES)
    return name


def forcing_of(think: str, folder: Path) -> Forcing:
    """What --think forces on a completion; "" is how the policy's stage measured its answers.

    Made to think, a policy that chooses would do what it has not practised.
    """
    if think.isdecimal():
        return Forcing(budget=int(think))
    record = folder / "result.json"
    measured = read_json(record).get("accuracy") if record.exists() else None
    style = next(iter(measured), "cot") if isinstance(measured, dict) else "cot"
    return MODES[think or {"direct": "never", "auto": "auto"}.get(style, "always")]


def answer_events(who: Answerer, cfg: Config, line: str, number: int,
                  pauses: Iterable[str] = (";",)) -> Iterator[tuple[str, dict[str, Any]]]:
    """What happens while a typed line is answered, as (kind, plain data), the answer last.

    problem  its prompt, and the most tokens that all samples together may have
    step     the first sample's whole steps so far, marked
    token    what it has written after them, and the tokens of all samples so far
    answer   what outcome_of says, and a summary of each sample's thought

    number and cfg.seed decide what is drawn; pauses are the tokens after which something happens.
    UserError if the line is unreadable or too long for the model.
    """
    problem = who.family.read(line)
    how = Sampling(n=cfg.n, temperature=cfg.temperature,
                   seed=stream_seed(cfg.seed, "chat", number))
    forcing = forcing_of(cfg.think, who.folder)
    drafts = drafts_of(who.tokenizer, [problem], how, forcing)
    most = sum(limits_of(how, [draft.problem for draft in drafts]))
    yield "problem", {"prompt": problem.prompt, "most": most}
    known: list[tuple[str, str]] = []
    for _ in think_on(who.policy, who.tokenizer, drafts, how, forcing, *pauses):
        steps, rest = written_steps(problem, who.tokenizer.decode(drafts[0].completion))
        if steps != known:
            known = steps
            yield "step", {"steps": steps}
        yield "token", {"text": rest, "tokens": sum(len(draft.tokens) for draft in drafts)}
    texts, values = [who.tokenizer.decode(draft.completion) for draft in drafts], None
    if who.critic:
        (values,) = final_values(who.critic, who.tokenizer, [problem], [texts])
    found = outcome_of(problem, texts, values)
    for sample in found["samples"]:
        sample["summary"] = summary(who.tokenizer, problem, sample["text"])
    yield "answer", found


def written_steps(problem: Problem, text: str) -> tuple[list[tuple[str, str]], str]:
    """The whole steps of a completion under way, marked, and what its thought has after them."""
    thought, closed, _ = text.partition("</think>")
    thought = thought.removeprefix("<think>")
    whole, _, rest = (thought, "", "") if closed else thought.rpartition(";")
    if not whole:
        return [], rest
    steps = marked_steps(problem, f"<think>{whole}</think>{problem.answer}<eos>")
    if not steps:                      # the family's grammar asks for all of its steps
        written = whole.split(";")
        marks = FAMILIES[problem.family].check_steps(problem, tuple(written))
        steps = [(step, "right" if good else "wrong")
                 for step, good in zip(written, marks, strict=True)]
    return steps, rest


def summary(tokenizer: Tokenizer, problem: Problem, text: str) -> str:
    """A hidden thought in one line: its steps, withdrawn ones, tokens of the thought itself."""
    thought = text.removeprefix("<think>").partition("</think>")[0]
    if not thought:
        return "no thought"
    marks = [mark for _, mark in marked_steps(problem, text)]
    counts = {"steps": len(marks) - marks.count("withdrawn"), "withdrawn": marks.count("withdrawn"),
              "tokens": len(tokenizer.encode(thought.removesuffix("<eos>")))}
    return ", ".join(f"{count} {name.removesuffix('s') if count == 1 else name}"
                     for name, count in counts.items() if count)


def outcome_of(problem: Problem, texts: list[str], values: list[float] | None) -> dict[str, Any]:
    """How the samples answer and which one is chosen, as plain data.

    samples  of each: text, answer or None, whether it is right, the critic's value or None, steps
             with their marks
    best     the chosen one's index; said: its answer in words; truth: the right answer; drawing:
             the family's picture of the problem with this answer as text, "" if it has none
    votes    of each answer, the chosen one first: answer, samples (indices), value (their sum)

    values: the critic's, of each text; None, and every sample weighs the same.
    """
    keys, samples = answer_keys(problem, texts), []
    weights = values or [1.0] * len(texts)
    for text, value in zip(texts, values or [None] * len(texts), strict=True):
        answer = answer_of(problem, text)
        right = answer is not None and FAMILIES[problem.family].is_right(problem, answer)
        samples.append({"text": text, "answer": answer, "right": right, "value": value,
                        "steps": marked_steps(problem, text)})
    best, votes = choose(keys, weights), []
    for key, mass in sorted(vote(keys, weights).items(), key=lambda pair: -pair[1]):
        which = [i for i, other in enumerate(keys) if other == key]
        votes.append({"answer": samples[which[0]]["answer"], "samples": which, "value": mass})
    said = (samples[best]["answer"]
            or "no answer: the thought gave up or did not come to an end")
    if len(texts) > 1:
        said += f"   ({keys.count(keys[best])} of {len(texts)} samples)"
    drawn = getattr(FAMILIES[problem.family], "drawing", lambda *_: "")
    return {"samples": samples, "best": best, "said": said, "truth": problem.answer,
            "drawing": drawn(problem, samples[best]["answer"] or ""), "votes": votes}


def vote(keys: list[str | None], values: list[float]) -> dict[str, float]:
    """{key of an answer: the sum of its samples' values}; None is no answer."""
    mass: dict[str, float] = {}
    for key, value in zip(keys, values, strict=True):
        if key is not None:
            mass[key] = mass.get(key, 0.0) + value
    return mass


def choose(keys: list[str | None], values: list[float]) -> int:
    """The best sample of the answer with the most value, of all samples if no answer stands."""
    mass = vote(keys, values)
    winner = max(mass, key=mass.__getitem__, default=None)
    return max((i for i, key in enumerate(keys) if key == winner), key=values.__getitem__)

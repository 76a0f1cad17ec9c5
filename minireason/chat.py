"""`minireason chat`: type a problem, see the answer; the thought stays hidden unless asked for.

While it thinks, a bar moves on a terminal; a hidden thought leaves one line on standard error, such
as `5 steps, 1 withdrawn, 31 tokens`. --think says whether and how long it may think. The mark
beside each step is the exact verifier's, which the model never sees. With several samples the
answer is chosen as at test time: by vote, weighted with the critic's values if one is there.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from minireason import stages
from minireason.core.config import check_numbers, resolve_device, stream_seed
from minireason.core.errors import UserError, check_choice
from minireason.core.files import read_json
from minireason.critics.value_head import Critic, final_values
from minireason.measure.evaluate import answer_keys, answer_of, marked_steps
from minireason.model import checkpoint
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import Transformer
from minireason.problems import FAMILIES, Problem
from minireason.sampling.complete import limits_of
from minireason.sampling.forcing import Forcing, drafts_of, think_on
from minireason.sampling.sampler import Sampling

MODES = {"always": Forcing(), "never": Forcing("direct"), "auto": Forcing("auto")}


@dataclass(frozen=True)
class Config:
    """Read problems from standard input, one per line; an empty line ends."""

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


def run(cfg: Config) -> int:
    """Answer until an empty line or the end of input; returns how many lines were answered.

    Exits with code 2 at the end if standard input is no terminal and a line was unreadable.
    """
    check_numbers(cfg)
    device = resolve_device(cfg.device)
    folder = find_policy(cfg)
    policy, tokenizer = checkpoint.load(folder, device)
    names = {stage.name: stage.critic for stage in stages.STAGES}
    critic_folder = Path(cfg.critic or Path(cfg.run) / names.get(folder.name, "critic"))
    critic = None
    if cfg.critic or (cfg.n > 1 and (critic_folder / "result.json").exists()):
        critic = checkpoint.load(critic_folder, device, Critic, tokenizer)[0]
    family = FAMILIES[find_family(cfg.family, folder)]
    forcing = forcing_of(cfg.think, folder)
    print(f"{folder} answers" + (f", {critic_folder} judges" if critic else ""), file=sys.stderr)
    answered = failed = 0
    while line := next_line():
        try:
            problem = family.read(line)
            how = Sampling(n=cfg.n, temperature=cfg.temperature,
                           seed=stream_seed(cfg.seed, "chat", answered))
            texts = think_visibly(policy, tokenizer, problem, how, forcing)
            values = [1.0] * cfg.n
            if critic:
                (values,) = final_values(critic, tokenizer, [problem], [texts])
            if not cfg.show_thoughts:
                best = texts[choose(answer_keys(problem, texts), values)]
                print(summary(tokenizer, problem, best), file=sys.stderr, flush=True)
            print(reply(cfg, problem, texts, values), flush=True)
            answered += 1
        except UserError as error:
            print(f"minireason: error: {error}", file=sys.stderr, flush=True)
            failed += 1
    if failed and not sys.stdin.isatty():
        raise SystemExit(2)
    return answered


def next_line() -> str:
    """One typed line, '' at the end; a prompt is shown to people only."""
    if sys.stdin.isatty():
        print("> ", end="", flush=True)
    return sys.stdin.readline().strip()


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


def choose(keys: list[str | None], values: list[float]) -> int:
    """The best sample of the answer with the most value, of all samples if no answer stands."""
    mass: dict[str, float] = {}
    for key, value in zip(keys, values, strict=True):
        if key is not None:
            mass[key] = mass.get(key, 0.0) + value
    winner = max(mass, key=mass.__getitem__, default=None)
    return max((i for i, key in enumerate(keys) if key == winner), key=values.__getitem__)


def think_visibly(policy: Transformer, tokenizer: Tokenizer, problem: Problem, how: Sampling,
                  forcing: Forcing) -> list[str]:
    """how.n completions, opener included; a bar of tokens moves where stderr is a terminal."""
    drafts = drafts_of(tokenizer, [problem], how, forcing)
    most = sum(limits_of(how, [draft.problem for draft in drafts]))
    with tqdm(total=most, desc="thinking", unit="token", leave=False, disable=None,
              mininterval=0, file=sys.stderr) as bar:
        for _ in think_on(policy, tokenizer, drafts, how, forcing, ";"):
            bar.update(sum(len(draft.tokens) for draft in drafts) - bar.n)
    return [tokenizer.decode(draft.completion) for draft in drafts]


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


def reply(cfg: Config, problem: Problem, texts: list[str], values: list[float]) -> str:
    """What is printed for one problem."""
    keys = answer_keys(problem, texts)
    best = choose(keys, values)
    answer = answer_of(problem, texts[best])
    end = answer or "no answer: the thought gave up or did not come to an end"
    if len(texts) > 1:
        end += f"   ({keys.count(keys[best])} of {len(texts)} samples)"
    if not cfg.show_thoughts:
        return end
    lines = [f"  {step}   [{mark}]" for step, mark in marked_steps(problem, texts[best])]
    if not lines:
        lines = [f"  {texts[best]}" if answer else f"  {texts[best]}   [malformed]"]
    if answer:
        right = FAMILIES[problem.family].is_right(problem, answer)
        end += "   [right]" if right else f"   [wrong, it is {problem.answer}]"
    return "\n".join([*lines, end])

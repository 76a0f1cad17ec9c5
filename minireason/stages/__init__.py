"""The ladder as data: each stage is a function from checkpoint folders to the next one.

A stage is a module with a frozen dataclass `Config` and `run(cfg) -> dict`; no stage imports
another. cli, pipeline, report, chat and ablate read STAGES; a new stage is one file and one row.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Stage:
    """One row of the ladder."""

    name: str                     # its folder in a run, and its command
    module: str                   # holds Config and run(cfg)
    help: str                     # one line of the command list
    parents: dict[str, str] = field(default_factory=dict)   # field of Config -> stage it names
    settings: dict = field(default_factory=dict)   # what makes it this row and no other
    label: str = ""               # its rung in figures; "": it yields no policy
    critic: str = "critic"        # the stage whose critic judges this policy
    in_run: bool = True           # part of `minireason run`
    command: bool = True          # a command of its own; else only a variant of one


_STAGES = "minireason.stages"
STAGES = (
    Stage("pretrain", f"{_STAGES}.pretrain", "a base model from random weights",
          label="pretrained, step by step"),
    Stage("sft", f"{_STAGES}.sft", "chain-of-thought fine-tuning", {"init": "pretrain"},
          label="SFT"),
    Stage("star", f"{_STAGES}.star", "self-taught rationales",
          {"init": "sft", "base": "pretrain"}, label="STaR"),
    Stage("critic", f"{_STAGES}.critic", "a learned judge of steps", {"init": "star"}),
    Stage("outcome", f"{_STAGES}.critic", "a critic taught by outcomes alone", {"init": "star"},
          settings={"labels": "outcome"}, command=False),
    Stage("testtime", f"{_STAGES}.testtime", "votes and best-of-N on frozen sets",
          {"policy": "star", "critic": "critic", "outcome": "outcome"}),
    Stage("rl", f"{_STAGES}.rl", "reinforcement learning against the verifier",
          {"init": "star"}, label="RL", critic="rl_critic"),
    Stage("rl_critic", f"{_STAGES}.critic", "the RL policy's critic", {"init": "rl"},
          command=False),
    Stage("rl_testtime", f"{_STAGES}.testtime", "votes and best-of-N after RL",
          {"policy": "rl", "critic": "rl_critic"}, command=False),
    Stage("revise", f"{_STAGES}.revise", "a policy that withdraws its errors",
          {"init": "star", "base": "pretrain"}, in_run=False),
    Stage("quiet_star", f"{_STAGES}.quiet_star", "thoughts judged by the text that follows them",
          {"init": "pretrain", "base": "pretrain"}, in_run=False),
    Stage("think_budget", f"{_STAGES}.think_budget", "a policy that thinks when it pays",
          {"init": "rl", "critic": "rl_critic"}, in_run=False),
    Stage("internalize", f"{_STAGES}.internalize", "a thought removed token by token",
          in_run=False),
    Stage("search", f"{_STAGES}.guided_search", "beam and tree search at equal tokens",
          {"policy": "star", "critic": "critic"}),
    Stage("flywheel", f"{_STAGES}.flywheel", "search, keep, retrain, repeat",
          {"init": "rl", "base": "pretrain", "critic": "rl_critic"}, label="flywheel",
          critic="rl_critic"),
)

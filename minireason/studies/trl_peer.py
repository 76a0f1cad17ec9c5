"""A step of reinforcement learning beside TRL's GRPOTrainer, for `minireason bench --peers`.

Both draw N completions of max_new tokens for every prompt from the same weights and learn from them
once, each by its own advantage and loss. The reward is no verdict, for which untrained weights are
never right: it costs nothing, and every group has a signal.
"""

import contextlib
import copy
import io
import tempfile
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from itertools import chain as chained
from pathlib import Path
from typing import Any

import numpy as np
import torch

from minireason.core.errors import UserError
from minireason.export import write_folder
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import Transformer
from minireason.problems import Problem, chain
from minireason.sampling.complete import opener_of
from minireason.sampling.sampler import Sampling
from minireason.stages import rl
from minireason.studies.peers import NOT_INSTALLED, why_of
from minireason.studies.speed import now
from minireason.training import rollouts
from minireason.training.optim import make_optimizer

LR = 1e-4


def share_of_odd(tokens: list[int]) -> float:
    """The reward of both sides."""
    return sum(token % 2 for token in tokens) / len(tokens)


def seconds_of_steps(ours: Transformer, tokenizer: Tokenizer, endless: Tokenizer,
                     problems: list[Problem], how: Sampling,
                     rounds: int) -> dict[str, list[np.ndarray]] | str:
    """{"ours", "theirs"}: `now` of every step but the first two, taking turns; or why not.

    endless: the tokenizer by which no token of ours ends a row.
    """
    if find_spec("trl") is None:
        return NOT_INSTALLED
    if how.n < 2:
        return "GRPO needs at least two samples per prompt; give --n 2 or more"
    cfg = rl.Config(init="", group_size=how.n, prompts_per_step=len(problems))
    policy, mine = copy.deepcopy(ours), []
    optimizer = make_optimizer(policy, cfg.weight_decay)

    def step() -> None:
        started = now()
        groups = rollouts.sample_groups(policy, endless, problems, how)
        for rollout in chained(*groups):
            drawn = rollout.tokens[rollout.first:]
            tokenizer.decode(drawn)                           # as a verdict would, and as TRL does
            rollout.reward = share_of_odd(drawn)
        rollouts.credit_groups(groups, tokenizer, cfg.advantage, 0.0)
        updates = rl.batches_of_updates(cfg, 0, groups, policy, ours, tokenizer.pad)
        rl.learn(cfg, 0, policy, optimizer, updates, LR, None, tokenizer)
        rollouts.diagnostics(groups, tokenizer.eos)
        mine.append(now() - started)

    try:
        with tempfile.TemporaryDirectory() as folder:
            write_folder(Path(folder), ours, tokenizer, chain)
            theirs = their_steps(Path(folder), [
                problem.prompt + opener_of(problem, "cot") for problem in problems], how,
                2 + rounds, step)
    except UserError:                         # of ours
        raise
    except Exception as error:                # of foreign code, whatever it is
        return why_of(error)
    return {"ours": mine[2:], "theirs": theirs[2:]}


def their_steps(folder: Path, prompts: list[str], how: Sampling, steps: int,
                between: Callable[[], object]) -> list[np.ndarray]:
    """`now` of each step of GRPOTrainer on an exported policy; `between` is called after each.

    As lean as it can be: one batch, no KL, no recomputed layers, nothing logged or saved. It also
    decodes what it drew and computes its statistics, as our step does.
    """
    from datasets import Dataset  # pyright: ignore
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer  # pyright: ignore

    seconds: list[np.ndarray] = []

    class Turns(TrainerCallback):
        """Takes the time of a step, then lets the other side have its turn."""

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            """Before the step draws."""
            self.started = now()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            """After its update."""
            seconds.append(now() - self.started)
            between()

    def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
        if any(len(row) != how.max_new for row in completion_ids):
            raise ValueError(f"a completion has not {how.max_new} tokens")
        return [share_of_odd(row) for row in completion_ids]

    with tempfile.TemporaryDirectory() as out, contextlib.redirect_stdout(io.StringIO()), \
            warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore", FutureWarning)
        settings = GRPOConfig(
            output_dir=out, use_cpu=True, bf16=False, gradient_checkpointing=False, beta=0.0,
            per_device_train_batch_size=how.n * len(prompts), num_generations=how.n,
            max_completion_length=how.max_new, generation_kwargs={"min_new_tokens": how.max_new},
            temperature=1.0, top_k=0, top_p=1.0, learning_rate=LR, max_steps=steps,
            optim="adamw_torch_fused", report_to="none", save_strategy="no",
            logging_strategy="no", disable_tqdm=True)
        model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa")
        GRPOTrainer(model, reward, args=settings, processing_class=AutoTokenizer.from_pretrained(
            folder), train_dataset=Dataset.from_dict({"prompt": prompts}),
            callbacks=[Turns()]).train()
    return seconds

"""`minireason bench`: our training step and sampler beside transformers' Qwen3, in one process.

Both sides hold the same weights (through export), run on the same threads and do the same work:
one optimizer step on the lines of one quickstart step, and N samples for each of P prompts with
neither side allowed to stop early. Ours packs the lines end to end, transformers pads them; only
the lines' own tokens are counted. Further rows are our step beside itself with its layers in
PyTorch, and our sampler beside itself in bfloat16, with what that changes of the draws.
`--peers` adds what else is installed of the samplers in peers.py, transformers' step compiled, and
a step of reinforcement learning beside TRL's GRPOTrainer.
The sides take turns, so that whatever else the machine does meets both; the ratio is the
median of the rounds' own, its spread their quartiles; CPU time stands beside wall time.
"""

import copy
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated
from unittest import mock

import torch
import tyro

from minireason.core.config import resolve_device, rng, to_dict
from minireason.core.errors import UserError
from minireason.core.files import read_json, write_atomic
from minireason.export import write_folder
from minireason.measure.evaluate import frozen_sets
from minireason.model import checkpoint
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import Transformer
from minireason.problems import FAMILIES, Problem, chain
from minireason.problems.corpus import corpus_lines
from minireason.sampling.complete import prompt_ids, stream
from minireason.sampling.native import native_decoder
from minireason.sampling.sampler import Samples, Sampling
from minireason.stages import pretrain
from minireason.studies import peers, shared, trl_peer
from minireason.studies.peers import load_theirs, logit_gap, their_sampler, their_step
from minireason.studies.speed import compare, speed_table, summary
from minireason.training.batches import Batch, encode_lines, micro_batches
from minireason.training.optim import batch_nll, make_optimizer, train_step


@dataclass(frozen=True)
class Config:
    """Speed of a training step and of sampling, ours beside transformers' Qwen3."""

    checkpoint: str = ""          # folder of a policy; default: the quickstart's shape, untrained
    shape: pretrain.Config = field(default_factory=pretrain.Config)   # model, lines, micro-batches
    device: str = "auto"
    attention: str = "auto"       # auto | reference | sdpa | cuda | emulated
    threads: int = 0              # CPU threads; 0 takes PyTorch's default
    rounds: int = 15              # timed turns per side, after two that are not timed
    prompts: int = 32             # P, the first of the frozen test set of this level
    level: int = 8
    n: int = 8                    # N samples per prompt
    max_new: int = 64             # tokens per sample, exactly
    seed: int = 0
    peers: bool = False           # beside other samplers, a compiled step and TRL, too: on a CPU,
    #                               takes minutes; pip install 'minireason[bench]'
    out: str = ""                 # JSON file to write; the table goes beside it, as .md
    source: Annotated[str, tyro.conf.arg(name="from")] = ""    # only write the table of this file

    def __post_init__(self):
        for flag, path in (("out", self.out), ("from", self.source)):
            if path and Path(path).suffix != ".json":
                raise UserError(f"--{flag} {path}: must end in .json")


def run(cfg: Config) -> dict:
    """Time both sides, print the table, write the JSON; returns its content."""
    if cfg.source:
        return written(read_json(Path(cfg.source)), cfg.source)
    device = resolve_device(cfg.device)
    if cfg.peers and device.type != "cpu":
        raise UserError("--peers: the other samplers run on a CPU here; give --device cpu")
    if cfg.threads:
        if cfg.threads > (os.cpu_count() or 1):
            raise UserError(f"--threads {cfg.threads}: this machine has {os.cpu_count()} cores")
        torch.set_num_threads(cfg.threads)
    ours, tokenizer = load_ours(cfg)
    theirs, ours = load_theirs(ours, tokenizer).to(device), ours.to(device)
    ours.attention_impl = cfg.attention
    padded, packed, count = training_batches(cfg, tokenizer)
    (problems,) = frozen_sets("chain", "test", cfg.prompts, (cfg.level,)).values()
    prompts = prompt_ids(tokenizer, problems, "cot")
    room = ours.config.max_len - max(map(len, prompts))
    if cfg.max_new > room:
        raise UserError(f"--max-new {cfg.max_new}: after the longest prompt a model of max_len "
                        f"{ours.config.max_len} has room for {room} tokens; lower it")
    step, sample = our_step(ours, packed, count), our_sampler(ours, tokenizer, prompts, cfg)
    result = {
        "torch": torch.__version__, "transformers": version("transformers"),
        "versions": {name: version(name) for name in ("ctranslate2", "onnxruntime-genai", "trl")
                     if find_spec(name.replace("-", "_"))} if cfg.peers else {},
        "device": str(device), "threads": torch.get_num_threads(), "parameters": ours.n_params,
        "model": to_dict(ours.config), "rounds": cfg.rounds,
        "attention": {"ours": ours.attention_impl, "theirs": theirs.config._attn_implementation},
        "largest logit difference": logit_gap(ours, theirs, padded[0]),
        "sampling": {"prompts": len(prompts), "n": cfg.n, "max_new": cfg.max_new,
            "longest prompt": max(map(len, prompts)),
            **compare(cfg.rounds, len(prompts) * cfg.n * cfg.max_new, sample,
                      their_sampler(theirs, tokenizer, prompts, cfg.n, cfg.max_new))},
        "training": {
            "micro_batches": {"ours": [list(batch.inputs.shape) for batch in packed],
                              "theirs": [list(batch.inputs.shape) for batch in padded]},
            **compare(cfg.rounds, sum(batch.inputs.numel() for batch in packed),
                      step, their_step(theirs, padded, count))}}
    if ours.layers_choice(device)[0] == "native":
        in_torch = mock.patch.dict(os.environ, MINIREASON_LAYERS="torch")(step)
        result["layers"] = compare(cfg.rounds, result["training"]["tokens"], step, in_torch)
    decoder = native_decoder(ours, tokenizer, Sampling())
    if decoder and not decoder.bf16:
        in_bf16 = mock.patch.dict(os.environ, MINIREASON_DECODE="bf16")(sample)
        result["bf16"] = {**compare(cfg.rounds, result["sampling"]["tokens"], sample, in_bf16),
                          "change": rounding(sample(), in_bf16())}
    if cfg.peers:
        result |= beside_samplers(cfg, ours, tokenizer, prompts)
        other = peers.compiled_step(theirs, padded, count)
        add_row(result, "training, compiled", other if isinstance(other, str) else compare(
            cfg.rounds, result["training"]["tokens"], step, other))
        add_row(result, "RL step, TRL", beside_trl(cfg, ours, tokenizer, problems))
    if cfg.out:
        shared.write_json(Path(cfg.out), result)
    return written(result, cfg.out)


def written(result: dict, path: str) -> dict:
    """The result, its table printed and, where it has a file, kept beside that."""
    with shared.readable(path):
        table = speed_table(result)
    print(table)
    if path:
        write_atomic(Path(path).with_suffix(".md"), table + "\n")
    return result


def load_ours(cfg: Config) -> tuple[Transformer, Tokenizer]:
    """The checkpoint, or random weights of the wanted shape."""
    if cfg.checkpoint:
        return checkpoint.load(cfg.checkpoint)
    tokenizer = Tokenizer.build(chain.TOKENS)
    return shared.random_model(tokenizer, cfg.shape, cfg.seed, cfg.shape.max_len), tokenizer


def training_batches(cfg: Config, tokenizer: Tokenizer) -> tuple[list[Batch], list[Batch], int]:
    """One pretraining step as padded and as packed micro-batches, and its counted tokens.

    Both hold the same rows, with at most token_budget places per micro-batch. On a CPU transformers
    takes rectangles only.
    """
    shape = cfg.shape
    lines = corpus_lines(shape.mixture, FAMILIES[shape.family], rng(cfg.seed, "bench"),
                         shape.rows_per_step)
    rows = encode_lines(tokenizer, [""] * len(lines), lines)
    padded, count = micro_batches(rows, shape.token_budget, tokenizer.pad, packed=False)
    packed, _ = micro_batches(rows, shape.token_budget, tokenizer.pad)
    return padded, packed, count


def our_step(model: Transformer, batches: list[Batch], count: int) -> Callable[[], object]:
    """Forward, backward, clipping and AdamW, as every stage does it."""
    optimizer = make_optimizer(model, weight_decay=0.1)
    return lambda: train_step(model, optimizer, batches, lambda b: batch_nll(model, b, count), 1e-4)


def endless(tokenizer: Tokenizer) -> Tokenizer:
    """One of whose tokens none ends a row."""
    found = copy.copy(tokenizer)
    found.eos = -1
    return found


def our_sampler(model: Transformer, tokenizer: Tokenizer, prompts: list[list[int]],
                cfg: Config) -> Callable[[], list[Samples]]:
    """N samples per prompt at T = 1; no token ends a row."""
    tokenizer, how = endless(tokenizer), Sampling(n=cfg.n, max_new=cfg.max_new, seed=cfg.seed)

    def draw_all() -> list[Samples]:
        chunks = list(stream(model, tokenizer, prompts, how))
        assert sum(int(c.mask.sum()) for c in chunks) == len(prompts) * cfg.n * cfg.max_new
        return chunks
    return draw_all


def rounding(exact: list[Samples], rounded: list[Samples]) -> dict[str, float | None]:
    """{"parted": share of rows of which a token differs, "logprob": mean difference up to there}.

    Both draw with the same random numbers, so that a row parts where rounding moves a bound. The
    difference is None if all part at their first token.
    """
    gaps, parted = [], []
    for one, other in zip(exact, rounded, strict=True):
        same = (one.tokens == other.tokens).cumprod(dim=1) == 1
        parted.append(~same[:, -1])
        gaps.append((one.logprobs - other.logprobs).abs()[same])
    common = torch.cat(gaps)
    return {"parted": torch.cat(parted).float().mean().item(),
            "logprob": common.mean().item() if len(common) else None}


def beside_samplers(cfg: Config, ours: Transformer, tokenizer: Tokenizer,
                    prompts: list[list[int]]) -> dict[str, dict]:
    """{"peers": {name: comparison}, "left_out": {name: why}} of the samplers in peers.py."""
    greedy, mine = Sampling(max_new=4, temperature=0), our_sampler(ours, tokenizer, prompts, cfg)
    first = [row for out in stream(ours, endless(tokenizer), prompts, greedy)
             for row in out.tokens.tolist()]
    with tempfile.TemporaryDirectory() as folder:
        write_folder(Path(folder), ours, tokenizer, chain)
        found, left_out = peers.samplers(Path(folder), prompts, torch.get_num_threads(), first,
                                         tokenizer.eos)
        rows = {name: compare(cfg.rounds, len(prompts) * cfg.n * cfg.max_new, mine,
                              partial(draw, cfg.n, cfg.max_new, False))
                for name, draw in found.items()}
    return {"peers": {f"sampling, {name}": row for name, row in rows.items()},
            "left_out": {f"sampling, {name}": why for name, why in left_out.items()}}


def beside_trl(cfg: Config, ours: Transformer, tokenizer: Tokenizer,
               problems: list[Problem]) -> dict | str:
    """Our RL step beside TRL's, n samples per prompt and one update from them all; or why not."""
    found = trl_peer.seconds_of_steps(ours, tokenizer, endless(tokenizer), problems, Sampling(
        n=cfg.n, max_new=cfg.max_new, seed=cfg.seed), cfg.rounds)
    return found if isinstance(found, str) else summary(len(problems) * cfg.n * cfg.max_new, found)


def add_row(result: dict, name: str, found: dict | str) -> None:
    """A comparison, or the reason why there is none, under its name."""
    result["left_out" if isinstance(found, str) else "peers"][name] = found

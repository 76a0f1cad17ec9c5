"""What `minireason bench` stands beside: transformers, and with --peers other samplers.

All hold the same weights, by the folder that `minireason export` writes, and do the same work. A
sampler returns a function draw(n, max_new, greedy): the rows of n samples per prompt at T = 1,
max_new tokens each. Ours and transformers draw <eos> like any token; the others can be held to a
length only by forbidding it. Who is not installed, or cannot read the folder, is left out and says
why.
"""

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence

from minireason.core.errors import UserError
from minireason.core.files import read_json
from minireason.export import write_folder
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import Transformer
from minireason.problems import chain
from minireason.training.batches import Batch
from minireason.training.optim import autocast

Draw = Callable[[int, int, bool], list[list[int]]]
NOT_INSTALLED = "not installed; pip install 'minireason[bench]'"
ROWS_AT_ONCE = 64                 # of CTranslate2: 1.2 times as fast as with 256
MOST_ROWS = 32                    # of one batch of onnxruntime-genai


# ---- transformers ----------------------------------------------------------------------------

def load_theirs(ours: Transformer, tokenizer: Tokenizer) -> Any:
    """The same weights in transformers, with PyTorch's fused attention."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        import transformers
    except ImportError:
        raise UserError("bench compares with transformers, which is not installed; "
                        "pip install 'minireason[test]'") from None
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        write_folder(Path(folder), ours, tokenizer, chain)
        return transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa")


@torch.no_grad()
def logit_gap(ours: Transformer, theirs: Any, batch: Batch) -> float:
    """Largest difference of the two models' logits: the same weights, or nothing is compared."""
    batch = batch.to(ours.embedding.weight.device)
    gap = (ours(batch.inputs) - theirs(batch.inputs, use_cache=False).logits).abs().max().item()
    if not gap < 1e-2:                        # both are fp32; a wrong weight shows as about 1
        raise UserError(f"bench: the two models' logits differ by {gap}; one of them is wrong")
    return gap


def their_step(model: Any, batches: list[Batch], count: int) -> Callable[[], object]:
    """The same in transformers' plain best: fused attention, fused AdamW, no cache."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), fused=True)
    device = next(model.parameters()).device
    on_device = [(b.inputs.to(device), b.targets.where(b.loss_mask > 0, -100).to(device))
                 for b in batches]

    def step() -> None:
        optimizer.zero_grad()
        for inputs, targets in on_device:
            with autocast(device):
                logits = model(inputs, use_cache=False).logits.float()
                loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
            (loss / count).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()
    return step


def compiled_step(model: Any, batches: list[Batch], count: int) -> Callable[[], object] | str:
    """The same step under torch.compile, compiled; or why not."""
    step = their_step(torch.compile(model, dynamic=True), batches, count)
    try:
        step()
    except Exception as error:                # of a compiler, whatever it is
        return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    return step


def their_sampler(model: Any, tokenizer: Tokenizer, prompts: list[list[int]], n: int,
                  max_new: int) -> Callable[[], object]:
    """The same by `generate`: prompts padded on the left, no <eos>, no filter on the logits."""
    device, longest = next(model.parameters()).device, max(map(len, prompts))
    tokens = pad_sequence([torch.tensor(prompt) for prompt in prompts], batch_first=True,
                          padding_value=tokenizer.pad, padding_side="left").to(device)
    seen = tokens != tokenizer.pad                           # (P, longest)
    model.generation_config.eos_token_id = None

    def draw_all() -> None:
        model.eval()
        with torch.inference_mode(), autocast(device):
            out = model.generate(
                tokens, attention_mask=seen, do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
                num_return_sequences=n, max_new_tokens=max_new, use_cache=True)
        assert out.shape == (len(prompts) * n, longest + max_new)
    return draw_all


# ---- other samplers ------------------------------------------------------------------------------

def ctranslate2(folder: Path, prompts: list[list[int]], threads: int) -> Draw:
    """CTranslate2 (OpenNMT), which samples rows of any lengths together, in float32."""
    import ctranslate2 as library  # pyright: ignore
    from ctranslate2.converters import TransformersConverter  # pyright: ignore

    with contextlib.redirect_stderr(io.StringIO()):
        TransformersConverter(str(folder)).convert(str(folder / "ctranslate2"))
    words = json.loads((folder / "ctranslate2" / "vocabulary.json").read_text())
    generator = library.Generator(str(folder / "ctranslate2"), device="cpu", inter_threads=1,
                                  compute_type="float32", intra_threads=threads)
    rows = [[words[token] for token in prompt] for prompt in prompts]

    def some_at_once(n: int, max_new: int, greedy: bool) -> list[list[int]]:
        found = generator.generate_batch(
            rows, max_batch_size=max(1, ROWS_AT_ONCE // n), max_length=max_new, min_length=max_new,
            num_hypotheses=n, sampling_topk=int(greedy), include_prompt_in_result=False)
        return [row for one in found for row in one.sequences_ids]

    return some_at_once


def onnxruntime_genai(folder: Path, prompts: list[list[int]], threads: int) -> Draw:
    """onnxruntime-genai (Microsoft), float32; prompts are padded on the left, 32 rows at once."""
    import onnxruntime_genai as library  # pyright: ignore

    out = folder / "onnx"
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(folder), "-o",
               str(out), "-p", "fp32", "-e", "cpu", "-c", str(folder / "cache")]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"its builder says: {(done.stderr.strip() or 'nothing').splitlines()[-1]}")
    config = read_json(out / "genai_config.json")
    config["model"]["decoder"]["session_options"]["intra_op_num_threads"] = threads
    (out / "genai_config.json").write_text(json.dumps(config))
    model, longest = library.Model(str(out)), max(map(len, prompts))
    pad = config["model"]["pad_token_id"]
    padded = np.array([[pad] * (longest - len(prompt)) + prompt for prompt in prompts], np.int32)

    def in_parts(n: int, max_new: int, greedy: bool) -> list[list[int]]:
        found, rows = [], padded.repeat(n, axis=0)
        for part in (rows[i:i + MOST_ROWS] for i in range(0, len(rows), MOST_ROWS)):
            how = library.GeneratorParams(model)
            how.set_search_options(do_sample=not greedy, temperature=1.0, top_k=0, top_p=1.0,
                                   min_length=longest + max_new, max_length=longest + max_new,
                                   batch_size=len(part))
            generator = library.Generator(model, how)
            generator.append_tokens(part)
            for _ in range(max_new):
                generator.generate_next_token()
            found += [generator.get_sequence(i)[longest:].tolist() for i in range(len(part))]
        return found

    return in_parts


SAMPLERS: dict[str, tuple[str, Callable[[Path, list[list[int]], int], Draw]]] = {
    "CTranslate2": ("ctranslate2", ctranslate2),
    "onnxruntime-genai": ("onnxruntime_genai", onnxruntime_genai)}   # name: (module, its sampler)


def why_of(error: Exception) -> str:
    """The last line of what foreign code says."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1][:200]


def samplers(folder: Path, prompts: list[list[int]], threads: int, greedy: list[list[int]],
             eos: int) -> tuple[dict[str, Draw], dict[str, str]]:
    """({name: draw} of the peers that are there, {name: why} of the others).

    folder: a policy as `minireason export` writes it; greedy: how ours goes on greedily after each
    prompt, so that nobody is compared who holds other weights. Every row that is drawn is counted.
    """
    found, left_out = {}, {}
    first = [row[:row.index(eos)] if eos in row else row for row in greedy]
    for name, (module, make) in SAMPLERS.items():
        if find_spec(module) is None:
            left_out[name] = NOT_INSTALLED
            continue
        try:
            draw = counted(make(folder, prompts, threads), len(prompts))
            other = sum(row[:len(ours)] != ours for row, ours in zip(
                draw(1, len(greedy[0]), True), first, strict=True))
            if other:
                raise ValueError(f"goes on differently after {other} of {len(first)} prompts")
        except Exception as error:            # of foreign code, whatever it is: the others go on
            left_out[name] = why_of(error)
        else:
            found[name] = draw
    return found, left_out


def counted(draw: Draw, prompts: int) -> Draw:
    """The same; ValueError if it draws other than n rows of max_new tokens for each prompt."""
    def checked(n: int, max_new: int, greedy: bool) -> list[list[int]]:
        rows = draw(n, max_new, greedy)
        if [len(row) for row in rows] != [max_new] * (n * prompts):
            raise ValueError(f"draws other than {n} rows of {max_new} tokens for a prompt")
        return rows

    return checked

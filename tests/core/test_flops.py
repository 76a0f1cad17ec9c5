"""What a stage costs: counted where it is spent, whatever interrupts it."""

import dataclasses
import json

import pytest
from tiny_run import tiny_stages

from minireason.core import flops
from minireason.model import checkpoint
from minireason.sampling.complete import stream
from minireason.sampling.sampler import Sampling
from minireason.training.batches import encode_lines
from minireason.training.optim import make_optimizer, supervised_step


def test_reading_and_learning_are_counted_by_hand(ladder):
    model, tokenizer = checkpoint.load(ladder / "pretrain")
    rows = encode_lines(tokenizer, ["(2+3)=", ""], ["</think>5<eos>", "2+3=5<eos>"])
    before = flops.spent()
    supervised_step(model, make_optimizer(model, 0.1), rows, 1e-3, 256, tokenizer.pad)
    positions = sum(len(tokens) - 1 for tokens, _ in rows)
    assert flops.spent() - before == 6 * model.n_params * positions
    before = flops.spent()
    chunks = list(stream(model, tokenizer, [[1, 5], [1, 5, 6]], Sampling(n=3, max_new=4)))
    drawn = sum(int(samples.mask.sum()) for samples in chunks)
    assert flops.spent() - before == 2 * model.n_params * (5 + drawn)
    with flops.uncounted():
        list(stream(model, tokenizer, [[1, 5]], Sampling(max_new=4)))
    assert flops.spent() - before == 2 * model.n_params * (5 + drawn)


@pytest.mark.parametrize("stage", ["star", "critic"])
def test_an_interrupted_stage_costs_as_much_as_a_whole_one(ladder, tmp_path, run_with_deaths,
                                                           stage):
    run, config = tiny_stages(ladder)[stage]
    config = dataclasses.replace(config, out=str(tmp_path / "again"))
    assert run_with_deaths(lambda: run(config), 3) >= 2
    whole = json.loads((ladder / stage / "result.json").read_text())["flops"]
    assert json.loads((tmp_path / "again/result.json").read_text())["flops"] == whole > 0


def test_a_stage_costs_what_its_parts_say(ladder):
    """Pretraining: six operations per weight and position of the lines that it read."""
    model, _ = checkpoint.load(ladder / "pretrain")
    lines = [json.loads(line) for line in (ladder / "pretrain/metrics.jsonl").open()]
    positions = sum(line["train/tokens"] for line in lines)      # every token counts there
    result = json.loads((ladder / "pretrain/result.json").read_text())
    assert result["flops"] == 6 * model.n_params * positions

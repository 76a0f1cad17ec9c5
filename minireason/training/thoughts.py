"""A line of text and the thoughts after its tokens in one row, read in one pass.

    inputs   <bos> ( 23 + 4 ) = 27 | <think> 23 + 4 = 27 </think> 27 | <think> ...
    owner      0   0 0  0 0 0 0 0  |    1    1  1 1 1 1     1     1  |    2    ...
    place      0   1 2  3 4 5 6 7  |    7    8  9 ...                |    7    ...

Each thought sees the line up to the token that it stands after, its root, and itself. Its place,
for the rotary embedding, is what it would be if line and thought were laid flat. So the keys and
values of a line are computed once for all its thoughts (Quiet-STaR: Zelikman 2024,
arXiv:2403.09629, section 4.2); a test holds this against flat rows.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minireason.core.config import rng
from minireason.model.attention import head_norm, rotate, split_heads
from minireason.model.tokenizer import SPECIALS, Tokenizer
from minireason.model.transformer import ModelConfig, Transformer, rms_norm
from minireason.sampling.complete import stream
from minireason.sampling.sampler import Sampling
from minireason.training.batches import Batch, Row, within_budget

NOTHING, LINE, CHOSEN, AFTER = range(4)   # what a position's prediction is, see ThoughtBatch
FIRST_WEIGHT = 0.05               # w before training
UNSAID = [i for i, name in enumerate(SPECIALS) if name != "<eos>"]    # ids that no text holds


class QuietModel(Transformer):
    """A policy with the head that weighs its prediction after a thought against the one before."""

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        width = config.d_model
        self.mixing = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, 1))

    @classmethod
    def from_policy(cls, policy: Transformer, seed: int) -> "QuietModel":
        """The policy's weights and a new head, whose w is FIRST_WEIGHT everywhere; on its device.

        It grows where thoughts help; where they change nothing it has no reason to move.
        """
        model, generator = cls(policy.config), torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in model.mixing.named_parameters():
                parameter.normal_(0.0, 0.1 if name == "0.weight" else 0.0, generator=generator)
            *_, bias = model.mixing.parameters()
            bias.fill_(math.log(FIRST_WEIGHT / (1 - FIRST_WEIGHT)))
        model.load_state_dict(policy.state_dict(), strict=False)
        return model.to(policy.embedding.weight.device)

    def policy(self) -> Transformer:
        """The model without the head."""
        policy = Transformer(self.config).to(self.embedding.weight.device)
        policy.load_state_dict({name: value for name, value in self.state_dict().items()
                                if not name.startswith("mixing.")})
        return policy


@dataclass(frozen=True)
class Thought:
    """What is written after token `root` of a line, between `<think>` and `</think>`."""

    root: int
    tokens: list[int]
    chosen: int = 0               # tokens that the policy chose, its `</think>` included


def think(kind: str, policy: Transformer, tokenizer: Tokenizer, lines: list[Row],
          roots: list[list[int]], how: Sampling, numbers: list[int] | None = None,
          ) -> list[list[Thought]]:
    """How.n thoughts of at most how.max_new tokens after each root of each line.

    kind: own or frozen (written by the policy), random (text tokens), pause (`<unk>`, which no text
    holds, again and again). numbers: as for sampling.stream, one per root.
    """
    prompts, found = [], []
    for (tokens, *_), own in zip(lines, roots, strict=True):
        prompts += [[*tokens[:root + 1], tokenizer.think] for root in own]
    numbers = list(range(len(prompts))) if numbers is None else numbers
    if kind in ("own", "frozen"):
        ends = (tokenizer.end_think, tokenizer.eos)
        for chunk in stream(policy, tokenizer, prompts, how, numbers):
            for row, length in zip(chunk.tokens.tolist(), chunk.mask.sum(1).tolist(), strict=True):
                # <eos> in place of `</think>` is dropped: the tokens before it get the advantage,
                # the choice of <eos> gets none
                written = row[:length - (row[length - 1] in ends)]
                chosen = len(written) + (row[length - 1] == tokenizer.end_think)
                found.append((written, chosen))
    for number in numbers if kind in ("pause", "random") else ():
        for sample in range(how.n):
            words = [tokenizer.ids_of("<unk>")[0]] * (how.max_new or 0)      # no text holds it
            if kind == "random":
                words = rng(how.seed, "random", number, sample).integers(
                    len(SPECIALS), tokenizer.vocab_size - 1, len(words)).tolist()
            found.append((words, 0))
    turn = iter(found)
    return [[Thought(root, *next(turn)) for root in own for _ in range(how.n)] for own in roots]


@dataclass(frozen=True, kw_only=True)
class ThoughtBatch(Batch):
    """Rows (B, L) of a line and its thoughts; loss_mask marks the line's own predictions."""

    owner: Tensor                 # (B, L): 0 in the line, j in its j-th thought, -1 in padding
    place: Tensor                 # (B, L): position in a row of the line and one thought
    root: Tensor                  # (B, L): last token of the line that this one sees
    role: Tensor                  # (B, L): what is predicted: a LINE token, one CHOSEN by the
    #                               policy, a true one AFTER a thought, or NOTHING that counts
    twin: Tensor                  # (B, L): where the line itself predicts what is predicted here

    def visible(self) -> Tensor:
        """Which tokens each token sees, (B, L, L): its own past, and its line up to its root."""
        own = self.owner[:, :, None] == self.owner[:, None]
        line = (self.owner == 0)[:, None] & (self.place[:, None] <= self.root[:, :, None])
        return (own | line) & (self.place[:, None] <= self.place[:, :, None])

    def thought(self) -> Tensor:
        """The thought that each token belongs to, counted over the batch with equally many in every
        row; (B, L)."""
        first = torch.arange(len(self.owner), device=self.owner.device)[:, None] * self.owner.max()
        return first + self.owner - 1


def thought_batch(lines: list[list[int]], thoughts: list[list[Thought]], true_tokens: int,
                  tokenizer: Tokenizer) -> ThoughtBatch:
    """Each line, `<bos>` to `<eos>`, with its thoughts and, after each, the next true tokens."""
    rows = []
    for line, own in zip(lines, thoughts, strict=True):
        row = [(line[t], line[t + 1], 0, t, t, LINE, t) for t in range(len(line) - 1)]
        for number, thought in enumerate(own, 1):
            true = line[thought.root + 1:][:true_tokens]
            text = [tokenizer.think, *thought.tokens, tokenizer.end_think, *true]
            for t in range(len(text) - 1):
                ahead = t - len(thought.tokens) - 1        # from 0 on: predicts true[ahead]
                role = AFTER if ahead >= 0 else CHOSEN if t < thought.chosen else NOTHING
                row.append((text[t], text[t + 1], number, thought.root + 1 + t, thought.root, role,
                            thought.root + max(0, ahead)))
        rows.append(row)
    longest = max(map(len, rows))
    padding = (tokenizer.pad, tokenizer.pad, -1, 0, 0, NOTHING, 0)
    columns = torch.tensor([row + [padding] * (longest - len(row)) for row in rows])   # (B, L, 7)
    inputs, targets, owner, place, root, role, twin = columns.unbind(-1)
    return ThoughtBatch(inputs, targets, (role == LINE).float(), owner=owner, place=place,
                        root=root, role=role, twin=twin)


def thought_batches(lines: list[list[int]], thoughts: list[list[Thought]], true_tokens: int,
                    tokenizer: Tokenizer, token_budget: int) -> list[ThoughtBatch]:
    """The same in micro-batches of at most token_budget tokens, in the order given."""
    lengths = [len(line) + sum(len(thought.tokens) + 1 + true_tokens for thought in own)
               for line, own in zip(lines, thoughts, strict=True)]
    return [thought_batch(lines[part], thoughts[part], true_tokens, tokenizer)
            for part in within_budget(lengths, token_budget, packed=False)]


def shared_hidden(model: Transformer, batch: ThoughtBatch) -> Tensor:
    """Final hidden states (B, L, d_model) of rows of lines and thoughts."""
    c, visible = model.config, batch.visible()[:, None]                   # (B, 1, L, L)
    cos, sin = model.cos[batch.place, None], model.sin[batch.place, None]     # (B, L, 1, D / 2)

    def attend(qkv: Tensor, q_gain: Tensor, k_gain: Tensor) -> Tensor:
        q, k, v = split_heads(qkv, c.n_heads, c.n_kv_heads)               # (B, L, heads, D)
        q = rotate(head_norm(q, q_gain, c.norm_eps), cos, sin)
        k = rotate(head_norm(k, k_gain, c.norm_eps), cos, sin)
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))                  # (B, heads, L, D)
        out = F.scaled_dot_product_attention(q, k, v, visible,
                                             enable_gqa=c.n_heads != c.n_kv_heads)
        return out.transpose(1, 2).flatten(-2)

    x = model.embedding(batch.inputs)
    for block in model.blocks:
        x = block(x, attend)
    return rms_norm(x, model.final_norm, c.norm_eps)


def text_logprobs(model: Transformer, hidden: Tensor) -> Tensor:
    """log p of the next token of a text, which holds no special token but `<eos>`; (..., V)."""
    unsaid = torch.tensor(UNSAID, device=hidden.device)
    logits = model.logits(hidden).float()
    return logits.index_fill(-1, unsaid, -1e4).log_softmax(dim=-1)   # finite: mixed() has a slope


class Predictions(NamedTuple):
    """Of the K true tokens after thoughts."""

    targets: Tensor               # (K,)
    row: Tensor                   # (K,) of the batch
    root: Tensor                  # (K,) the token of the line that the thought stands after
    at: Tensor                    # (K,) the place in the line of the token that is predicted
    thought: Tensor               # (K,) its number in the batch
    before: Tensor                # (K, V) logprobs where the line itself predicts the token
    after: Tensor                 # (K, V) logprobs after the thought
    logit: Tensor                 # (K,) w = sigmoid(logit)

    def mixed(self) -> Tensor:
        """log(w p(after) + (1 - w) p(before)), (K, V); the gradient reaches w alone."""
        return torch.logaddexp(F.logsigmoid(self.logit)[:, None] + self.after.detach(),
                               F.logsigmoid(-self.logit)[:, None] + self.before.detach())


def predictions(model: QuietModel, hidden: Tensor, batch: ThoughtBatch) -> Predictions:
    """What is predicted after the thoughts of a batch and, of the same tokens, before them."""
    row, at = (batch.role == AFTER).nonzero(as_tuple=True)                # (K,)
    after, before = hidden[row, at], hidden[row, batch.twin[row, at]]     # (K, d_model)
    logit = model.mixing(torch.cat((before, after), dim=-1).detach()).squeeze(-1).float()
    return Predictions(batch.targets[row, at], row, batch.root[row, at],
                       batch.twin[row, at] + 1, batch.thought()[row, at],
                       text_logprobs(model, before), text_logprobs(model, after), logit)

"""To and from the Hugging Face folder layout: what transformers and vLLM load as Qwen3.

Our transformer is Qwen3's maths with q, k, v and gate, up fused into one matrix each, so a
checkpoint is exported by naming and slicing alone: no number changes, and importing the folder
gives back the same bits. Qwen3: Yang 2025, arXiv:2505.09388.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from minireason.core.config import UserError, disk_errors, read_json, write_atomic
from minireason.core.runlog import RunLog
from minireason.model import checkpoint
from minireason.model.tokenizer import SPECIALS, Tokenizer
from minireason.model.transformer import Block, ModelConfig, Transformer

ARCHITECTURE = "Qwen3ForCausalLM"
PLAIN = {"architectures": [ARCHITECTURE], "model_type": "qwen3", "hidden_act": "silu",
         "attention_bias": False, "use_sliding_window": False}
SHAPE = {   # field of ModelConfig -> its name in Qwen3's config.json
    "vocab_size": "vocab_size", "d_model": "hidden_size", "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads", "n_kv_heads": "num_key_value_heads", "head_dim": "head_dim",
    "d_ff": "intermediate_size", "max_len": "max_position_embeddings", "rope_theta": "rope_theta",
    "norm_eps": "rms_norm_eps", "tied": "tie_word_embeddings"}


@dataclass(frozen=True)
class Config:
    """Write a policy as a folder that transformers loads."""

    checkpoint: str               # folder of a policy
    out: str                      # folder to write; must be new or empty


@dataclass(frozen=True)
class ImportConfig:
    """Read a Qwen3 folder into a checkpoint folder that every stage accepts as its parent."""

    source: str                   # folder with config.json, model.safetensors, tokenizer.json
    out: str                      # checkpoint folder to write


def run(cfg: Config) -> Path:
    """Write config, weights, tokenizer and generation defaults; returns the folder."""
    model, tokenizer = checkpoint.load(cfg.checkpoint)
    out = Path(cfg.out)
    with disk_errors(out):
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"{out}: exists and is not an empty folder; choose another --out")
        out.mkdir(parents=True, exist_ok=True)
    write_folder(out, model, tokenizer)
    print(f"{out}: {model.n_params:,} parameters as {ARCHITECTURE}")
    return out


def write_folder(out: Path, model: Transformer, tokenizer: Tokenizer) -> None:
    """The files of the layout; config.json comes last and marks the folder whole."""
    special = {"bos_token_id": tokenizer.bos, "eos_token_id": tokenizer.eos,
               "pad_token_id": tokenizer.pad}
    with disk_errors(out):
        try:
            tensors = {name: t.cpu().contiguous() for name, t in views(model).items()}
            save_file(tensors, out / "model.safetensors", {"format": "pt"})
        except SafetensorError as error:
            raise UserError(f"{out}: cannot write ({error}); free some space or choose another "
                            "--out") from error
    files = {
        "tokenizer.json": json.loads(tokenizer.to_json()),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<bos>",
            "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>",
            "extra_special_tokens": list(SPECIALS[3:]),         # <pad>, <bos>, <eos> come first
            "model_max_length": model.config.max_len, "padding_side": "left",
            "clean_up_tokenization_spaces": False},
        "generation_config.json": {**special, "do_sample": True, "temperature": 1.0, "top_k": 0,
                                   "top_p": 1.0},
        "config.json": {
            **PLAIN, **{theirs: getattr(model.config, ours) for ours, theirs in SHAPE.items()},
            "dtype": "float32", "rope_scaling": None, "attention_dropout": 0.0, **special}}
    for name, content in files.items():
        write_atomic(out / name, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def our_config(path: Path) -> ModelConfig:
    """ModelConfig of a Qwen3 config.json; UserError names the first thing that does not fit."""
    held = {"architectures": [ARCHITECTURE], "hidden_act": "silu", "rope_theta": 10_000.0,
            "tie_word_embeddings": False, **read_json(path)}
    for name, plain in {**PLAIN, "quantization_config": False}.items():
        if (held.get(name) or False) != plain:
            raise UserError(f"{path}: {name} is {held.get(name)!r}; only a plain {ARCHITECTURE} "
                            "can be imported")
    rope, scaling = held.get("rope_parameters") or {}, held.get("rope_scaling") or {}
    kinds = {d.get(key) for d in (rope, scaling) for key in ("rope_type", "type")}
    if kinds - {None, "default"} or rope.get("partial_rotary_factor", 1) != 1:
        raise UserError(f"{path}: rotary embedding is scaled ({', '.join(map(str, kinds))}); only "
                        f"a plain {ARCHITECTURE} can be imported")
    try:
        held["rope_theta"] = float(rope.get("rope_theta", held["rope_theta"]))
        return ModelConfig(**{ours: held[theirs] for ours, theirs in SHAPE.items()})
    except KeyError as error:
        raise UserError(f"{path}: lacks {error}") from None
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(f"{path}: hidden_size, head_dim or another size is not a positive number "
                        f"({error})") from None


def views(model: Transformer) -> dict[str, Tensor]:
    """The weights under Qwen3's names; fused matrices appear as the slices that are its own.

    Every tensor shares the model's memory: reading them exports, copying into them imports.
    """
    tensors = {"model.embed_tokens.weight": model.embedding.weight,
               "model.norm.weight": model.final_norm}
    if model.unembedding is not None:
        tensors["lm_head.weight"] = model.unembedding.weight
    shape = model.config
    sizes = [n * shape.head_dim for n in (shape.n_heads, shape.n_kv_heads, shape.n_kv_heads)]
    for i, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        q, k, v = block.qkv.weight.detach().split(sizes)
        gate, up = block.gate_up.weight.detach().chunk(2)
        layer = {
            "self_attn.q_proj": q, "self_attn.k_proj": k, "self_attn.v_proj": v,
            "self_attn.o_proj": block.out.weight, "self_attn.q_norm": block.q_gain,
            "self_attn.k_norm": block.k_gain, "mlp.gate_proj": gate, "mlp.up_proj": up,
            "mlp.down_proj": block.down.weight, "input_layernorm": block.attention_norm,
            "post_attention_layernorm": block.mlp_norm}
        tensors |= {f"model.layers.{i}.{name}.weight": t for name, t in layer.items()}
    return {name: tensor.detach() for name, tensor in tensors.items()}


def fill(model: Transformer, given: dict[str, Tensor], path: Path) -> None:
    """Copy Qwen3's tensors into the model; UserError if names or shapes are not exactly its."""
    wanted = views(model)
    if model.config.tied and "lm_head.weight" in given:         # some writers store it twice
        given = dict(given)
        head = given.pop("lm_head.weight")
        if not head.equal(given.get("model.embed_tokens.weight", head)):
            raise UserError(f"{path}: lm_head differs from the embedding that config.json ties it "
                            "to; set tie_word_embeddings to false there")
    for verb, odd in (("lacks", wanted.keys() - given), ("holds", given.keys() - wanted)):
        if odd:
            raise UserError(f"{path}: {verb} {min(odd)} ({len(odd)} such tensors in all), unlike "
                            f"a plain {ARCHITECTURE} of config.json's shape")
    for name, tensor in wanted.items():
        if given[name].shape != tensor.shape:
            raise UserError(f"{path}: {name} is {tuple(given[name].shape)}, but config.json says "
                            f"{tuple(tensor.shape)}")
        tensor.copy_(given[name])


def run_import(cfg: ImportConfig) -> dict:
    """Read a Qwen3 folder; returns result.json's content."""
    source = Path(cfg.source)
    if not source.is_dir():
        raise UserError(f"{source}: no such folder; give one that holds {ARCHITECTURE}")
    config = our_config(source / "config.json")
    tokenizer = Tokenizer.load(source / "tokenizer.json")
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(f"{source}: tokenizer has {tokenizer.vocab_size} tokens, the model "
                        f"{config.vocab_size}")
    path = source / "model.safetensors"
    if not path.is_file():
        raise UserError(f"{path}: no such file; weights must be one safetensors file")
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({error})") from None
    model = Transformer(config)
    fill(model, tensors, path)
    log = RunLog(cfg.out, "import", cfg, parents={})
    if log.done:
        return log.done
    return log.finish(weights=checkpoint.save(cfg.out, model, tokenizer))

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
from minireason.model.transformer import ModelConfig, Transformer

ARCHITECTURE = "Qwen3ForCausalLM"


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
            "extra_special_tokens": [name for name in SPECIALS
                                     if name not in ("<bos>", "<eos>", "<pad>")],
            "model_max_length": model.config.max_len, "padding_side": "left",
            "clean_up_tokenization_spaces": False},
        "generation_config.json": {**special, "do_sample": True, "temperature": 1.0, "top_k": 0,
                                   "top_p": 1.0},
        "config.json": {**qwen3_config(model.config), **special}}
    for name, content in files.items():
        write_atomic(out / name, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def qwen3_config(config: ModelConfig) -> dict:
    """config.json of the same shape, under Qwen3's names, special tokens left out."""
    return {
        "architectures": [ARCHITECTURE], "model_type": "qwen3", "dtype": "float32",
        "vocab_size": config.vocab_size, "hidden_size": config.d_model,
        "num_hidden_layers": config.n_layers, "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads, "head_dim": config.head_dim,
        "intermediate_size": config.d_ff, "max_position_embeddings": config.max_len,
        "rope_theta": config.rope_theta, "rope_scaling": None, "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tied, "hidden_act": "silu", "attention_bias": False,
        "attention_dropout": 0.0, "use_sliding_window": False}


def our_config(path: Path) -> ModelConfig:
    """ModelConfig of a Qwen3 config.json; UserError names the first thing that does not fit."""
    held = read_json(path)
    rope = held.get("rope_parameters") or {}
    scaling = held.get("rope_scaling") or {}
    kinds = {d.get(key) for d in (rope, scaling) for key in ("rope_type", "type")} - {None}
    for fits, problem in (
            (held.get("model_type") == "qwen3", f"model_type is {held.get('model_type')!r}"),
            (held.get("architectures", [ARCHITECTURE]) == [ARCHITECTURE],
             f"architectures is {held.get('architectures')}"),
            (not held.get("attention_bias"), "attention has biases"),
            (held.get("hidden_act", "silu") == "silu", f"hidden_act {held.get('hidden_act')!r}"),
            (not held.get("use_sliding_window"), "attention is windowed"),
            (kinds <= {"default"} and rope.get("partial_rotary_factor", 1) == 1,
             f"rotary embedding is scaled ({', '.join(map(str, sorted(kinds)))})"),
            (not held.get("quantization_config"), "weights are quantized")):
        if not fits:
            raise UserError(f"{path}: {problem}; only a plain {ARCHITECTURE} can be imported")
    theta = rope.get("rope_theta", held.get("rope_theta", 10_000.0))
    try:
        return ModelConfig(
            held["vocab_size"], held["hidden_size"], held["num_hidden_layers"],
            held["num_attention_heads"], held["num_key_value_heads"], held["head_dim"],
            held["intermediate_size"], held["max_position_embeddings"], float(theta),
            held["rms_norm_eps"], held.get("tie_word_embeddings", False))
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
        if not given.pop("lm_head.weight").equal(given.get("model.embed_tokens.weight")):
            raise UserError(f"{path}: lm_head differs from the embedding that config.json ties it "
                            "to; set tie_word_embeddings to false there")
    lacking, strange = sorted(set(wanted) - set(given)), sorted(set(given) - set(wanted))
    if lacking:
        raise UserError(f"{path}: lacks {lacking[0]} ({len(lacking)} tensors in all)")
    if strange:
        raise UserError(f"{path}: holds {strange[0]}, which a plain {ARCHITECTURE} has not "
                        f"({len(strange)} such tensors in all)")
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
    return log.finish(seconds=log.seconds(), weights=checkpoint.save(cfg.out, model, tokenizer))

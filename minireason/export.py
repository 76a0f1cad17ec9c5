"""To and from the Hugging Face folder layout: what transformers and vLLM load as Qwen3.

Our transformer is Qwen3's maths with q, k, v and gate, up fused into one matrix each, so a
checkpoint is exported by naming and slicing alone: no number changes, and importing the folder
gives back the same bits. Qwen3: Yang 2025, arXiv:2505.09388. The tokenizer is written so that
others print `<think>` and `</think>` and put `<bos>` first; importing undoes that, too.
"""

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialized
from torch import Tensor

from minireason.core.config import from_dict
from minireason.core.errors import UserError, check_choice
from minireason.core.files import disk_errors, read_json, write_atomic
from minireason.core.runlog import RunLog
from minireason.model import checkpoint
from minireason.model.exported_tokenizer import chat_template, our_tokenizer, their_tokenizer
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import Block, ModelConfig, Transformer
from minireason.problems import FAMILIES, Family
from minireason.serve.answers import find_family

ARCHITECTURE = "Qwen3ForCausalLM"
PLAIN = {"architectures": [ARCHITECTURE], "model_type": "qwen3", "hidden_act": "silu",
         "attention_bias": False, "use_sliding_window": False}
SHAPE = {   # field of ModelConfig -> its name in Qwen3's config.json
    "vocab_size": "vocab_size", "d_model": "hidden_size", "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads", "n_kv_heads": "num_key_value_heads", "head_dim": "head_dim",
    "d_ff": "intermediate_size", "max_len": "max_position_embeddings", "rope_theta": "rope_theta",
    "norm_eps": "rms_norm_eps", "tied": "tie_word_embeddings"}
FAMILY = "minireason_family"      # our own entry in config.json
EXACT = ("F32", "BF16", "F16")    # types of weights that float32 holds exactly


@dataclass(frozen=True)
class Config:
    """Write a policy as a folder that transformers loads."""

    checkpoint: str               # folder of a policy
    out: str                      # folder to write; must be new or empty
    family: str = ""              # whose prompts the chat template writes; default: what the
    #                               checkpoint was trained on


@dataclass(frozen=True)
class ImportConfig:
    """Read a Qwen3 folder into a checkpoint folder that every stage accepts as its parent."""

    source: str                   # folder with config.json, model.safetensors, tokenizer.json
    out: str                      # checkpoint folder to write
    family: str = ""              # of its problems; default: what the folder says


def run(cfg: Config) -> Path:
    """Write config, weights, tokenizer and generation defaults; returns the folder."""
    model, tokenizer = checkpoint.load(cfg.checkpoint)
    family = FAMILIES[find_family(cfg.family, Path(cfg.checkpoint))]
    out = Path(cfg.out)
    with disk_errors(out):
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"{out}: exists and is not an empty folder; choose another --out")
        out.mkdir(parents=True, exist_ok=True)
    write_folder(out, model, tokenizer, family)
    print(f"{out}: {model.n_params:,} parameters as {ARCHITECTURE}, for problems of {family.NAME}")
    return out


def write_folder(out: Path, model: Transformer, tokenizer: Tokenizer, family: Family) -> None:
    """The files of the layout; config.json comes last and marks the folder whole."""
    tensors = {name: t.cpu().contiguous() for name, t in views(model).items()}
    write_atomic(out / "model.safetensors", serialized(tensors, {"format": "pt"}))
    special = {"bos_token_id": tokenizer.bos, "eos_token_id": tokenizer.eos,
               "pad_token_id": tokenizer.pad}
    theta = model.config.rope_theta
    files = {
        "tokenizer.json": their_tokenizer(tokenizer),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<bos>",
            "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>",
            "add_bos_token": True, "add_eos_token": False, "padding_side": "left",
            "model_input_names": ["input_ids", "attention_mask"],
            "model_max_length": model.config.max_len, "clean_up_tokenization_spaces": False,
            "chat_template": chat_template(family)},
        "generation_config.json": {**special, "do_sample": False,
                                   "max_length": model.config.max_len},
        "config.json": {    # `dtype` and `rope_parameters` for transformers 5, the others before
            **PLAIN, **{theirs: getattr(model.config, ours) for ours, theirs in SHAPE.items()},
            "dtype": "float32", "torch_dtype": "float32", "rope_scaling": None,
            "rope_parameters": {"rope_type": "default", "rope_theta": theta},
            "attention_dropout": 0.0, "use_cache": True, FAMILY: family.NAME, **special}}
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
    turned: dict[str, Any] = {"partial_rotary_factor": held.get("partial_rotary_factor")}
    for name in ("rope_scaling", "rope_parameters"):
        if not isinstance(given := held.get(name) or {}, dict):
            raise UserError(f"{path}: {name} is {given!r}, not an object")
        turned |= given
    held["rope_theta"] = turned.pop("rope_theta", held["rope_theta"])
    plain = {"rope_type": (None, "default"), "type": (None, "default"),
             "partial_rotary_factor": (None, 1)}
    odd = [f"{name} {value!r}" for name, value in turned.items()
           if value not in plain.get(name, (None,))]
    if odd:
        raise UserError(f"{path}: rotary embedding is scaled ({', '.join(odd)}); only a plain "
                        f"{ARCHITECTURE} can be imported")
    try:
        config = from_dict(ModelConfig, {ours: held[theirs] for ours, theirs in SHAPE.items()})
        return dataclasses.replace(config, rope_theta=float(config.rope_theta),
                                   norm_eps=float(config.norm_eps))
    except KeyError as error:
        raise UserError(f"{path}: lacks {error}") from None
    except OverflowError:
        raise UserError(f"{path}: holds a number too large for any model") from None
    except UserError as error:
        text = str(error)
        for ours, theirs in SHAPE.items():
            text = re.sub(rf"(--)?\b{re.sub('_', '[-_]', ours)}\b", theirs, text)
        raise UserError(f"{path}: {text}") from None


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


def read_weights(path: Path, config: ModelConfig) -> Transformer:
    """The model in a safetensors file; UserError if names, shapes or types are not exactly its.

    All of them are compared before anything is allocated.
    """
    with torch.device("meta"):
        wanted = {name: list(t.shape) for name, t in views(Transformer(config)).items()}
    if not path.is_file():
        raise UserError(f"{path}: no such file; weights must be one safetensors file")
    try:
        with safe_open(path, "pt") as file:
            found = {name: file.get_slice(name) for name in file.keys()}
            if config.tied and "lm_head.weight" in found:        # some writers store it twice
                check_head(path, file)
                del found["lm_head.weight"]
            for verb, odd in (("lacks", wanted.keys() - found), ("holds", found.keys() - wanted)):
                if odd:
                    raise UserError(f"{path}: {verb} {min(odd)} ({len(odd)} such tensors in all), "
                                    f"unlike a plain {ARCHITECTURE} of config.json's shape")
            for name, given in found.items():
                if given.get_shape() != wanted[name]:
                    raise UserError(f"{path}: {name} is {tuple(given.get_shape())}, but "
                                    f"config.json says {tuple(wanted[name])}")
                if given.get_dtype() not in EXACT:
                    raise UserError(f"{path}: {name} is of type {given.get_dtype()}; only "
                                    f"{', '.join(EXACT)} can be imported without a loss")
            model = Transformer(config)
            for name, tensor in views(model).items():
                tensor.copy_(file.get_tensor(name))
                if not tensor.isfinite().all():
                    raise UserError(f"{path}: {name} holds numbers that are not finite")
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({error})") from None
    return model


def check_head(path: Path, file: Any) -> None:
    """UserError if the stored lm_head is another matrix than the embedding that it is tied to."""
    names = ("lm_head.weight", "model.embed_tokens.weight")
    if names[1] in file.keys() and not torch.equal(*map(file.get_tensor, names)):
        raise UserError(f"{path}: lm_head differs from the embedding that config.json ties it "
                        "to; set tie_word_embeddings to false there")


def run_import(cfg: ImportConfig) -> dict:
    """Read a Qwen3 folder; returns result.json's content."""
    source = Path(cfg.source)
    if not source.is_dir():
        raise UserError(f"{source}: no such folder; give one that holds {ARCHITECTURE}")
    config = our_config(source / "config.json")
    tokenizer = our_tokenizer(source / "tokenizer.json", config.vocab_size)
    model = read_weights(source / "model.safetensors", config)
    family = cfg.family or read_json(source / "config.json").get(FAMILY) or ""
    if family:
        check_choice("family", family, FAMILIES)
    with open(source / "model.safetensors", "rb") as file:
        parents = {"source": hashlib.file_digest(file, "sha256").hexdigest()}
    log = RunLog(cfg.out, "import", dataclasses.replace(cfg, family=family), parents)
    if log.done:
        return log.done
    return log.finish(weights=checkpoint.save(cfg.out, model, tokenizer))

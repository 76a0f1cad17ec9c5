"""Export: transformers itself loads the folder and computes our logits; the way back is exact."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from minireason.core.config import UserError
from minireason.critics.value_head import Critic
from minireason.export import Config as ExportConfig
from minireason.export import ImportConfig, run_import, views
from minireason.export import run as run_export
from minireason.model import checkpoint
from minireason.model.tokenizer import Tokenizer
from minireason.model.transformer import ModelConfig, Transformer
from minireason.problems import chain
from minireason.stages.sft import Config as SFTConfig
from minireason.stages.sft import run as run_sft

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers")

TOKENIZER = Tokenizer.build(chain.TOKENS)
TEXT = "<bos>((23+4)*3)=<think>23+4=27;27*3=81</think>81<eos>"


def model_of(n_kv_heads: int = 2, tied: bool = True, kind=Transformer) -> Transformer:
    """A tiny model whose every tensor, gains included, differs from its initial value."""
    config = ModelConfig(TOKENIZER.vocab_size, 24, 2, 4, n_kv_heads, 8, 40, 64, tied=tied)
    model = kind(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(0.3 * noise + (parameter.dim() < 2))
    return model


@pytest.fixture
def folder(tmp_path):
    """An exported folder with its checkpoint folder beside it."""
    model = model_of()
    (tmp_path / "ours").mkdir()
    checkpoint.save(tmp_path / "ours", model, TOKENIZER)
    run_export(ExportConfig(str(tmp_path / "ours"), str(tmp_path / "hf")))
    return tmp_path / "hf"


@pytest.mark.parametrize("n_kv_heads", [4, 2, 1])
@pytest.mark.parametrize("tied", [True, False])
def test_transformers_computes_our_logits(tmp_path, n_kv_heads, tied):
    model = model_of(n_kv_heads, tied)
    (tmp_path / "ours").mkdir()
    checkpoint.save(tmp_path / "ours", model, TOKENIZER)
    run_export(ExportConfig(str(tmp_path / "ours"), str(tmp_path / "hf")))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    assert type(theirs).__name__ == "Qwen3ForCausalLM" and theirs.dtype == torch.float32
    assert sum(p.numel() for p in theirs.parameters()) == model.n_params
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(TOKENIZER.vocab_size, (3, 60), generator=generator)
    with torch.no_grad():
        gap = (theirs(tokens).logits - model(tokens)).abs().max()
    assert gap < 1e-5                                           # the requirement, in fp32


def test_tokenizer_encodes_and_names_its_special_tokens(folder):
    for load in (transformers.AutoTokenizer, transformers.PreTrainedTokenizerFast):
        theirs = load.from_pretrained(folder)
        assert theirs(TEXT)["input_ids"] == TOKENIZER.encode(TEXT)
        assert theirs.decode(TOKENIZER.encode(TEXT)) == TEXT
        assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (
            TOKENIZER.bos, TOKENIZER.eos, TOKENIZER.pad)
        assert {"<think>", "</think>", "<hint>"} <= set(theirs.all_special_tokens)
        assert "think" not in theirs.decode(TOKENIZER.encode(TEXT), skip_special_tokens=True)


def test_generation_stops_at_eos_and_samples_plainly(folder):
    held = transformers.GenerationConfig.from_pretrained(folder)
    assert held.eos_token_id == TOKENIZER.eos and held.pad_token_id == TOKENIZER.pad
    assert held.do_sample and held.temperature == 1.0 and held.top_k == 0 and held.top_p == 1.0


def test_round_trip_keeps_every_bit_and_a_stage_accepts_it(folder, tmp_path):
    result = run_import(ImportConfig(str(folder), str(tmp_path / "back")))
    ours, tokenizer = checkpoint.load(tmp_path / "ours")
    back, tokenizer_back = checkpoint.load(tmp_path / "back")
    assert back.config == ours.config and tokenizer_back.to_json() == tokenizer.to_json()
    for name, tensor in ours.state_dict().items():
        assert back.state_dict()[name].equal(tensor), name
    assert result["weights"] == checkpoint.weights_hash(tmp_path / "ours")
    assert run_import(ImportConfig(str(folder), str(tmp_path / "back"))) == result
    sft = run_sft(SFTConfig(init=str(tmp_path / "back"), out=str(tmp_path / "sft"), traces=4,
                            max_level=1, steps=1, rows_per_step=2, eval_n=1, device="cpu"))
    assert sft["stage"] == "sft"


def test_what_transformers_saves_comes_back(folder, tmp_path):
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    theirs.save_pretrained(tmp_path / "again")
    transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "again")
    run_import(ImportConfig(str(tmp_path / "again"), str(tmp_path / "back")))
    ours, back = (checkpoint.load(tmp_path / name)[0] for name in ("ours", "back"))
    assert back.config == ours.config
    for name, tensor in views(ours).items():
        assert views(back)[name].equal(tensor), name


@pytest.mark.parametrize("change, words", [
    ({"model_type": "llama"}, "model_type is 'llama'"),
    ({"architectures": ["Qwen3ForSequenceClassification"]}, "SequenceClassification"),
    ({"attention_bias": True}, "attention_bias is True"),
    ({"hidden_act": "gelu"}, "gelu"),
    ({"use_sliding_window": True}, "use_sliding_window is True"),
    ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "yarn"),
    ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}, "linear"),
    ({"quantization_config": {"bits": 4}}, "quantization_config is"),
    ({"num_attention_heads": 3}, "n_heads must be a multiple"),
    ({"num_hidden_layers": 3}, "lacks model.layers.2"),
    ({"num_hidden_layers": 1}, "holds model.layers.1"),
    ({"hidden_size": 32}, "config.json says"),
    ({"tie_word_embeddings": False}, "lacks lm_head"),
    ({"vocab_size": 8}, "tokenizer has"),
    ({"head_dim": None}, "head_dim"),
])
def test_what_does_not_fit_is_refused(folder, tmp_path, change, words):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=words):
        run_import(ImportConfig(str(folder), str(tmp_path / "back")))
    assert not (tmp_path / "back").exists()


def test_damaged_weights_are_refused(folder, tmp_path):
    def refused(words: str) -> None:
        with pytest.raises(UserError, match=words):
            run_import(ImportConfig(str(folder), str(tmp_path / "back")))
        assert not (tmp_path / "back").exists()

    path = folder / "model.safetensors"
    tensors = load_file(path)
    save_file({k: v for k, v in tensors.items() if "layers.1.mlp.up" not in k}, path)
    refused("lacks model.layers.1.mlp.up_proj.weight")
    save_file(tensors | {"model.layers.0.self_attn.q_proj.bias": torch.zeros(32)}, path)
    refused("holds model.layers.0.self_attn.q_proj.bias")
    save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"] + 1}, path)
    refused("lm_head differs")
    path.write_bytes(path.read_bytes()[:-7])
    refused("not a readable safetensors file")
    path.unlink()
    refused("no such file")


def test_critic_and_occupied_folder_are_refused(folder, tmp_path):
    (tmp_path / "critic").mkdir()
    checkpoint.save(tmp_path / "critic", model_of(kind=Critic), TOKENIZER)
    with pytest.raises(UserError, match="critic"):
        run_export(ExportConfig(str(tmp_path / "critic"), str(tmp_path / "new")))
    assert not (tmp_path / "new").exists()
    with pytest.raises(UserError, match="not an empty folder"):
        run_export(ExportConfig(str(tmp_path / "ours"), str(folder)))

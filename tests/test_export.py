"""Export: transformers itself loads the folder and computes our logits; the way back is exact."""

import json
import os

import jinja2
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from minireason.core.errors import UserError
from minireason.critics.value_head import Critic
from minireason.export import Config as ExportConfig
from minireason.export import ImportConfig, run_import, views
from minireason.export import run as run_export
from minireason.model import checkpoint
from minireason.model.exported_tokenizer import chat_template
from minireason.model.tokenizer import Tokenizer, padded_rows
from minireason.model.transformer import ModelConfig, Transformer
from minireason.problems import FAMILIES, addition, chain, countdown
from minireason.sampling.complete import complete, prompt_ids
from minireason.sampling.sampler import Sampling
from minireason.serve.answers import find_family
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
        logits = model(tokens)
        gap = (theirs(tokens).logits - logits).abs().max()
    assert gap < 5e-6 * logits.abs().max()           # about 1e-5: float32, and CPUs sum differently


def test_tokenizer_adds_bos_and_prints_the_thought(folder):
    inside = TEXT.removeprefix("<bos>")
    for load in (transformers.AutoTokenizer, transformers.PreTrainedTokenizerFast):
        theirs = load.from_pretrained(folder)
        assert dict(theirs(inside)) == {"input_ids": TOKENIZER.encode(TEXT),
                                        "attention_mask": [1] * len(TOKENIZER.encode(TEXT))}
        assert theirs.decode(TOKENIZER.encode(TEXT)) == TEXT
        assert theirs.decode(TOKENIZER.encode(TEXT), skip_special_tokens=True) == (
            inside.removesuffix("<eos>"))
        assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (
            TOKENIZER.bos, TOKENIZER.eos, TOKENIZER.pad)
        assert set(theirs.all_special_tokens) == {"<pad>", "<bos>", "<eos>", "<unk>"}
        for token in ("<think>", "</think>", "<hint>", "<wrong>"):
            assert theirs.encode(token, add_special_tokens=False) == TOKENIZER.ids_of(token)
        assert (theirs.model_max_length, theirs.padding_side) == (64, "left")
    for_others = json.loads((folder / "tokenizer_config.json").read_text())     # as llama.cpp reads
    assert (for_others["add_bos_token"], for_others["add_eos_token"]) == (True, False)


def test_generation_is_greedy_and_ends_where_a_row_is_full(folder):
    held = transformers.GenerationConfig.from_pretrained(folder)
    assert held.eos_token_id == TOKENIZER.eos and held.pad_token_id == TOKENIZER.pad
    assert held.do_sample is False
    for typed in ("((23+4)*3)=", [{"role": "user", "content": "(23+4)*3"}]):
        pipe = transformers.pipeline("text-generation", model=str(folder))
        (found,) = pipe(typed, return_tensors=True)
        assert len(found["generated_token_ids"]) == 64          # an untrained model never ends


SHORT = ("chain", "addition", "countdown", "instructions")


@pytest.fixture(scope="module", params=[
    pytest.param((name, i % 2 == 0), id=name, marks=[pytest.mark.long] if name not in SHORT else [])
    for i, name in enumerate(FAMILIES)])
def taught(request, tmp_path_factory):
    """(family, problems, checkpoint folder, exported folder): taught 20 problems in two styles."""
    name, tied = request.param
    family, out = FAMILIES[name], tmp_path_factory.mktemp(name)
    generator = np.random.default_rng(0)
    problems = [family.sample(generator, family.LEVELS[0]) for _ in range(12)]
    tokenizer = Tokenizer.build(family.TOKENS)
    style = "optimal" if name == "countdown" else "cot"
    texts = [f"<bos>{p.prompt}{family.render(p, s)}" for p in problems for s in (style, "direct")]
    rows = padded_rows(tokenizer.encode_batch(texts), tokenizer.pad)
    config = ModelConfig(tokenizer.vocab_size, 48, 2, 4, 2, 12, 96, 160, 50_000.0, tied=tied)
    model = Transformer.random(config, 0)
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    for _ in range(240 if name == "pathstar" else 80):       # whose prompts are long and random
        loss = torch.nn.functional.cross_entropy(
            model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten(), ignore_index=tokenizer.pad)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    (out / "ours").mkdir()
    checkpoint.save(out / "ours", model, tokenizer)
    (out / "ours" / "config.json").write_text(json.dumps({"config": {"family": name}}))
    run_export(ExportConfig(str(out / "ours"), str(out / "hf")))
    return family, problems, out / "ours", out / "hf"


@pytest.mark.parametrize("style, more", [
    ("cot", {}), ("direct", {"tokenizer_encode_kwargs": {"enable_thinking": False}})])
def test_pipeline_says_what_our_sampler_says(taught, style, more):
    family, problems, ours, exported = taught
    model, tokenizer = checkpoint.load(ours)
    texts = complete(model, tokenizer, problems, style, Sampling(temperature=0.0, max_new=60))
    pipe = transformers.pipeline("text-generation", model=str(exported), batch_size=12)
    chats = [[{"role": "user", "content": p.prompt}] for p in problems]
    found = pipe(chats, max_new_tokens=60, return_full_text=False, **more)
    for (text,), (said,) in zip(texts, found, strict=True):
        assert family.OPENER[style] + said["generated_text"] == text.removesuffix("<eos>")
    whole = [text.endswith("<eos>") for (text,) in texts]
    assert sum(whole) >= 6                                     # it ends by itself
    apart = [said["generated_text"].partition("</think>") for (said,) in found]
    assert style == "direct" or sum(bool(t and a) for t, _, a in apart) >= 6


def test_plain_text_and_chat_are_the_same_prompt(taught):
    family, problems, _, exported = taught
    pipe = transformers.pipeline("text-generation", model=str(exported))
    prompt = problems[0].prompt
    (chat,) = pipe([{"role": "user", "content": prompt}], max_new_tokens=40)
    (plain,) = pipe(prompt + family.OPENER["cot"], max_new_tokens=40, return_full_text=False)
    assert chat["generated_text"][-1] == {"role": "assistant", "content": plain["generated_text"]}
    assert "<bos>" not in plain["generated_text"] and plain["generated_text"]


def test_template_writes_the_prompt_of_training(taught):
    family, _, ours, exported = taught
    theirs = transformers.AutoTokenizer.from_pretrained(exported)
    tokenizer = checkpoint.load(ours)[1]
    generator = np.random.default_rng(1)
    for level in family.LEVELS:
        problem = family.sample(generator, level)
        for typed in (problem.prompt, problem.prompt.removesuffix("="), f" {problem.prompt} "):
            asked = [{"role": "user", "content": typed}]
            for style, think in (("cot", {}), ("direct", {"enable_thinking": False})):
                ids = theirs.apply_chat_template(asked, add_generation_prompt=True,
                                                 return_dict=False, **think)
                assert [ids] == prompt_ids(tokenizer, [problem], style)
    answered = [*asked, {"role": "assistant", "content": "1</think>2"}]
    assert theirs.apply_chat_template(answered, tokenize=False) == (
        f"<bos>{problem.prompt}<think>1</think>2<eos>")
    assert theirs.apply_chat_template([*answered, *asked], tokenize=False) == (
        f"<bos>{problem.prompt}")


def template(family):
    """What the family's template makes of a text: the prompt, or None where it refuses."""
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=TOKENIZER.backend)

    def prompt(typed: str) -> str | None:
        try:
            return theirs.apply_chat_template([{"role": "user", "content": typed}], tokenize=False,
                                              chat_template=chat_template(family))
        except jinja2.TemplateError:
            return None
    return prompt


WRITTEN = st.lists(st.sampled_from(["(", ")", "+", "-", "*", "/", " ", "=", "5", "23", "0", "x"]),
                   max_size=9).map("".join)


@settings(max_examples=120, deadline=None)
@given(WRITTEN)
@example("23+4*3").via("precedence: 35, not 81")
@example("1 7+8").via("a space inside a number")
@example("2+(3*4)").via("not a chain")
def test_template_reads_what_chat_reads_or_refuses(typed):
    """Never another problem than chain.read's; what that refuses for its values may be written."""
    prompt = template(chain)(typed)
    try:
        expected = chain.read(typed).prompt
    except UserError:
        assert prompt is None or prompt.count("(") == sum(map(prompt.count, "+-*/"))
    else:
        assert prompt in (None, "<bos>" + expected)


@pytest.mark.parametrize("typed, prompt", [
    ("23+4-7", "((23+4)-7)="), ("23*4/2+5", "(((23*4)/2)+5)="), ("((23 + 4)) × 3", "((23+4)*3)="),
    ("(23+4)*3-7", "(((23+4)*3)-7)="), ("1 7+8", None), ("23+4*3", None)])
def test_template_reads_a_chain(typed, prompt):
    assert template(chain)(typed) == (prompt and "<bos>" + prompt)


@pytest.mark.parametrize("family, typed", [
    (addition, "12 8+367"), (addition, "hello"), (addition, ""), (addition, "1+2=3"),
    (countdown, "3 7,18>46"), (countdown, "100,2>3"), (countdown, "3;4>7"), (chain, "123+4")])
def test_template_refuses_what_it_cannot_write(family, typed):
    assert template(family)(typed) is None


def test_template_knows_problems_alone(folder):
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    with pytest.raises(jinja2.TemplateError, match="no role system"):
        theirs.apply_chat_template([{"role": "system", "content": "Be brief."},
                                    {"role": "user", "content": "1+2"}], tokenize=False)


def test_round_trip_keeps_every_bit_and_a_stage_accepts_it(folder, tmp_path):
    result = run_import(ImportConfig(str(folder), str(tmp_path / "back")))
    ours, tokenizer = checkpoint.load(tmp_path / "ours")
    back, tokenizer_back = checkpoint.load(tmp_path / "back")
    assert back.config == ours.config and tokenizer_back.to_json() == tokenizer.to_json()
    for name, tensor in ours.state_dict().items():
        assert back.state_dict()[name].equal(tensor), name
    assert result["weights"] == checkpoint.weights_hash(tmp_path / "ours")
    assert (tmp_path / "back/tokenizer.json").read_bytes() == (
        tmp_path / "ours/tokenizer.json").read_bytes()
    folder = folder.rename(tmp_path / "moved")
    assert run_import(ImportConfig(str(folder), str(tmp_path / "back"))) == result
    sft = run_sft(SFTConfig(init=str(tmp_path / "back"), out=str(tmp_path / "sft"), traces=4,
                            max_level=1, steps=1, rows_per_step=2, eval_n=1, device="cpu"))
    assert sft["stage"] == "sft"


def test_what_transformers_saves_comes_back(folder, tmp_path):
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    theirs.save_pretrained(tmp_path / "again")
    transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "again")
    run_import(ImportConfig(str(tmp_path / "again"), str(tmp_path / "back")))
    (ours, tokenizer), (back, read) = (checkpoint.load(tmp_path / d) for d in ("ours", "back"))
    assert back.config == ours.config and read.to_json() == tokenizer.to_json()
    for name, tensor in views(ours).items():
        assert views(back)[name].equal(tensor), name


def test_import_knows_its_family_and_its_source(tmp_path):
    (tmp_path / "ours").mkdir()
    tokenizer = Tokenizer.build(addition.TOKENS)
    config = ModelConfig(tokenizer.vocab_size, 16, 1, 1, 1, 8, 16, 32)
    checkpoint.save(tmp_path / "ours", Transformer.random(config, 0), tokenizer)
    run_export(ExportConfig(str(tmp_path / "ours"), str(tmp_path / "hf"), family="addition"))
    run_import(ImportConfig(str(tmp_path / "hf"), str(tmp_path / "back")))
    assert find_family("", tmp_path / "back") == "addition"
    path = tmp_path / "hf/model.safetensors"
    save_file({k: v + 1 for k, v in load_file(path).items()}, path)
    with pytest.raises(UserError, match="another configuration"):
        run_import(ImportConfig(str(tmp_path / "hf"), str(tmp_path / "back")))


def test_a_folder_of_transformers_is_no_checkpoint(folder, tmp_path):
    again = tmp_path / "again"
    transformers.AutoModelForCausalLM.from_pretrained(folder).save_pretrained(again)
    transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(again)
    for layout in (folder, again):
        for read in (checkpoint.load, checkpoint.weights_hash):
            with pytest.raises(UserError, match="not written by minireason; `minireason import`"):
                read(layout)


@pytest.mark.parametrize("change, words", [
    ({"model_type": "llama"}, "model_type is 'llama'"),
    ({"architectures": ["Qwen3ForSequenceClassification"]}, "SequenceClassification"),
    ({"attention_bias": True}, "attention_bias is True"),
    ({"hidden_act": "gelu"}, "gelu"),
    ({"use_sliding_window": True}, "use_sliding_window is True"),
    ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "scaled"),
    ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}, "linear"),
    ({"quantization_config": {"bits": 4}}, "quantization_config is"),
    ({"num_attention_heads": 3}, "num_attention_heads must be a multiple"),
    ({"num_hidden_layers": 3}, "lacks model.layers.2"),
    ({"num_hidden_layers": 1}, "holds model.layers.1"),
    ({"hidden_size": 32}, "config.json says"),
    ({"tie_word_embeddings": False}, "lacks lm_head"),
    ({"vocab_size": 8}, "tokenizer has"),
    ({"head_dim": None}, "head_dim must be int, not None"),
    ({"hidden_size": "24"}, "hidden_size must be int, not '24'"),
    ({"num_hidden_layers": True}, "num_hidden_layers must be int"),
    ({"num_key_value_heads": 0}, "num_key_value_heads 0"),
    ({"tie_word_embeddings": "false"}, "tie_word_embeddings must be bool"),
    ({"max_position_embeddings": 10 ** 12}, "max_position_embeddings 1000000000000: must be"),
    ({"vocab_size": 10 ** 400}, "too large for any model"),
    ({"rms_norm_eps": float("nan")}, "rms_norm_eps nan"),
    ({"rope_parameters": {"rope_theta": "big"}}, "rope_theta must be float"),
    ({"rope_parameters": {"rope_theta": float("inf")}}, "rope_theta inf"),
    ({"rope_parameters": [1e4]}, "rope_parameters is .1e|rope_parameters is .10000"),
    ({"rope_scaling": {"factor": 4.0}}, "scaled .factor 4.0"),
    ({"rope_scaling": {"type": ["yarn"]}}, "scaled .type"),
    ({"partial_rotary_factor": 0.5}, "scaled .partial_rotary_factor 0.5"),
    ({"minireason_family": "poetry"}, "poetry: must be one of"),
])
def test_what_does_not_fit_is_refused(folder, tmp_path, change, words):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=words):
        run_import(ImportConfig(str(folder), str(tmp_path / "back")))
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("change, words", [
    (lambda held: held["model"]["vocab"].update({"=": 64}), "ids of its tokens must be 0"),
    (lambda held: held["model"]["vocab"].update({"=": 10 ** 9}), "ids of its tokens must be 0"),
    (lambda held: held["model"]["vocab"].update({"<pad>": 1, "<bos>": 0}), "must be its tokens 0"),
    (lambda held: held.update(normalizer={"type": "Lowercase"}), "does not read and print"),
    (lambda held: held.update(decoder=None), "does not read and print"),
    (lambda held: held["pre_tokenizer"].update(behavior="Removed"), "does not read and print"),
    (lambda held: held.update(model=[]), "ids of its tokens must be 0"),
    (lambda held: held["added_tokens"].append(held["added_tokens"][0] | {"content": "@"}),
     "the model"),
    (lambda held: held["added_tokens"].pop(3), "does not read and print"),
    (lambda held: held["model"]["vocab"].pop("<hint>") and held["added_tokens"].pop(5), "ids of"),
])
def test_a_tokenizer_of_another_kind_is_refused(folder, tmp_path, change, words):
    path = folder / "tokenizer.json"
    held = json.loads(path.read_text())
    change(held)
    path.write_text(json.dumps(held))
    with pytest.raises(UserError, match=words):
        run_import(ImportConfig(str(folder), str(tmp_path / "back")))
    assert not (tmp_path / "back").exists()


def test_damaged_weights_are_refused(folder, tmp_path):
    def refused(words: str) -> None:
        with pytest.raises(UserError, match=words):
            run_import(ImportConfig(str(folder), str(tmp_path / "back")))
        assert not (tmp_path / "back").exists()

    path = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}   # not mapped
    save_file({k: v for k, v in tensors.items() if "layers.1.mlp.up" not in k}, path)
    refused("lacks model.layers.1.mlp.up_proj.weight")
    save_file(tensors | {"model.layers.0.self_attn.q_proj.bias": torch.zeros(32)}, path)
    refused("holds model.layers.0.self_attn.q_proj.bias")
    save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"] + 1}, path)
    refused("lm_head differs")
    save_file({k: v.double() for k, v in tensors.items()}, path)
    refused("of type F64; only F32, BF16, F16")
    save_file({k: v.to(torch.int8) for k, v in tensors.items()}, path)
    refused("of type I8")
    save_file(tensors | {"model.norm.weight": torch.full((24,), torch.nan)}, path)
    refused("model.norm.weight holds numbers that are not finite")
    save_file(tensors, path)
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

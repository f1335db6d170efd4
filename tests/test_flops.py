"""The exact formula of `toa_nb.compute` against PyTorch's operation counter, on tiny models of many families."""
import pytest

torch = pytest.importorskip('torch')
tf = pytest.importorskip('transformers')
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from toa_nb.compute import call_flops, reward_flops, spec_from_config  # noqa: E402

SHAPE = dict(hidden_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, intermediate_size=96,
             vocab_size=128,
    bos_token_id=1, eos_token_id=2, pad_token_id=0)
GPT2 = dict(n_embd=64, n_layer=3, n_head=4, vocab_size=128, bos_token_id=1, eos_token_id=2)
MOE = dict(num_experts_per_tok=2)
MODELS = {
    'llama': ('LlamaConfig', SHAPE),
    'llama-tied-mha': ('LlamaConfig', SHAPE | dict(num_key_value_heads=4, tie_word_embeddings=True)),
    'mistral-window': ('MistralConfig', SHAPE | dict(sliding_window=8)),
    'qwen2': ('Qwen2Config', SHAPE),
    'qwen2-window': ('Qwen2Config', SHAPE | dict(use_sliding_window=True, sliding_window=8, max_window_layers=1)),
    'qwen3-wide-heads': ('Qwen3Config', SHAPE | dict(head_dim=32)),
    'gemma2-wide-heads': ('Gemma2Config', SHAPE | dict(head_dim=32, sliding_window=8)),
    'gemma3': ('Gemma3TextConfig', SHAPE | dict(num_hidden_layers=7, head_dim=32, sliding_window=8)),
    'phi': ('PhiConfig', SHAPE),
    'phi3': ('Phi3Config', SHAPE),
    'gpt2': ('GPT2Config', GPT2),
    'mixtral': ('MixtralConfig', SHAPE | MOE | dict(num_local_experts=4)),
    'qwen3-moe': ('Qwen3MoeConfig', SHAPE | MOE | dict(num_experts=4, moe_intermediate_size=48, head_dim=32)),
}


def build(name):
    "A tiny model with eager attention, and the spec of its configuration."
    kind, shape = MODELS[name]
    config = getattr(tf, kind)(**shape)
    if 'num_experts_per_tok' in shape: config._experts_implementation = 'eager'
    torch.manual_seed(0)
    return (tf.AutoModelForCausalLM.from_config(config, attn_implementation='eager').eval(),
            spec_from_config(config.to_dict(), name))


def count(model, ids, cache=None):
    "FLOPs that torch counts for reading `ids` after `cache`, one row of logits included; and the cache."
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        out = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return counter.get_total_flops(), out.past_key_values


def masked(spec, start, end):
    "FLOPs of the pairs that an eager kernel computes and then masks, counted pair by pair: keys after the query, or before its window."
    def pairs(window): return sum(j > i or i - j >= window for i in range(start, end) for j in range(end))
    full, local = pairs(end), pairs(spec.window or end)
    return 4 * spec.heads * spec.head_dim * ((spec.layers - spec.window_layers) * full + spec.window_layers * local)


@pytest.mark.parametrize('name', MODELS)
def test_prefill_and_decode_are_exact(name):
    model, spec = build(name)
    p, q = 24, 4
    ids = torch.randint(0, 128, (1, p + q))
    prefill, cache = count(model, ids[:, :p])
    decode = 0
    for i in range(q - 1):
        step, cache = count(model, ids[:, p + i:p + i + 1], cache)
        decode += step
    flops = call_flops(spec, p, q)
    assert prefill == flops.prefill + masked(spec, 0, p)
    assert decode == flops.decode


@pytest.mark.parametrize('name', ['llama', 'qwen3-wide-heads', 'phi', 'mixtral'])
def test_a_cached_prefix_is_exact(name):
    model, spec = build(name)
    ids = torch.randint(0, 128, (1, 24))
    _, cache = count(model, ids[:, :16])
    prefill, _ = count(model, ids[:, 16:], cache)
    assert prefill == call_flops(spec, 24, 1, cached_tokens=16).prefill + masked(spec, 16, 24)


@pytest.mark.parametrize('name', MODELS)
def test_parameters_are_those_of_the_weight_matrices(name):
    model, spec = build(name)
    positions = {id(m.weight) for n, m in model.named_modules() if n.endswith('wpe')}
    assert spec.params == sum(w.numel() for w in model.parameters() if w.dim() > 1 and id(w) not in positions)


def test_a_reward_model_has_no_head():
    config = tf.LlamaConfig(**SHAPE, num_labels=1, architectures=['LlamaForSequenceClassification'])
    spec = spec_from_config(config.to_dict(), 'reward')
    model = tf.LlamaModel._from_config(config, attn_implementation='eager').eval()
    ids = torch.randint(0, 128, (1, 24))
    with torch.no_grad(), FlopCounterMode(display=False) as counter: model(ids)
    assert spec.head_rows == 0
    assert counter.get_total_flops() == reward_flops(spec, 24) + masked(spec, 0, 24)


def test_the_numbers_in_the_notebook():
    model = tf.LlamaForCausalLM._from_config(tf.LlamaConfig(**SHAPE | dict(num_hidden_layers=2)),
                                             attn_implementation='eager').eval()
    ids = torch.randint(0, 128, (1, 25))
    prefill, cache = count(model, ids[:, :24])
    assert (prefill, count(model, ids[:, 24:], cache)[0]) == (3_260_416, 152_064)


@pytest.mark.parametrize('kind', ['DeepseekV3Config', 'BertConfig', 'T5Config', 'MambaConfig', 'Qwen3NextConfig',
                                  'JambaConfig', 'Llama4TextConfig',
    'FalconConfig', 'BartConfig', 'XLMRobertaConfig', 'DbrxConfig', 'ModernBertConfig'])
def test_other_architectures_are_refused(kind):
    with pytest.raises(ValueError, match='does not cover|is missing'): spec_from_config(getattr(tf, kind)().to_dict())

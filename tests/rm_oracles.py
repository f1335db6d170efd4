"""Tiny reward models on disk, and reference forwards written from the published descriptions of their architectures.

The references are slow and plain on purpose: one text at a time, no cache, every position through the head, in the dtype they are loaded in.
"""
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import nn
from transformers import Gemma2Config, LlamaConfig, MistralConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen3Config
from transformers.models.auto.modeling_auto import MODEL_MAPPING

SPECIAL = ['<|begin_of_text|>', '<|eot_id|>', '<|start_header_id|>', '<|end_header_id|>', '<|pad|>', '<extra_0>',
           '<|reward|>']
CHAT = ("{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n{{ m['content'] "
        "}}<|eot_id|>{% endfor %}")
TEXT = ['Why is the sky blue? Air scatters blue light more than red light.',
        'Step 1: Add 2 and 3.\nStep 2: The answer is 5.\n\nSo it is five.',
        'user assistant system Human: Assistant: + - ки как',
        'Please reason step by step, and put your final answer within \\boxed{}.']


def tokenizer(pad='<|pad|>', chat=CHAT):
    "A byte-level BPE tokenizer with Llama 3's special tokens, trained on a few lines: leading line breaks melt into what is before them."
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer, tok.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tok.train_from_iterator(TEXT*4, trainers.BpeTrainer(vocab_size=420, special_tokens=SPECIAL,
                                                        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                                        show_progress=False))
    fast = PreTrainedTokenizerFast(tokenizer_object=tok, bos_token='<|begin_of_text|>', eos_token='<|eot_id|>',
                                   pad_token=pad,
                                   additional_special_tokens=SPECIAL[2:4] + SPECIAL[5:])
    fast.chat_template = chat
    return fast


SCHEMES = ['prepend', 'first', 'always', 'never']
WORDS = ['▁user', 'user', '▁a', 'ass', '▁+', '▁-', '▁ки']


def sentencepiece(kind, scheme, added=(), special=True, bare=False, places=(), words=WORDS):
    "A tokenizer as SentencePiece ones are converted: `▁` for spaces, and in front of every piece, the first, or none. `places`: ids of tokens."
    control = [] if bare else ['<unk>', '<s>', '</s>', '<|im_start|>', '<|im_end|>']
    vocab = list(dict.fromkeys([*control, *map(chr, range(33, 127)), '▁', '\n', 'к', 'и', *words]))
    for token, place in dict(places).items():
        vocab += [f'[{i}]' for i in range(len(vocab), place + 1)]
        at = vocab.index(token)
        vocab[at], vocab[place] = vocab[place], token
    if kind == 'unigram':
        model = models.Unigram([(t, 0. if t in control else -2. + .3*len(t)) for t in vocab],
                               unk_id=None if bare else 0)
    else:
        merges = [('▁', 'a'), ('▁', '+'), ('▁', '-'), *[('к', 'и'), ('▁', 'ки')]*('▁ки' in words)]
        vocab += [t for t in ('ки', '▁a') if t not in vocab]
        model = models.BPE({t: i for i, t in enumerate(vocab)}, merges)
    tok = Tokenizer(model)
    if scheme == 'prepend':
        tok.normalizer = normalizers.Sequence([normalizers.Prepend('▁'), normalizers.Replace(' ', '▁')])
    else: tok.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    tok.decoder = decoders.Metaspace(prepend_scheme='never' if scheme == 'never' else 'always')
    names = {} if bare else dict(bos_token='<s>', eos_token='</s>', unk_token='<unk>',
                                 additional_special_tokens=control[3:])
    fast = PreTrainedTokenizerFast(tokenizer_object=tok, **names)
    fast.add_tokens([AddedToken(t, special=special, normalized=False) for t in added], special_tokens=special)
    turn = ("{{ m['role'] }}\n{{ m['content'] }}\n" if bare
            else "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n")
    fast.chat_template = "{% for m in messages %}" + turn + "{% endfor %}"
    return fast


CONFIGS = dict(llama=LlamaConfig, qwen2=Qwen2Config, qwen3=Qwen3Config, gemma2=Gemma2Config, mistral=MistralConfig)


def config(kind, tok, **kw):
    "A tiny configuration; windows and caps are small enough to matter."
    extra = dict(gemma2=dict(attn_logit_softcapping=2., final_logit_softcapping=None, sliding_window=8),
                 mistral=dict(sliding_window=None),
                 llama=dict(rope_theta=1e4))
    kw = dict(vocab_size=len(tok), hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
              num_key_value_heads=2, head_dim=16,
              max_position_embeddings=512, pad_token_id=tok.pad_token_id, bos_token_id=tok.bos_token_id,
              eos_token_id=tok.eos_token_id,
              tie_word_embeddings=False) | extra.get(kind, {}) | kw
    return CONFIGS[kind](**kw)


class Armo(nn.Module):
    "ArmoRM: a softmax of temperature 10 over a gate read at the last opening of an assistant's turn, times the transformed objectives of the last token."
    def __init__(self, cfg, pattern):
        super().__init__()
        self.model, self.pattern, self.temperature = backbone(cfg), pattern, 10
        self.regression_layer = nn.Linear(cfg.hidden_size, 19, bias=False)
        self.reward_transform_matrix = nn.Parameter(torch.eye(19))
        self.gating = nn.Module()
        sizes = [cfg.hidden_size, 32, 32, 32, 19]
        self.gating.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:]))
        self.gating.logit_scale = nn.Parameter(torch.ones(1))

    def forward(self, ids):
        hidden = self.model(torch.tensor([ids]), use_cache=False).last_hidden_state[0]
        n = len(self.pattern)
        at = max(i for i in range(len(ids) - n + 1) if list(ids[i:i + n]) == self.pattern)
        gate = hidden[at]
        for i, layer in enumerate(self.gating.layers):
            gate = layer(gate)
            if i < 3: gate = gate.clamp(min=0)
        gate = torch.softmax(gate/self.temperature, -1)*self.gating.logit_scale[0]
        rewards = self.regression_layer(hidden[-1])
        return (gate*(rewards @ self.reward_transform_matrix)).sum(), rewards


class Regression(nn.Module):
    "A linear head of the given name over every token, read at the last."
    def __init__(self, cfg, name):
        super().__init__()
        self.model, self.name = backbone(cfg), name
        setattr(self, name, nn.Linear(cfg.hidden_size, 1, bias=False))

    def forward(self, ids):
        return (getattr(self, self.name)(self.model(torch.tensor([ids]), use_cache=False).last_hidden_state)[0, -1, 0],
                None)


class TwoLayers(nn.Module):
    "Qwen2.5-Math-RM (one output, the last token) and Qwen2.5-Math-PRM (two outputs, the tokens of the tag)."
    def __init__(self, cfg, outputs, tag=None):
        super().__init__()
        self.model, self.tag = backbone(cfg), tag
        self.score = nn.Sequential(nn.Linear(cfg.hidden_size, cfg.hidden_size), nn.ReLU(),
                                   nn.Linear(cfg.hidden_size, outputs))

    def forward(self, ids):
        logits = self.score(self.model(torch.tensor([ids]), use_cache=False).last_hidden_state)[0]
        if self.tag is None: return logits[-1, 0], None
        steps = torch.softmax(logits, -1)[torch.tensor(ids) == self.tag, 1]
        return steps.min(), steps


class Shepherd(nn.Module):
    "Math-Shepherd: the probability of `+` against `-` in the logits of a language model, at the tokens of the tag."
    def __init__(self, cfg, good, bad, tag):
        super().__init__()
        self.model, self.good, self.bad, self.tag = backbone(cfg), good, bad, tag
        self.lm_head = nn.Linear(cfg.hidden_size, cfg.vocab_size, bias=False)

    def forward(self, ids):
        logits = (self.lm_head(self.model(torch.tensor([ids]), use_cache=False).last_hidden_state)[0][:,
            [self.good, self.bad]])
        steps = torch.softmax(logits, -1)[torch.tensor(ids) == self.tag, 0]
        return steps.min(), steps


class InternLM2(nn.Module):
    """InternLM2's own layout: queries, keys and values of a key-value head side by side in one matrix. Written without transformers:
    rotary positions, grouped attention, root-mean-square norms, a gated feed-forward, and a head over the last token."""
    def __init__(self, vocab, hidden=64, ffn=96, layers=3, heads=4, kv=2, theta=1e6, eps=1e-5):
        super().__init__()
        d = hidden//heads
        self.heads, self.kv, self.d, self.theta, self.eps = heads, kv, d, theta, eps
        linear = lambda a, b: nn.Linear(a, b, bias=False)
        gain = lambda: nn.Parameter(torch.ones(hidden))
        self.model = nn.Module()
        self.model.tok_embeddings, self.model.norm = nn.Embedding(vocab, hidden), nn.ParameterDict(dict(weight=gain()))
        self.model.layers = nn.ModuleList(nn.ModuleDict(dict(
            attention=nn.ModuleDict(dict(wqkv=linear(hidden, (heads + 2*kv)*d), wo=linear(hidden, hidden))),
            feed_forward=nn.ModuleDict(dict(w1=linear(hidden, ffn), w3=linear(hidden, ffn), w2=linear(ffn, hidden))),
            attention_norm=nn.ParameterDict(dict(weight=gain())), ffn_norm=nn.ParameterDict(dict(weight=gain()))))
            for _ in range(layers))
        self.v_head = linear(hidden, 1)

    def norm(self, x, p): return x*torch.rsqrt((x*x).mean(-1, keepdim=True) + self.eps)*p['weight']

    def rotate(self, x):
        half = self.d//2
        angle = torch.arange(x.shape[-2])[:, None]*self.theta**(-torch.arange(half)/half)
        a, b = x[..., :half], x[..., half:]
        return torch.cat([a*angle.cos() - b*angle.sin(), b*angle.cos() + a*angle.sin()], -1)

    def forward(self, ids):
        x = self.model.tok_embeddings(torch.tensor(ids))
        n, per = len(ids), self.heads//self.kv
        for layer in self.model.layers:
            packed = layer['attention']['wqkv'](self.norm(x, layer['attention_norm'])).view(n, self.kv, per + 2, self.d)
            q = self.rotate(packed[:, :, :per].permute(1, 2, 0, 3))
            k, v = (self.rotate(packed[:, :, per].transpose(0, 1)[:, None]),
                    packed[:, :, per + 1].transpose(0, 1)[:, None])
            weights = (q @ k.transpose(-1, -2)*self.d**-.5).masked_fill(torch.ones(n, n).triu(1).bool(),
                float('-inf')).softmax(-1)
            x = x + layer['attention']['wo']((weights @ v).permute(2, 0, 1, 3).reshape(n, -1))
            y, f = self.norm(x, layer['ffn_norm']), layer['feed_forward']
            x = x + f['w2'](nn.functional.silu(f['w1'](y))*f['w3'](y))
        return self.v_head(self.norm(x, self.model.norm))[-1, 0], None


def backbone(cfg): return MODEL_MAPPING[type(cfg)](cfg)


def randomise(model, seed=0, std=.2):
    "Weights large enough that outputs differ, norms included."
    torch.manual_seed(seed)
    for p in model.parameters():
        nn.init.normal_(p, 1. if p.dim() == 1 and p.numel() > 19 else 0., std if p.dim() > 1 else .1)
    return model.eval()


def save(folder: Path, model, config, tok, shards=1):
    "Write a checkpoint as it would be published: config.json, safetensors in shards, tokenizer files."
    folder.mkdir(parents=True, exist_ok=True)
    (folder/'config.json').write_text(json.dumps(config))
    names = sorted(model.state_dict())
    for i in range(shards):
        part = {n: model.state_dict()[n].contiguous().clone() for n in names[i::shards]}
        save_file(part, folder/f'model-{i + 1:05}-of-{shards:05}.safetensors', metadata={'format': 'pt'})
    if shards > 1:
        weight_map = {n: f'model-{i + 1:05}-of-{shards:05}.safetensors' for i in range(shards)
                      for n in names[i::shards]}
        (folder/'model.safetensors.index.json').write_text(json.dumps(dict(metadata={}, weight_map=weight_map)))
    else: (folder/'model-00001-of-00001.safetensors').rename(folder/'model.safetensors')
    tok.save_pretrained(folder)
    return folder


CODE = {f'Auto{part}': f'{file}_custom.Nothing' for part, file in dict(Config='configuration', Model='modeling',
    Tokenizer='tokenization').items()}


def build(kind, folder, pad='<|pad|>', seed=0):
    "A checkpoint of this kind in `folder`, and the reference that has the same weights."
    tok = tokenizer(pad)
    tag = tok.convert_tokens_to_ids('<extra_0>')
    family = dict(gemma2='gemma2', qwen3='qwen3', qwen_rm='qwen2', qwen_prm='qwen2',
                  shepherd='mistral').get(kind, 'llama')
    cfg = config(family, tok)
    names = dict(linear='LlamaForSequenceClassification', gemma2='Gemma2ForSequenceClassification',
                 qwen3='Qwen3ForSequenceClassification',
                 armo='LlamaForRewardModelWithGating', ultra='LlamaRewardModel', qwen_rm='Qwen2ForRewardModel',
                 qwen_prm='Qwen2ForProcessRewardModel',
                 shepherd='MistralForCausalLM', internlm2='InternLM2ForRewardModel')
    opening = tok('<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n', add_special_tokens=False)['input_ids']
    ids = lambda text: tok(text, add_special_tokens=False)['input_ids'][-1]
    make = dict(armo=lambda: Armo(cfg, opening), ultra=lambda: Regression(cfg, 'regression_head'),
                qwen_rm=lambda: TwoLayers(cfg, 1),
                qwen_prm=lambda: TwoLayers(cfg, 2, tag), shepherd=lambda: Shepherd(cfg, *map(ids, (' +', ' -', ' ки'))),
                internlm2=lambda: InternLM2(len(tok)))
    model = randomise(make.get(kind, lambda: Regression(cfg, 'score'))(), seed)
    data = cfg.to_dict() | dict(architectures=[names[kind]], num_labels=1, id2label={'0': 'LABEL_0'}, auto_map=CODE)
    if kind == 'internlm2':
        data = dict(architectures=[names[kind]], model_type='internlm2', vocab_size=len(tok), hidden_size=64,
                    intermediate_size=96, num_hidden_layers=3,
                    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512, rms_norm_eps=1e-5,
                    rope_theta=1000000, bias=False,
                    hidden_act='silu', rope_scaling=dict(type='dynamic', factor=2.),
                    reward_token_id=tok.convert_tokens_to_ids('<|reward|>'),
                    pad_token_id=2, bos_token_id=0, eos_token_id=2, auto_map=CODE)
    return save(Path(folder), model, data, tok, shards=2), model, tok


COMET = """
import sys
from pathlib import Path

import pytorch_lightning as pl
import torch, yaml
from comet.models.multitask.unified_metric import UnifiedMetric
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import XLMRobertaConfig, XLMRobertaModel, XLMRobertaTokenizerFast

root = Path(sys.argv[1])
encoder = root/'encoder'
vocab = [('<s>', 0.), ('<pad>', 0.), ('</s>', 0.), ('<unk>', 0.), *((c, -1.) for c in '\\u2581' + ''.join(map(chr, range(33, 127)))), ('<mask>', 0.)]
tok = Tokenizer(models.Unigram(vocab, unk_id=3))
tok.pre_tokenizer = pre_tokenizers.Metaspace()
tok.post_processor = processors.TemplateProcessing(single='<s> $A </s>', pair='<s> $A </s> </s> $B </s>', special_tokens=[('<s>', 0), ('</s>', 2)])
XLMRobertaTokenizerFast(tokenizer_object=tok).save_pretrained(encoder)
torch.manual_seed(0)
config = XLMRobertaConfig(vocab_size=len(vocab), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, max_position_embeddings=66)
XLMRobertaModel(config, add_pooling_layer=False).save_pretrained(encoder)
model = UnifiedMetric(pretrained_model=str(encoder), hidden_sizes=[16, 8], input_segments=['mt', 'src'], word_layer=2)
trainer = pl.Trainer(accelerator='cpu', logger=False, enable_checkpointing=False)
trainer.strategy.connect(model)
trainer.save_checkpoint(root/'checkpoints'/'model.ckpt')
(root/'hparams.yaml').write_text(yaml.safe_dump(dict(model.hparams) | dict(class_identifier='unified_metric')))
model.eval()
print('scores', *model.predict([dict(src='Guten Tag', mt=mt) for mt in ('Good day', 'Bad')], gpus=0, num_workers=0, progress_bar=False).scores)
"""

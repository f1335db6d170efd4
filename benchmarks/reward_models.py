"""Scoring many responses to one prompt: one at a time, in plain padded batches of 8, and with toa_nb, on the same random weights in one run.

    python benchmarks/reward_models.py [--prompts 2] [--lengths uniform|log|recorded] [--device cpu|cuda] [--dtype float32] [--shape tiny|100m|1b|8b]

Sixteen responses of 30 to 600 tokens to each prompt of 300 tokens. `uniform` draws every length equally often (mean 315), `log` draws short ones more often
(mean 190), `recorded` takes those of the real answers that the first tutorial replays, where they have 30 tokens or more (mean 83). The table ends with what
token counts alone allow: the ratio of the tokens that each way must read. On a CPU, time follows that ratio.
"""
import argparse
import random
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast

from toa_nb.core import Prompt
from toa_nb.data.rows import load_samples
from toa_nb.reward_models.heads import LinearHead
from toa_nb.reward_models.scorers import TextScorer
from toa_nb.reward_models.tokens import ChatTemplate

SHAPES = {'tiny': dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
                       vocab_size=9100),
          '100m': dict(hidden_size=768, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=12,
                       num_key_value_heads=12, vocab_size=32000),
          '1b': dict(hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
                     num_key_value_heads=8, vocab_size=128256),
          '8b': dict(hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
                     num_key_value_heads=8, vocab_size=128256)}

RECORDED = [s.completion.usage.completion_tokens
            for s in load_samples(Path(__file__).parents[1]/'nbs'/'tutorials'/'replay.jsonl') if s.completion]


def tokenizer():
    "One token per word, and a chat template."
    words = ['<s>', '</s>', '<pad>', 'user', 'assistant', '?', *(f'w{i}' for i in range(9000))]
    tok = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token='?'))
    tok.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tok, bos_token='<s>', eos_token='</s>', pad_token='<pad>',
                                   unk_token='?')
    fast.chat_template = "{{ bos_token }}{% for m in messages %} {{ m.role }} {{ m.content }} </s>{% endfor %}"
    return fast


def lengths(kind, n, rng):
    if kind == 'uniform': return [rng.randint(30, 600) for _ in range(n)]
    if kind == 'recorded': return rng.sample([k for k in RECORDED if k >= 30], n)
    return [round(30*20**rng.random()) for _ in range(n)]


def timed(device, fn):
    if device != 'cpu': torch.cuda.synchronize()
    start = time.perf_counter()
    out = fn()
    if device != 'cpu': torch.cuda.synchronize()
    return out, time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--prompts', type=int, default=2)
    parser.add_argument('--lengths', choices=['uniform', 'log', 'recorded'], default='uniform')
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--dtype', default='float32')
    parser.add_argument('--shape', choices=SHAPES, default='100m')
    parser.add_argument('--repeats', type=int, default=3,
                        help='the fastest of so many counts, because machines are shared')
    args = parser.parse_args()

    torch.manual_seed(0)
    tok, rng = tokenizer(), random.Random(0)
    torch.set_default_dtype(getattr(torch, args.dtype))
    with torch.device(args.device):
        config = LlamaConfig(**SHAPES[args.shape], num_labels=1, max_position_embeddings=4096,
                             pad_token_id=tok.pad_token_id)
        model = LlamaForSequenceClassification(config).eval()
    torch.set_default_dtype(torch.float32)
    def words(n): return ' '.join(f'w{rng.randrange(9000)}' for _ in range(n))
    prompts = [Prompt(str(i), words(297)) for i in range(args.prompts)]
    pairs = [(p, words(n)) for p in prompts for n in lengths(args.lengths, 16, rng)]

    def texts(pairs):
        return [tok.apply_chat_template([dict(role='user', content=p.instruction), dict(role='assistant', content=r)],
                                        tokenize=False) for p, r in pairs]

    def batches(pairs, size):
        out = []
        for i in range(0, len(pairs), size):
            batch = tok(texts(pairs[i:i + size]), return_tensors='pt', padding=True,
                        add_special_tokens=False).to(args.device)
            with torch.inference_mode():
                out += (model(input_ids=batch['input_ids'],
                              attention_mask=batch['attention_mask']).logits[:, 0].float().tolist())
        return out

    head = LinearHead(model.score.weight.detach().float())
    def ours(pairs): return [s.value for s in TextScorer(model.model, ChatTemplate(tok), head).score_pairs(pairs)]

    ways = {'one at a time': lambda pairs: batches(pairs, 1), 'batches of 8': lambda pairs: batches(pairs, 8),
            'toa_nb': ours}
    for way in ways.values(): way(pairs[:2])
    seconds, found = dict.fromkeys(ways, 0.), {name: [] for name in ways}
    for i in range(0, len(pairs), 16):  # turn by turn, so that a busy machine slows all of them
        runs = {name: [] for name in ways}
        for _ in range(args.repeats):
            for name, way in ways.items():
                runs[name].append(timed(args.device, lambda way=way, i=i: way(pairs[i:i + 16])))
        for name in ways:
            seconds[name] += min(took for _, took in runs[name])
            found[name] += runs[name][0][0]

    sizes = [len(x) for x in tok(texts(pairs), add_special_tokens=False)['input_ids']]
    own = [len(r.split()) + 1 for _, r in pairs]
    padded = sum(8*max(sizes[i:i + 8]) for i in range(0, len(sizes), 8))
    read = {'one at a time': sum(sizes), 'batches of 8': padded, 'toa_nb': sum(own) + args.prompts*(sizes[0] - own[0])}
    print(f'{args.shape} {args.dtype} on {args.device}, {torch.get_num_threads()} threads, torch {torch.__version__}; '
          f'{len(pairs)} responses, '
          f'{args.lengths} lengths, mean {sum(own)/len(own):.0f} tokens')
    print(f'{"":14} {"seconds":>8} {"rewards/s":>10} {"tokens/s":>9} {"speed-up of toa_nb":>19} '
          f'{"by token counts":>16} {"largest difference":>19}')
    for name in ways:
        apart = max(abs(a - b) for a, b in zip(found[name], found['one at a time']))
        print(f'{name:14} {seconds[name]:8.2f} {len(pairs)/seconds[name]:10.2f} {sum(sizes)/seconds[name]:9.0f} '
              f'{seconds[name]/seconds["toa_nb"]:19.2f} '
              f'{read[name]/read["toa_nb"]:16.2f} {apart:19.1e}')


if __name__ == '__main__': main()

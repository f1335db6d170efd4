"""What a GPU does with random weights: reward scoring at the shapes of 1B and 8B models, and a step of DPO at 1B.

    python benchmarks/gpu.py            with a GPU: the table below `GPU` in README.md; without one: the same at a tiny shape on the CPU

Scoring is that of `reward_models.py`: one response at a time, padded batches of 8, and toa_nb. A step of DPO is TRL's, with LoRA, through
`toa_nb.train`: the time of eight steps less that of four, on eight pairs of 512 tokens.
"""
import argparse
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

import torch
from reward_models import SHAPES, tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from toa_nb.train import prepare

TINY = dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
            vocab_size=9100)


def scoring(shape, device, dtype):
    "The table of reward_models.py."
    here = Path(__file__).with_name('reward_models.py')
    subprocess.run([sys.executable, here, '--shape', shape, '--device', device, '--dtype', dtype], check=True)


def pairs(tokens, n=8):
    "Pairs of that many tokens on each side, prompt included."
    def text(start, words): return ' '.join(f'w{(start + i) % 9000}' for i in range(words))
    def turn(role, words): return [dict(role=role, content=words)]
    half = tokens // 2
    return [dict(prompt=turn('user', text(i, half)), chosen=turn('assistant', text(i*7, half)),
                 rejected=turn('assistant', text(i*11, half))) for i in range(n)]


def dpo_step(shape, gpus, dtype, tokens):
    "Seconds of one step of DPO on eight pairs, with LoRA."
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        config = LlamaConfig(**shape, max_position_embeddings=4096, pad_token_id=2, bos_token_id=0, eos_token_id=1)
        LlamaForCausalLM(config).to(getattr(torch, dtype)).save_pretrained(f'{folder}/base')
        tokenizer().save_pretrained(f'{folder}/base')
        seconds = []
        for steps in (4, 8):
            training = prepare('dpo', pairs(tokens), f'{folder}/base', f'{folder}/{steps}', gpus=gpus, dtype=dtype,
                               max_steps=steps, per_device_train_batch_size=8, max_length=2*tokens)
            training.train(say=None)
            seconds.append(training.plan['seconds'])
        return (seconds[1] - seconds[0])/4


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--only', choices=['scoring', 'dpo'], help='one of the two')
    args = parser.parse_args()
    gpu = torch.cuda.is_available()
    print(f'{date.today()}, {torch.cuda.get_device_name() if gpu else "CPU, tiny shapes"}, torch {torch.__version__}', flush=True)
    if args.only != 'dpo':
        for shape in ('1b', '8b') if gpu else ('100m',):
            print(f'\nscoring, shape {shape}', flush=True)
            scoring(shape, 'cuda' if gpu else 'cpu', 'bfloat16' if gpu else 'float32')
    if args.only != 'scoring':
        shape, dtype, tokens = (SHAPES['1b'], 'bfloat16', 512) if gpu else (TINY, 'float32', 64)
        print(f'\nDPO, eight pairs of {tokens} tokens: {dpo_step(shape, int(gpu), dtype, tokens):.2f} s per step')


if __name__ == '__main__': main()

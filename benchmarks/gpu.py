"""What a GPU does with random weights: reward scoring at the shapes of 1B and 8B models, and a step of DPO at 1B.

    python benchmarks/gpu.py            on a node with a GPU of 40 GB or more: the table for `GPU` in README.md
    python benchmarks/gpu.py --small    the same code with tiny shapes, to see that it works; without a GPU it is always this

Scoring is that of `reward_models.py`: one response at a time, padded batches of 8, and toa_nb. A step of DPO is TRL's, with LoRA, through
`toa_nb.train`: the time of eight steps less that of four, on eight pairs of 512 tokens. So far it has only been run small, on CPUs: no GPU was lent.
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


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--only', choices=['scoring', 'dpo'], help='one of the two')
    parser.add_argument('--small', action='store_true', help='tiny shapes')
    args = parser.parse_args(argv)
    gpu = torch.cuda.is_available()
    device, dtype = ('cuda', 'bfloat16') if gpu else ('cpu', 'float32')
    shapes, tokens = (('tiny',), 64) if args.small or not gpu else (('1b', '8b'), 512)
    name = torch.cuda.get_device_name() if gpu else 'CPU'
    print(f'{date.today()}, {name}, shapes {", ".join(shapes)}, torch {torch.__version__}', flush=True)
    if args.only != 'dpo':
        for shape in shapes:
            print(f'\nscoring, shape {shape}', flush=True)
            scoring(shape, device, dtype)
    if args.only != 'scoring':
        took = dpo_step(SHAPES[shapes[0]], int(gpu), dtype, tokens)
        print(f'\nDPO, shape {shapes[0]}, eight pairs of {tokens} tokens: {took:.2f} s per step')


if __name__ == '__main__': main()

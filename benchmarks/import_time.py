"""Time of `import toa_nb`, beside the bare interpreter and the packages that it puts off.

Run: python benchmarks/import_time.py [--repeats 15]

Each figure is the median of whole processes, from start to end; they take turns.
"""
import argparse
import subprocess
import sys
import time
from statistics import median

CODES = {'nothing': 'pass', 'import toa_nb': 'import toa_nb',
         'what a script needs to run': 'from toa_nb import ChatModel, Constraints, Prompt, Run, TOA',
         'import openai': 'import openai', 'import pandas': 'import pandas'}


def seconds(code):
    "Seconds of a process that executes `code`."
    start = time.perf_counter()
    subprocess.run([sys.executable, '-c', code], check=True)
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--repeats', type=int, default=15)
    repeats = parser.parse_args().repeats
    rows = [[seconds(code) for code in CODES.values()] for _ in range(repeats + 1)][1:]
    bare, *_ = medians = [median(column) for column in zip(*rows)]
    print('| process | s | above nothing, s | times nothing |\n|---|---|---|---|')
    for what, s in zip(CODES, medians): print(f'| {what} | {s:.3f} | {s - bare:.3f} | {s/bare:.1f} |')


if __name__ == '__main__': main()

"""The run that tests/test_crash.py kills: a process that forks a life for each line of its input, and prints its id."""
import json
import os
import resource
import signal
import sys
from pathlib import Path

from toa_nb.core import Prompt, ToaError
from toa_nb.models.client import ChatModel
from toa_nb.models.connection import Connection
from toa_nb.models.endpoints import Endpoint
from toa_nb.rewards.base import Rule
from toa_nb.run.run import Run
from toa_nb.search.tree import TOA

Connection(Endpoint('http://127.0.0.1/v1'))  # imports all that a first call needs, once for all lives


class Letters(Rule):
    "A deterministic reward: how many different letters a text has, and a little for its length."
    name, version = 'letters', '1'
    def score_one(self, prompt, response): return len(set(response)) + len(response)/1000


def run(url, store, prompts=4, n=30, parallel=1):
    "A run of TOA on the two models of a server."
    tasks = [Prompt(f'p{i}', f'Write about the number {i}.') for i in range(prompts)]
    models = [ChatModel(name, url, max_tokens=32, timeout=600) for name in 'ab']
    return Run(tasks, TOA(n=n, parallel=parallel), models, Letters(), store=store, name='crash')


def live(log, room, *args):
    "A run to its end, which is written down. `room`: most bytes per file, None for no limit."
    if room: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
    try: end = run(*args).wait(show=False).progress.state
    except ToaError as e: end = f'{type(e).__name__}: {e}'
    Path(log).write_text(json.dumps(end))


def fork(*args):
    "A life in a process group of its own, which begins with everything imported; returns its id."
    if pid := os.fork():
        os.setpgid(pid, pid)
        return pid
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        os.setpgid(0, 0)
        live(*args)
    finally: os._exit(0)


if __name__ == '__main__':
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin: print(fork(*json.loads(line)), flush=True)

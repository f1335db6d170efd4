"""The run that tests/test_crash.py kills. Its functions are called in processes that are forked after this module has been imported."""
import json
import os
import resource
from pathlib import Path

from toa_nb.core import Prompt, ToaError
from toa_nb.models import ChatModel, Endpoint, Link
from toa_nb.rewards import Rule
from toa_nb.run import Run
from toa_nb.tree import TOA

Link(Endpoint('http://127.0.0.1/v1'))  # imports all that a first call needs, once for all lives


class Letters(Rule):
    "A deterministic reward: how many different letters a text has, and a little for its length."
    name, version = 'letters', '1'
    def judge(self, prompt, response): return len(set(response)) + len(response)/1000


def run(url, store, prompts=4, n=30, parallel=1):
    "A run of TOA on the two models of a server."
    tasks = [Prompt(f'p{i}', f'Write about the number {i}.') for i in range(prompts)]
    models = [ChatModel(name, url, max_tokens=32, timeout=10) for name in 'ab']
    return Run(tasks, TOA(n=n, parallel=parallel), models, Letters(), store=store, name='crash')


def live(log, room, *args):
    "A process group of its own that runs to the end, and writes down how it ended. `room`: most bytes per file, None for no limit."
    os.setsid()
    if room: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
    try: end = run(*args).wait(show=False).progress.state
    except ToaError as e: end = f'{type(e).__name__}: {e}'
    Path(log).write_text(json.dumps(end))

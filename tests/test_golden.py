"""Every recorded decision of the published methods is reproduced (tests/golden, see tests/golden/README.md)."""
import json
from hashlib import sha256
from pathlib import Path

import golden_adapter
import pytest

from toa_nb.core import Outcome, Prompt
from toa_nb.search.tree import TOA, sigmoid, tree_text

golden = Path(__file__).parent/'golden'
traces = {p.stem: json.loads(p.read_text()) for p in sorted(golden.glob('*.json'))}
refine, aggregator = (golden/'refine.txt').read_text(), (golden/'aggregator.txt').read_text()
trees = [name for name, t in traces.items() if t['mode'] == 'toa']
baselines = [name for name, t in traces.items() if t['mode'] != 'toa']


class MadeUpReward:
    "The reward function of the traces, as tests/golden/README.md defines it."
    def __init__(self, trace):
        self.r, self.models, self.raws, self.seen = trace['reward'], trace['settings']['models'], [], {}

    def __call__(self, model, parents):
        pid = '+'.join(map(str, parents)) or '-1'
        k = self.seen[model, pid] = self.seen.get((model, pid), -1) + 1
        u = int(sha256(f"{self.r['seed']}|{model}|{pid}|{k}".encode()).hexdigest()[:8], 16)/2**32
        j = self.models.index(model)
        if parents: raw = max(self.raws[p] for p in parents) + self.r['gain'][j]*(u - self.r['pivot'][j])
        else: raw = self.r['offset'] + self.r['base'][j] + self.r['scale']*u
        if self.r['digits'] is not None: raw = round(raw, self.r['digits'])
        self.raws.append(raw)
        return raw


def test_all_traces_are_here(): assert len(trees) == 18 and len(baselines) == 7


@pytest.mark.parametrize('name', trees)
def test_tree(name):
    trace = traces[name]
    s, reward = trace['settings'], MadeUpReward(trace)
    search = golden_adapter.TOA(s['K'], s['alpha'], s['tau'], s['width'], s['topk_child'])
    for play in trace['plays']:
        got = search.next()
        want = {k: play[k] for k in ('layer', 'kind', 'prompt_parent',
                                     'tree_parent')} | {'model': s['models'].index(play['model'])}
        assert got == want, f"play {play['play']}"
        raw = reward(play['model'], [p for p in [got['prompt_parent']] if p >= 0])
        assert raw == play['raw']
        assert sigmoid(raw, s['tau']) == pytest.approx(play['tree'], abs=1e-15)
        search.feedback(raw)
    assert search.sampler.best == (trace['best']['index'], trace['best']['reward'])
    assert tree_text(search.sampler) == trace['tree_info']


@pytest.mark.parametrize('name', baselines)
def test_baseline(name):
    trace = traces[name]
    s, shuffles, calls = trace['settings'], iter(trace['shuffles']), iter(trace['calls'])
    reward, number = MadeUpReward(trace), {}

    def gen(model, messages):
        call = next(calls)
        assert (model, messages) == (call['model'], call['messages'])
        text = f"<<r{call['i']}>> text by {model}"
        number[text] = reward(model, call['parents'])
        return text

    def shuffle(items):
        step = next(shuffles)
        assert items == step['before']
        return step['after']

    actions, responses, rewards = getattr(golden_adapter, trace['mode'])(
        s['models'], 'Q?', s['n_samples'], gen, lambda texts: [number[t] for t in texts], shuffle,
        refine=refine, aggregator=aggregator, n_iter=s['n_iter'], num_agg=s['num_aggregation'])
    assert not list(calls) and not list(shuffles)
    assert (actions, responses, rewards) == tuple(trace['output'][k] for k in ('actions', 'responses', 'rewards'))


@pytest.mark.parametrize('name', trees)
def test_journal_of_a_tree_replays(name):
    "A sampler that is given the first half of a search goes on as the whole search did."
    trace = traces[name]
    s, plays = trace['settings'], trace['plays']
    method = TOA(s['plays'], s['alpha'], s['tau'], s['width'], s['topk_child'], parallel=1)
    again = method.start(Prompt('q', 'Q?'), s['models'])
    for play in plays:
        trial = again.ask()
        assert trial.action == play['action']
        again.tell(trial, Outcome('text', play['raw']))
    assert again.done

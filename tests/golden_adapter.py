"""Connects the samplers of toa_nb to recorded decision traces of the published methods. It translates names and holds no logic of the methods.

A method is driven one call at a time: ask, generate, score, tell. `TOA` is driven by its user, play by play.
"""
from toa_nb.core import Outcome, Prompt
from toa_nb.search.samplers import PRS, MoA, ParallelEnsemble, SequentialRefine
from toa_nb.search.tree import TOA as Tree
from toa_nb.templates import Templates


class TOA:
    "Published TOA for one prompt of K models: `next` says what to play, `feedback` gives its raw reward."
    def __init__(self, K, alpha, tau, width, topk):
        self.names = [f'm{i}' for i in range(K)]
        method = Tree(n=10**9, alpha=alpha, tau=tau, width=width, top_k=topk, parallel=1)
        self.sampler = method.start(Prompt('q', 'Q?'), self.names)

    def next(self):
        t = self.trial = self.sampler.ask()
        kind = 'root' if t.layer == 1 else t.kind
        return dict(model=self.names.index(t.model), layer=t.layer, kind=kind,
                    prompt_parent=t.parents[0] if t.parents else -1,
                    tree_parent=-1 if t.tree_parent is None else t.tree_parent)

    def feedback(self, raw): self.sampler.tell(self.trial, Outcome('text', raw))


def drive(method, models, q, gen, reward, shuffle, refine=None, aggregator=None):
    "One call at a time; returns a list of (trial, response, reward) in call order."
    texts = {k: v for k, v in dict(refine=refine, aggregator=aggregator).items() if v is not None}
    quoted = []

    def permute(items):
        "MoA shuffles trial numbers here and texts in the traces; everything else is the same."
        if not isinstance(method, MoA): return shuffle(items)
        by_text = {quoted[i]: i for i in items}
        return [by_text[text] for text in shuffle([quoted[i] for i in items])]

    sampler, calls = method.start(Prompt('q', q), list(models), templates=Templates(**texts), shuffle=permute), []
    while (t := sampler.ask()):
        text = gen(t.model, [{'role': m.role, 'content': m.content} for m in t.messages])
        [value] = reward([text])
        quoted.append(text)
        calls.append((t, text, value))
        sampler.tell(t, Outcome(text, value))
    return calls


def rows(calls):
    return [t.action for t, _, _ in calls], [text for _, text, _ in calls], [value for _, _, value in calls]


def sample(models, q, n, gen, reward, shuffle, refine=None, aggregator=None, n_iter=None, num_agg=None):
    return rows(drive(ParallelEnsemble(n*len(models)), models, q, gen, reward, shuffle, refine, aggregator))


def prs(models, q, n, gen, reward, shuffle, refine=None, aggregator=None, n_iter=None, num_agg=None):
    return rows(drive(PRS(n), models, q, gen, reward, shuffle, refine, aggregator))


def seq(models, q, n, gen, reward, shuffle, refine=None, aggregator=None, n_iter=None, num_agg=None):
    return rows(drive(SequentialRefine(n*len(models)), models, q, gen, reward, shuffle, refine, aggregator))


def moa(models, q, n, gen, reward, shuffle, refine=None, aggregator=None, n_iter=4, num_agg=None):
    calls = drive(MoA(n*len(models), n_iter=n_iter, n_agg=num_agg), models, q, gen, reward, shuffle, refine, aggregator)
    return rows(sorted(calls, key=lambda call: models.index(call[0].model)))

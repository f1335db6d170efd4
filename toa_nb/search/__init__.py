"Methods: which model is asked next, and with which messages."

from ..public import offer as _offer

__all__, __getattr__, __dir__ = _offer(
    __name__,
    moves='Aggregate Continue Fresh Move MOVES Parent Refine Revise',
    samplers='aggregate bare BestOfN make_move Method MoA ParallelEnsemble Proposal PRS refine Sampler SequentialRefine '
        'Stage StagedMethod StagedSampler',
    tree='sigmoid TOA tree_text TreeSampler ucb',
    diversity='best_different different overlap trigrams',
    aggregation='RSA SelfMoA',
    routing='best_single each_alone expected_best RoBoN',
    chains='QUEST',
    bandit='REx',
    adaptive_branching='ABMCTSA ABMCTSM',
    probing='Probe',
    simulate='FITTED paired play play_samples SimModel simulate_methods World WORLDS',
    rounds='Rounds',
    methods='default_method method_from METHODS',
    renamed=dict(fit_prior='toa_nb.fit_prior'),
)

__version__ = "0.1.0"

from importlib import import_module as _import_module

_names = dict(
    core='Completion InputError Message Outcome Prompt Sample Score ToaError Trial Usage',
    compute='Budget ModelSpec SPECS Spent call_flops get_spec published_flops spec_from_config spec_from_params',
    templates='Templates',
    samplers='BestOfN METHODS MoA ParallelEnsemble PRS SequentialRefine method_from',
    tree='TOA',
    models='ChatModel Endpoint FakeModel ReplayModel models_from',
    serve='Server llama_cpp local_model',
    rewards='Constraints FunctionReward get_reward',
    store='RunStore',
    run='Run rescore',
    data='load_prompts load_samples prompts_from save_samples to_dpo to_published to_sft write_jsonl',
    analysis='compare_methods overoptimization reward_curve summarize to_frame',
    plot='plot_curve plot_models plot_tree',
    panels='CurvePanel RunPanel SampleBrowser ServerPanel TreePanel',
    cli='run_from',
)
_renamed = dict(
    Card='ModelSpec', Cost='Spent', card='get_spec', card_from_config='spec_from_config', card_from_params='spec_from_params', cards='SPECS',
    compare='compare_methods', curve='reward_curve', frame='to_frame', methods='METHODS', parting='overoptimization', reward='get_reward',
    score='rescore', stored_run='Run.from_store', summary='summarize',
)
_where = {name: module for module, names in _names.items() for name in names.split()}
__all__ = sorted(_where)


def __getattr__(name):
    "Public names are imported on first use, so that `import toa_nb` stays quick and needs no optional package."
    if name in _renamed: raise ImportError(f'`{name}` is now `{_renamed[name]}`')
    if name not in _where: raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    value = globals()[name] = getattr(_import_module(f'.{_where[name]}', __name__), name)
    return value


def __dir__(): return sorted([*globals(), *__all__])

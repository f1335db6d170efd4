__version__ = "0.1.0"

from importlib import import_module as _import_module

_names = dict(
    core='Completion InputError Message Outcome Prompt Sample Score ToaError Trial Usage',
    compute='Budget Card Cost call_flops card card_from_config card_from_params cards published_flops',
    templates='Templates',
    samplers='BestOfN MoA ParallelEnsemble PRS SequentialRefine method_from methods',
    tree='TOA',
    models='ChatModel Endpoint FakeModel ReplayModel models_from',
    serve='Server llama_cpp local_model',
    rewards='Constraints FunctionReward reward',
    store='RunStore',
    run='Run score stored_run',
    data='load_prompts load_samples prompts_from save_samples to_dpo to_published to_sft write_jsonl',
    analysis='compare curve frame parting summary',
    plot='plot_curve plot_models plot_tree',
    panels='CurvePanel RunPanel SampleBrowser ServerPanel TreePanel',
    cli='run_from',
)
_where = {name: module for module, names in _names.items() for name in names.split()}
__all__ = sorted(_where)


def __getattr__(name):
    "Public names are imported on first use, so that `import toa_nb` stays quick and needs no optional package."
    if name not in _where: raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    value = globals()[name] = getattr(_import_module(f'.{_where[name]}', __name__), name)
    return value


def __dir__(): return sorted([*globals(), *__all__])

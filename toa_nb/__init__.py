"Search over several language models at inference time, guided by a reward."
__version__ = "0.1.0"

from .public import offer as _offer

__all__, __getattr__, __dir__ = _offer(
    __name__,
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

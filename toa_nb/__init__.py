"Search over several language models at inference time, guided by a reward."
__version__ = "0.1.0"

from .public import offer as _offer

__all__, __getattr__, __dir__ = _offer(
    __name__,
    core='Completion InputError Message Outcome Prompt Sample Score ToaError Trial Usage',
    compute='Budget ModelSpec SPECS Spent call_flops get_spec published_flops spec_from_config spec_from_hub spec_from_params',
    templates='Templates',
    search='BestOfN METHODS MoA ParallelEnsemble PRS Rounds SequentialRefine TOA default_method method_from',
    models='ChatModel Endpoint FakeModel ReplayModel models_from',
    servers='Server llama_cpp local_model sglang start_all vllm',
    rewards='Constraints Exact FunctionReward Gate HttpReward Judge MathVerify MetricServerReward Minimum PairJudge Regex RewardQueue '
        'SglangReward VllmReward Weighted as_reward explain_score',
    reward_models='get_reward load_reward_model register serve_reward',
    store='RunStore to_frame',
    run='Run progress_of rescore',
    data='load_prompts load_samples prompts_from save_samples to_alpaca_eval to_arena_hard to_axolotl to_dpo to_llama_factory to_published '
        'to_sft to_ultrafeedback write_json write_jsonl write_parquet',
    analysis='compare_methods fit_prior kernel overoptimization plot_curve plot_models plot_tree reward_curve summarize',
    evaluate='chosen_answers judge_pairs length_controlled pass_rate score_table win_rate',
    panels='ComparePanel CurvePanel RunPanel SampleBrowser ServerPanel TreePanel',
    cli='run_from',
    renamed=dict(
        Card='ModelSpec', Cost='Spent', card='get_spec', card_from_config='spec_from_config', card_from_params='spec_from_params',
        cards='SPECS', compare='compare_methods', curve='reward_curve', frame='to_frame', methods='METHODS', parting='overoptimization',
        reward='get_reward', score='rescore', stored_run='Run.from_store', summary='summarize'),
)

"A run, and the engine that drives it."

from ..public import offer as _offer

__all__, __getattr__, __dir__ = _offer(
    __name__,
    progress='Failures Progress Summary clock kind_of note_failure progress_of short spent_text wanted_samples',
    forecast='Projection Rate guess project projected rates width',
    settings='begins_anew check_run check_same describe_model describe_run differences',
    stored='find_key pick_run stored_budget stored_models stored_rewards',
    prompt_state='PromptState replay',
    rescoring='Rescoring rescore',
    session='Session',
    check='AbsentModel check_all',
    scorers='PooledReward ScorerPool',
    callbacks='metrics_of to_logging to_mlflow to_tensorboard to_wandb',
    console='print_progress progress_line',
    on_ray='RayCluster',
    run='Run',
    renamed=dict(opened='toa_nb.store.opened', samples_of='toa_nb.store.samples_of'),
)

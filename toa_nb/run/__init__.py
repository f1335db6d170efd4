"A run, and the engine that drives it."

from ..public import offer as _offer

__all__, __getattr__, __dir__ = _offer(
    __name__,
    progress='Failures kind_of Progress short spent_text',
    run='Active check_parts check_run describe_model diff_excerpt differences find_key follow matches '
        'note_failure other_model_remark pick_run print_progress repeated replay Run signals stored_models '
        'stored_rewards stored_templates troubles',
    rescoring='open_scoring rescore Rescoring some_done stopped',
    forecast='call_cost clock guess project Projection Rate rates width',
)

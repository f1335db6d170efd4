"Curves and figures of stored samples."

from ..public import offer as _offer

__all__, __getattr__, __dir__ = _offer(
    __name__,
    variants='with_variants',
    curves='complete published_curve reward_curve',
    comparisons='compare_methods needed_prompts verdict_of',
    summary='search_table summarize winners',
    equal_compute='compare_all compute_to_reach verdict_text',
    lineage='idle_models leave_out mixing path_counts winning_paths',
    paths='best_sample children depth_counts depths path search_samples tree_parent_of',
    held_out='overoptimization',
    beside='frame_beside pooled_runs',
    controls='control_notes single_models with_controls',
    layout='model_palette tree_places',
    prompt_table='best_pair prompts_by_method',
    signs='reward_signs search_signs',
    selection='boxed majority_of_bests rerank short_answer vote',
    plot='method_style model_shares plot_curve plot_models plot_tree',
    flow='plot_flow',
    differences='difference_curve plot_differences',
    pool='Recorded Replayed ReplayPool Shelf',
    gains='move_gains plot_gains',
    kernels='kernel Kernel plot_kernel',
    prediction='predict_method world_of',
    priors='fit_prior',
    what_if='coverage_table Replay replay_method',
    query='sql write_samples',
    known='search_notes',
    requests='Request sent_request',
    renamed=dict(to_frame='toa_nb.to_frame'),
)

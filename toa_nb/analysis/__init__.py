"Curves and figures of stored samples."

from ..public import offer as _offer

__all__, __getattr__, __dir__ = _offer(
    __name__,
    curves='complete published_curve reward_curve',
    comparisons='compare_methods summarize',
    paths='best_sample children depth_counts depths path search_samples tree_parent_of',
    held_out='overoptimization',
    layout='model_palette tree_places',
    plot='method_style model_shares plot_curve plot_models plot_tree',
    renamed=dict(to_frame='toa_nb.to_frame'),
)

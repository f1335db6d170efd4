"How good the answers of a model are: win rates, translation, mathematics, and one table of all."

from ..public import offer as _offer

__all__, __getattr__, __dir__ = _offer(
    __name__,
    estimates='bootstrap Estimate mean_estimate paired_difference',
    pairs='chosen_answers judge_pairs read_alpaca_eval win_rate',
    length_control='fit_logistic length_controlled LengthWeights read_length_weights',
    arena='arena_scores read_arena_hard style_controlled style_features',
    translation='corpus_metric reward_mean',
    mathematics='pass_at_k pass_rate right_counts vote_rate',
    harness='lm_eval_command read_lm_eval run_lm_eval',
    scoreboard='load_results save_result score_table',
)

"What tells good answers from bad ones."

from ..public import offer as _offer

__all__, __getattr__, __dir__ = _offer(
    __name__,
    base='as_reward_error as_score close_all evaluate FunctionReward GroupReward RewardUnreachable Rule '
        'run_in_thread score_each ThreadRunner try_score',
    constraints='constraint_text ConstraintKind Constraints obeys_constraint parse_constraint sentence_list unfenced '
        'word_list',
    verifiers='check_schema Checked CheckTooLong Exact fits_schema json_validator JsonSchema last_match math_equal '
        'MathVerify need_package need_reference Regex serve_checks short_digest',
    combinations='Combination combined_spent Gate Minimum Weighted',
    queue='RewardOut RewardQueue without_cost',
    remote='chat_text check_score check_served check_server controlled ControlToken get_path HttpReward '
        'MalformedScores MetricServerReward parsed read_tokens RemoteReward reward_remedy RewardRefused '
        'scored_messages ScoresSquashed SglangReward split_by_group VllmReward',
    judges='expected_rating Judge judge_failure judged_cost last_line_tokens ModelJudge PairJudge parse_verdict '
        'verdict_from_logprobs VerdictUnclear',
)

"What tells good answers from bad ones."

from ..public import offer as _offer

__all__, __getattr__, __dir__ = _offer(
    __name__,
    base='as_reward as_reward_error as_score evaluate explain_score FunctionReward GroupReward RewardUnreachable Rule scored_messages',
    constraints='constraint_text ConstraintKind CONSTRAINTS Constraints obeys_constraint parse_constraint',
    checks='Checked CheckTooLong',
    verifiers='Exact JsonSchema math_equal MathVerify need_reference Regex schema_problem',
    combinations='Combination Gate Minimum Weighted without_cost',
    queue='RewardOut RewardQueue',
    remote='check_score MalformedScores RemoteReward RewardRefused ScoresTooLarge',
    http_servers='HttpReward MetricServerReward',
    model_servers='ControlToken ScoresSquashed SglangReward VllmReward',
    judges='Judge ModelJudge PairJudge parse_verdict VerdictUnclear',
    renamed=dict(get_reward='toa_nb.get_reward', register='toa_nb.register'),
)

"Reward models with published weights, and rewards by name."

from ..public import offer as _offer

__all__, __getattr__, __dir__ = _offer(
    __name__,
    tokens='ChatTemplate EncodedText Steps TextTemplate truncate_prompt',
    heads='ArmoHead LinearHead MlpHead StepHead',
    scorers='BatchingWorker pack_batches TextScorer',
    checkpoints='Checkpoint find Known unpack_internlm2',
    comet='comet_python CometReward',
    load='load_reward_model',
    server='RewardServer serve_reward',
    registry='get_reward register REWARDS',
)

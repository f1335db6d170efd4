"Reward models with published weights, rewards behind HTTP, and rewards by name."

from ..public import offer as _offer

__all__, __getattr__, __dir__ = _offer(
    __name__,
    tokens='ChatTemplate EncodedText Steps TextTemplate',
    heads='ArmoHead LinearHead MlpHead StepHead',
    worker='BatchingWorker',
    scorers='pack_batches TextScorer',
    checkpoints='Checkpoint',
    families='FAMILIES',
    published='find known PublishedModel',
    comet='comet_python CometReward',
    load='load_reward_model',
    server='RewardApp RewardServer serve_reward ServerLimits',
    own='own_reward',
    registry='get_reward register REWARD_ALIASES REWARDS',
)

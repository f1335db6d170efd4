"Prompts in, rows out."

from ..public import offer as _offer

__all__, __getattr__, __dir__ = _offer(
    __name__,
    prompts='BadPrompts load_prompts Prompts prompts_from',
    exports='by_prompt dpo_row guide load_samples only_reward opened prompt_record ranked Rows samples_of '
        'save_prompts save_samples split to_axolotl to_dpo to_llama_factory to_sft to_ultrafeedback write_json '
        'write_jsonl write_parquet',
    published='PublishedModel PublishedReward read_model_config read_reward_config read_server_configs serve_published '
        'stop_tokens to_alpaca_eval to_arena_hard to_published write_model_config write_reward_config '
        'write_server_config',
)

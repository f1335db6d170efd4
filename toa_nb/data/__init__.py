"Prompts in, rows out."

from ..public import offer as _offer

__all__, __getattr__, __dir__ = _offer(
    __name__,
    files='file_records',
    prompts='BadPrompts load_prompts Prompts prompts_from reading_report',
    rows='load_samples prompt_record Rows save_prompts save_samples write_json write_jsonl write_parquet',
    exports='dpo_row to_dpo to_sft to_ultrafeedback',
    trainers='split to_axolotl to_llama_factory',
    published='to_alpaca_eval to_arena_hard to_published',
    configs='PublishedModel PublishedReward read_model_config read_reward_config read_server_configs serve_published '
        'stop_tokens write_model_config write_reward_config write_server_config',
    renamed={name: f'toa_nb.store.{name}' for name in ('by_prompt', 'guide', 'only_reward', 'ranked')},
)

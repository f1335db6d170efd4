"Prompts in, rows out."

from ..public import offer as _offer

__all__, __getattr__, __dir__ = _offer(
    __name__,
    files='file_records',
    sets='About PromptSet set_records SETS',
    prompts='BadPrompts load_prompts Prompts prompts_from reading_report',
    select='check_overlap distinct_prompts filter_prompts Overlap sample_prompts',
    origins='Origins',
    rows='load_samples prompt_record row_file Rows RowStream save_prompts save_samples write_json write_jsonl write_parquet',
    rules='PairRules',
    exports='dpo_row kto_weights to_dpo to_kto to_reward_pairs to_sft to_ultrafeedback',
    trainers='split to_axolotl to_distilabel to_llama_factory to_nemo_rl to_openai to_rewardbench trl_rows',
    published='read_alpaca_eval read_arena_hard read_published read_tree stored_tree to_alpaca_eval to_arena_hard '
        'to_published',
    cards='CardFacts dataset_card score_picture',
    configs='PublishedModel PublishedReward read_model_config read_reward_config read_server_configs serve_published '
        'stop_tokens write_model_config write_reward_config write_server_config',
    writing='export Exported FORMATS NoRows',
    renamed={name: f'toa_nb.store.{name}' for name in ('by_prompt', 'guide', 'only_reward', 'ranked')},
)

"Fine-tuning by TRL on the rows of a run: from a store to a model that is served."

from ..public import offer as _offer

__all__, __getattr__, __dir__ = _offer(
    __name__,
    options='resolve_options trl_options',
    rows='row_report RowReport training_rows',
    gguf='folder_to_gguf gguf_to_folder',
    merging='merge_adapter pair_margins',
    cards='model_card training_state',
    jobs='dpo kto prepare reward sft Training TrainingFailed',
)

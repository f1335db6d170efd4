"Panels for JupyterLab."

from ..public import offer as _offer

__all__, __getattr__, __dir__ = _offer(
    __name__,
    base='as_code button_row cell draw error_message evenly field fields_grid file_field form found_files help_of '
        'Html image number Panel picture plain progress_bar read_settings reading safe safe_label setting '
        'side_by_side status_dot store_code table where',
    servers='by_gpu check_table engine_help entry fetch from_toml gpu_words Metered read_entry read_metrics Row '
        'server_fields ServerPanel start_row tail to_toml',
    runs='failure_table LiveRun RunPanel specs_of',
    curves='choose_values CurvePanel follow',
    trees='answer beside canvas conversation details difference facts from_above headline is_wide legend '
        'model_colours node_words places shares tree_nodes TreePanel',
    samples='list_rows pair_row SampleBrowser',
)

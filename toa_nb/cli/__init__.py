"The `toa` command, and the file that describes a run."

from ..public import offer as _offer

__all__, __getattr__, __dir__ = _offer(
    __name__,
    config='all_models BadConfig build check_keys FileRun of_category opened read_budget read_count read_held_out '
        'read_method read_models read_name read_parts read_prompts read_seconds read_store read_templates '
        'run_from',
    commands='add_command add_looking add_reading add_running add_serving check_endpoint check_output check_reward '
        'check_run check_stored chosen_by columns curve_of do_check do_curve do_export do_prompts do_resume '
        'do_run do_serve do_serve_reward do_servers do_status draw exit_code go going_on guiding main parser '
        'plain_warnings readers_may_leave result say some_runs specs_of standing status until_stopped',
)

"The `toa` command, and the file that describes a run."

from ..public import offer as _offer

__all__, __getattr__, __dir__ = _offer(
    __name__,
    config='BadConfig build FileRun open_store read_parts run_from',
    output='columns',
    running='check_run exit_code result status',
    commands='main parser',
    renamed=dict(printable='toa_nb.cells.printable'),
)

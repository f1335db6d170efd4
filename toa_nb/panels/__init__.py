"Panels for JupyterLab."

from ..public import offer as _offer

__all__, __getattr__, __dir__ = _offer(
    __name__,
    base='Panel with_imports',
    forms='evenly',
    texts='difference',
    server_tables='from_toml to_toml',
    servers='ServerPanel',
    live_run='LiveRun',
    runs='RunPanel',
    curves='CurvePanel',
    trees='TreePanel',
    samples='SampleBrowser',
    compare='ComparePanel',
)

"The `toa` command, as `python -m toa_nb`."
import sys

from .cli.commands import main

if __name__ == '__main__': sys.exit(main())

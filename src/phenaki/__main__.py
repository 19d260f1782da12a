"""`python -m phenaki`, the command line without the installed script."""

from phenaki.cli import main

main()

"""`python -m fedmedlora`."""

from fedmedlora.cli.app import main

main()

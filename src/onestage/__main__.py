"""`python -m onestage` is the `onestage` command."""

from onestage.cli import main

main()

"""`python -m adapterhub` is `adapterhub`."""

from adapterhub.cli import main

main()

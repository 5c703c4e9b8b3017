"""`python -m relay_tornado` is `relay`."""

from relay_tornado.cli import main

main(prog_name="python -m relay_tornado")

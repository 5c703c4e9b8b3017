"""The `relay` command."""

from relay_tornado.cli.interrupts import end_silently, raise_again

end_silently()
try:
    from relay_tornado.cli.entry import main as main
finally:
    raise_again()

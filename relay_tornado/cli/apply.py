"""`relay apply FILE`: buckets, inputs and outputs as one file declares them."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import click

from relay_tornado.cli.client import Caller, open_relay
from relay_tornado.cli.common import ask
from relay_tornado.cli.destination import tell_refusal
from relay_tornado.cli.errors import Failure
from relay_tornado.cli.manifest import DeclaredBucket, read_manifest
from relay_tornado.cli.options import options_of, relay_options
from relay_tornado.cli.plan import Step, plan
from relay_tornado.cli.printing import Document, note, print_json
from relay_tornado.errors import Invalid, NotFound, RelayError
from relay_tornado.model import counted, printable

_option = options_of("APPLY")


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@_option("--dry-run", is_flag=True, help="Print what would be changed, and change nothing.")
@_option(
    "--prune",
    is_flag=True,
    help="Also delete what the file does not declare, including buckets with every event in them.",
)
@_option("--yes", is_flag=True, help="Do not ask before deleting.")
@relay_options
def apply(file: Path, dry_run: bool, prune: bool, yes: bool, data: Path, as_json: bool) -> None:
    """Bring buckets, inputs and outputs to what FILE declares, and print each change."""
    manifest = read_manifest(file)
    if prune and not manifest:
        raise Failure(f"{file} declares no bucket, so --prune would delete every one: is it the right file, and whole?")
    with open_relay(data, create=not dry_run) as relay:
        try:
            buckets = relay.call("bucket.list")
        except NotFound:
            buckets = []  # a dry run without a data directory
        try:
            steps = plan(manifest, buckets, prune=prune)
        except Invalid as error:
            raise Failure(f"{file}: {error} (nothing was changed)") from None
        _rehearse(file, manifest, steps, buckets)
    if not as_json:
        for step in steps:
            click.echo(printable(str(step)))
    deletions = [step for step in steps if step.action == "delete"]
    if deletions and not dry_run:
        ask(yes, _question(deletions), "things", "nothing was changed")
    if steps and not dry_run:
        with open_relay(data, create=True) as relay:
            buckets = relay.call("bucket.list")
            if plan(manifest, buckets, prune=prune) != steps:
                raise Failure("somebody else changed something meanwhile: apply the file again (nothing was changed)")
            _Run(relay, manifest, buckets).do(steps)
    if as_json:
        print_json({"changes": [step.document() for step in steps], "applied": not dry_run})
    elif not steps:
        note("there is nothing to change")
    elif dry_run:
        note("nothing was changed: this was a dry run")


def _question(deletions: list[Step]) -> str:
    buckets = sum(step.kind == "bucket" for step in deletions)
    events = f", and every event in {counted(buckets, 'bucket')}" if buckets else ""
    return f"Delete {counted(len(deletions), 'thing')}{events}?"


def _rehearse(file: Path, manifest: list[DeclaredBucket], steps: list[Step], buckets: list[Document]) -> None:
    """Raises Failure that names the first step that the relay would refuse."""
    from relay_tornado.cli.rehearsal import Rehearsal  # here, so that other commands start faster

    with closing(Rehearsal(buckets)) as rehearsal:
        _Run(rehearsal, manifest, buckets, file).do(steps)


class _Run:
    """Carries the steps out. Replaces the name of an input's answering output by its id, which the relay requires."""

    def __init__(
        self,
        relay: Caller,
        manifest: list[DeclaredBucket],
        buckets: list[Document],
        rehearsed: Path | None = None,
    ) -> None:
        """`rehearsed` is the file if this is a rehearsal: errors then say that nothing was changed."""
        self._relay = relay
        self._rehearsed = rehearsed
        self._outputs = {(b["name"], each["name"]): each["id"] for b in buckets for each in reversed(b["outputs"])}
        self._ids = {bucket["name"]: bucket["id"] for bucket in buckets}
        self._named = {declared.name for declared in manifest if declared.inputs is not None}
        """The buckets whose inputs the file declares, even an empty list."""

    def do(self, steps: list[Step]) -> None:
        """Carries the steps out in order. Raises Failure that names the step that failed; those before it are done."""
        for step in steps:
            try:
                self._do(step)
            except RelayError as error:
                done = steps.index(step)
                where = f"{step.kind} {step.name}" + ("" if step.kind == "bucket" else f" of {step.bucket}")
                said = f"{where}: {error}"
                if self._rehearsed is not None:
                    said = f"{self._rehearsed}: {said} (nothing was changed)"
                elif done:
                    said += f" ({done} of {counted(len(steps), 'change')} made; apply the file again after mending it)"
                raise Failure(said) from None

    def _do(self, step: Step) -> None:
        call, options = self._relay.call, self._resolved(step)
        match step.action, step.kind:
            case "create", "bucket":
                if step.name in self._named:
                    options = {**options, "default_input": False}
                self._ids[step.name] = call("bucket.create", name=step.name, options=options)["id"]
            case "change", "bucket":
                call("bucket.set", bucket=step.id, options=options)
            case "create", kind:
                made = call(f"{kind}.create", bucket=self._ids[step.bucket], options=options)
                if kind == "output":
                    self._outputs[step.bucket, step.name] = made["id"]
                    self._tell_refusal(step, made)
            case "change", kind:
                changed = call(f"{kind}.set", **{kind: step.id}, bucket=self._ids[step.bucket], options=options)
                if kind == "output" and not options.keys().isdisjoint(("destination", "internal")):
                    self._tell_refusal(step, changed)
            case "delete", "bucket":
                call("bucket.delete", bucket=step.id, force=True)
            case "delete", kind:
                call(f"{kind}.delete", **{kind: step.id}, bucket=self._ids[step.bucket])

    def _tell_refusal(self, step: Step, output: Document) -> None:
        if self._rehearsed is None:
            tell_refusal(self._relay, output, f"output {step.name} of {step.bucket}: ")

    def _resolved(self, step: Step) -> Document:
        wanted = step.options.get("response_from_output")
        if not wanted:
            return step.options
        return {**step.options, "response_from_output": self._outputs.get((step.bucket, wanted), wanted)}

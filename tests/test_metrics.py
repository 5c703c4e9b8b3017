"""The metrics as a scraper reads them."""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

from relay_tornado import counters as counted
from relay_tornado.counters import Backups, ConsumerLevel, Counters, Levels
from relay_tornado.metrics import BUCKETS_NAMED, CONSUMERS_NAMED, OTHER_BUCKETS, Metrics, bounded
from tests.levels import FULL
from tests.needs import needs


def scrape(
    counters: Counters | None = None, levels: Levels = FULL
) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Samples by name and labels."""
    text = Metrics(counters or Counters(), lambda: levels, "1.2.3").expose().decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Mapping[tuple[str, frozenset[tuple[str, str]]], float], name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


def test_every_number_is_exposed() -> None:
    """Whatever is counted or read comes out: with each number different, each number is found."""
    counters = Counters()
    expected = []
    for number, field in enumerate(Counters.__slots__, 1_000):
        held = getattr(counters, field)
        if isinstance(held, int):
            setattr(counters, field, number)
            expected.append(number)
        elif isinstance(held, dict):
            held[next(reversed(held))] = number
            expected.append(number)
        else:
            held.add(number)
            expected.append(number)
    plain = [
        field.name
        for field in dataclasses.fields(Levels)
        if field.name not in ("lag", "consumers", "backups", "ready", "certificate_ok")
    ]
    changes = dict(zip(plain, range(2_000, 3_000), strict=False))
    dated = {field.name: number for number, field in enumerate(dataclasses.fields(Backups), 3_000)}
    levels = dataclasses.replace(FULL, **changes, lag={"one": 4_000}, backups=Backups(**dated))
    found = set(scrape(counters, levels).values())
    assert found >= {*expected, *changes.values(), *dated.values(), 4_000}


def test_counts_and_labels_come_out() -> None:
    """Counters, reasons, histograms and lags as Prometheus reads them."""
    counters = Counters()
    counters.committed(3, 3000, 0.004)
    counters.rejected("overloaded")
    counters.gaps["reset"] += 2
    samples = scrape(counters)
    assert value(samples, "relay_events_total") == 3
    assert value(samples, "relay_event_bytes_total") == 3000
    assert value(samples, "relay_rejections_total", reason="overloaded") == 1
    assert value(samples, "relay_gaps_total", reason="reset") == 2
    assert value(samples, "relay_commit_seconds_bucket", le="0.0025") == 0
    assert value(samples, "relay_commit_seconds_bucket", le="0.005") == 1
    assert value(samples, "relay_commit_seconds_bucket", le="+Inf") == 1
    assert value(samples, "relay_commit_events_bucket", le="2.0") == 0
    assert value(samples, "relay_commit_events_sum") == 3
    assert value(samples, "relay_lag_events") == 12
    assert value(samples, "relay_bucket_lag_events", bucket="billing") == 3
    assert [dict(labels)["version"] for name, labels in samples if name == "relay_build_info"] == ["1.2.3"]


def test_every_reason_is_there_from_the_start() -> None:
    """A reason that has not come up yet is 0, not absent, so that its first time is an increase."""
    samples = scrape()
    for reason in counted.REJECTIONS:
        assert value(samples, "relay_rejections_total", reason=reason) == 0
    for reason in counted.GAPS:
        assert value(samples, "relay_gaps_total", reason=reason) == 0


def test_the_process_is_there() -> None:
    """Memory, descriptors and start time by their usual names."""
    names = {name for name, _ in scrape()}
    assert names >= {
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_max_fds",
        "process_start_time_seconds",
    }


def test_what_is_not_known_is_left_out() -> None:
    """None is no series: an absent backup is not one at the epoch."""
    names = {name for name, _ in scrape(levels=Levels())}
    assert not {name for name in names if name.startswith(("relay_backup", "relay_certificate", "relay_space"))}
    assert "relay_ready" in names


def test_ten_thousand_buckets_make_a_bounded_set_of_series() -> None:
    """The oldest buckets have a series each; the slowest of the others stands for them all, and is not lost."""
    lag = {f"bucket {number}": 1 for number in range(10_000)}
    lag["bucket 7777"] = 55
    samples = scrape(levels=dataclasses.replace(FULL, lag=lag))
    named = {dict(labels)["bucket"] for name, labels in samples if name == "relay_bucket_lag_events"}
    assert len(named) == BUCKETS_NAMED + 1
    assert value(samples, "relay_bucket_lag_events", bucket=OTHER_BUCKETS) == 55
    assert value(samples, "relay_lag_events") == 55


def test_the_last_that_is_named_and_the_first_that_is_not() -> None:
    """As many as have a series each need no other; one more is what stands for the others."""
    lag = {f"bucket {number}": 1 for number in range(BUCKETS_NAMED)}
    assert bounded(lag) == lag
    assert bounded({**lag, "one more": 9, "the last": 2}) == {**lag, OTHER_BUCKETS: 9}


def test_series_do_not_move_with_the_load() -> None:
    """Which buckets are named depends on their order, not on who is slow at the moment."""
    lag = {f"bucket {number}": number for number in range(300)}
    turned = {name: 300 - events for name, events in lag.items()}
    assert bounded(lag).keys() == bounded(turned).keys()


def test_any_name_of_a_bucket_can_be_a_label() -> None:
    """Quotes, backslashes and letters of any script come out as they are."""
    name = 'a"b\\c d\u00e9\u4e2d{}='
    assert value(scrape(levels=dataclasses.replace(FULL, lag={name: 7})), "relay_bucket_lag_events", bucket=name) == 7


def test_levels_are_not_read_before_a_scrape() -> None:
    """Metrics can be made before what they read is there."""

    def levels() -> Levels:
        raise AssertionError

    Metrics(Counters(), levels, "1")


def test_names_follow_the_conventions() -> None:
    """Prometheus' own linter has nothing to say."""
    needs("promtool", "apt-get install prometheus")
    text = Metrics(Counters(), lambda: FULL, "1").expose()
    # process_* are the library's names, and the same everywhere.
    own = b"".join(line for line in text.splitlines(keepends=True) if b"process_" not in line)
    done = subprocess.run(["promtool", "check", "metrics"], input=own, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_consumers_are_named_up_to_a_bound() -> None:
    """Each with its bucket; of those over the bound the greatest lag, and all that they gave up."""
    many = [ConsumerLevel("b", f"c{number}", number, number / 2, 1) for number in range(CONSUMERS_NAMED + 5)]
    samples = scrape(levels=dataclasses.replace(FULL, consumers=many))
    assert value(samples, "relay_consumer_lag_events", bucket="b", consumer="c7") == 7
    assert value(samples, "relay_consumer_lag_seconds", bucket="b", consumer="c7") == 3.5
    others = {"bucket": OTHER_BUCKETS, "consumer": OTHER_BUCKETS}
    assert value(samples, "relay_consumer_lag_events", **others) == CONSUMERS_NAMED + 4
    assert value(samples, "relay_consumer_lag_seconds", **others) == (CONSUMERS_NAMED + 4) / 2
    assert value(samples, "relay_dead_letters", **others) == 5
    assert sum(name == "relay_dead_letters" for name, _ in samples) == CONSUMERS_NAMED + 1
    assert not any(name == "relay_dead_letters" for name, _ in scrape(levels=Levels()))

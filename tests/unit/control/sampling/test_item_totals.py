from __future__ import annotations

import math

from gateway.control.sampling.item_totals import ItemTotals
from gateway.keys.daily_usage import ItemSums

COUNT, ERROR = "gateway_key_items_total", "gateway_key_items_error"


def _sampled(items: ItemTotals, key_id: str, size: int, count: int, weight: float = 1.0) -> None:
    items.add(key_id, "logs", ItemSums(1, size))
    items.add(key_id, "logs", ItemSums.of_sample(size, count, weight))


def test_each_of_the_busiest_keys_has_series_and_the_others_are_one() -> None:
    items = ItemTotals({"1"}, lambda key_id: f"name-{key_id}")
    _sampled(items, "1", 100, 7)
    _sampled(items, "2", 100, 5)
    _sampled(items, "3", 100, 5)

    series = items.series()

    assert {labels: value for labels, value in series[COUNT].items() if labels[2] == "logs"} == {
        ("1", "name-1", "logs"): 7,
        ("other", "", "logs"): 10,
    }
    assert series[ERROR]["1", "name-1", "logs"] == 0


def test_there_are_series_for_others_from_the_start() -> None:
    series = ItemTotals(set(), lambda _: "").series()

    assert series[COUNT] == {("other", "", each): 0 for each in ("traces", "metrics", "logs")}


def test_a_count_never_goes_down() -> None:
    items = ItemTotals({"1"}, lambda _: "")
    items.add("1", "logs", ItemSums(10, 1_000))
    items.add("1", "logs", ItemSums.of_sample(100, 50, 5.0))
    high = items.series()[COUNT]["1", "", "logs"]
    items.add("1", "logs", ItemSums.of_sample(100, 10, 5.0))

    series = items.series()

    assert high == 500
    assert series[COUNT]["1", "", "logs"] == 500, "the estimate is 300 now"
    assert series[ERROR]["1", "", "logs"] > 0


def test_an_error_that_is_unknown_is_no_number() -> None:
    items = ItemTotals({"1"}, lambda _: "")
    items.add("1", "logs", ItemSums(10, 1_000))
    items.add("1", "logs", ItemSums.of_sample(100, 50, 5.0))

    assert math.isnan(items.series()[ERROR]["1", "", "logs"])


def test_a_key_that_loses_its_series_is_one_of_the_others() -> None:
    busiest = {"1"}
    items = ItemTotals(busiest, lambda _: "")
    _sampled(items, "1", 100, 7)
    busiest.clear()
    _sampled(items, "1", 100, 5)

    assert items.series()[COUNT] == {
        ("other", "", "traces"): 0,
        ("other", "", "metrics"): 0,
        ("other", "", "logs"): 5,
    }

"""Who makes room for one more half-open handshake."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.dataplane.accept.half_open import HalfOpen


@dataclass(eq=False)
class One:
    name: str
    gone: list[str] = field(repr=False)

    def give_way(self) -> None:
        self.gone.append(self.name)


def test_the_oldest_of_the_client_with_the_most_makes_room() -> None:
    half_open, gone = HalfOpen(4), list[str]()
    ones = {name: One(name, gone) for name in ("a0", "b0", "b1", "b2", "c0", "d0", "e0", "e1")}
    for name in ("a0", "b0", "b1", "b2"):
        half_open.add(name[0], ones[name])
    assert gone == []
    half_open.add("c", ones["c0"])
    half_open.add("d", ones["d0"])
    assert gone == ["b0", "b1"]
    half_open.discard("b", ones["b0"])  # it ends later, and is there no more
    half_open.discard("b", ones["b2"])
    assert len(half_open) == 3
    half_open.add("e", ones["e0"])
    half_open.add("e", ones["e1"])  # nobody has two: the one that has waited longest
    assert gone == ["b0", "b1", "a0"]
    assert len(half_open) == 4

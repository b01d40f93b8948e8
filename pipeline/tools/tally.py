"""How often each of many names comes, in bounded memory."""

from collections import Counter
from collections.abc import Iterable


class Tally:
    """The most frequent names (Misra and Gries, 1982; in batches after Agarwal et al., Mergeable Summaries, PODS 2012).

    Up to `capacity` different names all counts are exact. Beyond that a name's count is too low by `undercount` at most, and every name that
    came more often than that is there. The result follows from the order of the batches alone.
    """

    def __init__(self, capacity: int = 100_000) -> None:
        self.capacity, self.undercount, self.total = capacity, 0, 0
        self.counts: Counter[str] = Counter()

    def add(self, names: Iterable[str]) -> None:
        batch = Counter(names)
        self.total += batch.total()
        self.counts.update(batch)
        if len(self.counts) > 2 * self.capacity:
            cut = sorted(self.counts.values(), reverse=True)[self.capacity]
            self.undercount += cut
            self.counts = Counter({name: count - cut for name, count in self.counts.items() if count > cut})

    def top(self, number: int) -> list[tuple[str, int]]:
        """The most frequent names, equals in alphabetical order."""
        return sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))[:number]

"""What requests usually come to, learned from the replies that were settled: for those whose usage nobody reported."""

from __future__ import annotations

# Beyond this the texts explain nothing, and a single odd reply would make every estimate absurd.
_MOST_TIMES = 1000


class Usual:
    """One model in one task, in one process.

    The length of the texts gives a first guess of every request, also of those whose cost is known. The settled costs
    over the guesses of the same requests say by how much guesses are off: tokens a byte, cached input, reasoning.
    """

    __slots__ = ("_guessed_nusd", "_output_tokens", "_replies", "_settled_nusd")

    def __init__(self) -> None:
        self._guessed_nusd = 0
        self._settled_nusd = 0
        self._output_tokens = 0
        self._replies = 0

    def learn(self, output_tokens: int, guessed_nusd: int | None, settled_nusd: int | None) -> None:
        """A reply was settled that has so many tokens by its text.

        Threads that learn at once may lose a reply between them, which does no harm.
        """
        self._output_tokens += output_tokens
        self._replies += 1
        if guessed_nusd and settled_nusd is not None and settled_nusd <= _MOST_TIMES * guessed_nusd:
            self._guessed_nusd += guessed_nusd
            self._settled_nusd += settled_nusd

    @property
    def output_tokens(self) -> int:
        """What the texts of replies come to; 0 before there is one."""
        return round(self._output_tokens / self._replies) if self._replies else 0

    def expected_nusd(self, guessed_nusd: int) -> int:
        """A guess as it usually turns out."""
        if not self._guessed_nusd:
            return guessed_nusd
        return (2 * guessed_nusd * self._settled_nusd + self._guessed_nusd) // (2 * self._guessed_nusd)

"""How an engine is run: what may be chosen each time that it is opened."""

from __future__ import annotations

from dataclasses import dataclass

from agp_edge.errors import InputError

MOST_SLOTS = 16
RUN_FLAGS = {"memory": "--memory", "cuda_graphs": "--no-cuda-graphs", "spin_wait": "--spin-wait"}
"""Attribute of `RunOptions` -> its flag."""
MEMORIES = ("auto", "pinned", "mapped")
"""Ways to bring a frame to a GPU; see `RunOptions`."""


@dataclass(frozen=True)
class RunOptions:
    """How an engine is run on a GPU; an engine for the CPU has nothing of it.

    Attributes:
        memory: `pinned` copies a frame from page-locked memory to the GPU's own, `mapped` has the GPU read it where it lies.
            `auto` is `pinned`, and on a GPU that shares the CPU's memory whichever is faster there when the engine is opened.
        cuda_graphs: queue a frame by one call, where the binding, the library and the plan allow it.
        spin_wait: a thread that waits for the GPU does not sleep: it hears of the end sooner, and takes a core.
        slots: batches that may be under way at once.
    """

    memory: str = "auto"
    cuda_graphs: bool = True
    spin_wait: bool = False
    slots: int = 3

    def check(self) -> None:
        """Refuse what is none of it.

        Raises:
            InputError: another memory, or too few or too many slots.
        """
        if self.memory not in MEMORIES:
            raise InputError(f"there is no memory {self.memory!r}", f"take one of: {', '.join(MEMORIES)}")
        if not 1 <= self.slots <= MOST_SLOTS:
            raise InputError(f"{self.slots} batches cannot be under way at once", f"give 1 to {MOST_SLOTS}")

    def refuse(self, device: str) -> None:
        """Refuse what only a GPU has.

        Args:
            device: what the engine runs on, for the error.

        Raises:
            InputError: something of it was asked for.
        """
        usual = RunOptions(slots=self.slots)
        asked = [flag for name, flag in RUN_FLAGS.items() if getattr(self, name) != getattr(usual, name)]
        if asked:
            raise InputError(
                f"{asked[0]} is for an engine on a GPU, this one runs on {device}", "leave it out"
            )


RUN_AS_USUAL = RunOptions()

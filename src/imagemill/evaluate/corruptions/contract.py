"""What a corruption is, and how strong it is at images of which size.

Shapes: B batch, C channels, H height, W width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Generator, Tensor

SEVERITIES = (1, 2, 3, 4, 5)
# Sides the two published tables are for; between them the small one holds to the geometric middle.
SMALL, LARGE = 32, 224
_MIDDLE = 85


@dataclass(frozen=True)
class Setting:
    """What a corruption works in.

    draws: Where all its draws come from.
    factor: Pixels of these images for one of the table's.
    """

    draws: Generator
    factor: float

    def pixels(self, length: float) -> float:
        """A length of the table, in pixels of these images."""
        return length * self.factor


# images in 0..1, float32 [B, C, H, W]; the strength; the setting -> the same shape, any values:
# whoever calls brings them back to 0..1.
Apply = Callable[[Tensor, Any, Setting], Tensor]


@dataclass(frozen=True)
class Corruption:
    """A way images get worse, in five strengths.

    small, large: Strengths by severity for images of about 32 and of about 224 pixels.
    """

    apply: Apply
    small: tuple[Any, ...]
    large: tuple[Any, ...]

    def strength(self, side: int, severity: int) -> tuple[Any, float]:
        """What `apply` takes for images of this side, and the factor of lengths.

        Args:
            side: The shorter one, pixels.
            severity: 1..5.
        """
        table, reference = (self.small, SMALL) if side < _MIDDLE else (self.large, LARGE)
        return table[severity - 1], side / reference

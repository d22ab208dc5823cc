"""placeholder until the models' own lands"""

from torch import Tensor


def split_outputs(outputs: Tensor) -> tuple[Tensor, list[tuple[float, Tensor]]]:
    return outputs, []

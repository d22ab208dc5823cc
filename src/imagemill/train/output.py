"""What a finished training leaves: weights, their export, metrics and the model's card."""

import numpy as np
import torch
from torch import nn

from imagemill.loading import SplitImages, to_input
from imagemill.models import count_macs, count_parameters, save_weights
from imagemill.models.saved import CARD, WEIGHTS
from imagemill.params import BASE
from imagemill.records import Architecture, ModelCard, sha256_of_file, write_json
from imagemill.runtimes import check_export, export_onnx
from imagemill.train.job import METRICS, OUTPUT, Job
from imagemill.train.judge import top1
from imagemill.train.machine import Machine

ONNX = "model.onnx"
_CHECKED_IMAGES = 64


def write_output(
    job: Job,
    model: nn.Module,
    architecture: Architecture,
    val: SplitImages,
    metrics: dict[str, object],
) -> None:
    """Write the job's output folder.

    Args:
        job: Whose model it is.
        model: Trained; brought to float32 on the CPU.
        architecture: What it was built from.
        val: To check the export on.
        metrics: What training said of itself; val's top-1 and the export's difference are added.

    Raises:
        IntegrityError: the export computes something else.
    """
    output = job.folder / OUTPUT
    model = model.cpu().to(memory_format=torch.contiguous_format).float().eval()
    metrics["val_top1"] = top1(model, val, Machine(torch.device("cpu"), torch.float32, False))
    save_weights(output / WEIGHTS, model)
    export_onnx(model, job.input_shape, output / ONNX)
    positions = np.arange(min(len(val), _CHECKED_IMAGES))
    metrics["onnx_difference"] = check_export(model, output / ONNX, [to_input(val.take(positions))])
    write_json(output / METRICS, metrics)
    files = {name: sha256_of_file(output / name) for name in (WEIGHTS, ONNX)}
    card = ModelCard(
        variant=BASE,
        parent=None,
        steps=[],
        architecture=architecture,
        input_shape=job.input_shape,
        classes=job.data.classes,
        files=files,
        file=WEIGHTS,
        sha256=files[WEIGHTS],
        data_digest=job.data.digest,
        index_digest=job.data.index_digest,
        runtime="eager",
        resize=job.loading.resize,
        num_parameters=count_parameters(model),
        macs=count_macs(model, job.input_shape),
        started_from=job.start,
    )
    card.write(output / CARD)

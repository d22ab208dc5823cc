"""Registered models that answer together: one net, to be evaluated, exported or distilled."""

from pathlib import Path

from imagemill.compress.bench import WEIGHTS, Bench, open_float, save_float
from imagemill.errors import IntegrityError, ParamsError
from imagemill.params import EnsembleParams
from imagemill.records import ENSEMBLE, Architecture, EnsembleMember, ModelCard


def ensemble(source: Path, target: Path, step: EnsembleParams, bench: Bench) -> None:
    """Join the net in `source` with registered ones; no weight is changed.

    Raises:
        ParamsError: a member has other classes, other images, or no float weights.
        IntegrityError: a member was trained on other data.
    """
    from torch import nn

    from imagemill.models.ensemble import Ensemble

    model, card = open_float(source, bench)
    nets, cards, told = [model], [card], []
    for name in step.members:
        folder, version = bench.members[name]
        check_member(name, card, ModelCard.read(folder / "model.json"))
        net, member_card = open_float(folder, bench)
        nets.append(net)
        cards.append(member_card)
        told.append(EnsembleMember(name=name, version=version, sha256=member_card.files[WEIGHTS]))
    architectures = [entry.architecture.model_dump(mode="json") for entry in cards]
    bench.log(
        f"ensemble: {len(nets)} nets, {', '.join(entry.architecture.name for entry in cards)}"
    )
    save_float(
        target,
        nn.Sequential(Ensemble(nets)).eval(),
        card.model_copy(update={"members": told}),
        Architecture(name=ENSEMBLE, arguments={"members": architectures}),
    )


def check_member(name: str, card: ModelCard, member: ModelCard) -> None:
    """Refuse what cannot answer together.

    Args:
        name: Of the member, for messages.
        card: Of the net it joins.
        member: Its own.

    Raises:
        ParamsError, IntegrityError: As `ensemble`.
    """
    if WEIGHTS not in member.files:
        raise ParamsError(
            f"ensemble: {name} ({member.variant}) has no float weights; name the version it was "
            "made from"
        )
    for what, own, other in (
        ("classes", card.classes, member.classes),
        ("images of shape", card.input_shape, member.input_shape),
        ("resize", card.resize, member.resize),
    ):
        if own != other:
            raise ParamsError(f"ensemble: expected {what} {own}, got {other} of {name}")
    if card.data_digest != member.data_digest:
        raise IntegrityError(
            f"ensemble: {name} was trained on data {member.data_digest[:12]}, the base on "
            f"{card.data_digest[:12]}: it may know images of val and test. Train it again on "
            "this data"
        )

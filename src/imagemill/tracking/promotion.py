"""Move the champion and what follows from it: whole or not at all.

The aliases move in a fixed order, the champion last: that is the moment a promotion happens. What
is about to be done is first written to a journal. Whoever comes next finds it after a crash: if the
champion had moved, the rest is completed, else every alias goes back to where it was.
"""

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from imagemill.errors import ServiceError, UserError
from imagemill.params import Params
from imagemill.promote import (
    CHALLENGER,
    CHAMPION,
    FASTEST,
    SMALLEST,
    Decision,
    choose_specialists,
    decide,
)
from imagemill.records import STATE
from imagemill.tracking.entries import Version
from imagemill.tracking.history import (
    PROMOTION,
    Promotion,
    last_standing,
    read_history,
    write_down,
)
from imagemill.tracking.standings import find_version, standing_of
from imagemill.tracking.versions import checked_folder, open_store

if TYPE_CHECKING:
    from imagemill.tracking.store import Store

JOURNAL = STATE / "promotion.json"
_LOCK = STATE / "promotion.lock"

Agree = Callable[[Decision], str | None]


def preview(root: Path, params: Params, name: str) -> Decision:
    """What `promote` would decide about a version; nothing is moved."""
    store = open_store(root, params.register_)
    return _decide(store, params, find_version(store, name))


def promote(
    root: Path,
    params: Params,
    name: str,
    *,
    by: str,
    at: str,
    why: str | None = None,
    agree: Agree | None = None,
) -> tuple[Decision, Promotion]:
    """Decide about a version and, if every gate is passed, make it champion.

    Args:
        root: The project's root.
        params: Of them `promote` (the policy) and `register` (which registry).
        name: A version number, an alias such as challenger, or a variant.
        by: Who asks.
        at: When: ISO 8601, UTC.
        why: In their own words.
        agree: Asked before anything moves; returns who else had to agree, and raises a `UserError`
            where they do not.

    Returns:
        The decision, and what was written to reports/promotion.json.

    Raises:
        UnknownNameError: no version goes by this name.
        IntegrityError: its files are not those that were registered.
        ServiceError: there is no registry, or it cannot be used; the old aliases stay.
    """
    store = open_store(root, params.register_)
    with _alone(root, store):
        version = find_version(store, name)
        decision = _decide(store, params, version)
        if decision.promoted:
            checked_folder(root, store, version)
            agreed = agree(decision) if agree is not None else None
            by = f"{by}, {agreed}" if agreed else by
        after = _aliases_after(store, version) if decision.promoted else _numbers(store.aliases())
        move = _described(store, decision, version, after, by=by, at=at, why=why)
        if decision.promoted:
            _carry_out(root, store, move)
        else:
            move.write(root / PROMOTION)
    return decision, move


def roll_back(root: Path, params: Params, *, by: str, at: str, why: str | None = None) -> Promotion:
    """Take back the last promotion: every alias returns to where it was before it.

    Raises:
        UserError: nothing was ever promoted, or all of it was taken back.
        IntegrityError: the former champion's files are not those that were registered.
        ServiceError: the registry cannot be used; the present aliases stay.
    """
    store = open_store(root, params.register_)
    with _alone(root, store):
        undone = last_standing(read_history(store))
        if undone is None or undone.from_version is None:
            raise UserError(
                "there is no promotion to take back; `imagemill promote VERSION` makes one"
            )
        version = find_version(store, str(undone.from_version))
        checked_folder(root, store, version)
        standing = {str(one.number) for one in store.find_versions({})}
        after = {
            alias: number
            for alias, number in undone.aliases_before.items()
            if str(number) in standing
        }
        now = store.aliases()
        move = Promotion(
            kind="rollback",
            at=at,
            by=by,
            why=why,
            reasons=[f"takes back the promotion of {undone.at}"],
            from_version=now[CHAMPION].number if CHAMPION in now else None,
            from_variant=now[CHAMPION].tags["variant"] if CHAMPION in now else None,
            to_version=version.number,
            to_variant=version.tags["variant"],
            aliases_before=_numbers(now),
            aliases_after=after,
            test={"from": _test(store, now.get(CHAMPION)), "to": _test(store, version)},
        )
        _carry_out(root, store, move)
    return move


def recover(root: Path, store: "Store") -> None:
    """Finish or undo what a promotion that was killed has left."""
    journal = root / JOURNAL
    if not journal.is_file():
        return
    move = Promotion.read(journal)
    held = _numbers(store.aliases())
    if held.get(CHAMPION) == move.aliases_after[CHAMPION]:
        _move(store, move.aliases_after)
        write_down(root, store, move)
    else:
        _move(store, move.aliases_before)
    journal.unlink()


def _carry_out(root: Path, store: "Store", move: Promotion) -> None:
    move.write(root / JOURNAL)
    try:
        _move(store, move.aliases_after)
        write_down(root, store, move)
    except UserError:
        recover(root, store)
        raise
    (root / JOURNAL).unlink()


def _move(store: "Store", wanted: Mapping[str, int]) -> None:
    """Point the aliases where they belong, the champion last; others of ours are taken away."""
    held = _numbers(store.aliases())
    for alias in sorted(wanted, key=lambda alias: (alias == CHAMPION, alias)):
        if held.get(alias) != wanted[alias]:
            store.set_alias(alias, wanted[alias])
    for alias in (CHALLENGER, FASTEST, SMALLEST):
        if alias in held and alias not in wanted:
            store.drop_alias(alias)


def _decide(store: "Store", params: Params, version: Version) -> Decision:
    champion = store.aliases().get(CHAMPION)
    standing = None if champion is None else standing_of(store, champion)
    return decide(params.promote, standing_of(store, version), standing)


def _aliases_after(store: "Store", version: Version) -> dict[str, int]:
    """Where every alias points once `version` is champion; the old champion challenges it."""
    held = _numbers(store.aliases())
    after = held | {CHAMPION: version.number}
    if CHAMPION in held:
        after[CHALLENGER] = held[CHAMPION]
    elif after.get(CHALLENGER) == version.number:
        del after[CHALLENGER]
    return after | specialists(store, version)


def specialists(store: "Store", champion: Version) -> dict[str, int]:
    """Aliases of the fastest and the smallest version within a point of the champion."""
    same_data = store.find_versions({"data_digest": champion.tags["data_digest"]})
    others = [standing_of(store, version) for version in same_data]
    return choose_specialists(standing_of(store, champion), others)


def _described(
    store: "Store",
    decision: Decision,
    version: Version,
    after: Mapping[str, int],
    *,
    by: str,
    at: str,
    why: str | None,
) -> Promotion:
    held, champion = store.aliases(), decision.champion
    return Promotion(
        kind="promotion" if decision.promoted else "refusal",
        at=at,
        by=by,
        why=why,
        reasons=decision.reasons,
        from_version=champion.version if champion else None,
        from_variant=champion.variant if champion else None,
        to_version=version.number,
        to_variant=version.tags["variant"],
        aliases_before=_numbers(held),
        aliases_after=dict(after),
        test={"from": _test(store, held.get(CHAMPION)), "to": _test(store, version)},
    )


def _test(store: "Store", version: Version | None) -> float | None:
    return None if version is None else store.figures(version).get("top1")


def _numbers(aliases: Mapping[str, Version]) -> dict[str, int]:
    return {alias: version.number for alias, version in aliases.items()}


@contextmanager
def _alone(root: Path, store: "Store") -> Iterator[None]:
    """One promotion at a time; what an earlier one left halfway is settled first.

    Raises:
        ServiceError: another one is at work.
    """
    lock = root / _LOCK
    lock.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ServiceError(
                "another promotion of this project is at work (it may be waiting for a person); "
                "try again when it has ended"
            ) from None
        recover(root, store)
        yield
    finally:
        os.close(descriptor)

"""`imagemill`: one verb a stage, and the verbs around them.

Values that change a result belong in params.yaml, so there is no flag for them. Every verb imports
what it needs itself: `--help` answers at once.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from imagemill import __version__
from imagemill.errors import ParamsError, UserError

Verb = Callable[[Path, argparse.Namespace], int]

_STAGES = {
    "ingest": "list every image of the source with its sha256",
    "audit": "decode every image once; quarantine what cannot be used",
    "split": "assign train, val and test",
    "shard": "pack the images into WebDataset tars",
    "augment": "write augmented copies of the training images",
    "label-review": "find labels that are likely wrong, for a person to decide",
    "train": "train the base model",
    "compress": "make one smaller or faster variant of the base model",
    "evaluate": "measure quality and cost of every variant",
    "explain": "draw what the base model looks at",
    "register": "bring models and measurements into the MLflow registry",
    "report": "write reports/index.html",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb: 0 done, 2 a mistake of the user's told in one sentence on standard error."""
    chosen = command_line().parse_args(arguments)
    verb: Verb = chosen.verb
    try:
        return verb(Path.cwd(), chosen)
    except UserError as error:
        sys.stderr.write(f"imagemill: {error}\n")
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has seen enough; nothing may be flushed into the closed pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _stage(root: Path, chosen: argparse.Namespace) -> int:
    variant = getattr(chosen, "variant", None)
    flags = [f"--{name}" for name in ("rehash", "full") if getattr(chosen, name, False)]
    return _become(root, "pipelines.stage", chosen.name, *([variant] if variant else []), *flags)


def _scan(root: Path, _chosen: argparse.Namespace) -> int:
    from imagemill.params import read_params
    from imagemill.scan import scan

    found = scan(root, read_params(root).ingest)
    print(f"{found.source}: {found.num_files} files, {'changed' if found.changed else 'unchanged'}")
    return 0


def _recipe(root: Path, chosen: argparse.Namespace) -> int:
    from imagemill.recipes import place_recipe

    stamp = time.strftime("%Y-%m-%d-%H%M%S")
    print(*place_recipe(root, chosen.recipe, chosen.data, stamp=stamp), sep="\n")
    return 0


def _check(root: Path, _chosen: argparse.Namespace) -> int:
    from imagemill.check import check
    from imagemill.params import read_params

    check(root, read_params(root))
    return 0


def _table(root: Path, _chosen: argparse.Namespace) -> int:
    from imagemill.table import result_table

    print(result_table(root))
    return 0


def _verify(root: Path, chosen: argparse.Namespace) -> int:
    from imagemill.verify import Slice, verify

    part = Slice.parse(chosen.slice)
    found = verify(root, part=part, repair=chosen.repair, say=_watch)
    print(json.dumps(found.as_json(), indent=2) if chosen.json else found)
    return 2 if found.faults else 0


def _predict(root: Path, chosen: argparse.Namespace) -> int:
    from imagemill.params import read_params
    from imagemill.tracking import predict_stream

    answers = predict_stream(
        root, read_params(root), chosen.images, chosen.alias, stdin=sys.stdin.buffer
    )
    failures = 0
    for answer in answers:
        if "error" in answer:
            failures += 1
            _watch(f"imagemill: {answer['image']} {answer['error']}")
        if chosen.json:
            print(json.dumps(answer))
        elif "error" not in answer:
            print(_in_words(answer))
    return 2 if failures else 0


def _promote(root: Path, chosen: argparse.Namespace) -> int:
    from imagemill.params import read_params
    from imagemill.tracking import preview, promote

    params = read_params(root)
    if chosen.dry_run:
        decision = preview(root, params, chosen.version)
        print(*decision.reasons, sep="\n")
        return 0 if decision.promoted else 2
    if params.promote.wait_for_person:
        why = ["--why", chosen.why] if chosen.why else []
        return _become(root, "pipelines.promote", chosen.version, "--by", _user(chosen), *why)
    decision, move = promote(
        root, params, chosen.version, by=_user(chosen), at=_now(), why=chosen.why
    )
    print(*decision.reasons, move, sep="\n")
    return 0 if decision.promoted else 2


def _rollback(root: Path, chosen: argparse.Namespace) -> int:
    from imagemill.params import read_params
    from imagemill.tracking import roll_back

    print(roll_back(root, read_params(root), by=_user(chosen), at=_now(), why=chosen.why))
    return 0


def _trace(root: Path, chosen: argparse.Namespace) -> int:
    from imagemill.params import read_params
    from imagemill.trace import as_json, trace
    from imagemill.tracking import known_versions

    found = trace(root, chosen.name, known_versions(root, read_params(root)))
    print(json.dumps(as_json(found), indent=2) if chosen.json else "\n".join(found.lines()))
    return 0


def _compare(root: Path, chosen: argparse.Namespace) -> int:
    from imagemill.compare import compare, plot_metric
    from imagemill.params import read_params

    params = read_params(root)
    shown = compare(root, params, chosen.versions)
    print(shown.table, f"picture: {shown.picture}", f"MLflow:  {shown.link}", sep="\n")
    if chosen.metric:
        print(f"{chosen.metric}: {plot_metric(root, params, chosen.metric)}")
    return 0


def _gc(root: Path, chosen: argparse.Namespace) -> int:
    from imagemill.gc import collect, free
    from imagemill.params import read_params

    params = read_params(root)
    found = collect(root, params, now=time.time())
    print(found)
    if chosen.apply:
        free(root, params, found)
        print("freed")
    elif found.entries:
        print("nothing was removed; `imagemill gc --apply` does it")
    return 0


def _forget(root: Path, chosen: argparse.Namespace) -> int:
    from imagemill.forget import forget, plan_forgetting
    from imagemill.params import read_params
    from imagemill.tracking import known_versions

    plan = plan_forgetting(root, chosen.key, known_versions(root, read_params(root)))
    print(plan)
    if not chosen.apply:
        print("nothing was changed; `imagemill forget KEY --apply` does it, up to the shards")
        return 0
    forget(root, plan, by=_user(chosen), date=_now()[:10], say=_watch)
    print("it is in no shard any more; `imagemill run` makes the rest anew, then `imagemill gc`")
    return 0


def _user(chosen: argparse.Namespace) -> str:
    if chosen.by:
        return str(chosen.by)
    import getpass

    return getpass.getuser()


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _watch(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _in_words(prediction: dict[str, object]) -> str:
    probabilities = prediction["probabilities"]
    assert isinstance(probabilities, dict)
    best = sorted(probabilities.items(), key=lambda entry: -entry[1])[:5]
    shown = ", ".join(f"{name} {probability:.4f}" for name, probability in best)
    return f"{prediction['image']}: {prediction['class']} ({shown})"


def _run(root: Path, chosen: argparse.Namespace) -> int:
    return _become(root, "pipelines.run", *_flags(chosen, "port"))


def _up(root: Path, chosen: argparse.Namespace) -> int:
    detach = ["--detach"] if chosen.detach else []
    return _become(
        root, "pipelines.services", "up", *_flags(chosen, "prefect_port", "mlflow_port"), *detach
    )


def _down(root: Path, _chosen: argparse.Namespace) -> int:
    return _become(root, "pipelines.services", "down")


def _serve(root: Path, chosen: argparse.Namespace) -> int:
    return _become(root, "pipelines.schedule", *_flags(chosen, "port"))


def _sweep(root: Path, chosen: argparse.Namespace) -> int:
    return _become(root, "pipelines.sweep", *_flags(chosen, "port"))


def _flags(chosen: argparse.Namespace, *names: str) -> list[str]:
    given = [(name, getattr(chosen, name)) for name in names]
    return [
        word
        for name, value in given
        if value is not None
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]


def _become(root: Path, module: str, *arguments: str) -> int:
    """Go on as another program of the project, so that signals reach it and nobody else.

    Raises:
        ParamsError: `root` is not a project.
    """
    if not (root / "pipelines").is_dir():
        raise ParamsError(
            f"{root} is not an imagemill project: it has no pipelines/; go to its root"
        )
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])


def command_line() -> argparse.ArgumentParser:
    """The verbs and their flags."""
    parser = argparse.ArgumentParser(
        prog="imagemill",
        description="From raw labelled images to compared, registered models.",
    )
    parser.add_argument("--version", action="version", version=f"imagemill {__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    _add_run_verbs(verbs)
    for name, help_text in _STAGES.items():
        stage = _add(verbs, name, _stage, f"the stage alone: {help_text}")
        stage.set_defaults(name=name.replace("-", "_"))
        if name == "compress":
            stage.add_argument("variant", help="a name under compress.variants in params.yaml")
        if name == "ingest":
            stage.add_argument(
                "--rehash", action="store_true", help="read every image, unchanged files too"
            )
        if name == "shard":
            stage.add_argument("--full", action="store_true", help="write every shard again")
    _add_model_verbs(verbs)
    return parser


def _add_run_verbs(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    recipe = _add(verbs, "recipe", _recipe, "put a recipe in place as params.yaml")
    recipe.add_argument("recipe", help="a file in recipes/, without .yaml")
    recipe.add_argument("--data", help="folder, archive, manifest file or built-in name")
    _add(verbs, "scan", _scan, "notice a changed source, so that `dvc repro` ingests it")
    _add(verbs, "check", _check, "see whether params.yaml names what exists")
    run = _add(verbs, "run", _run, "scan, then `dvc repro` as a Prefect flow, then the table")
    run.add_argument("--port", type=int, help="port of the Prefect server (default: a free one)")
    sweep = _add(verbs, "sweep", _sweep, "search over training's settings (section sweep)")
    sweep.add_argument("--port", type=int, help="port of the Prefect server (default: a free one)")
    up = _add(verbs, "up", _up, "open the Prefect and MLflow pages until Ctrl-C")
    up.add_argument("--prefect-port", type=int, help="default: 4200, or a free one")
    up.add_argument("--mlflow-port", type=int, help="default: 5000, or a free one")
    up.add_argument("--detach", action="store_true", help="go on in the background")
    verify = _add(verbs, "verify", _verify, "check every byte against what is on record")
    verify.add_argument("--slice", default="1/1", metavar="N/T", help="the n-th of t parts alone")
    verify.add_argument("--repair", action="store_true", help="mend what another place still holds")
    verify.add_argument("--json", action="store_true", help="print one JSON document")
    _add(verbs, "down", _down, "end what `up --detach` started")
    serve = _add(verbs, "serve", _serve, "run every night on this machine, until Ctrl-C")
    serve.add_argument("--port", type=int, help="port of the Prefect server (default: a free one)")


def _add_model_verbs(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    _add(verbs, "table", _table, "show the variants of the last run")
    promote = _add(verbs, "promote", _promote, "make a version champion if the policy lets it")
    promote.add_argument(
        "version",
        nargs="?",
        default="challenger",
        help="number, alias or variant (default: challenger)",
    )
    promote.add_argument("--dry-run", action="store_true", help="say the decision, move nothing")
    rollback = _add(verbs, "rollback", _rollback, "take back the last promotion")
    for verb in (promote, rollback):
        verb.add_argument("--by", metavar="NAME", help="who asks (default: the user's name here)")
        verb.add_argument("--why", metavar="TEXT", help="a sentence for the history")
    trace = _add(verbs, "trace", _trace, "from a raw file to the models that saw it, and back")
    trace.add_argument("name", metavar="FILE|KEY|VERSION", help="also a shard, alias or variant")
    trace.add_argument("--json", action="store_true", help="print one JSON document")
    compare = _add(verbs, "compare", _compare, "registered versions side by side")
    compare.add_argument(
        "versions", nargs="*", metavar="VERSION", help="number, alias or variant (default: all)"
    )
    compare.add_argument("--metric", help="draw this metric over all versions, such as val_top1")
    gc = _add(verbs, "gc", _gc, "say what nothing refers to any more, and free it if asked to")
    gc.add_argument("--apply", action="store_true", help="remove what was listed")
    forget = _add(verbs, "forget", _forget, "say what must be rebuilt if an image has to go")
    forget.add_argument("key", metavar="KEY", help="its key, or its file")
    forget.add_argument("--apply", action="store_true", help="take it out, up to the shards")
    forget.add_argument("--by", metavar="NAME", help="who asks (default: the user's name here)")
    predict = _add(verbs, "predict", _predict, "classify images with a registered model")
    predict.add_argument(
        "images", nargs="+", metavar="IMAGE", help="file, folder, shard, or - for standard input"
    )
    predict.add_argument("--alias", default="champion", help="which version (default: champion)")
    predict.add_argument("--json", action="store_true", help="one JSON object a line")


def _add(
    verbs: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, verb: Verb, text: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(
        name, help=text, description=f"{name}: {text}."
    )
    parser.set_defaults(verb=verb)
    return parser

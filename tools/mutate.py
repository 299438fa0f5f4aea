"""Measure what the tests catch: change the core in one place at a time and count the changes that a test notices.

    python tools/mutate.py --sample 300 --seed 0 --output benchmarks/results/mutants.json

A mutant is the package with one change: of an operator, a comparison, a condition, a number, a default, a keyword, a
statement or a returned value. Or a function is replaced by a similar one. Mutants are drawn evenly over all places of
the core. The test files of its module judge a mutant, in three rounds. First come the specific files, then the other
files that run on every backend. Both run on torch, the fastest backend, without tests marked slow. Third come the files
that need TensorFlow. The first failing test kills the mutant. A mutant that runs far longer than the tests is killed
too, as "timeout".

A mutant that behaves like the original is in `tools/mutants_equivalent.txt`, with the reason.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import json
import multiprocessing
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

from mutants import ROOT, draw, mutants_of

PACKAGE = "keras_logit_adjust"
EQUIVALENT = pathlib.Path(__file__).with_name("mutants_equivalent.txt")

# Module or folder of the core → test files: the specific ones | the others on every backend | those on TensorFlow.
# On TensorFlow, tests marked slow run too: only they test replicas.
TESTS = {
    "losses/_rivals.py": "pairwise_margin reweighted pairwise_margin_labels losses_bad_input package "
    "| posthoc | tf_losses",
    "losses/consistency.py": "consistency house | package",
    "losses/pairwise_margin.py": "pairwise_margin pairwise_margin_labels losses_bad_input package "
    "| posthoc | tf_losses",
    "losses/reweighted.py": "reweighted reweighted_outputs losses package signatures "
    "| callbacks losses_labels losses_bad_input posthoc | tf_losses",
    "losses/_marks.py": "correction_guard | losses_bad_input reweighted_outputs posthoc | tf_posthoc",
    "losses/_base.py": "losses losses_labels losses_bad_input package | reweighted pairwise_margin mixed_precision "
    "callbacks metrics_in_models posthoc | tf_losses tf_metrics_layers tf_mirrored",
    "losses/linear.py": "linear_loss package | sampled_loss many_class_models losses_labels "
    "| tf_many_classes linear_loss",
    "losses/_chunks.py": "linear_loss many_class_models | sampled_loss | linear_loss many_class_models",
    "losses/sampled.py": "sampled_loss package | many_class_models",
    "losses/_draws.py": "sampled_loss | many_class_models",
    "losses": "losses losses_labels losses_bad_input package signatures "
    "| mixed_precision metrics_in_models callbacks reweighted_outputs posthoc | tf_losses losses mixed_precision",
    "layers/streaming.py": "streaming_prior package | counting_model mixed_precision layers | tf_streaming_prior",
    "layers/large.py": "many_class_models many_classes_class_tau package | linear_loss sampled_loss | tf_many_classes",
    "layers/many_class_model.py": "many_class_models package | many_classes_adjusted | tf_many_classes",
    "layers/decision.py": "minimum_risk package | numbers_read calibrated_models posthoc tune_tau_models",
    "layers": "layers layers_bad_input class_axis calibration package | correction_guard numbers_read losses_bad_input "
    "posthoc posthoc_models calibrated_models mixed_precision weight_norm old_files | tf_metrics_layers",
    "metrics": "metrics metrics_in_models package several_labels sigmoid_unit result_names "
    "| mixed_precision long_tail_report | tf_metrics_layers",
    "priors/streaming.py": "streaming_prior package | counting_model mixed_precision | tf_streaming_prior",
    "priors": "priors ids_or_rows counts_by_name "
    "| numbers_read losses_bad_input label_shift layers sampling_bad_input package | tf_counting tf_streams priors",
    "posthoc": "posthoc posthoc_bad_input posthoc_models descriptions | correction_guard zoo class_axis "
    "calibrated_models minimum_risk tune_tau_models experts package | tf_posthoc",
    "held_out": "tau_path tau_path_input tau_path_bad_input "
    "| tune_tau tune_tau_unknown tune_tau_models offsets package | tf_posthoc",
    "data/sampling.py": "sampling sampling_bad_input sampling_repeats | sampling_fit sampler_backup package "
    "| tf_sampling",
}
CORE = ["losses", "layers", "priors", "metrics", "posthoc/adjust.py", "posthoc/fold.py"]
CORE += ["held_out/tau_path.py", "held_out/_intervals.py", "data/sampling.py"]


def equivalents():
    """`{key: reason}` of the mutants that no test can distinguish from the original."""
    reasons = {}
    for block in EQUIVALENT.read_text().split("\n\n"):
        lines = [line for line in block.splitlines() if not line.startswith("#")]
        if lines:
            head, before, after = lines
            file, reason = head.split(": ", 1)
            reasons[file, before.removeprefix("- "), after.removeprefix("+ ")] = reason
    return reasons


def rounds_for(file):
    """The test paths of the three rounds: (specific, further, on TensorFlow). Doctests of `file` are in the third."""
    name = file.removeprefix(f"{PACKAGE}/")
    place = next(p for p in (name, name.split("/")[0]) if p in TESTS)
    rounds = [[f"tests/test_{t}.py" for t in part.split()] for part in TESTS[place].split("|")]
    rounds += [[]] * (3 - len(rounds))
    return [*rounds[:2], [file, *rounds[2]]]


def _warm_up(backend, folder):
    """The start of a worker: a copy of the repository, and the imports of all tests in memory, except the package."""
    global tree
    os.environ.update(KERAS_BACKEND=backend, OMP_NUM_THREADS="1", TF_NUM_INTRAOP_THREADS="1", TF_CPP_MIN_LOG_LEVEL="3")
    tree = pathlib.Path(tempfile.mkdtemp(dir=folder))
    os.environ["PYTHONPATH"] = str(tree)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False  # otherwise every fork would compile the tests again
    listed = subprocess.check_output(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, text=True)
    for file in filter(None, listed.split("\0")):
        (tree / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / file, tree / file)
    sys.path[:] = [str(tree), *(p for p in sys.path if p not in (str(ROOT), str(ROOT / "tools")))]
    os.chdir(tree)
    import hypothesis
    import keras
    import pytest  # noqa: F401
    import scipy.special  # noqa: F401

    if backend == "torch":
        import torch

        torch.set_num_threads(1)
        keras.utils.set_random_seed(0)  # otherwise a test would load these modules again in every fork
    hypothesis.settings.register_profile("mutants", derandomize=True, database=None, deadline=None, max_examples=20)
    hypothesis.settings.load_profile("mutants")


_OPTIONS = ["-x", "-q", "-rfE", "--tb=short", "-p", "no:cacheprovider", "-W"]
_OPTIONS += ["ignore::pytest.PytestAssertRewriteWarning"]
_IN_PROCESS = "not loads_nothing_heavy and not is_not_installed and not without_matplotlib"  # they start many processes


def _pytest(paths, marks, limit):
    """The end of pytest's output and its exit status (None: stopped at the time limit), from a fork of this process."""
    log = tree / "pytest.log"
    pid = os.fork()
    if pid == 0:
        os.setsid()
        with log.open("w") as out:
            os.dup2(out.fileno(), 1)
            os.dup2(out.fileno(), 2)
        try:
            import pytest

            options = [*_OPTIONS, "-m", marks, "-k", _IN_PROCESS]
            code = int(pytest.main([*options, *paths]))
        except BaseException:
            traceback.print_exc()
            code = 70
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    end, status = time.monotonic() + limit, None
    while status is None and time.monotonic() < end:
        time.sleep(0.02)
        done, code = os.waitpid(pid, os.WNOHANG)
        status = os.waitstatus_to_exitcode(code) if done else None
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # the child, or processes that it has left behind
    if status is None:
        os.waitpid(pid, 0)
    return log.read_text(errors="replace")[-4000:], status


def judge(mutant, rounds, limit):
    """(outcome, the test that killed it, seconds) of one mutant; None for `mutant` is the original package."""
    began = time.monotonic()
    if mutant:
        path = tree / mutant.file
        original = path.read_bytes()
        path.write_bytes(original[: mutant.start] + mutant.text.encode() + original[mutant.end :])
        moment = time.time_ns()  # Python finds compiled code by the time and the size of its source
        os.utime(path, ns=(moment, moment - random.randrange(10**9, 10**18)))
    outcome, killer = "survived", ""
    try:
        for paths in filter(None, rounds):
            log, status = _pytest(paths, "" if os.environ["KERAS_BACKEND"] == "tensorflow" else "not slow", limit)
            if status == 0:
                continue
            outcome = "timeout" if status is None else "killed"
            failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", log, re.MULTILINE)
            last_line = (log.strip() or "no output").splitlines()[-1][:120]
            killer = failed[0] if failed else log if mutant is None else last_line
            break
    finally:
        if mutant:
            path.write_bytes(original)
            shutil.copystat(ROOT / mutant.file, path)
    return outcome, killer, time.monotonic() - began


@contextlib.contextmanager
def _pool(backend, workers):
    start = {"mp_context": multiprocessing.get_context("fork"), "initializer": _warm_up}
    with (
        tempfile.TemporaryDirectory(prefix="mutants-") as folder,
        concurrent.futures.ProcessPoolExecutor(workers, **start, initargs=(backend, folder)) as pool,
    ):
        yield pool


def judge_all(mutants, workers, limit, rounds, progress, report_one):
    """{mutant: (outcome, killer, seconds)}: rounds one and two on torch, then round three for survivors on TensorFlow.

    Results in the file `progress` of an interrupted run are kept.
    """
    results, judged = {}, _read_progress(progress)
    for backend, part in (("torch", slice(0, min(rounds, 2))), ("tensorflow", slice(2, rounds))):
        left = [m for m in mutants if results.get(m, ["survived"])[0] == "survived"]
        left = [m for m in left if any(rounds_for(m.file)[part])]
        if backend == "tensorflow":  # the slow round is only for mutants that it may kill
            left = [m for m in left if m.key not in equivalents()]
        results |= {m: judged[backend, m.key, m.line] for m in left if (backend, m.key, m.line) in judged}
        left = [m for m in left if (backend, m.key, m.line) not in judged]
        if not left:
            continue
        with _pool(backend, workers) as pool:
            paths = sorted({p for m in left for paths in rounds_for(m.file)[part] for p in paths})
            outcome, killer, seconds = pool.submit(judge, None, [paths], 10 * limit).result()
            if outcome != "survived":
                raise SystemExit(f"Tests fail without any mutant on {backend}:\n{killer}")
            print(f"All tests for these mutants pass on {backend}: {seconds:.0f} s", flush=True)
            waiting = {pool.submit(judge, m, rounds_for(m.file)[part], limit): m for m in left}
            for future in concurrent.futures.as_completed(waiting):
                mutant, (outcome, killer, seconds) = waiting[future], future.result()
                results[mutant] = outcome, killer, seconds + results.get(mutant, (0, 0, 0.0))[2]
                with progress.open("a") as file:
                    file.write(json.dumps([[backend, mutant.key, mutant.line], results[mutant]]) + "\n")
                report_one(mutant, *results[mutant])
    return results


def _read_progress(path):
    """{(backend, key and line of a mutant): its result} of an interrupted run."""
    lines = path.read_text().splitlines() if path.exists() else ()
    return {(b, tuple(key), line): tuple(result) for (b, key, line), result in map(json.loads, lines)}


def report(results, settings):
    """The dictionary that `--output` writes."""
    reasons = equivalents()
    rows = []
    for mutant, (outcome, killer, seconds) in sorted(results.items(), key=lambda item: (item[0].file, item[0].line)):
        if outcome == "survived" and mutant.key in reasons:
            outcome, killer = "equivalent", reasons[mutant.key]
        rows.append(
            {
                "file": mutant.file,
                "line": mutant.line,
                "before": mutant.before,
                "after": mutant.after,
                "outcome": outcome,
                "by": killer,
                "seconds": round(seconds, 1),
            }
        )
    return {**settings, **_share(rows), "files": _by_file(rows), "mutants": rows}


def _share(rows):
    counts = collections.Counter(row["outcome"] for row in rows)
    killed, judged = counts["killed"] + counts["timeout"], len(rows) - counts["equivalent"]
    return {"mutants_drawn": len(rows), **counts, "share_killed": round(killed / judged, 4) if judged else None}


def _by_file(rows):
    files = sorted({row["file"] for row in rows})
    return {file: _share([row for row in rows if row["file"] == file]) for file in files}


def text_of(summary):
    """The report for a terminal: one line for each file, then every survivor."""
    lines = [f"{'':44}drawn killed timeout survived equivalent  share"]
    for name, share in [*summary["files"].items(), ("all", summary)]:
        numbers = [share.get(k, 0) for k in ("mutants_drawn", "killed", "timeout", "survived", "equivalent")]
        kept = "" if share["share_killed"] is None else f"{share['share_killed']:.1%}"
        lines.append(f"{name.removeprefix(PACKAGE + '/'):44}{'{:5} {:6} {:7} {:8} {:10}'.format(*numbers)} {kept:>6}")
    for row in summary["mutants"]:
        if row["outcome"] == "survived":
            lines.append(f"\n{row['file']}:{row['line']}\n- {row['before']}\n+ {row['after']}")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=300, help="number of mutants (default 300)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw (default 0)")
    parser.add_argument("--workers", type=int, default=2, help="processes at once (default 2)")
    parser.add_argument("--rounds", type=int, default=3, help="1 for the specific tests only (default 3)")
    parser.add_argument("--limit", type=float, default=120, help="seconds for a mutant in one round (default 120)")
    parser.add_argument("--only", nargs="+", default=[""], help="parts of the paths of the files to mutate")
    parser.add_argument("--again", type=pathlib.Path, help="a report whose survivors are judged again")
    parser.add_argument(
        "--progress", type=pathlib.Path, default=pathlib.Path(os.devnull), help="file from which the same run resumes"
    )
    parser.add_argument("--output", type=pathlib.Path, help="JSON file for the report")
    args = parser.parse_args()

    core = [ROOT / PACKAGE / place for place in CORE]
    paths = [p for place in core for p in (sorted(place.glob("*.py")) if place.is_dir() else [place])]
    files = [str(p.relative_to(ROOT)) for p in paths if p.name != "__init__.py"]
    mutants = [m for file in files if any(part in file for part in args.only) for m in mutants_of(file)]
    if args.again:
        survivors = [row for row in json.loads(args.again.read_text())["mutants"] if row["outcome"] == "survived"]
        wanted = {(row["file"], row["before"], row["after"]) for row in survivors}
        drawn = [m for m in mutants if m.key in wanted]
    else:
        drawn = draw(mutants, args.sample, args.seed)
    print(f"{len(drawn)} of {len(mutants)} mutants", flush=True)

    def report_one(mutant, outcome, killer, seconds):
        print(f"{outcome:8} {seconds:5.1f} s  {mutant.file}:{mutant.line}  {mutant.after[:90]}  {killer}", flush=True)

    began = time.monotonic()
    results = judge_all(drawn, args.workers, args.limit, args.rounds, args.progress, report_one)
    settings = {"seed": args.seed, "mutants_known": len(mutants), "seconds": round(time.monotonic() - began)}
    summary = report(results, settings)
    print(text_of(summary))
    if args.output:
        args.output.write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""A pretrained sentence encoder on a tail of 77 intents: frozen, with LoRA, or trained whole, by four methods each.

    KERAS_BACKEND=torch python benchmarks/finetune_text.py --runs DIR [--seeds 3] [--systems probe,lora,full]
        [--output benchmarks/results/finetune_text.json]

The encoder is MiniLM (extra `text`). Every seed draws the rows of `banking77_lt` as sentences, so figures can be
compared with those of its features. A finished run is a file in DIR and is not trained again. A seed is finished before
the next one begins. With `--gather` nothing is trained: the results come from the existing runs.

Probe: the optimum of a penalized linear classifier on the features of the frozen encoder, `fit_linear_probe`. LoRA:
`enable_lora` on query and value of each attention, and the head. Full: all weights. Both heads start as the
nearest-mean classifier of the frozen features, so few epochs are enough. Post hoc is the model of ERM, adjusted.

The learning rate of a system is chosen from `RATES`: the rate with the least cross-entropy of ERM on held-out examples.
These are the tenth of seed 0's training set that `validation="stratified"` holds out; the trainings see nine tenths.
The test set takes no part.
"""

import argparse
import json
import pathlib

import numpy as np

import keras_logit_adjust as kla
from keras_logit_adjust.compare import report, statistics, storage

SYSTEMS = {"probe": "frozen encoder, linear probe", "lora": "LoRA on query and value", "full": "all weights trained"}
METHODS = {
    "erm": "cross-entropy (ERM)",
    "class_weight": "balanced class_weight",
    "la_posthoc": "logit adjustment, post hoc",
    "la_loss": "logit-adjusted loss",
}
ALIKE = 1e-3  # largest difference of features that count as equal


def rows_of(runs, labels, counts):
    """The rows of the table, and the best row.

    Args:
        runs: `{system: {seed: {trained method: test logits [N, L]}}}`.
        labels: `[N]`.
        counts: `[L]`.

    Returns:
        dict with `rows`, and `best`: the row of the least balanced error, and its difference to the best row of each
        other system. Differences are over the seeds that both have.
    """
    shift = kla.priors.log_prior(counts)
    logits = {
        (system, method): {
            seed: of["erm"] - shift if method == "la_posthoc" else of[method] for seed, of in by_seed.items()
        }
        for system, by_seed in runs.items()
        if by_seed
        for method in METHODS
    }
    figures = {
        key: [statistics.figures(labels, of, class_counts=counts) for of in by_seed.values()]
        for key, by_seed in logits.items()
    }
    error = {key: np.mean([of["balanced_error"] for of in found]) for key, found in figures.items()}

    def versus(key, other):
        common = sorted(logits[key].keys() & logits[other].keys()) if other in logits and key != other else []
        hits = [np.array([logits[k][seed].argmax(axis=-1) == labels for seed in common]) for k in (key, other)]
        return statistics.paired_difference(labels, *hits) | {"seeds": len(common)} if common else None

    best = min(error, key=error.get)
    rivals = [min((key for key in error if key[0] == system), key=error.get) for system in runs if runs[system]]
    return {
        "rows": [
            {
                "system": system,
                "method": method,
                "seeds": figures[system, method],
                "summary": statistics.summarize(figures[system, method]),
                "versus_erm": versus((system, method), (system, "erm")),
                "versus_posthoc": versus((system, method), (system, "la_posthoc")) if method == "la_loss" else None,
                "versus_probe": versus((system, method), ("probe", method)),
            }
            for system, method in logits
        ],
        "best": {
            "row": list(best),
            "versus": [{"row": list(key), **versus(best, key)} for key in rivals if key[0] != best[0]],
        },
    }


def gather(bench, seeds):
    """The results of all finished runs, for JSON."""
    import text_encoder as text

    labels, counts = bench.labels["test"], text.draw(bench.labels["train"], 0).class_counts
    runs = {
        system: {
            seed: {method: bench.run(system, method, seed) for method in text.TRAINED}
            for seed in range(seeds)
            if all(bench.path(system, method, seed).exists() for method in text.TRAINED)
        }
        for system in SYSTEMS
    }
    logits = {
        system: {seed: {method: run["logits"] for method, run in of.items()} for seed, of in by_seed.items()}
        for system, by_seed in runs.items()
    }
    stored, mine = np.load(bench.data / "minilm_features.npz"), bench.features()
    differences = [np.abs(mine[part] - stored[f"x_{part}"].astype("float32")) for part in ("train", "test")]
    apart = np.concatenate([of.max(axis=1) for of in differences])
    return {
        "command": f"python benchmarks/finetune_text.py --runs DIR --seeds {seeds}",
        "versions": storage.versions(),
        "settings": {
            "epochs": text.EPOCHS,
            "batch": text.BATCH,
            "rank": text.RANK,
            "scale": text.SCALE,
            "precision": text.PRECISION,
        },
        "class_counts": counts.tolist(),
        "stored_features": {
            "sentences": apart.size,
            "apart": int((apart > ALIKE).sum()),
            "largest_of_others": float(apart[apart <= ALIKE].max()),
        },
        "held_out_loss": {system: list(bench.rates(system).items()) for system in text.RATES if runs[system]},
        "penalty": {method: [float(of[method]["penalty"]) for of in runs["probe"].values()] for method in text.TRAINED},
        **rows_of(logits, labels, counts),
    }


def to_markdown(results):
    """The table of the results, and sentences about it."""
    columns = ("balanced_error", "many_accuracy", "medium_accuracy", "few_accuracy", "macro_f1")
    header = ["encoder", "method", "seeds", *(report.COLUMNS[key] for key in columns), "to ERM", "to the probe"]
    rows = [
        [
            SYSTEMS[row["system"]],
            METHODS[row["method"]],
            str(len(row["seeds"])),
            *(_cell(row["summary"][key]) for key in columns),
            *(report.show_difference(row[key]) if row[key] else "" for key in ("versus_erm", "versus_probe")),
        ]
        for row in results["rows"]
    ]
    return "\n\n".join([report.to_table(header, rows), _said(results), _how(results)])


def _cell(figure):
    deviation = "" if figure is None or figure["std"] is None else f" ± {figure['std']:.1f}"
    return "-" if figure is None else f"{figure['mean']:.1f}{deviation}"


def _named(row):
    system, method = row
    return f"{SYSTEMS[system]}, {METHODS[method]}"


def _said(results):
    """The best row and its lead, in sentences."""
    best, of = results["best"], {(row["system"], row["method"]): row for row in results["rows"]}
    error = of[tuple(best["row"])]["summary"]["balanced_error"]
    against = [f"{_named(row['row'])} {report.show_difference(row)}" for row in best["versus"]]
    twins = [
        f"{SYSTEMS[system]} {report.show_difference(row['versus_posthoc'])}"
        for (system, _), row in of.items()
        if row["versus_posthoc"]
    ]
    lowest = f"The lowest balanced error, {_cell(error)} %, has: {_named(best['row'])}."
    beside = f" Minus the best row of each other encoder, in points: {'; '.join(against)}." if against else ""
    missing = [title for system, title in SYSTEMS.items() if system not in {row["system"] for row in results["rows"]}]
    later = f" Not measured yet: {'; '.join(missing)}." if missing else ""
    return f"{lowest}{beside} The adjusted loss minus post hoc, in points: {'; '.join(twins)}.{later}"


def _how(results):
    """The way it was measured."""
    seeds, settings = {len(row["seeds"]) for row in results["rows"]}, results["settings"]
    stored = results["stored_features"]
    tried = "; ".join(
        f"{SYSTEMS[system]} " + ", ".join(f"{rate:g} ({loss:.3f})" for rate, loss in found)
        for system, found in results["held_out_loss"].items()
    )
    single = " With one seed the interval covers test sampling only." if 1 in seeds else ""
    trained = f"""\
{settings["epochs"]} epochs of Adam in batches of {settings["batch"]}, {settings["precision"]}, rank of LoRA \
{settings["rank"]}. Learning rates tried, chosen by the held-out cross-entropy of ERM in brackets: {tried}. """
    return f"""\
The figures are mean ± standard deviation over seeds. The last two columns are differences in balanced error, in points,
to ERM of the same encoder and to the probe with the same method. They have a 95 % paired bootstrap interval over test
examples and the seeds that both have. "None" means that the interval contains zero: no difference was found.{single}

{trained * bool(tried)}The frozen features equal those of sentence-transformers to \
{stored["largest_of_others"]:.1g}, except for {stored["apart"]} of {stored["sentences"]:,} sentences.

Repeat: `{results["command"]}`

Machine: {results["versions"]["machine"]}, {results["versions"]["backend"]} backend."""


def main():
    import text_encoder as text  # a file beside this one; tests load this one by its path

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=pathlib.Path, required=True, help="folder of the finished runs")
    parser.add_argument("--data", type=pathlib.Path, default=text.DATA, help="folder of the sentences")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--systems", default=",".join(SYSTEMS))
    parser.add_argument("--gather", action="store_true", help="train nothing")
    parser.add_argument("--output", type=pathlib.Path, help="write the results here as JSON")
    options = parser.parse_args()
    bench = text.Bench(options.runs, options.data)
    for seed in range(0 if options.gather else options.seeds):
        for system in options.systems.split(","):
            for method in text.TRAINED:
                bench.run(system, method, seed)
    results = gather(bench, options.seeds)
    print(to_markdown(results))
    if options.output:
        storage.write_text(options.output, json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""`keras-logit-adjust adjust` of a file of scores: `.csv` or `.npy` in, the same out."""

import pathlib

import numpy as np
import pytest

import keras_logit_adjust as kla
from keras_logit_adjust.cli import main

COUNTS = [90, 9, 1]
P = np.array([[0.7, 0.2, 0.1], [0.1, 0.9, 0.0], [0.25, 0.25, 0.5]])
ADJUSTED = kla.adjust_scores(P, COUNTS)
COMMAND = ["adjust", "scores.csv", "--counts", "counts.csv", "--output", "out.csv"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with class counts and scores; the commands run in it."""
    monkeypatch.chdir(tmp_path)
    write("counts.csv", "class_id,count", *(f"{c},{count}" for c, count in enumerate(COUNTS)))
    write("scores.csv", "ant,bee,cat", *(",".join(map(str, row)) for row in P.tolist()))
    np.save("scores.npy", P.astype("float32"))
    return tmp_path


def write(path, *lines):
    pathlib.Path(path).write_text("\n".join(lines) + "\n")


def written(path="out.csv", delimiter=","):
    """The lines of a file that was written, as fields."""
    return [line.split(delimiter) for line in pathlib.Path(path).read_text().splitlines()]


def test_a_table_of_probabilities_is_adjusted_and_keeps_its_header(capsys):
    assert main(COMMAND) == 0
    header, *rows = written()
    assert header == ["ant", "bee", "cat"]
    np.testing.assert_array_equal(np.array(rows, float), ADJUSTED)
    assert capsys.readouterr().out.splitlines() == [
        "scores    3 rows, 3 classes, probabilities",
        "adjusted  tau 1, prior of counts.csv, target prior uniform",
        "paired    counts.csv by position: column 'ant' ← 90, column 'bee' ← 9, column 'cat' ← 1",
        "note      numbers do not show that they are adjusted: do not adjust out.csv again",
        "",
        "Written to out.csv: the adjusted scores",
    ]


def test_an_array_is_adjusted_in_its_precision():
    assert main(["adjust", "scores.npy", "--prior", "counts.csv", "--tau", "0.5", "--output", "out.npy"]) == 0
    found = np.load("out.npy")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, kla.adjust_scores(P, COUNTS, tau=0.5), atol=1e-7)


TABLES = {
    "without a header": [",".join(map(str, row)) for row in P.tolist()],
    "ids as header": ["0,1,2", *(",".join(map(str, row)) for row in P.tolist())],
    "pandas": [",0,1,2", *(f"{i}," + ",".join(map(str, row)) for i, row in enumerate(P.tolist()))],
    "names of rows, semicolons": ["id;ant;bee;cat", *("a;" + ";".join(map(str, row)) for row in P.tolist())],
    "tabs": ["\t".join(map(str, row)) for row in P.tolist()],
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_every_form_come_back_in_theirs(name):
    lines = TABLES[name]
    write("scores.csv", *lines)
    assert main(COMMAND) == 0
    delimiter = next(mark for mark in "\t;," if mark in lines[0])
    found = written(delimiter=delimiter)
    has_header, has_names = len(lines) > len(P), len(lines[0].split(delimiter)) == 4
    assert not has_header or found[0] == lines[0].split(delimiter)
    rows = found[has_header:]
    np.testing.assert_array_equal(np.array([row[has_names:] for row in rows], float), ADJUSTED)
    assert [row[: int(has_names)] for row in rows] == [
        line.split(delimiter)[: int(has_names)] for line in lines[has_header:]
    ]


def test_columns_that_name_class_ids_in_another_order_are_known(capsys):
    order = [2, 0, 1]
    write("scores.csv", "2,0,1", *(",".join(map(str, row)) for row in P[:, order].tolist()))
    write("target.csv", "class_id,count", "0,5", "1,3", "2,2")
    assert main([*COMMAND, "--target-prior", "target.csv"]) == 0
    header, *rows = written()
    assert header == ["2", "0", "1"]
    right = kla.adjust_scores(P, COUNTS, target_prior=[5, 3, 2])[:, order]
    np.testing.assert_allclose(np.array(rows, float), right, rtol=1e-14)
    printed = capsys.readouterr().out
    assert "paired    counts.csv by class id: column '2' ← 1, column '0' ← 90, column '1' ← 9\n" in printed
    assert "paired    target.csv by class id: column '2' ← 2, column '0' ← 5, column '1' ← 3\n" in printed


def test_ids_of_many_classes_are_a_header():
    write("counts.csv", "class_id,count", *(f"{c},{c + 1}" for c in range(12)))
    write("scores.csv", ",".join(map(str, range(12))), ",".join(["0.25"] * 4 + ["0"] * 8))
    assert main(COMMAND) == 0
    assert written()[0] == [str(c) for c in range(12)] and len(written()) == 2


def test_one_column_is_the_second_of_two_classes():
    write("counts.csv", "class_id,count", "0,90", "1,10")
    write("scores.csv", "p", "0.1", "0.5")
    assert main(COMMAND) == 0
    header, *rows = written()
    assert header == ["p"]
    np.testing.assert_allclose(np.array(rows, float), [[0.5], [0.9]], rtol=1e-12)


@pytest.mark.parametrize("kind", ["logits", "log_probabilities"])
def test_the_kind_of_the_scores_is_an_option(kind, capsys):
    write("scores.csv", *(",".join(map(str, row)) for row in np.log(P[[0, 2]]).tolist()))
    assert main([*COMMAND, "--kind", kind]) == 0
    right = kla.adjust_scores(np.log(P[[0, 2]]), COUNTS, kind=kind)
    np.testing.assert_array_equal(np.array(written(), float), right)
    assert f"2 rows, 3 classes, {kind.replace('_', '-')}\n" in capsys.readouterr().out


def test_labels_of_their_own_are_adjusted_by_their_odds():
    write("scores.csv", "0.5,0.5,0.5", "0.9,0.1,0.9")
    assert main([*COMMAND, "--num-examples", "200"]) == 0
    right = kla.adjust_scores([[0.5] * 3, [0.9, 0.1, 0.9]], COUNTS, num_examples=200)
    np.testing.assert_array_equal(np.array(written(), float), right)


UNDOING = {
    "balanced weights": (["--class-weight", "balanced"], {"class_weight": "balanced"}, "class weights balanced"),
    "weights in a file": (["--class-weight", "w.csv"], {"class_weight": [1, 2.5, 9]}, "class weights w.csv"),
    "resampling": (["--resampled-counts", "r.csv"], {"resampled_counts": [90, 90, 45]}, "resampled to r.csv"),
}


@pytest.mark.parametrize("name", UNDOING)
def test_weights_and_resampling_are_undone(name, capsys):
    options, how, shown = UNDOING[name]
    write("w.csv", "class_id,weight", "2,9", "0,1", "1,2.5")
    write("r.csv", "class_id,count", "0,90", "1,90", "2,45")
    assert main([*COMMAND, *options, "--target-prior", "counts.csv"]) == 0
    right = kla.adjust_scores(P, kla.priors.effective_prior(COUNTS, **how), target_prior=COUNTS)
    np.testing.assert_allclose(np.array(written()[1:], float), right, rtol=1e-14)
    assert f"prior of counts.csv, {shown}, target prior of counts.csv\n" in capsys.readouterr().out


def test_a_prior_is_read_from_a_file_of_shares():
    write("prior.csv", "class_id,prior", "0,0.9", "1,0.09", "2,0.01")
    assert main(["adjust", "scores.csv", "--prior", "prior.csv", "--output", "out.csv"]) == 0
    np.testing.assert_allclose(np.array(written()[1:], float), ADJUSTED, rtol=1e-12)


BAD = {
    "an option of models": (["--fold"], [], "--fold is for models"),
    "tau auto": (["--tau", "auto"], [], "--tau auto is for models"),
    "negative counts": (
        ["--counts", "neg.csv"],
        [],
        "Every count in neg.csv must be greater than zero: a class that was never seen has no finite log-prior. "
        "Received [-9, 0] at classes 1, 2.",
    ),
    "ids left out": (["--counts", "gap.csv"], [], "gap.csv: 2 rows, largest id 3, missing: 1, 2: add the rows"),
    "another format": (["--output", "out.npy"], [], "--output must be named ….csv"),
    "no such file": ([], None, "No such file: scores.csv"),
    "another width": ([], ["0.5,0.5"], "a column for each of 3 classes, the classes in counts.csv, separated"),
    "nothing": ([], [""], "Its first line is ''"),
    "a short line": ([], ["0.5,0.25,0.25", "", "0.5,0.5"], "must have 3 fields. Line 3 has 2"),
    "text": (
        [],
        ["0.5,0.25,0.25", "0.5,none,0.5"],
        "must be numbers, with a point. Received: 'none' in line 2, column 2.\n",
    ),
    "an empty cell": (
        [],
        ["id,ant,bee,cat", "a,0.5,0.25,0.25", "", "b,0.5,,0.5"],
        "Received: '' in line 4, column 3 ('bee'): give it a number, or leave that row out.",
    ),
    "decimal commas": ([], ["0,5;0,25;0,25", "0,5;0,25;0,25"], "must be numbers, with a point. Received: '0,5'"),
    "a header alone": ([], ["a,b,c"], "`scores` must have shape [N, 3]"),
    "logits": (
        [],
        ["2,-1,0.5"],
        "Received 2 in row 0 (1 of 1 rows): divide percentages by 100; scores of other kinds: --kind",
    ),
    "scores in the first line": ([], ["0.5x,0.25,0.25", "0.5,0.25,0.25"], "must be names or scores. Received '0.25'"),
    "an empty field": ([], [",a,b", "0.5,0.25,0.25"], "must be names or scores. Received '' among ,a,b"),
    "ids from 1 on": (["--kind", "logits"], ["1,2,3", "0.5,1,2"], "The first line of scores.csv, 1,2,3, may be class"),
    "one class more": (["--kind", "logits"], ["0.5,-1,2,0.25"], "give counts of 4 classes, or leave that column out"),
    "one class more, with names": (
        [],
        ["ant,bee,cat,dog", "0.5,0.25,0.25,0"],
        "counts.csv has 3 classes. Received '0.5' in column 'ant', which is a score: give counts of 4 classes",
    ),
    "a row of zeros": (
        [],
        ["id,ant,bee,cat", "a,0.5,0.25,0.25", "", "b,0,0,0"],
        "Every row of scores.csv must have a class that is possible. Received only 0 in line 4 (1 of 2 rows): leave",
    ),
    "NaN": ([], ["nan,0.5,0.5"], "must not be NaN"),
    "an output that exists": (["--output", "scores.csv"], [], "exists and is not overwritten"),
    "weights of words": (["--class-weight", "w.csv"], [], "must have a whole number and a number in each row"),
    "weights of no file": (["--class-weight", "even"], [], "A file of class weights must be one that can be read"),
    "weights of 0": (["--class-weight", "z.csv"], [], "Every number in --class-weight must be greater than zero"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_clear_error_and_nothing_is_written(name, folder, capsys):
    options, lines, message = BAD[name]
    write("w.csv", "class_id,weight", "0,1", "1,much", "2,1")
    write("z.csv", "class_id,weight", "0,1", "1,0", "2,1")
    write("neg.csv", "class_id,count", "0,9", "1,-9", "2,0")
    write("gap.csv", "class_id,count", "0,9", "3,1")
    if lines is None:
        pathlib.Path("scores.csv").unlink()
    elif lines:
        write("scores.csv", *lines)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert main([*COMMAND, *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("keras-logit-adjust: ") and message in error
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_ids_that_may_be_probabilities_are_refused(capsys):
    write("counts.csv", "class_id,count", "0,90", "1,10")
    write("scores.csv", "0,1", "0.5,0.5")
    assert main(COMMAND) == 2
    assert "may be class ids or scores" in capsys.readouterr().err


@pytest.mark.parametrize(("first", "header"), [(0, ["i,score"]), (1, [])])
def test_numbers_of_rows_are_no_scores_of_the_first_of_two_classes(first, header, capsys):
    write("counts.csv", "class_id,count", "0,90", "1,10")
    write("scores.csv", *header, *(f"{first + row},{score}" for row, score in enumerate([-1.5, 2.5, 0.5])))
    assert main([*COMMAND, "--kind", "logits"]) == 2
    assert "The first of 2 columns in scores.csv counts the rows" in capsys.readouterr().err


def test_a_damaged_array_is_refused(capsys):
    pathlib.Path("scores.npy").write_bytes(b"no array")
    assert main(["adjust", "scores.npy", "--counts", "counts.csv", "--output", "out.npy"]) == 2
    assert "scores.npy must be an array of numbers, as numpy.save writes it" in capsys.readouterr().err
    with open("scores.npy", "wb") as file:
        np.savez(file, scores=np.ones((2, 3)))
    assert main(["adjust", "scores.npy", "--counts", "counts.csv", "--output", "out.npy"]) == 2
    assert "it is an archive of arrays, as numpy.savez writes it" in capsys.readouterr().err


# --- By name ---------------------------------------------------------------------------------------------------------


def test_files_by_name_are_put_in_order_of_the_header(capsys):
    write("counts.csv", "Class,Count", "cat,1", "ant,90", "bee,9")
    write("w.csv", "class;weight", "bee;2.5", "cat;9", "ant;1")
    write("t.csv", "class,prior", "cat,0.5", "bee,0.3", "ant,0.2")
    assert main([*COMMAND, "--class-weight", "w.csv", "--target-prior", "t.csv"]) == 0
    prior = kla.priors.effective_prior(COUNTS, class_weight=[1, 2.5, 9])
    right = kla.adjust_scores(P, prior, target_prior=[0.2, 0.3, 0.5])
    np.testing.assert_allclose(np.array(written()[1:], float), right, rtol=1e-14)
    printed = capsys.readouterr().out
    assert "paired    counts.csv by name: column 'ant' ← 90, column 'bee' ← 9, column 'cat' ← 1\n" in printed
    assert "paired    w.csv by name: column 'ant' ← 1, column 'bee' ← 2.5, column 'cat' ← 9\n" in printed


def test_resampled_counts_may_be_by_name_too():
    write("scores.csv", "image,cat,ant,bee", *(f"i{i},{c},{a},{b}" for i, (a, b, c) in enumerate(P.tolist())))
    write("counts.csv", "class,count", "ant,90", "bee,9", "cat,1")
    write("r.csv", "class,count", "cat,45", "bee,90", "ant,90")
    assert main([*COMMAND, "--resampled-counts", "r.csv"]) == 0
    right = kla.adjust_scores(P, kla.priors.effective_prior(COUNTS, resampled_counts=[90, 90, 45]))[:, [2, 0, 1]]
    np.testing.assert_allclose(np.array([row[1:] for row in written()[1:]], float), right, rtol=1e-13)


def test_the_only_column_is_of_the_class_that_it_names(capsys):
    write("counts.csv", "class,count", "bear,10", "rest,90")
    write("scores.csv", "bear", "0.1", "0.5")
    assert main(COMMAND) == 0
    np.testing.assert_allclose(np.array(written()[1:], float), [[0.5], [0.9]], rtol=1e-12)
    assert "paired    counts.csv by name: column 'bear' ← 10\n" in capsys.readouterr().out


def test_class_ids_in_the_column_class_are_ids():
    write("counts.csv", "class,count", "2,1", "0,90", "1,9")
    for header, order in (([], [0, 1, 2]), (["2,0,1"], [2, 0, 1])):
        write("scores.csv", *header, *(",".join(map(str, row)) for row in P[:, order].tolist()))
        assert main([*COMMAND, "--force"]) == 0
        np.testing.assert_allclose(np.array(written()[len(header) :], float), ADJUSTED[:, order], rtol=1e-14)


def test_five_pairs_are_shown_of_many(capsys):
    write("counts.csv", "class,count", *(f"k{c},{c + 1}" for c in range(12)))
    write("scores.csv", ",".join(f"k{c}" for c in range(12)), ",".join(["0.25"] * 4 + ["0"] * 8))
    assert main(COMMAND) == 0
    assert "column 'k4' ← 5, … (12 in all)\n" in capsys.readouterr().out


BAD_NAMES = {
    "other names": (
        ["ant,90", "bee,9", "dog,1"],
        "missing in counts.csv: ['cat'], missing in the first line of scores.csv: ['dog']",
    ),
    "a name twice": (["ant,90", "bee,9", "ant,1"], "counts.csv, line 4: 'ant' again"),
    "no name": (["ant,90", ",9", "cat,1"], "counts.csv, line 3: no name"),
    "no number": (["ant,90", "bee,", "cat,1"], "Received counts.csv, line 3: 'bee,'"),
    "a short row": (["ant,90", "bee", "cat,1"], "Received counts.csv, line 3: 'bee'"),
    "half an example": (["ant,90", "bee,9.5", "cat,1"], "'9.5' is no whole number"),
    "a count of 0": (["ant,90", "bee,0", "cat,0"], "greater than zero: a class that was never seen has no finite"),
    "no rows": ([], "Received counts.csv, which has no row"),
    "a class less": (["ant,90", "bee,9"], "Received 2 names for 3; missing in counts.csv: ['cat'], missing in the"),
    "two classes more": (
        ["ant,90", "bee,9", "cat,1", "dog,2", "emu,3"],
        "missing in the first line of scores.csv: ['dog', 'emu']. Remedy: remove from counts.csv the names that "
        "the first line of scores.csv does not have.\n",
    ),
}


@pytest.mark.parametrize("name", BAD_NAMES)
def test_counts_by_name_that_do_not_fit_are_refused(name, capsys):
    lines, message = BAD_NAMES[name]
    write("counts.csv", "class,count", *lines)
    assert main(COMMAND) == 2
    assert message in (error := capsys.readouterr().err)
    assert name != "a count of 0" or "Received [0, 0] at classes 'bee', 'cat'" in error
    assert not pathlib.Path("out.csv").exists()


@pytest.mark.parametrize(
    ("header", "first", "missing"),
    [("image,ant,bee,cat,dog", "a", ["dog"]), ("dog,ant,bee,cat,emu", "0.2", ["dog", "emu"])],
)
def test_classes_without_a_count_are_named_beside_both_files(header, first, missing, capsys):
    write("counts.csv", "class,count", "ant,90", "bee,9", "cat,1")
    write("scores.csv", header, f"{first},0.2,0.2,0.2,0.2")
    assert main(COMMAND) == 2
    error = capsys.readouterr().err
    assert "counts.csv must name every class in the first line of scores.csv once" in error
    assert f"missing in counts.csv: {missing}" in error
    assert (
        "Remedy: give each a row in counts.csv (if some have no examples, add 1 to every count), or leave it out of"
        in error
    )


def test_a_row_of_zeros_in_an_array_is_named_by_its_row(capsys):
    np.save("scores.npy", [[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]])
    assert main(["adjust", "scores.npy", "--counts", "counts.csv", "--output", "out.npy"]) == 2
    assert "Received only 0 in row 1 (1 of 2 rows)" in capsys.readouterr().err


def test_counts_by_name_need_columns_with_names(capsys):
    write("counts.csv", "class,count", "ant,90", "bee,9", "cat,1")
    write("scores.csv", *(",".join(map(str, row)) for row in P.tolist()))
    assert main(COMMAND) == 2
    remedy = "put the column class_id in place of class, 0 for the first class and so on"
    error = capsys.readouterr().err
    assert f"scores.csv has no line of names: {remedy}, or begin the scores with a line of names." in error
    assert main(["adjust", "scores.npy", "--counts", "counts.csv", "--output", "out.npy"]) == 2
    assert f"scores.npy has no line of names: {remedy}.\n" in capsys.readouterr().err


def test_a_column_of_text_is_named_and_a_class_may_be_called_nan(capsys):
    write("counts.csv", "class,count", "ant,90", "nan,9", "cat,1")
    write("scores.csv", "image,ant,nan,cat,label", "a,0.5,0.25,0.25,ant")
    assert main(COMMAND) == 2
    assert "Column 'label' has text, such as 'ant': remove the column from the file" in capsys.readouterr().err
    write("scores.csv", "image,ant,nan,cat", *(f"nan,{a},{b},{c}" for a, b, c in P.tolist()))
    assert main(COMMAND) == 0
    np.testing.assert_allclose(np.array([row[1:] for row in written()[1:]], float), ADJUSTED, rtol=1e-12)

"""Tables and their labels: what is read, and what is said of bad input."""

import datetime
import io
import os
import random
import sys
import zipfile

import pandas
import pytest
from reviews import refusal, refuses, write_csv, write_data

from benchmarks.accuracy import odd_files
from sentiment_jax.config.schema import DataConfig
from sentiment_jax.data.dataset import load_dataset
from sentiment_jax.data.table import (
    CLASS_FOLDERS,
    find_format,
    read_table,
    read_texts,
    write_table,
)
from sentiment_jax.data.texts import decode, read_files

GOOD = [(f"a good film {i}", "pos") for i in range(10)]
BAD = [(f"a bad film {i}", "neg") for i in range(10)]


def error_of(path, raw=None):
    if raw is not None:
        path.write_bytes(raw)
    message = refusal(path, read_texts, DataConfig("csv", str(path)))
    assert len(message) < 400
    return message


def test_csv_with_a_test_file(tmp_path):
    train = write_csv(tmp_path / "train.csv", [(9, *row) for row in GOOD + BAD], ("n", "x", "y"))
    test = write_csv(tmp_path / "test.csv", [("negative", "dull"), ("1", "fun")], ("y", "x"))
    data = DataConfig("csv", train, text_column="x", label_column="y", test_path=test)
    pool, held_out = read_texts(data)
    assert pool.texts == tuple(text for text, _ in GOOD + BAD)
    assert pool.codes.tolist() == [1] * 10 + [0] * 10
    assert pool.ids == tuple(f"row {i}" for i in range(2, 22))
    assert held_out.ids == ("test row 2", "test row 3")
    assert held_out.texts == ("dull", "fun") and held_out.codes.tolist() == [0, 1]


def test_published_sets_come_in_three_files(tmp_path):
    files = {
        "path": GOOD + BAD,
        "validation_path": [("so-so", "neg")],
        "test_path": [("fun", "pos")],
    }
    header = ("text", "label")
    rows = {name: [[*row] for row in of] for name, of in files.items()}
    paths = {n: write_csv(tmp_path / f"{n}.csv", of, header) for n, of in rows.items()}
    splits = load_dataset(DataConfig("csv", **paths, limit=8)).splits
    assert {name: len(of) for name, of in splits.items()} == {"train": 8, "val": 1, "test": 1}
    assert (splits["val"].ids, splits["val"].texts) == (("validation row 2",), ("so-so",))
    assert splits["test"].ids == ("test row 2",)
    paths.pop("test_path")
    splits = load_dataset(DataConfig("csv", **paths)).splits  # the test is a share of data.path
    assert [len(splits[name]) for name in ("train", "val", "test")] == [16, 1, 4]
    write_csv(tmp_path / "validation_path.csv", [("so-so", "x")] * 5, header)
    refuses("'x' is in .*validation_path.csv alone", load_dataset, DataConfig("csv", **paths))


def test_csv_without_a_test_file_holds_out_a_stratified_seeded_share_without_leakage(tmp_path):
    rows = GOOD + BAD + GOOD[:3]
    pool, test = read_texts(write_data(tmp_path, rows, test_fraction=0.3))
    assert test.codes.tolist().count(0) == 3 and abs(test.codes.tolist().count(1) - 4) <= 1
    assert not set(pool.texts) & set(test.texts)
    for reviews in (pool, test):  # ids lead back to the rows, in the order of the file
        numbers = [int(name.removeprefix("row ")) for name in reviews.ids]
        assert numbers == sorted(numbers)
        assert [rows[n - 2][0] for n in numbers] == list(reviews.texts)
    shuffled = random.Random(0).sample(rows, len(rows))
    _, again = read_texts(write_data(tmp_path, shuffled, test_fraction=0.3))
    assert {*again.texts} == {*test.texts}
    for changes in ({"split_seed": 1}, {"group_duplicates": False}):
        _, other = read_texts(write_data(tmp_path, rows, test_fraction=0.3, **changes))
        assert {*other.texts} != {*test.texts}


def test_csv_cells_may_hold_newlines_commas_quotes_and_100_000_words():
    long = "word " * 100_000
    raw = f'\ufefftext,label\r\n"a ""b"",\r\nc",1\r\n\r\n{long},0\r\n'.encode()
    table = read_table(raw, "file.csv", ["label", "text"])
    assert table.texts == [["1", 'a "b",\r\nc'], ["0", long]]
    assert table.rows == [2, 4]  # row 3 is the blank line


GOOD_LINE = '{"text": "good", "label": 1}'


def test_malformed_csv_names_file_and_row(tmp_path):
    for raw, expected in (
        (b"", "the file is empty"),
        (b"text,label\n", "no texts"),
        (b"review\tstars\na\t1\n", "'text': its columns are 'review', 'stars'; name yours by --c"),
        (b"Good.\nA dull film.\n", "first line is a header like text,label, and each further"),
        (b"text,label\n1,a\n2.5,b\n", "column 'text': the texts are numbers: name another"),
        (b'text,label\n"a "good" film",1\n', "after row 1: ',' expected after '\"': check or doub"),
        (b"\x1f\x8b\x08\x00", "is compressed (gzip): unpack it, or save it as a CSV file"),
        (b"PK\x03\x04\x14\x00", "is an Excel workbook or a zip archive, which pandas can't read ("),
        (b"PAR1\x15\x04", "): save it as a CSV file in UTF-8"),
        (
            b"\xd0\xcf\x11\xe0",
            "is an Excel workbook of before 2007: unpack it, or save",
        ),
        (b"text\ngood\n", "'label': its columns are 'text'"),
        (b"text,text,label\na,b,1\n", "'text', 'text', 'label'"),
        (b"text,label\ngood,1\nbad\nfine,1\n", "row 3: 1 cells where the header has 2"),
        (b"text,label\ngood, but long,1\n", "row 2: 3 cells where the header has 2"),
        (b'text,label\ngood,1\n"never closed,0\nfine,1\n', "after row 2"),
        (b'text,label\n"caf\xc3\xa9\nau lait",1\ncaf\xe9,1\n', "line 4: byte 0xe9 is not UTF-8"),
        ("text,label\ngood,1\n".encode("utf-16")[:-1], "line 2: byte 0x0a is not UTF-16"),
        ("text,label\ngood,1\n".encode("utf-16-le"), "line 1: a NUL byte, as in UTF-16 without"),
    ):
        assert expected in error_of(tmp_path / "reviews.csv", raw)


def test_malformed_json_lines_name_file_and_line(tmp_path):
    for line, expected in (
        ('{"text": "good", "label": 1', "line 2: Expecting ',' delimiter: column 28"),
        ("good", "line 2: Expecting value: column 1 (char 0): write an object per line, like {"),
        ('["good", 1]', "line 2: '[\"good\", 1]' is not an object: write an object per line"),
        ('{"text": ["good"], "label": 1}', "line 2: 'text' is not a text"),
        ('{"texts": "good", "label": 1}', "needs one column 'text': its columns are 'texts', 'la"),
        ('{"text": "good", "label": "?"}', "row 2: '?'"),
        ('{"text": "good", "label": null}', "row 2: ''"),
        ("[" * 100_000, "line 2: "),
        (f'{{"text": "good", "label": {"1" * 5000}}}', "line 2: Exceeds the limit (4300 digits)"),
        ('{"text": "caf\xe9", "label": 1}', "line 2: byte 0xe9 is not UTF-8"),
        ('{"text": "caf\x00", "label": 1}', "line 2: a NUL byte, as in UTF-16"),
    ):
        raw = f"{GOOD_LINE}\n{line}\n{GOOD_LINE}\n".encode("latin-1")
        assert expected in error_of(tmp_path / "reviews.jsonl", raw)


def test_a_table_that_is_not_utf_8_is_read_by_its_encoding(tmp_path):
    path = tmp_path / "reviews.csv"
    raw = "".join(["text,label\n", *(f"caf\xe9 {i},{i % 2}\n" for i in range(10))]).encode("cp1252")
    message = error_of(path, raw)
    assert "line 2: byte 0xe9 is not UTF-8: save it as UTF-8, or train with --config." in message
    pool, _ = read_texts(DataConfig("csv", str(path), encoding="cp1252"))
    assert "caf\xe9" in pool.texts[0]
    for encoding in ("ascii", "latin-one"):
        problem = f"line 2: byte 0xe9 is not UTF-8 nor data.encoding={encoding}: save it as UTF-8"
        refuses(problem, read_texts, DataConfig("csv", str(path), encoding=encoding))
    path.write_bytes(raw.decode("cp1252").encode())  # UTF-8 goes before
    assert read_texts(DataConfig("csv", str(path), encoding="cp1252"))[0].texts == pool.texts
    path.write_bytes(raw.decode("cp1252").replace("\xe9", "\u65e5").encode("iso2022_jp"))  # ASCII
    texts = read_texts(DataConfig("csv", str(path), encoding="iso2022_jp"))[0].texts
    assert len(texts) == 8 and all("caf\u65e5 " in text for text in texts)
    for encoding in ("utf-16", "utf-16-le", "utf-32"):  # plain ASCII of an even length is not
        assert decode(b"text\nfine\n", "1.txt", encoding) == "text\nfine\n"
    assert decode("fine".encode("utf-16-le"), "1.txt", "utf-16-le") == "fine"
    folder = path.parent / "texts" / "a"
    folder.mkdir(parents=True)
    (folder / "1.txt").write_bytes(b"caf\xe9")
    for encoding, expected in ((None, "UTF-8$"), ("", "data.encoding=cp1252 \\(Latin-1\\)$")):
        refuses(expected, decode, b"caf\xe9", "1.txt", encoding)
    assert read_files(folder.parent, CLASS_FOLDERS, "latin-1") == {"a/1.txt": "caf\xe9"}


def test_a_column_is_found_whatever_its_case_unless_several_are(tmp_path):
    for header in ("Text;LABEL", "text; Label", "TEXT;text;label"):
        table = read_table(f"{header}\n{header}\n".encode(), "x.csv", ["label", "text"])
        names = header.split(";")
        assert table.columns == names and table.texts == [[names[-1], names[-2]]]
    table = read_table(b'{"Text": "a"}\n{"text": "b", "TEXT": "c"}', "x.jsonl", ["text"])
    assert table.texts == [["a"], ["b"]]
    for raw in (b"Text,TEXT\na,b\n", b'{"Text": "a", "TEXT": "b"}'):
        refuses(
            "needs one column 'text': its columns are 'Text', 'TEXT'",
            read_table,
            raw,
            "x",
            ["text"],
        )


def test_commas_begin_decimals_where_semicolons_separate_cells(tmp_path):
    rows = [f"film {i}, no 1,5;{1 + i % 3},{5 * (i % 2)}\n" for i in range(60)] + ["1,5;1,0\n"]
    path = tmp_path / "reviews.csv"
    path.write_text("".join(["text;label\n", *rows]))
    pool, _ = read_texts(DataConfig("csv", str(path)))
    assert pool.classes == ("1", "1.5", "2", "2.5", "3", "3.5") and "no 1,5" in pool.texts[0]
    assert {"1,5"} == {text for text in pool.texts if "film" not in text}


def test_a_comma_between_labels_begins_no_decimals(tmp_path):
    rows = [f"{i},5;{('1,5', '5', '1')[i % 3]}\n" for i in range(60)] + ["good;1\n"]
    path = tmp_path / "reviews.csv"
    path.write_text("".join(["text;label\n", *rows]))
    pool, test = read_texts(DataConfig("csv", str(path), label_separator=","))
    assert pool.classes == ("1", "5") and "0,5" in pool.texts + test.texts
    assert (pool.labels.sum(axis=0) + test.labels.sum(axis=0)).tolist() == [41, 40]


def test_an_only_column_is_read_whatever_its_header(capsys):
    """If one column is wanted. A warning shows the header, for it may be a text."""
    table = read_table(b"Great film\r\ngood\r\n\r\nbad\r\n", "x.csv", ["text"])
    assert (table.rows, table.texts) == ([2, 3, 4], [["good"], [""], ["bad"]])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: x.csv has no column 'text'") and "'Great film'" in line
    assert read_table(b"text\na, b\n", "x.tsv", ["text"]).texts == [["a, b"]]
    for header in (b"review;label", b"review\tlabel", b'"review,label"'):
        refuses("x.csv needs one column 'text'", read_table, header + b"\na;1\n", "x.csv", ["text"])
    refuses("its columns are 'text'", read_table, b"text\ngood\n", "x.csv", ["text", "label"])
    assert capsys.readouterr().err == ""


def test_json_lines_with_labels_of_every_kind(tmp_path):
    path = tmp_path / "reviews.jsonl"
    first = '{"id": 7, "text": "caf\\u00e9", "label": "pos"}'
    third = '{"label": 0, "more": {"a": [1]}, "text": "b,\\n\\"c\\""}'
    last = '{"text": "d", "label": "0"}'
    path.write_text("\r\n".join([first, "", GOOD_LINE, "  ", third, last]))
    reviews, _ = read_texts(DataConfig("csv", str(path), test_path=str(path)))
    assert reviews.texts == ("café", "good", 'b, "c"', "d")
    assert reviews.codes.tolist() == [1, 1, 0, 0]
    assert reviews.ids == ("row 1", "row 3", "row 5", "row 6")  # the lines of the file


def test_a_format_is_found_by_the_first_line_or_else_the_name():
    for name, first, kind in (
        ("a.txt", GOOD_LINE, "{"),
        ("a.csv", GOOD_LINE, "{"),
        ("a", ' { "x": 1}', "{"),
        ("a.NDJSON", "", "{"),
        ("a.json", "[", "{"),
        ("a.jsonl", "text,label", ","),
        ("a.txt", "{so} good", ""),
        ("a.csv", "{so} good", ",\t;|"),
        ("a.txt", "{" * 100_000, ""),
        ("a.txt", "text\tlabel", "\t"),
        ("a.tsv", "text;label", ";"),
        ("a.csv", "text|label", "|"),
        ("a.tsv", "a\ttext\ta,text,label", ","),  # it finds both columns
        ("a.txt", "the text, a label", ""),
    ):
        assert find_format(f"{first}\nand more\n", name, ["text", "label"]) == kind


@pytest.mark.parametrize("line", odd_files.FILES.splitlines())
def test_an_odd_file_is_read_right_or_refused(line, tmp_path):
    name, _, words = line.rpartition(": ")
    if not name.endswith(".xlsx"):
        _, wanted, settings = odd_files.write(tmp_path / name, words.split(" "))
        came = odd_files.read(tmp_path / name, wanted, settings)
        refused = (
            name.startswith(("commas in texts", "a cell too many", "a JSON array"))
            or "sep=" in name
        )
        assert came.startswith("refused" if refused else "right")


def test_a_table_without_header_is_read_by_the_numbers_of_its_columns(tmp_path):
    data = DataConfig(header=False, text_column="2", separator=";", quote="'")
    raw = b"Sport;'Ja; ja'\nWeb;Nein\n"
    for name in ("a.csv", "a.txt", "standard input"):
        table = read_table(raw, name, ["2"], data, otherwise="", flags="--")
        assert (table.rows, table.texts, table.columns) == (
            [1, 2],
            [["Ja; ja"], ["Nein"]],
            ["1", "2"],
        )
    assert read_table(b"Ja, ja\nNein\n", "a.txt", ["2"], data, otherwise="").texts[0] == ["Ja, ja"]
    for form, problem in (
        (DataConfig(header=False), "add --config.data.separator=, or --config.data.separator=';'$"),
        (
            DataConfig(header=False, separator=";"),
            "'3': its columns are '1', '2'; .*text_column=1$",
        ),
    ):
        refuses(problem, read_table, b"1,5;So\n2,5;So\n", "a.csv", ["3"], form)
    header = ",".join(f"c{i}" for i in range(25)).encode()
    refuses("'c18', 'c19' and 5 more; name yours", read_table, header, "a.csv", ["text"])
    wanted = "looks like a text: write the names of the columns above it$"
    refuses(wanted, read_table, b"a,So\na,So so\n", "a.csv", ["text"], flags="--")
    refuses(
        "by --text_column='My text'$",
        read_table,
        b"n,My text\n1,So\n",
        "a.csv",
        ["text"],
        flags="--",
    )


def test_the_whole_table_is_kept():
    for raw, columns, cells in (
        (b'{"id": 1, "text": "a"}\n{"text": "b"}', "id text", [[1, "a"], [None, "b"]]),
        (b'{"text": "a"}\n{"n": 2.5, "text": "b"}', "text n", [["a", None], ["b", 2.5]]),
        (b'{"text": "a", "n": NaN, "more": [-Infinity]}', "text n more", [["a", None, [None]]]),
        (b"id;text;n\n1;good;\n", "id text n", [["1", "good", ""]]),
        (b"good\nbad\n", "text", [["good"], ["bad"]]),
    ):
        table = read_table(raw, "-", ["text"], otherwise="")
        assert (table.columns, table.cells) == (columns.split(), cells)


def test_a_folder_of_classes_is_a_table_of_its_files(tmp_path):
    for folder in ("Train", "Test"):
        for name, label in (("dull", "so so"), ("fun", "good"), (".hidden", "good")):
            for i in range(5):
                path = tmp_path / folder / label / f"{name}{i}.txt"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(f"{name} {folder} {i}")
    data = DataConfig("csv", str(tmp_path / "Train"), test_path=str(tmp_path / "Test"))
    pool, test = read_texts(data)
    assert pool.classes == ("good", "so so")
    assert pool.ids == tuple(
        f"{name}{i}.txt" for name in ("good/fun", "so so/dull") for i in range(5)
    )
    assert pool.texts[4:6] == ("fun Train 4", "dull Train 0")
    assert pool.codes.tolist() == [0] * 5 + [1] * 5
    assert test.ids[0] == "test good/fun0.txt"
    (tmp_path / "Test/good/LOUD.TXT").write_text("loud")
    assert "loud" in read_texts(data)[1].texts
    (tmp_path / "Train/good/x.txt").symlink_to(tmp_path / "Test/good/fun1.txt")
    assert "is a link out of" in error_of(tmp_path / "Train")


def test_pandas_reads_a_parquet_file(tmp_path):
    path = tmp_path / "reviews.parquet"
    labels = pandas.Categorical(["pos", "neg"] * 5)
    frame = pandas.DataFrame(
        {"text": [f"caf\u00e9 {i}" for i in range(10)], "label": labels, "n": 0.1}
    )
    frame["id"] = pandas.array([2**53 + 1, None] * 5, "Int64")
    frame.to_parquet(path)
    table = read_table(path.read_bytes(), path.name, ["text"])
    assert table.columns == ["text", "label", "n", "id"]
    assert table.cells[:2] == [
        ["caf\u00e9 0", "pos", 0.1, 2**53 + 1],
        ["caf\u00e9 1", "neg", 0.1, None],
    ]
    assert len(read_texts(DataConfig("csv", str(path)))[0]) == 8
    frame["text"] = frame["text"].str.encode("utf-8")
    frame.to_parquet(path)
    assert read_table(path.read_bytes(), path.name, ["text"]).texts[1] == ["caf\u00e9 1"]
    frame["text"] = [b"caf\xe9 and tea"] * 10
    frame.to_parquet(path)
    refuses("decode byte 0xe9.*: save it", read_table, path.read_bytes(), path.name, ["text"])
    frame["text"] = [f"caf\u00e9 {i}" for i in range(10)]
    frame.set_index("text").to_parquet(path)
    assert read_table(path.read_bytes(), path.name, ["text"]).texts[1] == ["caf\u00e9 1"]


def test_a_workbook_needs_openpyxl(monkeypatch):
    with zipfile.ZipFile(file := io.BytesIO(), "w") as archive:
        archive.writestr("xl/workbook.xml", "")
    raw = file.getvalue()
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    refuses("openpyxl.*: save it as a CSV file in UTF-8", read_table, raw, "my.xlsx", ["text"])


def write_workbook(path, **sheets):
    """Write the rows of each sheet, its header among them, as a real workbook."""
    with pandas.ExcelWriter(path, engine="openpyxl") as writer:
        for name, rows in sheets.items():
            pandas.DataFrame(rows).to_excel(writer, sheet_name=name, header=False, index=False)
    return path.read_bytes()


def test_a_workbook_is_read_with_the_numbers_of_its_rows(tmp_path, capsys):
    rows = [["text", "label", "when"], ["NA", 1, datetime.date(2026, 1, 2)], ["007", "01", None]]
    raw = write_workbook(tmp_path / "my.xlsx", Data=rows, Old=rows, Empty=[])
    table = read_table(raw, "my.xlsx", ["label", "text"])
    assert (table.rows, table.texts) == ([2, 3], [["1", "NA"], ["01", "007"]])
    assert table.cells[0] == ["NA", 1, "2026-01-02T00:00:00.000"]
    assert "my.xlsx: its first sheet, 'Data', is read, 'Old' not\n" in capsys.readouterr().err


def test_a_name_of_two_columns_of_a_workbook_is_refused_if_it_is_asked_for(tmp_path):
    rows = [["text", "label", "note", "label", "note"], ["good", "new", "a", "old", "b"]]
    raw = write_workbook(tmp_path / "my.xlsx", Data=rows)
    problem = "needs one column 'label': its columns are 'text', 'label.0', 'note.0', 'label.1'"
    refuses(problem, read_table, raw, "my.xlsx", ["text", "label"])
    assert read_table(raw, "my.xlsx", ["text", "label.1"]).texts == [["good", "old"]]


def test_what_is_not_a_file_is_not_a_table(tmp_path):
    """Reading a FIFO or device would wait for ever, or never end."""
    os.mkfifo(tmp_path / "a.csv")
    for path in (tmp_path / "a.csv", os.devnull):
        assert "FIFO, socket or device" in error_of(path)
    assert "No such file" in error_of(tmp_path / "no.csv")
    assert "holds no CLASS/*.txt: name a folder of them, or a table" in error_of(tmp_path)


@pytest.mark.parametrize("name", ["a.csv", "a.TSV", "a.jsonl"])
def test_a_table_that_is_written_is_read_back(tmp_path, name):
    values = ["a", 7, -2.5, True, None, {"b": [1, "é"]}, "x,\ty\nz", '"', "\ud800"]
    header = [f"column {i}" for i in range(len(values))]
    write_table(tmp_path / name, header, [values, values[::-1]])
    table = read_table((tmp_path / name).read_bytes(), name, header[:1])
    assert table.columns == header
    if name == "a.jsonl":
        assert table.cells == [values, values[::-1]]
    else:
        cells = ["a", "7", "-2.5", "true", "", '{"b": [1, "é"]}', *values[6:8], "\\ud800"]
        assert table.cells == [cells, cells[::-1]]

"""Files as texts, and where each part of them stands."""

import pytest

from solution.rag.reading import UnreadableFile, read


def pdf(*pages):
    """The bytes of a PDF with one line of text a page."""
    count = len(pages)
    kids = " ".join(f"{4 + 2 * i} 0 R" for i in range(count))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {count} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for i, text in enumerate(pages):
        drawn = f"BT /F1 12 Tf 20 100 Td ({text}) Tj ET"
        objects.append(
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 300 200] "
            f"/Resources << /Font << /F1 3 0 R >> >> /Contents {5 + 2 * i} 0 R >>"
        )
        objects.append(f"<< /Length {len(drawn)} >>\nstream\n{drawn}\nendstream")
    data, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        places.append(len(data))
        data += f"{number} 0 obj\n{body}\nendobj\n".encode()
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    end = f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}"
    end += f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{len(data)}\n%%EOF\n"
    return data + end.encode()


def found(source, words):
    return source.place(source.text.index(words))


@pytest.mark.parametrize("name", ["notes.txt", "notes.MD"])
def test_text_stays_as_it_is_and_is_told_by_line(tmp_path, name):
    path = tmp_path / name
    path.write_bytes("\N{BYTE ORDER MARK}One\r\n\r\n# Two\nthree é".encode())
    source = read(path)
    assert source.text == "One\n\n# Two\nthree é"
    assert [found(source, words) for words in ("One", "Two", "three", "é")] == [1, 3, 4, 4]
    assert source.unit == "line"


def test_an_empty_file_is_an_empty_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"")
    assert read(tmp_path / "a.txt").text == ""


def test_html_is_what_a_reader_sees_told_by_line(tmp_path):
    path = tmp_path / "page.html"
    path.write_text(
        "<!doctype html><head><title>No</title></head>\n<script>no()</script><!-- no -->\n"
        "<h1>Reactors</h1>\n<p>Cooled by\n  <b>neon</b>, not argon &amp; xenon.</p>\n<ul><li>One<li>Two</ul>"
    )
    source = read(path)
    assert source.text == "Reactors\nCooled by neon , not argon & xenon.\nOne\nTwo"
    assert [found(source, words) for words in ("Reactors", "Cooled", "neon", "One")] == [3, 4, 5, 6]


def test_a_pdf_is_told_by_page(tmp_path):
    path = tmp_path / "paper.pdf"
    path.write_bytes(pdf("Cooled by neon", "Built in 1931"))
    source = read(path)
    assert source.text.split("\n") == ["Cooled by neon", "Built in 1931"]
    assert (found(source, "neon"), found(source, "1931"), source.unit) == (1, 2, "page")


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.txt", b"caf\xe9", "not UTF-8: byte 3"),
        ("a.pdf", b"%PDF-1.4 and no more", "no PDF that can be read"),
        ("a.pdf", b"", "no PDF that can be read"),
        ("a.pdf", pdf("", " "), "no text on any of 2 pages"),
        ("a.docx", b"PK", "expected one of .txt, .md, .html, .htm, .pdf, got .docx"),
        ("README", b"text", "got a name without an ending"),
    ],
)
def test_what_cannot_be_read_says_why(tmp_path, name, data, said):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(UnreadableFile, match=said.replace(".", r"\.")):
        read(path)

"""Parameters, shapes and markup: what goes in and what comes out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yuntai.api import catalogue, markup
from yuntai.api.params import LIST_MAX, Params
from yuntai.api.shape import Shape
from yuntai.control.errors import ApiError

TEXT = st.text(st.characters(blacklist_categories=["Cs"]), max_size=20)


# ---- parameters --------------------------------------------------------------------------------------------------
FORM = Params("Name! Note:t Count:i Ratio:f Force:b Ids:j Group[] Tag[]{Key! Value} Disk{Size:i Kind}")


def read(**wire_parameters: str) -> dict[str, Any]:
    return FORM.read({"Name": "n", **{key.replace("__", "."): value for key, value in wire_parameters.items()}})


def test_scalars() -> None:
    assert read(Count="-3", Ratio="1.5", Force="True") == {"Name": "n", "Count": -3, "Ratio": 1.5, "Force": True}
    assert read(Force="FALSE") == {"Name": "n", "Force": False}


def test_the_empty_text_counts_as_not_given_unless_it_clears() -> None:
    assert read(Count="", Ids="", Note="") == {"Name": "n", "Note": ""}
    with pytest.raises(ApiError, match="MissingParameter"):
        FORM.read({"Name": ""})


def test_lists_in_every_form_that_clients_send() -> None:
    assert read(Group__2="b", Group__1="a", Group__10="c")["Group"] == ["a", "b", "c"]
    assert read(Group='["a","b"]')["Group"] == ["a", "b"]
    assert read(Group="a")["Group"] == ["a"]
    assert read(Ids='["x", "y"]')["Ids"] == ["x", "y"]
    assert read(Ids="x,y")["Ids"] == ["x", "y"]
    assert read(Ids__1="x", Ids__2="y")["Ids"] == ["x", "y"]


def test_structures() -> None:
    assert read(Tag__1__Key="a", Tag__1__Value="b", Tag__2__Key="c")["Tag"] == [
        {"Key": "a", "Value": "b"},
        {"Key": "c"},
    ]
    assert read(Disk__Size="20", Disk__Other="?")["Disk"] == {"Size": 20}


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"Tag__1__Value": "b"}, "Tag.1.Key"),
        ({"Tag__1": "b"}, "Tag.1"),
        ({"Tag": "b"}, "Tag"),
        ({"Disk": "b"}, "Disk"),
        ({"Group__0": "x", "Group__x": "y"}, "Group"),
        ({"Group__1__Key": "x"}, "Group.1"),
        ({"Name__1": "x"}, "Name.1"),
        ({"Count": "1e3"}, "Count"),
        ({"Count": "9" * 30}, "Count"),
        ({"Ratio": "x"}, "Ratio"),
        ({"Ids": "[1]"}, "Ids"),
        ({"Ids": "[" * 10}, "Ids"),
        ({"Tag__1__Key__A__B__C__D": "x"}, "Tag.1.Key.A.B.C.D"),
        ({f"Group__{n}": "x" for n in range(1, LIST_MAX + 2)}, "Group"),
        ({"Note": "x" * 70_000}, "Note"),
    ],
)
def test_what_is_malformed_is_named(parameters: dict[str, str], named: str) -> None:
    with pytest.raises(ApiError) as caught:
        read(**parameters)
    assert caught.value.http_status == 400
    assert f'"{named}"' in caught.value.message


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "Name",
                "Tag.1.Key",
                "Tag.1",
                "Ids",
                "Group.1",
                "Group",
                "Disk.Size",
                "Count",
                "Tag.1.Key.x",
                ".",
                "Tag.",
                "Disk.",
                "Name.",
            ]
        ),
        TEXT,
    )
)
def test_any_parameters_are_read_or_refused(parameters: dict[str, str]) -> None:
    try:
        outcome = bool(FORM.read(parameters)["Name"])
    except ApiError as error:
        outcome = error.http_status == 400
    assert outcome


# ---- shapes and markup -------------------------------------------------------------------------------------------
def test_a_shape_gives_every_key_in_order_with_typed_empties() -> None:
    shape = Shape("Zeta Count:i Tags{Tag[]{Key Value}} Ratio:f Good:b ?Maybe Sub{Inner}")
    assert shape.fill({"Tags": {"Tag": [{"Key": "a"}]}}) == {
        "Count": 0,
        "Good": False,
        "Ratio": 0.0,
        "Sub": {"Inner": ""},
        "Tags": {"Tag": [{"Key": "a", "Value": ""}]},
        "Zeta": "",
    }
    assert list(shape.fill({})) == sorted(shape.fill({}))


def test_a_shape_refuses_what_it_does_not_name() -> None:
    with pytest.raises(ValueError, match="Sub"):
        Shape("Name").fill({"Name": "a", "Sub": 1})


@pytest.mark.parametrize("text", ["A{B", "A}", "A A", "A[", "A:x"])
def test_a_malformed_shape_is_found_at_import(text: str) -> None:
    with pytest.raises(ValueError, match="shape"):
        Shape(text)


def test_xml_escapes_and_never_breaks() -> None:
    raw = markup.to_xml("R", {"A": "<&>\x00\x1b", "L": [], "T": True, "W": {"I": ["1", "2"]}})
    assert raw.endswith(
        "<R><A>&lt;&amp;&gt;\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}</A><T>true</T>"
        "<W><I>1</I><I>2</I></W></R>".encode()
    )


def test_every_action_has_a_docstring_and_its_table() -> None:
    for version, table in catalogue.load().items():
        for name, action in table.items():
            assert action.handler.__doc__, f"{version} {name}"
            assert action.writes != name.startswith(("Describe", "List", "Get"))

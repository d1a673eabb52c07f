import pytest

from engine.data.complete_journey_text import product_name, product_text, size_words, words


@pytest.mark.parametrize(
    ("raw", "spelled"),
    [
        ("BREAD:ITALIAN/FRENCH", "bread: italian/french"),
        ("FRZN WHIPPED TOPPING", "frozen whipped topping"),
        ("MISC. FEMININE HYGIENE", "miscellaneous feminine hygiene"),
        ("CAN DOG FOOD (SKIPPY/PEDIGREE/", "can dog food (skippy/pedigree"),
        ("DRUG GM", "drug general merchandise"),
        ("", ""),
    ],
)
def test_words(raw: str, spelled: str) -> None:
    assert words(raw) == spelled


@pytest.mark.parametrize(
    ("raw", "spelled"),
    [("50 OZ", "50 ounces"), ("6 PK/12 OZ", "6 pack/12 ounces"), ("1/2 GAL", "1/2 gallon")],
)
def test_size_words(raw: str, spelled: str) -> None:
    assert size_words(raw) == spelled


def test_a_name_says_what_kind_it_is() -> None:
    assert product_name("PASTA SAUCE", "MAINSTREAM", "National", "26 OZ") == (
        "Pasta Sauce: Mainstream, 26 OZ"
    )
    assert product_name("BREAD", "BREAD:ITALIAN/FRENCH", "Private", None) == (
        "Private Bread: Italian/French"
    )
    assert product_name("MEN'S CARE", None, None, None) == "Men's Care"
    assert product_name(None, None, None, None) == "Unlisted Product"


def test_a_text_leaves_out_what_is_unknown() -> None:
    assert product_text("GROCERY", "FRZN ICE", "ICE - CRUSHED/CUBED", "National", "22 LB") == (
        "ice - crushed/cubed, frozen ice, grocery, national brand, 22 pounds"
    )
    assert product_text("MISCELLANEOUS", None, None, None, None) == "miscellaneous"
    assert product_text(None, None, None, None, None) == "unlisted product"

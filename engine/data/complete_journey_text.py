"""Names and texts of Complete Journey's products: its abbreviated capitals as words."""

import re

UNLISTED = "unlisted product"  # 17 products are bought and stand in no product table

# The abbreviations that the most purchases carry; a language model knows the words, not these.
_WORDS = {
    "bg": "bag", "bkd": "baked", "brd": "bread", "brkfst": "breakfast", "btl": "bottle",
    "btr": "butter", "carb": "carbonated", "catfd": "cat food",
    "chix": "chicken", "choc": "chocolate", "chococlate": "chocolate", "cleang": "cleaning",
    "conc": "concentrate", "crbntd": "carbonated", "crmd": "creamed", "crystl": "crystal",
    "dnr": "dinner", "dnrs": "dinners", "drnk": "drink", "drnking": "drinking",
    "drnkng": "drinking", "drnks": "drinks", "drsng": "dressing", "dsh": "dish",
    "ex": "extra", "excp": "except", "fd": "food", "fem": "feminine", "flvrd": "flavored",
    "frz": "frozen", "frzn": "frozen", "gds": "goods", "gm": "general merchandise",
    "hygn": "hygiene", "incl": "including",
    "jce": "juice", "liq": "liquid", "mach": "machine", "misc": "miscellaneous",
    "mlt": "multi", "mnrl": "mineral", "mneral": "mineral", "mw": "microwave", "mx": "mix",
    "mxs": "mixes", "pk": "pack", "pkg": "package", "pkgd": "packaged", "pckgd": "packaged",
    "pkld": "pickled", "pnt": "peanut", "prem": "premium", "pwdr": "powder",
    "refrgratd": "refrigerated", "refrig": "refrigerated", "saus": "sausage", "sft": "soft",
    "sgl": "single", "sherbts": "sherbets", "sald": "salad", "sndwch": "sandwich",
    "sngl": "single", "spclty": "specialty", "specilaty": "specialty", "sply": "supply",
    "sprd": "spread", "srv": "serve", "suppplies": "supplies", "sw": "sweet",
    "sweetners": "sweeteners", "tiss": "tissue", "tort": "tortilla", "trsh": "trash",
    "vend": "vending", "veg": "vegetables", "whl": "whole", "whlsm": "wholesome",
    "wt": "weight", "wtr": "water",
}  # fmt: skip
_UNITS = {
    "cm": "centimetres", "ct": "count", "ctn": "carton", "dz": "dozen", "fl": "fluid",
    "ft": "feet", "ga": "gallon", "gal": "gallon", "gm": "grams", "in": "inch", "l": "litre",
    "lb": "pounds", "ld": "loads", "lds": "loads", "med": "medium", "ml": "millilitres",
    "oz": "ounces", "pc": "pieces", "pk": "pack", "pt": "pint", "qt": "quart",
    "sq": "square", "yd": "yards", "z": "ounces",
}  # fmt: skip
_TOKEN = re.compile(r"[a-z]+|[^a-z]+")


def words(raw: str) -> str:
    """`FRZN BREAD:ITALIAN/FRENCH` as `frozen bread: italian/french`."""
    tokens = _TOKEN.findall(raw.lower().replace("misc.", "misc"))
    spelled = "".join(_WORDS.get(token, token) for token in tokens)
    return re.sub(r"\s+", " ", re.sub(r"([:,;])(?=\S)", r"\1 ", spelled)).strip(" -(/")


def size_words(raw: str) -> str:
    """`6 PK/12 OZ` as `6 pack/12 ounces`."""
    return "".join(_UNITS.get(token, token) for token in _TOKEN.findall(raw.lower())).strip()


def product_name(
    category: str | None, product_type: str | None, brand: str | None, size: str | None
) -> str:
    """What people read: `Pasta Sauce: Mainstream, 26 OZ`; a private brand is named in front."""
    kind = words(product_type or "")
    group = words(category or "")
    if not kind or not group:
        name = kind or group or UNLISTED
    else:
        name = kind if _shares_a_word(kind, group) else f"{group}: {kind}"
    front = "Private " if brand == "Private" else ""
    titled = re.sub(r"[a-z]+(?:'[a-z]+)?", lambda word: word[0].capitalize(), name)
    return front + titled + (f", {size}" if size else "")


def product_text(
    department: str | None,
    category: str | None,
    product_type: str | None,
    brand: str | None,
    size: str | None,
) -> str:
    """What the embedding reads, from fine to coarse; a part that is unknown is left out."""
    parts = [words(part) for part in (product_type, category, department) if part]
    if brand:
        parts.append(f"{brand.lower()} brand")
    if size:
        parts.append(size_words(size))
    return ", ".join(parts) or UNLISTED


def _shares_a_word(left: str, right: str) -> bool:
    """Whether a word of four letters or more stands in both, whatever its ending."""
    stems = {word[:4] for word in re.findall(r"[a-z]{4,}", left)}
    return any(word[:4] in stems for word in re.findall(r"[a-z]{4,}", right))

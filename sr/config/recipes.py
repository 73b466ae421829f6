"""Option files that ship with `sr`, found by name: `sr train quickstart` works in any folder."""

from pathlib import Path

from sr.core.errors import UserError, nearest

INSTALLED = Path(__file__).with_name("recipes")  # the wheel installs options/ here, see setup.py
CHECKOUT = Path(__file__).parents[2] / "options"


def folder() -> Path:
    """The folder of the recipes, in the installed package or in the checkout."""
    return INSTALLED if INSTALLED.is_dir() else CHECKOUT


def names() -> list[str]:
    return sorted(path.stem for path in folder().glob("*.yml"))


def summary(name: str) -> str:
    """The first comment line of a recipe: what it trains."""
    first = (folder() / f"{name}.yml").read_text(encoding="utf-8").partition("\n")[0]
    return first.lstrip("# ")


def locate(file: str | Path) -> Path:
    """The path of an options file, or of the recipe with this name where no such file exists.

    Raises UserError for a bare word that is neither, with the nearest recipe.
    """
    path, name = Path(file), str(file)
    if path.exists() or path.suffix or path.name != name:
        return path
    if name in names():
        return folder() / f"{name}.yml"
    hint = nearest(name, names()) or " Run `sr recipes` for the list of recipes"
    raise UserError(f"there is no file and no recipe '{name}'.{hint}")

"""The command ``python -m shared.data import``: recordings to windows, with their recipe and a quality page."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from shared.data.folder import check_new, write_folder
from shared.data.importing.build import build
from shared.data.importing.propose import propose, read_sample
from shared.data.importing.quality import render, show
from shared.data.importing.recipe import Recipe
from shared.data.importing.recipe_file import read_recipe, to_yaml
from shared.data.importing.sources import Source, find_sources
from shared.errors import UserError
from shared.files import open_atomic

RECIPE, QUALITY = "recipe.yaml", "quality.html"
"""Files beside the windows."""


def import_recordings(named: Sequence[Path], out: Path, recipe_path: Path | None, console: Console) -> None:
    """Import recordings into a new folder, which appears whole or not at all.

    Args:
        named: Files, zips and folders.
        out: The new folder.
        recipe_path: The recipe; None: it is guessed.
        console: Where to print.

    Raises:
        UserError: The folder holds something, or a file is not as the recipe says.
    """
    check_new(out)
    sources = find_sources(named)
    recipe = read_recipe(recipe_path) if recipe_path is not None else guess(sources, console)
    imported = build(sources, recipe, Console(stderr=True))
    train, test = imported.parts
    write_folder(out, train, test, {RECIPE: to_yaml(recipe), QUALITY: render(imported)})
    show(imported, console)
    console.print(f"{out}: windows, {RECIPE} and {QUALITY}", soft_wrap=True, highlight=False)


def write_proposal(named: Sequence[Path], path: Path, console: Console) -> None:
    """Write the recipe that is guessed for recordings, to be corrected, into a new file.

    Raises:
        UserError: There is such a file, or nothing can be guessed.
    """
    if path.exists():
        raise UserError(f"{path} exists already and is not overwritten; name a new file")
    recipe = guess(find_sources(named), console)
    with open_atomic(path) as file:
        file.write(to_yaml(recipe).encode())
    console.print(f"{path}: correct it, then import with --recipe {path}", soft_wrap=True, highlight=False)


def guess(sources: Sequence[Source], console: Console) -> Recipe:
    """Guess a recipe and print each guess with its reason.

    Raises:
        UserError: A file cannot be read, or nothing can be guessed.
    """
    tables, unread = read_sample(sources)
    recipe, guesses = propose(tables, [source.path for source in sources])
    console.print("[bold]guessed[/]")
    lines = [*(f"no recording: {error}" for error in unread), *(f"{guess.what}: {guess.why}" for guess in guesses)]
    for line in lines:
        console.print(f"  {line}", soft_wrap=True, markup=False, highlight=False)
    return recipe

"""What decides a training run: a TOML file, checked before anything is loaded.

The recipes of the shipped models lie in `worker/training/recipes/`; their names are theirs.
"""

import hashlib
import json
import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from worker.errors import RecipeError

RECIPES: Final = Path(__file__).parent / "recipes"


class Pool(StrEnum):
    """Kinds of training pictures; a stage says how many of each stand in every batch.

    `opacity`: opacity was read. `lungs`: only lungs were read; opacity is judged outside them, and
    inside by the stage before where a stage is `taught`. `normal`: no opacity. `grafted`: opacity
    of one patient blended into the lungs of another picture. `cleared`: lungs of a normal blended
    into a picture of a patient. `phantom`: drawn.
    """

    OPACITY = "opacity"
    LUNGS = "lungs"
    NORMAL = "normal"
    GRAFTED = "grafted"
    CLEARED = "cleared"
    PHANTOM = "phantom"


Size = Annotated[int, Field(ge=64, multiple_of=32)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Stage(_Section):
    """One run of the loop. Learning rates rise over the first steps and fall by a cosine.

    Unless `fresh`, a stage goes on from the weights of the stage before. `taught` takes opacity
    that no reader judged from the stage before.
    `missed_cost` is what a missed opacity pixel of a reading costs beside a false one; its Dice
    term weighs what both sides call opacity by the square, and may fall below zero.
    """

    shares: Annotated[dict[Pool, Annotated[int, Field(ge=1)]], Field(min_length=1)]
    steps: Annotated[int, Field(ge=1)]
    fresh: bool = True
    taught: bool = False
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    missed_cost: Annotated[float, Field(ge=1)] = 1.0
    size: Size | None = None  # default: that of the recipe


class Member(_Section):
    """What one network of several has for itself; the rest is the recipe's."""

    size: Size
    stages: tuple[Stage, ...]
    whitened: Share = 0.0


class TrainConfig(_Section):
    """A whole recipe. The same recipe, data and machine give the same weights.

    It has `stages`, or `members` that have them: then the model is the mean of several networks.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    version: str
    network: dict[str, Any]
    pretrained: Literal["efficientnet-lite0"] | None = None  # where its encoder starts from
    stages: tuple[Stage, ...] = ()
    members: tuple[Member, ...] = ()
    size: Size = 256
    seed: Annotated[int, Field(ge=0)] = 0
    phantoms: Annotated[int, Field(ge=0)] = 200
    grafted: Annotated[int, Field(ge=0)] = 500
    whitened: Share = 0.0  # of the grafted: a lung or a part of it turned white
    cleared: Annotated[int, Field(ge=0)] = 400
    folds: Annotated[int, Field(ge=2)] = 5
    mirrored: bool = False  # serving averages the picture and its mirror image
    normals_p90: Annotated[float, Field(gt=0)] = 10.0
    threads: Annotated[int, Field(ge=1)] = 2
    half: bool = True  # weights are stored in half precision, and measured as stored

    @model_validator(mode="after")
    def _first_stage_stands_alone(self) -> Self:
        if bool(self.stages) == bool(self.members) or not all(it.stages for it in self.members):
            msg = "a recipe has stages, or members that have them, and not both"
            raise ValueError(msg)
        for first in (part.stages[0] for part in self.members or (self,)):
            blended = {Pool.GRAFTED, Pool.CLEARED} & set(first.shares)
            if blended:
                msg = f"the first stage has no teacher and cannot use {', '.join(sorted(blended))}"
                raise ValueError(msg)
            if first.taught or not first.fresh:
                msg = "the first stage has none before it: fresh must be true and taught false"
                raise ValueError(msg)
        return self

    @property
    def parts(self) -> tuple["TrainConfig", ...]:
        """A recipe for each network: this one, or one per member."""
        if not self.members:
            return (self,)
        return tuple(
            self.model_copy(update={"members": (), **dict(member)}) for member in self.members
        )

    @property
    def trained_size(self) -> int:
        """The side of the square that the model takes, in pixels."""
        return self.size if self.members else self.size_of(self.stages[-1])

    @property
    def described(self) -> dict[str, Any]:
        """What a bundle says of the network, as `worker.network.build_network` takes it."""
        if not self.members:
            return self.network
        members = [{"network": self.network, "size": part.trained_size} for part in self.parts]
        return {"name": "ensemble", "members": members}

    @property
    def sha256(self) -> str:
        """Hash of everything in the recipe."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def size_of(self, stage: Stage) -> int:
        """Return the side of the square that a stage trains on, in pixels."""
        return stage.size or self.size


def read_recipe(path_or_name: str) -> TrainConfig:
    """Read a recipe file, or the shipped one of that name.

    Raises RecipeError with one sentence per mistake.
    """
    path = Path(path_or_name)
    if not path.suffix and (RECIPES / f"{path_or_name}.toml").is_file():
        path = RECIPES / f"{path_or_name}.toml"
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        known = ", ".join(sorted(file.stem for file in RECIPES.glob("*.toml")))
        msg = f"There is no recipe {path_or_name}: give a TOML file or one of {known}."
        raise RecipeError(msg) from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        msg = f"{path} is no readable TOML file: {error}"
        raise RecipeError(msg) from error
    try:
        return TrainConfig(**content)
    except ValidationError as error:
        mistakes = "; ".join(
            f"{'.'.join(str(part) for part in mistake['loc']) or 'recipe'}: {mistake['msg']}"
            for mistake in error.errors()
        )
        msg = f"{path}: {mistakes}"
        raise RecipeError(msg) from error

"""What comes of a training, and what is known before one."""

from __future__ import annotations

from pydantic import Field

from adapterhub.documents.base import Document, PathText, Problem
from adapterhub.documents.comparison import NearToken
from adapterhub.documents.conversion import Ingredient, Recipe, Source, Target
from adapterhub.documents.training import Technique


class TrainingPlan(Document):
    """What a training would do, everything before its first step being done and in order."""

    technique: Technique = Field(description="what would be trained")
    architecture: str = Field(description="of the base")
    base: Ingredient = Field(description="the model that would be trained on")
    steps: int = Field(description="optimizer steps that are left")
    batch: int = Field(description="pictures a step")
    resolution: int = Field(description="the side of the square that pictures are brought to, in pixels")
    images: int = Field(description="pictures of the subject")
    captions: int = Field(description="different captions")
    class_images: int = Field(description="pictures of the class; 0 without prior preservation")
    to_draw: int = Field(description="pictures of the class that the base would draw first")
    trained: int = Field(description="numbers that would be trained")
    size: int = Field(description="bytes of what is trained as it is stored; of a whole model all of it")
    processes: int = Field(description="processes that would train")
    problems: list[Problem] = Field(description="what is odd about the pictures")


class Training(Document):
    """What a training made."""

    technique: Technique = Field(description="what was trained")
    base: Source = Field(description="the model that was trained on, as it was given")
    files: list[Target] = Field(
        description="what was written, the first made by training, the others converted from it"
    )
    steps: int = Field(description="how many were made, those before a resumption included")
    loss: float | None = Field(description="the mean of the last tenth of steps; null where there were none")
    trained: int = Field(description="numbers that were trained")
    images: int = Field(description="pictures of the subject")
    processes: int = Field(description="processes that trained")
    samples: list[PathText] = Field(description="pictures of samples, and of the loss")
    problems: list[Problem] = Field(description="what validate says of the results")
    recipe: Recipe = Field(description="how it was made; it stands in the files, too")
    seconds: float = Field(description="wall time of this run")


class RareToken(Document):
    """What an identifier is to one text encoder."""

    component: str = Field(description="the text encoder")
    id: int = Field(description="the number of its token")
    rank: float = Field(
        description="the share of the vocabulary's merges that are more frequent: tokens are numbered by merge rank"
    )
    length: float = Field(description="the norm of its vector, as a multiple of the median of all")
    nearest: list[NearToken] = Field(description="the tokens of the largest cosine, the nearest first")


class Identifier(Document):
    """A word that a model has hardly ever read."""

    text: str = Field(description="what stands in the prompt")
    prior: float = Field(
        description="the largest cosine between its vector and another token's: the lower, the less it means"
    )
    tokens: list[RareToken] = Field(description="what it is to each text encoder")


class Identifiers(Document):
    """Words for [identifier]: `adapterhub train dreambooth --find-identifier`."""

    base: PathText = Field(description="the model, as it was given")
    candidates: int = Field(description="words that are rare, one token, and come out of the tokenizer as they went in")
    identifiers: list[Identifier] = Field(description="some of them, the one with the weakest prior first")

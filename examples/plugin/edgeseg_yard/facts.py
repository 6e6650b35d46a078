"""What edgeseg must know of the encoder where torch is not installed: its options, and where it is built."""

from edgeseg.recipe.parts import AddedPart, Option

SKETCH = AddedPart(
    role="encoder",
    build="edgeseg_yard.encoder:Sketch",
    options={"width": Option(16, least=4, most=256)},
)

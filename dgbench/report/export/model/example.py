"""Write `example.py`: a script that classifies images by an exported model, without dgbench."""

from __future__ import annotations

from collections.abc import Iterator

from dgbench.models.exported import PROGRAM, WEIGHTS, ExportedModel

EXAMPLE = "example.py"
"""Name of the file."""

_HEAD = '''"""Classify images by this model, with torch and {library}: python example.py IMAGE ..."""
import json
import sys
from pathlib import Path

import numpy as np
{imports}

here = Path(__file__).parent
about = json.loads((here / "model.json").read_text(encoding="utf-8"))
how = about["preprocessing"]
'''
_TIMM = f"""model = timm.create_model(about["backbone"], num_classes=len(about["classes"]), **about["timm"]).eval()
model.load_state_dict(load_file(here / "{WEIGHTS}"))
mean, std = (torch.tensor(how[name]).view(-1, 1, 1) for name in ("mean", "std"))
"""
_PROGRAM = f"""model = torch.export.load(here / "{PROGRAM}").module()  # normalizes by itself
"""


def example(about: ExportedModel) -> str:
    """Return the text of the script.

    Args:
        about: The content of `model.json`; its form decides how the network is loaded.
    """
    how, timm = about.preprocessing, about.form == "timm"
    assert how, "only models of images are exported"
    pillow = "from PIL import Image, ImageOps" if how.turn else "from PIL import Image"
    modules = ["import timm", "import torch", pillow, "from safetensors.torch import load_file"]
    imports = modules if timm else modules[1:3]
    head = _HEAD.format(library="timm" if timm else "numpy alone", imports="\n".join(imports))
    return head + (_TIMM if timm else _PROGRAM) + "\n".join(_loop(about)) + "\n"


def _loop(about: ExportedModel) -> Iterator[str]:
    """Yield the lines that read and classify each image."""
    how = about.preprocessing
    assert how, "only models of images are exported"
    yield "for path in sys.argv[1:]:"
    yield "    image = Image.open(path)"
    if how.turn:
        yield "    image = ImageOps.exif_transpose(image)"
    if how.on_white:
        yield '    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))'
    mode = "RGB" if how.channels == 3 else "L"
    size = (
        f'image.convert("{mode}").resize((how["width"], how["height"]), Image.Resampling.{how.interpolation.upper()})'
    )
    yield f"    image = {size}"
    yield "    x = torch.from_numpy(np.atleast_3d(np.array(image))).permute(2, 0, 1)[None] / 255"
    yield "    with torch.inference_mode():"
    yield f"        logits = model({'(x - mean) / std' if about.form == 'timm' else 'x'})[0]"
    yield '    probabilities = (logits / about["temperature"]).softmax(0)'
    yield "    place = int(probabilities.argmax())"
    yield "    print(f\"{path}: {about['classes'][place]} {probabilities[place]:.3f}\")"

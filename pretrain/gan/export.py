"""`pretrain export` for a GAN: the generator as safetensors, its config, and a program that draws from it."""

import shutil
from pathlib import Path

import torch

from pretrain.checkpoint.new_folder import new_folder
from pretrain.checkpoint.tensors import write_tensors
from pretrain.errors import named
from pretrain.gan.restore import load_generator
from pretrain.run.exit import print_error

WEIGHTS = "generator.safetensors"
PROGRAM = Path(__file__).with_name("exported.py")


def export_generator(checkpoint: str, output: str) -> None:
    """Write the moving average of G's weights.

    Args:
        checkpoint: run folder (its newest good checkpoint) or step folder.
        output: the new folder: generator.safetensors, config.json and generate.py, which loads both.

    Raises:
        UserError, IntegrityError: there is no good checkpoint, or the folder is not empty.
    """
    saved = load_generator(checkpoint, torch.device("cpu"), 0, print_error)
    facts = {"channels": torch.tensor(saved.channels), "classes": torch.tensor(saved.classes)}
    with new_folder(output) as folder:
        write_tensors(folder / WEIGHTS, [*saved.network.state_dict().items(), *facts.items()])
        with named(folder / "config.json"):
            (folder / "config.json").write_text(saved.config.model_dump_json(indent=2, by_alias=True) + "\n")
        shutil.copy(PROGRAM, folder / "generate.py")
    print(f"{output}: generator of step {saved.checkpoint.step}; python {output}/generate.py draws from it")

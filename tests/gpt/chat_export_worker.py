"""Exports the run argv[1] into the folder argv[2], imports it again, and answers argv[3:] with transformers.

Prints the answers as JSON on the last line.
"""

import json
import sys

from pretrain.hf.exporter import export_command
from pretrain.hf.importer import import_command


def main() -> None:
    run, folder, *questions = sys.argv[1:]
    export_command(run, f"{folder}/out", None, tokenizer=True)
    import_command(f"{folder}/out", f"{folder}/back")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(f"{folder}/out")
    model = AutoModelForCausalLM.from_pretrained(f"{folder}/out")
    answers = []
    for question in questions:
        asked = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt"
        )
        found = model.generate(**asked, max_new_tokens=20, do_sample=False)
        answers.append(tokenizer.decode(found[0, asked["input_ids"].shape[1] :], skip_special_tokens=True))
    print(json.dumps(answers))


if __name__ == "__main__":
    main()

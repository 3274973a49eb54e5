"""Makes the tiny model that the tests of a real vLLM run on.

A two-layer Qwen2 with random weights from a fixed seed, a byte-level BPE tokenizer trained on the docstrings of the
standard library, and a chat template. What it says means nothing; that it is a real model in a real engine is the
point. Made with numpy, tokenizers and safetensors alone: importing torch would take longer than all of this.

    PYTHON_OF_THE_VLLM_ENVIRONMENT make_model.py FOLDER [--layers N]

A folder that already holds the model is left as it is. With more layers it computes longer for each token and says
other things, for loads where the engine's computing is to be what takes time, and not its HTTP server.
"""

from __future__ import annotations

import argparse
import ast
import json
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

FORMAT = 3
"""Raised when what is made here changes, so that an older folder is made again."""

SEED = 20
VOCABULARY = 2048
HIDDEN = 128
HEADS = 4
KEY_VALUE_HEADS = 2
HEAD_SIZE = HIDDEN // HEADS
INTERMEDIATE = 256
LAYERS = 2
POSITIONS = 32768
END = "<|im_end|>"
SPECIAL = ("<|endoftext|>", "<|im_start|>", END)
READ = ("argparse.py", "calendar.py", "dataclasses.py", "datetime.py", "difflib.py", "enum.py", "heapq.py",
        "pathlib.py", "statistics.py", "string.py", "subprocess.py", "textwrap.py", "typing.py")  # fmt: skip

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' -}}"
    "{%- if message['content'] is string -%}{{- message['content'] -}}"
    "{%- else -%}{%- for part in message['content'] -%}{{- part['text'] -}}{%- endfor -%}{%- endif -%}"
    "{{- '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


def docstrings() -> Iterator[str]:
    """Every docstring of a dozen modules: English with code in it, about 200 KB, at hand everywhere."""
    folder = Path(sysconfig.get_path("stdlib"))
    for name in READ:
        path = folder / name if (folder / name).exists() else folder / name.removesuffix(".py") / "__init__.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
                yield text


def write_tokenizer(folder: Path) -> tuple[dict[str, int], list[int]]:
    """Trains the tokenizer and writes its files.

    Returns the ids of the special tokens, and those of all that are no text by themselves: parts of a character too.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(docstrings(), trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": POSITIONS,
            "eos_token": END,
            "pad_token": SPECIAL[0],
            "clean_up_tokenization_spaces": False,
            "chat_template": CHAT_TEMPLATE,
        },
    )
    said = [tokenizer.decode([number], skip_special_tokens=True) for number in range(tokenizer.get_vocab_size())]
    silent = [number for number, text in enumerate(said) if not text or "\ufffd" in text]
    return {token: tokenizer.token_to_id(token) for token in SPECIAL}, silent


def weights(silent: list[int], layers: int) -> dict[str, Any]:
    """Random weights under the names that a Qwen2 checkpoint has; the head is the embedding, transposed.

    Silent tokens have rows of zeros and so are never the likeliest: at temperature 0 each token of an answer is an
    event with text, and whoever times events times tokens.
    """
    import numpy as np

    source = np.random.default_rng(SEED)

    def matrix(*shape: int) -> Any:
        return (source.standard_normal(shape) * 0.1).astype(np.float32)

    def ones() -> Any:
        return np.ones(HIDDEN, dtype=np.float32)

    made = {"model.embed_tokens.weight": matrix(VOCABULARY, HIDDEN), "model.norm.weight": ones()}
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        for name, heads in (("q", HEADS), ("k", KEY_VALUE_HEADS), ("v", KEY_VALUE_HEADS)):
            made[f"{prefix}self_attn.{name}_proj.weight"] = matrix(heads * HEAD_SIZE, HIDDEN)
            made[f"{prefix}self_attn.{name}_proj.bias"] = matrix(heads * HEAD_SIZE)
        made[f"{prefix}self_attn.o_proj.weight"] = matrix(HIDDEN, HIDDEN)
        made[f"{prefix}mlp.gate_proj.weight"] = matrix(INTERMEDIATE, HIDDEN)
        made[f"{prefix}mlp.up_proj.weight"] = matrix(INTERMEDIATE, HIDDEN)
        made[f"{prefix}mlp.down_proj.weight"] = matrix(HIDDEN, INTERMEDIATE)
        made[f"{prefix}input_layernorm.weight"] = ones()
        made[f"{prefix}post_attention_layernorm.weight"] = ones()
    made["model.embed_tokens.weight"][silent] = 0.0
    return made


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def make(folder: Path, layers: int = LAYERS) -> bool:
    """Writes the model into ``folder``; False where it is there already. The mark is written last."""
    from safetensors.numpy import save_file

    mark = folder / "made.json"
    made = {"format": FORMAT, "layers": layers}
    if mark.exists() and json.loads(mark.read_text(encoding="utf-8")) == made:
        return False
    folder.mkdir(parents=True, exist_ok=True)
    mark.unlink(missing_ok=True)
    ids, silent = write_tokenizer(folder)
    write_json(
        folder / "config.json",
        {
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "vocab_size": VOCABULARY,
            "hidden_size": HIDDEN,
            "intermediate_size": INTERMEDIATE,
            "num_hidden_layers": layers,
            "num_attention_heads": HEADS,
            "num_key_value_heads": KEY_VALUE_HEADS,
            "max_position_embeddings": POSITIONS,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0,
            "tie_word_embeddings": True,
            "use_sliding_window": False,
            "torch_dtype": "float32",
            "eos_token_id": ids[END],
            "pad_token_id": ids[SPECIAL[0]],
        },
    )
    write_json(folder / "generation_config.json", {"eos_token_id": ids[END], "pad_token_id": ids[SPECIAL[0]]})
    save_file(weights(silent, layers), folder / "model.safetensors", metadata={"format": "pt"})
    write_json(mark, made)
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the tiny model for the tests of a real vLLM.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=LAYERS, help=f"of the model ({LAYERS})")
    chosen = parser.parse_args()
    folder: Path = chosen.folder
    made = make(folder, chosen.layers)
    print(f"{'made' if made else 'already there'}: {folder}", file=sys.stderr)


if __name__ == "__main__":
    main()

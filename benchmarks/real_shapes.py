"""One training step and one prediction with random weights in the real shapes, with the real tokenizers; peak memory.

    python benchmarks/real_shapes.py --shape llama-3.2-1b --data ../shared/data/tweet_sentiment

Random weights serve for speed and memory; they say nothing of quality. Needs the folder `shared` beside the repository
(or LLMCLS_SHARED), with `tokenizers/`, and about 3 GB of disk for the weights.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import tempfile
import time
from pathlib import Path

SHARED = Path(os.environ.get("LLMCLS_SHARED") or Path(__file__).resolve().parents[1] / ".." / "shared").resolve()
COMMON = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 2048, "rms_norm_eps": 1e-5}
SHAPES = {
    "llama-3.2-1b": (
        "llama-3.2",
        COMMON
        | {"vocab_size": 128256, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32}
        | {"num_key_value_heads": 8, "head_dim": 64, "tie_word_embeddings": True, "max_position_embeddings": 131072}
        | {"bos_token_id": 128000, "eos_token_id": 128001}
        | {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500000.0,
                "factor": 32.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            }
        },
    ),
    "tinyllama": (
        "tinyllama",
        COMMON
        | {"vocab_size": 32000, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32}
        | {"num_key_value_heads": 4, "tie_word_embeddings": False, "max_position_embeddings": 2048}
        | {"bos_token_id": 1, "eos_token_id": 2},
    ),
    # SmolLM2's own vocabulary is larger than TinyLlama's, whose tokenizer stands in for it.
    "smollm2-135m": (
        "tinyllama",
        COMMON
        | {"vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30}
        | {"num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True}
        | {"max_position_embeddings": 8192, "bos_token_id": 1, "eos_token_id": 2},
    ),
}


def write_checkpoint(shape: str, folder: Path) -> None:
    """Random bf16 weights in the named shape, with the real tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer, config = SHAPES[shape]
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    LlamaForCausalLM(LlamaConfig(**config)).save_pretrained(folder)
    torch.set_default_dtype(torch.float32)
    for file in (SHARED / "tokenizers" / tokenizer).iterdir():
        shutil.copy(file, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--template", default="instruction")
    parser.add_argument("--rows", type=int, default=8, help="rows to predict")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / arguments.shape
        child = os.fork()  # its memory does not count towards this process's peak
        if child == 0:
            write_checkpoint(arguments.shape, folder)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        from llmcls import Classifier, train
        from llmcls.cli.shared import start
        from llmcls.data.inputs import load_labelled

        reporter = start(quiet=False)
        begun = time.monotonic()
        run = train(
            arguments.data,
            base_model=str(folder),
            template=arguments.template,
            output_dir=Path(temporary) / "run",
            settings={"training": {"max_steps": 1, "eval_strategy": "no", "per_device_train_batch_size": 4}},
            reporter=reporter,
        )
        trained = time.monotonic() - begun
        classifier = Classifier.load(run)
        begun = time.monotonic()
        rows = load_labelled(arguments.data, labels=classifier.labels, split="test")[: arguments.rows]
        predictions = classifier.classify(rows)
        assert all(prediction.label in classifier.classes_ for prediction in predictions)
        print(
            json.dumps(
                {
                    "shape": arguments.shape,
                    "adapter": run.card["base_model"]["adapter"],
                    "train_seconds": round(trained, 1),
                    "predict_seconds": round(time.monotonic() - begun, 1),
                    "step_seconds": round(run.card["training"]["train_runtime"], 1),
                    "peak_memory_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
                }
            )
        )


if __name__ == "__main__":
    main()

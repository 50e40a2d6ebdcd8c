#!/bin/sh
# train.sh LEARNING_RATE MOMENTUM EPOCHS: a hundred steps an epoch; to report one is to append a line of JSON.
set -eu

exec awk -v rate="$1" -v momentum="$2" -v epochs="$3" 'BEGIN {
  x = -1.2; y = 1
  for (epoch = 1; epoch <= epochs; epoch++) {
    for (step = 0; step < 100; step++) {
      dx = momentum * dx - rate * (-400 * x * (y - x * x) - 2 * (1 - x))
      dy = momentum * dy - rate * 200 * (y - x * x)
      x += dx; y += dy
    }
    loss = 100 * (y - x * x) ^ 2 + (1 - x) ^ 2
    printf "{\"epoch\": %d, \"loss\": %.9g, \"x\": %.9g, \"y\": %.9g}\n", epoch, loss, x, y
    fflush()  # or the reports come all at once, at the end
  }
}' >> "$TUNER_REPORT"

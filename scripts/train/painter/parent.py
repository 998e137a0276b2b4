"""What the painter shares with the poet, whose scripts lie one folder up."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

from model_folder import place_files, write_safetensors  # noqa: E402, F401
from optimizer import make_optimizers, set_rate  # noqa: E402, F401
from precision import fast_products  # noqa: E402, F401
from vocab import (  # noqa: E402, F401
    FIRST_BYTE,
    FIRST_CHARACTER,
    UNKNOWN,
    sentencepiece_model,
    word_score,
)

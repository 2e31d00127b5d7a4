"""Ground truth of whole models: NumPy, float64 inside, everything recomputed from the tokens each time.

`decoder.py` is the forward pass of the Llama family, `encoder.py` that of a sentence encoder, `context.py` a
decoder as `spec.Model`. `folders.py` and `gguf.py` read checkpoints into plain arrays under the names of
Hugging Face.
"""

from .context import start
from .decoder import logits
from .encoder import embed
from .folders import read_folder
from .gguf import read_gguf

__all__ = ["embed", "logits", "read_folder", "read_gguf", "start"]
